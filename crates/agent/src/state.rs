//! What the engine knows, and how events change it. Starts nothing and decides nothing.

use std::sync::Arc;
use std::time::Duration;

use dcs::{Continuity, layout};
use ha::decide::guard_margin;
use ha::local::{Local, Process, Sql};
use ha::settings::Settings;
use ha::view::{Dcs, Failed, Guard, Job, JobKind, Lease, Me, Round, View, Wants};
use ha::{Cluster, Tick};
use instance::Configuration;
use instance::guard::{Report, State as GuardState};
use serde_json::Value;
use service::config::dynamic::effective;
use service::config::{Config, WatchdogMode};
use tracing::{error, info, warn};

use crate::event::{Leased, Reading};

/// A lease with the time to live that it was granted for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) ttl: Duration,
}

/// Everything the engine knows.
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) lease: Option<Held>,
    /// The lease that the leader key is being moved to.
    next_lease: Option<Held>,
    /// Why the last renewal failed.
    unrenewed: Option<String>,
    pub(crate) local: Local,
    /// When the look that `local` came from began; `None` before the first.
    pub(crate) local_at: Option<Tick>,
    pub(crate) guard: Guard,
    pub(crate) peers: Option<Round>,
    pub(crate) job: Option<Job>,
    pub(crate) failed: Option<Failed>,
    /// PostgreSQL is being killed by us: its end is no surprise.
    pub(crate) fencing: bool,
    /// What started the server that has not answered yet.
    unproven: Option<JobKind>,
    pub(crate) wants: Wants,
    /// Server parameters in force, from the file and the DCS.
    pub(crate) configuration: Configuration,
    /// What PostgreSQL's storage or its logins suffer from.
    pub(crate) trouble: Option<String>,
    pub(crate) watchdog_failed: bool,
    config: Arc<Config>,
    /// The dynamic configuration as last read: it stays in force when its key is deleted.
    pub(crate) stored: Option<Value>,
    /// Unix time of the last good reading, seconds.
    pub(crate) dcs_seen: i64,
    unreadable: bool,
    distrusted: Option<String>,
    continuity: Continuity,
    /// When the newest good reading began.
    pub(crate) read_at: Tick,
    known_at: Tick,
}

impl State {
    pub(crate) fn new(settings: Settings, config: Arc<Config>) -> State {
        let mut state = State {
            settings,
            cluster: None,
            lease: None,
            next_lease: None,
            unrenewed: None,
            local: Local::default(),
            local_at: None,
            guard: Guard::Idle,
            peers: None,
            job: None,
            failed: None,
            fencing: false,
            unproven: None,
            wants: Wants::default(),
            dcs_seen: 0,
            unreadable: false,
            distrusted: None,
            continuity: Continuity::default(),
            read_at: Tick::default(),
            known_at: Tick::default(),
            configuration: Configuration::default(),
            trouble: None,
            watchdog_failed: false,
            config,
            stored: None,
        };
        let pause = state.settings.pause;
        state.take_settings();
        state.settings.pause = pause;
        state
    }

    /// Takes a configuration file that was read again.
    pub(crate) fn reconfigure(&mut self, config: Arc<Config>) {
        self.config = config;
        let pause = self.settings.pause;
        self.take_settings();
        if self.cluster.is_none() {
            self.settings.pause = pause;
        }
    }

    pub(crate) fn view(&self, me: &Me) -> View {
        View {
            me: me.clone(),
            settings: self.settings.clone(),
            dcs: Dcs {
                cluster: self.cluster.clone(),
                unreadable: self.unreadable,
                distrusted: self.distrusted.clone(),
            },
            lease: self.held().map(|h| h.lease),
            local: self.local.clone(),
            guard: self.guard,
            peers: self.peers.clone(),
            job: self.job,
            failed: self.failed.clone(),
            wants: self.wants,
        }
    }

    /// The lease in use: once the leader key is seen on the next one, that.
    pub(crate) fn held(&self) -> Option<Held> {
        let on = self.cluster.as_ref().and_then(|c| c.leader.as_ref()).map(|l| l.lease);
        self.next_lease.filter(|n| on == Some(n.lease.id)).or(self.lease)
    }

