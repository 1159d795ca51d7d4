//! One look at the local data directory, processes and server, bounded in time whatever hangs. Each part hangs alone: that
//! no process is left is seen although storage doesn't answer. What the server is asked is in `question`; what follows
//! from the answer is the `ha` crate's business.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ha::Tick;
use ha::local::{Answer, DataDir, Local, Process, Sql};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::clock::now;
use crate::error::Error;
use crate::files;
use crate::instance::{Inner, Instance};
use crate::look::Look;
use crate::lost::Lost;
use crate::postmaster::Postmaster;
use crate::question::{self, Facts};

/// How long an answer on the reserved connection may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How long a probe waits for a server that is already known to be silent.
const SILENT_LIMIT: Duration = Duration::from_millis(200);
/// How long the process table may take.
const PROCESSES_LIMIT: Duration = Duration::from_secs(1);
/// How long the data directory may take.
const DISK_LIMIT: Duration = Duration::from_secs(1);
/// How long a new connection may take.
const REFUSING_AFTER: Duration = Duration::from_secs(2);

/// State of the probe between looks.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    reserved: AsyncMutex<Reserved>,
    processes: AsyncMutex<Look<Found>>,
    disk: AsyncMutex<Look<DataDir>>,
    fresh: AsyncMutex<Fresh>,
    trouble: Mutex<Option<String>>,
    /// The reserved connection while it answers, for work that can't wait for a login.
    answering: Mutex<Option<Arc<Client>>>,
    pub(crate) lost: AsyncMutex<Lost>,
    /// WAL that a replica waits for and doesn't get.
    pub(crate) lost_wal: Mutex<Option<String>>,
}

impl Probes {
    pub(crate) fn trouble(&self) -> Option<String> {
        let lost_wal = || self.lost_wal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone().or_else(lost_wal)
    }

    /// The reserved connection, if it answered when it was last asked.
    pub(crate) fn answering(&self) -> Option<Arc<Client>> {
        let client = self.answering.lock().unwrap_or_else(PoisonError::into_inner).clone();
        client.filter(|client| !client.is_closed())
    }

