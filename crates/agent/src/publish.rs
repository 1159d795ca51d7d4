//! Telling the world: the status that REST and gRPC serve, and this member's key in the DCS.

use std::sync::Arc;
use std::time::Duration;

use dcs::{Write, layout};
use ha::decide::agent_margin;
use ha::local::{Answer, DataDir, Process, Sql};
use ha::view::JobKind;
use ha::{Cluster, Lsn, Member, Reason, Role, State as Word, Status, Tick};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::engine::Engine;
use crate::event::Event;
use crate::state::State;

/// What is known of our own member key.
#[derive(Default)]
pub(crate) struct Published {
    writing: bool,
    failed_at: Option<Tick>,
    at: Tick,
    /// Nothing is written before the DCS was read after this moment: what the key says isn't known, or not whose it is.
    blind_since: Tick,
    /// Nothing is written before a reading of this revision: it shows what was written last.
    written: i64,
    /// What was written last.
    last: Option<Member>,
}

impl Published {
    /// A write has ended, at a revision if it was done; the cluster is what was read last.
    pub(crate) fn ended(&mut self, result: Result<i64, dcs::Error>, cluster: Option<&Cluster>, at: Tick) {
        self.writing = false;
        self.failed_at = None;
        match result {
            Ok(revision) if cluster.is_none_or(|c| c.revision < revision) => self.written = revision,
            Ok(_) if self.is_seen(cluster) => {}
            // An old revision without what was written: another DCS, whose revisions mean nothing here.
            Ok(_) => self.blind_since = at,
            Err(e) => {
                warn!("the member key was not written: {e}");
                self.failed_at = Some(at);
            }
        }
    }

    fn is_seen(&self, cluster: Option<&Cluster>) -> bool {
        let Some(last) = &self.last else { return false };
        let there = cluster.and_then(|c| c.members.get(&last.name));
        there.is_some_and(|m| *last == Member { lease: last.lease, ..m.clone() })
    }

    /// The lease is gone. The DCS may be another one by now: it is looked at before anything is written.
    pub(crate) fn lost_lease(&mut self, at: Tick) {
        self.blind_since = at;
        self.written = 0;
    }
}

/// Publishes the status after a decision.
pub(crate) fn status(engine: &mut Engine, reason: &Reason, at: Tick) {
    let new = build(engine, reason, at);
    engine.status().send_replace(Arc::new(new));
}

fn build(engine: &Engine, reason: &Reason, at: Tick) -> Status {
    let (s, node) = (&engine.state, &engine.node);
    let config = node.config();
    let answer = answer(s);
    let role = role(s);
    let leader = s.cluster.as_ref().and_then(|c| c.leader.as_ref()).filter(|l| l.name == node.me.name);
    let held = s.held().filter(|h| leader.is_some_and(|l| l.lease == h.lease.id));
    let margin = agent_margin(s.settings.ttl);
    Status {
        scope: config.scope.clone(),
        name: node.me.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: word(s),
        role,
        // In maintenance mode nobody else takes over, whatever happens to the lease.
        leader_until: match leader {
            Some(_) if s.settings.pause => Some(Tick::NEVER),
            _ => held.map(|h| h.lease.deadline.before(margin)),
        },
        term: leader.map(|l| l.term),
        decided_at: at,
        looked_at: s.local_at,
        server_version: answer.map(|a| a.server_version),
        postmaster_start_time: answer.map(|a| a.postmaster_start_time.clone()),
        timeline: timeline(s),
        system_identifier: system_identifier(s),
        location: answer.filter(|a| !a.in_recovery).map(|a| a.written),
        received_location: answer.filter(|a| a.in_recovery).map(|a| a.received),
        replayed_location: answer.filter(|a| a.in_recovery).map(|a| a.replayed),
        replayed_timestamp: answer.and_then(|a| a.replayed_timestamp.clone()),
        replay_paused: answer.is_some_and(|a| a.replay_paused),
        replication_state: replication_state(answer),
        replication: answer.map(|a| a.replication.clone()).unwrap_or_default(),
        sync_standby: s
            .cluster
            .as_ref()
            .and_then(|c| c.sync.as_ref())
            .is_some_and(|y| role == Role::Replica && y.value.standbys.contains(&node.me.name)),
        pending_restart: pending_restart(answer),
        tags: config.tags.clone(),
        pause: s.settings.pause,
        dcs_last_seen: s.dcs_seen,
        settings: s.settings.clone(),
        cluster: s.cluster.clone(),
        reason: reason.to_string(),
        reason_label: reason.label(),
        trouble: trouble(s, reason, at).or_else(|| {
            let seconds = engine.leaderless_for(at)?.as_secs();
            Some(format!("the cluster has had no leader for {seconds} s; this node says: {reason}"))
        }),
        watchdog_failed: engine.state.watchdog_failed,
    }
}