    /// Takes a reading of the DCS. Returns whether the cluster was (perhaps) changed by it.
    pub(crate) fn read(&mut self, reading: Reading, now: Tick) -> bool {
        let snapshot = match reading.result {
            Ok(snapshot) => snapshot,
            Err(e) => {
                if reading.began >= self.read_at && !self.unreadable {
                    warn!("the DCS can't be read: {e}");
                    self.unreadable = true;
                }
                return false;
            }
        };
        let stale = self.cluster.as_ref().is_some_and(|c| snapshot.revision < c.revision);
        if stale && reading.began < self.known_at {
            return false;
        }
        if let Err(why) = self.continuity.check(&snapshot) {
            if self.distrusted.as_ref() != Some(&why) {
                error!("{why}");
            }
            self.distrusted = Some(why);
            return false;
        }
        if self.unreadable {
            info!("the DCS can be read again");
        }
        self.unreadable = false;
        (self.read_at, self.known_at) = (self.read_at.max(reading.began), now);
        self.dcs_seen = jiff::Timestamp::now().as_second();
        if self.cluster.as_ref().is_some_and(|c| c.revision == snapshot.revision) {
            return false;
        }
        let cluster = layout::decode(&snapshot);
        self.stored = cluster.config.as_ref().map(|c| c.value.clone()).or(self.stored.take());
        self.cluster = Some(Arc::new(cluster));
        self.take_settings();
        true
    }

    /// Takes what a new dynamic configuration or file puts in force; faulty values keep their defaults.
    fn take_settings(&mut self) {
        let effective = effective(&self.config, self.stored.as_ref().unwrap_or(&self.config.bootstrap.dcs));
        let configuration = Configuration {
            parameters: effective.parameters,
            pg_hba: effective.pg_hba,
            pg_ident: effective.pg_ident,
            use_slots: effective.settings.use_slots,
        };
        if configuration == self.configuration && effective.settings == self.settings {
            return;
        }
        for p in effective.problems {
            error!("dynamic configuration: {}: {}; fix it with pgherdctl edit-config", p.path, p.message);
        }
        (self.settings, self.configuration) = (effective.settings, configuration);
    }

    pub(crate) fn leased(&mut self, leased: Leased) {
        match leased {
            Leased::Held { id, began, ttl } => {
                let deadline = began + ttl;
                let later =
                    self.lease.filter(|h| h.lease.id == id).map_or(deadline, |h| h.lease.deadline.max(deadline));
                self.lease = Some(Held { lease: Lease { id, deadline: later }, ttl });
                (self.next_lease, self.unrenewed) = (None, None);
            }
            Leased::Next { id, began, ttl } => {
                self.next_lease = Some(Held { lease: Lease { id, deadline: began + ttl }, ttl });
            }
            Leased::Gone => {
                if self.lease.take().is_some() {
                    warn!("the lease has ended in the DCS; the member key is written anew");
                }
            }
            Leased::Unknown(e) => {
                let why = e.to_string();
                if self.unrenewed.as_ref() != Some(&why) {
                    warn!("the lease was not renewed: {why}");
                    self.unrenewed = Some(why);
                }
            }
        }
    }

    /// Takes a look at PostgreSQL unless a newer one is known.
    pub(crate) fn probed(&mut self, local: Local) {
        let began = local.taken_at;
        if self.local_at.is_some_and(|at| began < at) {
            return;
        }
        let ended = local.process == Process::Stopped && matches!(self.local.process, Process::Running { .. });
        (self.local, self.local_at) = (local, Some(began));
        if matches!(self.local.sql, Sql::Up(_)) {
            self.unproven = None;
            self.failed = self.failed.take().filter(|f| !starts(f.kind));
        } else if ended && self.fencing {
            self.unproven = None;
        } else if ended && self.job.is_none() {
            warn!("PostgreSQL has ended unexpectedly");
            self.refute(began);
        }
    }

    /// PostgreSQL has ended by itself: when it never answered, its start counts as failed and is not tried again at once.
    fn refute(&mut self, at: Tick) {
        if let Some(kind) = self.unproven.take() {
            let log = format!("{}.log", self.config.postgresql.data_dir.display());
            self.fail(kind, format!("PostgreSQL ended before it answered; {log} says why"), at);
        }
    }

    pub(crate) fn guarded(&mut self, result: Result<Report, String>, now: Tick) {
        match result {
            Ok(report) => {
                let needed = self.config.watchdog.mode == WatchdogMode::Required;
                self.watchdog_failed = needed && report.watchdog.is_none() && report.trouble.is_some();
                self.guard = match report.state {
                    GuardState::Idle | GuardState::Disarmed => Guard::Idle,
                    GuardState::Armed { term, deadline } => {
                        Guard::Armed { term, deadline: deadline + guard_margin(self.settings.ttl) }
                    }
                    GuardState::Fenced { term, .. } => Guard::Fenced { term },
                };
            }
            Err(why) => {
                if !matches!(self.guard, Guard::Lost(_)) {
                    warn!("the guard doesn't answer: {why}");
                }
                self.guard_lost(now);
            }
        }
    }

    pub(crate) fn guard_lost(&mut self, now: Tick) {
        if !matches!(self.guard, Guard::Lost(_)) {
            self.guard = Guard::Lost(now);
        }
    }