    fn set_answering(&self, client: Option<Arc<Client>>) {
        *self.answering.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// The reserved connection.
#[derive(Debug, Default)]
struct Reserved {
    postmaster: u32,
    client: Option<Arc<Client>>,
    facts: Option<Facts>,
    /// A question under way, and since when.
    pending: Option<(Tick, JoinHandle<Asked>)>,
    /// Since when nothing answers.
    silent_since: Option<Tick>,
    /// The highest timeline that this postmaster's WAL receiver was seen on.
    receiver_timeline: u32,
    /// Parameters that wait for a restart, and when that was asked.
    pending_restart: Vec<(String, String, String)>,
    pending_restart_at: Option<Tick>,
}

/// Outcome of a question: the connection to keep, and the answer.
type Asked = Result<(Arc<Client>, Facts, question::Reply), Error>;

/// What the process table shows.
#[derive(Debug, Clone, Default)]
struct Found {
    postmaster: Option<Arc<Postmaster>>,
    orphans: bool,
}

/// Tries of new connections.
#[derive(Debug, Default)]
struct Fresh {
    pending: Option<(Tick, JoinHandle<bool>)>,
    last: Option<Tick>,
    refusing_since: Option<Tick>,
}

impl Instance {
    /// One look at everything local. Never fails and takes about three seconds at most, whatever hangs: what doesn't
    /// answer is reported as such. `taken_at` is the moment from which on what it shows of processes and server was true;
    /// the data directory is shown as it was last known while its storage hangs.
    pub async fn probe(&self) -> Local {
        let (found, taken_at) = self.look_at_processes().await;
        let (data, disk_stuck_since) = self.look_at_disk(found.postmaster.clone()).await;
        let stuck = disk_stuck_since.into_iter().chain(self.0.storage.stuck_since()).min();
        let mut local = Local { taken_at, data, storage_stuck_since: stuck, ..Local::default() };
        if matches!(local.data, DataDir::Valid(_)) {
            self.0.storage.ask();
        }
        let Some(postmaster) = found.postmaster else {
            if found.orphans {
                local.process = Process::Orphans;
            }
            self.forget_server().await;
            return local;
        };
        local.refusing_since = self.try_fresh().await;
        let (sql, asked_at) = self.ask(&postmaster).await;
        local.sql = sql;
        local.taken_at = local.taken_at.min(asked_at);
        self.look_for_lost_wal(&postmaster, &local.sql).await;
        if let Sql::Up(answer) = &local.sql
            && !answer.in_recovery
        {
            postmaster.set_standby(false);
        }
        local.process =
            Process::Running { pid: postmaster.pid, standby: postmaster.is_standby(), since: postmaster.since };
        local
    }

    /// Makes the next probe ask again which parameters wait for a restart.
    pub(crate) async fn forget_pending_restart(&self) {
        // A probe that waits for a silent server holds the lock; then there is nothing to ask soon.
        if let Ok(mut reserved) = self.0.probes.reserved.try_lock() {
            reserved.pending_restart_at = None;
        }
    }

    async fn forget_server(&self) {
        let mut reserved = self.0.probes.reserved.lock().await;
        if let Some((_, task)) = reserved.pending.take() {
            task.abort();
        }
        *reserved = Reserved::default();
        drop(reserved);
        let mut fresh = self.0.probes.fresh.lock().await;
        if let Some((_, task)) = fresh.pending.take() {
            task.abort();
        }
        *fresh = Fresh::default();
        self.0.probes.set_trouble(None);
        self.forget_lost_wal();
    }

    /// The processes, and the moment from which on that was true.
    async fn look_at_processes(&self) -> (Found, Tick) {
        let began = now();
        let running = |postmaster| (Found { postmaster: Some(postmaster), orphans: false }, began);
        if let Some(known) = self.0.alive() {
            return running(known);
        }
        let mut look = self.0.probes.processes.lock().await;
        let own = self.clone();
        look.take(began, PROCESSES_LIMIT, move || look_for_processes(&own.0)).await;
        let (at, found) = look.last.clone().unwrap_or_default();
        // Started meanwhile: what is older doesn't count.
        if let Some(known) = self.0.alive() {
            return running(known);
        }
        let known_since = self.0.postmaster.borrow().as_ref().map_or(Tick::default(), |p| p.since);
        if at == Tick::default() || at < known_since || found.postmaster.is_some() {
            // Nobody knows who is left of the last server.
            return (Found { postmaster: None, orphans: true }, began);
        }
        (found, at)
    }

    /// The data directory; also since when its storage doesn't answer.
    async fn look_at_disk(&self, postmaster: Option<Arc<Postmaster>>) -> (DataDir, Option<Tick>) {
        let located = |p: &Arc<Postmaster>| p.socket_dir.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if postmaster.as_ref().is_some_and(located)
            && let Some(control) = self.0.lock_state().control.clone()
        {
            return (DataDir::Valid(control), None);
        }
        let mut look = self.0.probes.disk.lock().await;
        let own = self.clone();
        let stuck_since = look.take(now(), DISK_LIMIT, move || look_at_data(&own.0, postmaster.as_deref())).await;
        let last = look.last.as_ref().map(|(_, data)| data.clone());
        match stuck_since {
            Some(_) => (self.last_known(last), stuck_since),
            None => (last.unwrap_or_default(), None),
        }
    }

    /// The data directory as it was known last.
    fn last_known(&self, last: Option<DataDir>) -> DataDir {
        let state = self.0.lock_state();
        match state.control.clone() {
            Some(mut control) => {
                let started = self.0.postmaster.borrow().as_ref().is_some_and(|p| p.since > state.control_at);
                control.clean &= !started;
                DataDir::Valid(control)
            }
            None => last.unwrap_or_else(|| DataDir::Damaged("its storage doesn't answer".into())),
        }
    }

    /// Tries new connections beside the reserved one; since when they are refused.
    async fn try_fresh(&self) -> Option<Tick> {
        let mut fresh = self.0.probes.fresh.lock().await;
        if let Some((began, task)) = fresh.pending.take_if(|(_, t)| t.is_finished()) {
            let answered = task.await.unwrap_or(false);
            fresh.last = Some(now());
            fresh.refusing_since = if answered { None } else { fresh.refusing_since.or(Some(began)) };
        }
        let due = fresh.last.is_none_or(|t| now().since(t) >= self.0.options.connect_check_every);
        if fresh.pending.is_none() && (due || fresh.refusing_since.is_some()) {
            let inner = self.0.clone();
            fresh.pending = Some((now(), tokio::spawn(async move { answers(&inner).await })));
        }
        let hanging = fresh.pending.as_ref().map(|(t, _)| *t).filter(|t| now().since(*t) >= REFUSING_AFTER);
        fresh.refusing_since.or(hanging)
    }

    /// Asks the server over the reserved connection; also the moment from which on the answer was true.
    async fn ask(&self, postmaster: &Arc<Postmaster>) -> (Sql, Tick) {
        let mut reserved = self.0.probes.reserved.lock().await;
        if reserved.postmaster != postmaster.pid {
            if let Some((_, task)) = reserved.pending.take() {
                task.abort();
            }
            *reserved = Reserved { postmaster: postmaster.pid, ..Reserved::default() };
        }
        let patience = if reserved.silent_since.is_some() { SILENT_LIMIT } else { ANSWER_LIMIT };
        for _ in 0..2 {
            let (began, mut task) = match reserved.pending.take() {
                Some(pending) => pending,
                None => self.begin_question(&reserved),
            };
            match tokio::time::timeout(patience, &mut task).await {
                Err(_) => {
                    self.0.probes.set_answering(None);
                    reserved.pending = Some((began, task));
                    let since = *reserved.silent_since.get_or_insert(began);
                    return (Sql::Silent(since), now());
                }
                // An answer to a question of long ago tells the past: ask again.
                Ok(Ok(Ok((client, facts, reply)))) if now().since(began) > 2 * ANSWER_LIMIT => {
                    reserved.client = Some(client);
                    reserved.facts = Some(facts);
                    drop(reply);
                }
                Ok(Ok(Ok((client, facts, reply)))) => {
                    return (self.answered(&mut reserved, client, facts, reply), began);
                }
                Ok(Ok(Err(e))) => {
                    let had_connection = reserved.client.take().is_some();
                    if !had_connection {
                        return (self.unanswered(&mut reserved, &e, began), began);
                    }
                }
                Ok(Err(e)) => tracing::error!("the probe's question failed: {e}"),
            }
        }
        let since = *reserved.silent_since.get_or_insert(now());
        (if now().since(since) > ANSWER_LIMIT { Sql::Silent(since) } else { Sql::NotReady }, now())
    }

    fn begin_question(&self, reserved: &Reserved) -> (Tick, JoinHandle<Asked>) {
        let every = self.0.options.connect_check_every;
        let settings = reserved.pending_restart_at.is_none_or(|t| now().since(t) >= every);
        let (inner, client, facts) = (self.0.clone(), reserved.client.clone(), reserved.facts.clone());
        let task = tokio::spawn(async move {
            let (client, facts) = match (client, facts) {
                (Some(client), Some(facts)) => (client, facts),
                _ => {
                    let client = Arc::new(inner.connect().await?);
                    let facts = question::facts(&client).await?;
                    (client, facts)
                }
            };
            let reply = question::ask(&client, settings).await?;
            Ok((client, facts, reply))
        });
        (now(), task)
    }

    fn answered(&self, reserved: &mut Reserved, client: Arc<Client>, facts: Facts, reply: question::Reply) -> Sql {
        self.0.probes.set_trouble(None);
        self.0.probes.set_answering(Some(client.clone()));
        reserved.silent_since = None;
        reserved.client = Some(client);
        if let Some(pending) = reply.pending_restart {
            reserved.pending_restart = pending;
            reserved.pending_restart_at = Some(now());
        }
        let mut answer = Answer { pending_restart: reserved.pending_restart.clone(), ..reply.answer };
        reserved.receiver_timeline = reserved.receiver_timeline.max(reply.receiver_timeline);
        question::take_back_unreceived(&mut answer, facts.segment);
        if answer.in_recovery && answer.waits_at.is_none() {
            answer.timeline = answer.timeline.max(reserved.receiver_timeline);
        }
        answer.system_identifier = facts.system_identifier.clone();
        answer.server_version = facts.server_version;
        answer.postmaster_start_time = facts.postmaster_start_time.clone();
        for raised in &self.0.lock_state().raised {
            if answer.in_recovery && !answer.pending_restart.iter().any(|(name, ..)| *name == raised.0) {
                answer.pending_restart.push(raised.clone());
            }
        }
        reserved.facts = Some(facts);
        Sql::Up(Box::new(answer))
    }

    /// What a failed question means.
    fn unanswered(&self, reserved: &mut Reserved, e: &Error, began: Tick) -> Sql {
        match e.sqlstate() {
            // cannot_connect_now: starting up, recovering, shutting down.
            Some("57P03") => {
                reserved.silent_since = None;
                self.0.probes.set_trouble(None);
                Sql::NotReady
            }
            // admin_shutdown, crash_shutdown: the connection was ended while it was being made.
            Some("57P01" | "57P02") => Sql::NotReady,
            Some(_) => {
                reserved.silent_since = None;
                self.0.probes.set_trouble(Some(format!(
                    "PostgreSQL answers, but not to the managing user {:?}: {e}; check \
                     postgresql.authentication.superuser, pg_hba.conf and max_connections",
                    self.0.options.superuser.username
                )));
                Sql::NotReady
            }
            None => {
                let since = *reserved.silent_since.get_or_insert(began);
                if now().since(since) > ANSWER_LIMIT { Sql::Silent(since) } else { Sql::NotReady }
            }
        }
    }
}

/// Whether a new connection is answered, with whatever.
async fn answers(inner: &Inner) -> bool {
    match inner.connect().await {
        Ok(_) => true,
        Err(e) => e.sqlstate().is_some(),
    }
}

/// Looks for the instance's processes. Blocking, without touching storage.
fn look_for_processes(inner: &Inner) -> Found {
    let rewinding = inner.lock_state().rewinding;
    let (postmaster, orphans) = match inner.find() {
        Ok(found) => (found, false),
        // The server processes of a rewind end with it.
        Err(_) => (None, !rewinding && !inner.lock_state().rewinding),
    };
    Found { postmaster, orphans: orphans || inner.work.spawns_unwanted() }
}

/// The data directory; what the control data said at the start while the server runs. Blocking.
fn look_at_data(inner: &Inner, running: Option<&Postmaster>) -> DataDir {
    if let Some(postmaster) = running {
        postmaster.read_files(inner.data_dir());
        if let Some(control) = inner.lock_state().control.clone() {
            return DataDir::Valid(control);
        }
    } else {
        inner.resolve();
    }
    let dir = inner.data_dir();
    match files::is_empty(dir) {
        Ok(true) => return DataDir::Empty,
        Ok(false) => {}
        Err(e) => return DataDir::Damaged(e.to_string()),
    }
    for needed in ["PG_VERSION", "global/pg_control"] {
        if !dir.join(needed).is_file() {
            return DataDir::Damaged(format!("{} has files, but no {needed}", dir.display()));
        }
    }
    if files::rewind_mark(dir).exists() && !inner.lock_state().rewinding {
        return DataDir::Damaged("pg_rewind was interrupted or failed half way here: it must be cloned again".into());
    }
    match inner.control_data() {
        Ok(control) => DataDir::Valid(control),
        Err(e) => DataDir::Damaged(e.to_string()),
    }
}