fn answer(s: &State) -> Option<&Answer> {
    match &s.local.sql {
        Sql::Up(a) => Some(a),
        _ => None,
    }
}

fn role(s: &State) -> Role {
    match (&s.local.sql, &s.local.process, &s.local.data) {
        (Sql::Up(a), _, _) if a.in_recovery => Role::Replica,
        (Sql::Up(_), _, _) => Role::Primary,
        (_, Process::Running { standby: false, .. }, _) => Role::Primary,
        (_, _, DataDir::Empty) => Role::Uninitialized,
        _ => Role::Replica,
    }
}

/// The state in Patroni's words: what is being done, else what PostgreSQL says.
fn word(s: &State) -> Word {
    let failed = s.failed.as_ref().map(|f| f.kind);
    match (s.job.map(|j| j.kind), &s.local.process, &s.local.sql) {
        (Some(JobKind::Bootstrap), ..) => Word::InitializingNewCluster,
        (Some(JobKind::Clone), ..) => Word::CreatingReplica,
        (Some(JobKind::Restart), ..) => Word::Restarting,
        (Some(JobKind::Stop | JobKind::Wipe), ..) => Word::Stopping,
        // Not before its users exist: others would clone too early.
        (Some(JobKind::StartPrimary), ..) => Word::Starting,
        (_, _, Sql::Up(_)) => Word::Running,
        (Some(JobKind::StartReplica), ..) => Word::Starting,
        (_, Process::Running { .. }, Sql::Silent(_)) => Word::Running,
        (_, Process::Running { .. }, _) => Word::Starting,
        (_, Process::Orphans, _) => Word::Crashed,
        (None, Process::Stopped, _) => match failed {
            Some(JobKind::Bootstrap) => Word::InitdbFailed,
            Some(JobKind::StartPrimary | JobKind::StartReplica) => Word::StartFailed,
            Some(JobKind::Restart) => Word::RestartFailed,
            Some(JobKind::Stop) => Word::StopFailed,
            _ if crashed(s) => Word::Crashed,
            _ => Word::Stopped,
        },
        _ => Word::Stopped,
    }
}

fn crashed(s: &State) -> bool {
    matches!(&s.local.data, DataDir::Valid(c) if !c.clean)
}

fn timeline(s: &State) -> Option<u32> {
    match (answer(s), &s.local.data) {
        (Some(a), _) => Some(a.timeline),
        (None, DataDir::Valid(c)) => Some(c.timeline),
        _ => None,
    }
}

fn system_identifier(s: &State) -> Option<String> {
    match (answer(s), &s.local.data) {
        (Some(a), _) => Some(a.system_identifier.clone()),
        (None, DataDir::Valid(c)) => Some(c.system_identifier.clone()),
        _ => s.cluster.as_ref().and_then(|c| c.initialize.clone()).filter(|i| !i.is_empty()),
    }
}

fn replication_state(answer: Option<&Answer>) -> Option<String> {
    answer.filter(|a| a.in_recovery)?.receiver.clone().filter(|r| r == "streaming")
}

fn pending_restart(answer: Option<&Answer>) -> Map<String, Value> {
    let rows = answer.map(|a| a.pending_restart.as_slice()).unwrap_or_default();
    rows.iter().map(|(name, old, new)| (name.clone(), json!({"old_value": old, "new_value": new}))).collect()
}

/// What a person should look at.
fn trouble(s: &State, reason: &Reason, at: Tick) -> Option<String> {
    let secs = |t: Tick| at.since(t).as_secs();
    if let Some(t) = s.local.storage_stuck_since {
        return Some(format!("the storage under the data directory has not answered a small write for {} s", secs(t)));
    }
    if let Some(t) = s.local.refusing_since {
        return Some(format!("PostgreSQL has not answered new connections for {} s", secs(t)));
    }
    if let Sql::Silent(t) = s.local.sql {
        return Some(format!("PostgreSQL has not answered its reserved connection for {} s", secs(t)));
    }
    if reason.is_alarming() {
        return Some(reason.to_string());
    }
    s.trouble.clone().or_else(|| s.failed.as_ref().map(|f| format!("{:?} failed: {}", f.kind, f.why)))
}