    pub(crate) fn worked(&mut self, kind: JobKind, result: Result<(), String>, now: Tick) {
        self.job = None;
        match result {
            // A replica's start ends before it is known to have gone well.
            Ok(()) if starts(kind) && !matches!(self.local.sql, Sql::Up(_)) => {
                self.unproven = Some(kind);
                if self.local.process == Process::Stopped {
                    self.refute(now);
                }
            }
            Ok(()) => self.failed = self.failed.take().filter(|f| f.kind != kind),
            Err(why) => self.fail(kind, why, now),
        }
    }

    fn fail(&mut self, kind: JobKind, why: String, at: Tick) {
        let before = self.failed.as_ref().filter(|f| f.kind == kind).map_or(0, |f| f.times);
        // Others come and go: what fails once or twice is tried again and needs nobody.
        if before >= 2 {
            error!("{kind:?} failed: {why}")
        } else {
            warn!("{kind:?} failed: {why}")
        }
        self.failed = Some(Failed { kind, at, times: before + 1, why });
    }
}

fn starts(kind: JobKind) -> bool {
    matches!(kind, JobKind::StartPrimary | JobKind::StartReplica | JobKind::Restart)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ha::local::Answer;
    use service::config::{Role, Source, load};

    use super::*;

    fn state() -> State {
        let text = "{scope: otus, name: pg1, embedded: {path: /nowhere/dcs}, postgresql: {listen: '127.0.0.1:5432', \
                    data_dir: /nowhere/pg1, authentication: {replication: {username: r}, superuser: {username: s}}}}";
        let environment = vec![("PATRONI_CONFIGURATION".to_owned(), text.to_owned())];
        let loaded = load(&Source { environment, ..Source::default() }, Role::Agent).unwrap();
        State::new(Settings::default(), Arc::new(loaded.config))
    }

    fn at(seconds: u64) -> Tick {
        Tick::default() + Duration::from_secs(seconds)
    }

    fn running() -> Process {
        Process::Running { pid: 7, standby: true, since: Tick::default() }
    }

    fn look(state: &mut State, seconds: u64, process: Process, sql: Sql) {
        state.probed(Local { taken_at: at(seconds), process, sql, ..Local::default() });
    }

    /// One start of a replica that is still recovering when its job ends.
    fn start(state: &mut State, seconds: u64) {
        state.job = Some(Job { kind: JobKind::StartReplica, since: at(seconds) });
        look(state, seconds, running(), Sql::default());
        state.worked(JobKind::StartReplica, Ok(()), at(seconds));
    }

    #[test]
    fn servers_that_end_before_they_answer_are_failed_starts() {
        let mut state = state();
        for times in 1..=3 {
            let seconds = u64::from(times) * 10;
            start(&mut state, seconds);
            look(&mut state, seconds + 1, Process::Stopped, Sql::default());
            let failed = state.failed.clone().unwrap();
            assert_eq!((failed.kind, failed.times, failed.at), (JobKind::StartReplica, times, at(seconds + 1)));
            assert!(failed.why.contains("/nowhere/pg1.log"), "{}", failed.why);
        }
        start(&mut state, 40);
        look(&mut state, 41, running(), Sql::Up(Answer::default().into()));
        assert_eq!(state.failed, None);
        look(&mut state, 42, Process::Stopped, Sql::default());
        assert_eq!(state.failed, None, "a server that has answered is started again at once");
    }

    fn read(state: &mut State, revision: i64, config: Option<&str>) {
        let mut snapshot = dcs::Snapshot { dcs_id: 1, revision, ..dcs::Snapshot::default() };
        if let Some(text) = config {
            let entry = dcs::Entry { value: text.into(), created: 1, modified: revision, lease: 0 };
            snapshot.entries.insert(layout::CONFIG.to_owned(), entry);
        }
        state.read(Reading { began: at(revision.unsigned_abs()), result: Ok(snapshot) }, at(revision.unsigned_abs()));
    }

    #[test]
    fn settings_stay_in_force_when_their_key_is_deleted() {
        let mut state = state();
        read(&mut state, 1, Some(r#"{"ttl": 20, "pause": true}"#));
        read(&mut state, 2, None);
        assert_eq!((state.settings.ttl, state.settings.pause), (Duration::from_secs(20), true));
        read(&mut state, 3, Some(r#"{"ttl": 25}"#));
        assert_eq!((state.settings.ttl, state.settings.pause), (Duration::from_secs(25), false));
    }

    #[test]
    fn an_end_by_our_own_hand_is_no_failed_start() {
        let mut state = state();
        start(&mut state, 1);
        state.fencing = true;
        look(&mut state, 2, Process::Stopped, Sql::default());
        state.fencing = false;
        assert_eq!(state.failed, None);
    }
}