/// Writes this member's key when what it says has changed: at once where others act on it, else once a loop.
pub(crate) fn member(engine: &mut Engine, at: Tick) {
    let (Some(held), Some(cluster)) = (engine.state.held(), engine.state.cluster.clone()) else { return };
    if engine.state.wants.leave && engine.state.local.process == Process::Stopped {
        return;
    }
    // The keys are being moved to a lease of another length, and this one is about to end.
    if held.ttl != engine.state.settings.ttl {
        return;
    }
    let new = value(engine);
    let (state, _, published, _) = engine.parts();
    let retry = published.failed_at.is_some_and(|t| at.since(t) < Duration::from_secs(1));
    if published.writing || retry || state.read_at < published.blind_since || cluster.revision < published.written {
        return;
    }
    if let Some(old) = cluster.members.get(&new.name).filter(|m| m.lease == held.lease.id) {
        let positions_only = without_positions(old) == without_positions(&new);
        let waiting = at.since(published.at) < state.settings.loop_wait;
        if *old == (Member { lease: old.lease, ..new.clone() }) || (positions_only && waiting) {
            return;
        }
    }
    published.writing = true;
    published.at = at;
    published.last = Some(new.clone());
    let put =
        Write::Put { key: layout::member_key(&new.name), value: layout::member_value(&new), lease: held.lease.id };
    let (node, events) = (engine.node.clone(), engine.sender.clone());
    engine.spawn(async move {
        let result = node.dcs.commit(&[], &[put]).await.map(Option::unwrap_or_default);
        // The engine outlives its tasks; when it is gone, the process is ending.
        let _ = events.send(Event::Published(result)).await;
    });
}

fn without_positions(member: &Member) -> Member {
    Member { xlog_location: None, receive_lsn: None, replay_lsn: None, lease: 0, ..member.clone() }
}

fn value(engine: &Engine) -> Member {
    let (s, config) = (&engine.state, engine.node.config());
    let answer = answer(s);
    let pending = pending_restart(answer);
    let at = &config.postgresql.connect_address;
    let some = |lsn: Lsn| (lsn != Lsn::default()).then_some(lsn);
    let replica = answer.filter(|a| a.in_recovery);
    Member {
        name: engine.node.me.name.clone(),
        conn_url: format!("postgres://{at}/postgres"),
        api_url: config.restapi.api_url(),
        state: word(s).as_str().to_owned(),
        role: role(s).as_str().to_owned(),
        version: PATRONI_LEVEL.to_owned(),
        xlog_location: answer.and_then(|a| some(a.position())),
        receive_lsn: replica.and_then(|a| some(a.received)),
        replay_lsn: replica.and_then(|a| some(a.replayed)),
        replication_state: replication_state(answer),
        timeline: timeline(s),
        pending_restart: !pending.is_empty(),
        pending_restart_reason: (!pending.is_empty()).then(|| Value::Object(pending)),
        pause: s.settings.pause,
        tags: config.tags.clone(),
        ..Member::default()
    }
}

/// Patroni's members read a version below 2.1.0 as one that needs old formats; this is the level that pgherd speaks.
const PATRONI_LEVEL: &str = "4.1.4";

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(revision: i64, state: &str) -> Cluster {
        let member = Member { name: "pg1".into(), state: state.into(), ..Member::default() };
        Cluster { revision, members: [("pg1".to_owned(), member)].into(), ..Cluster::default() }
    }

    fn written(state: &str) -> Published {
        let last = Member { name: "pg1".into(), state: state.into(), ..Member::default() };
        Published { last: Some(last), ..Published::default() }
    }

    #[test]
    fn a_write_that_is_not_seen_yet_waits_for_its_revision() {
        let mut p = written("running");
        p.ended(Ok(8), Some(&cluster(7, "starting")), Tick(5));
        assert_eq!((p.written, p.blind_since), (8, Tick(0)));
    }

    #[test]
    fn a_write_that_was_seen_before_its_answer_came_waits_for_nothing() {
        let mut p = written("running");
        p.ended(Ok(8), Some(&cluster(9, "running")), Tick(5));
        assert_eq!((p.written, p.blind_since), (0, Tick(0)));
    }

    #[test]
    fn an_old_revision_without_the_write_is_another_store() {
        let mut p = written("running");
        p.ended(Ok(3), Some(&cluster(900, "starting")), Tick(5));
        assert_eq!(p.blind_since, Tick(5));
    }
}
