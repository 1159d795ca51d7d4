//! Work on servers that no client waits inside of: connecting, testing, cleaning, waiting for cancel requests to pass.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::route::Next;
use super::{Pool, reach};
use crate::server::{Facts, Server, State, exchange, login};
use crate::shared::limits::Full;
use crate::shared::pool::Trouble;
use crate::shared::{SharedPool, Slot};
use crate::worker::Worker;

impl Pool {
    /// Begins connections for clients that wait, as far as limits allow.
    pub(crate) fn launch(&self, worker: &Rc<Worker>) {
        let plan = self.plan().clone();
        if let Some(trouble) = self.shared.trouble()
            && trouble.at.elapsed() < plan.server_login_retry
        {
            return;
        }
        let waiting = u32::try_from(self.waiters.borrow().len()).unwrap_or(u32::MAX).max(1);
        while self.launching.get() - self.trying.get() < waiting.min(plan.size.max(1)) {
            let size =
                plan.size + if self.has_waited(worker, plan.reserve_pool_timeout) { plan.reserve_size } else { 0 };
            if self.shared.servers.load(Ordering::Relaxed) >= size.max(1) {
                return;
            }
            let next = plan.target.as_ref().map(|_| self.next());
            if let Some(Next::Wait) = next {
                return;
            }
            match Slot::take(&self.shared, size, plan.max_db_connections, plan.max_user_connections) {
                Ok(slot) => {
                    if self.shared.servers.load(Ordering::Relaxed) > plan.size.max(1) {
                        tracing::warn!(target: "pooler", "{}/{}: taking connection from reserve_pool", self.shared.database.name, self.shared.user.name);
                    }
                    begin(worker, self, slot, next);
                }
                Err(Full::Pool) => return,
                Err(full) => return self.evict(worker, full),
            }
        }
    }

    /// Whether the first who waits has waited so long that the reserve is opened.
    fn has_waited(&self, worker: &Worker, timeout: Duration) -> bool {
        let now = worker.shared.nanos(Instant::now());
        let first = self.first_waiter();
        first.is_some_and(|w| u128::from(now.saturating_sub(w.since)) >= timeout.as_nanos())
    }

    /// Opens one more connection though nobody waits (`min_pool_size`).
    pub(crate) fn open_spare(&self, worker: &Rc<Worker>) {
        let plan = self.plan().clone();
        if let Ok(slot) = Slot::take(&self.shared, plan.size, plan.max_db_connections, plan.max_user_connections) {
            let next = plan.target.as_ref().map(|_| self.next());
            begin(worker, self, slot, next);
        }
    }

    /// Has an idle connection of another pool closed, where the limit is that of the database or the user.
    fn evict(&self, worker: &Rc<Worker>, full: Full) {
        let mine = self.shared.clone();
        worker.shared.tell_all(move |worker| {
            for pool in worker.pools() {
                let other = &pool.shared;
                let same = match full {
                    Full::Database => Arc::ptr_eq(&other.database, &mine.database),
                    Full::User => Arc::ptr_eq(&other.user, &mine.user),
                    Full::Pool => false,
                };
                if same && !Arc::ptr_eq(other, &mine) && pool.close_oldest_idle("evicted") {
                    break;
                }
            }
            worker.pool_of(&mine).seek(worker);
        });
    }
}

/// Begins a connection: to the hosts of the plan, or to where `next` says.
fn begin(worker: &Rc<Worker>, pool: &Pool, slot: Slot, next: Option<Next>) {
    match next {
        None => connect(worker, pool, slot),
        Some(Next::Go(choice, turn)) => reach::connect(worker, pool, slot, choice, turn),
        Some(Next::Wait) => {}
    }
}

/// Connects in a task of its own.
fn connect(worker: &Rc<Worker>, pool: &Pool, slot: Slot) {
    pool.launching.set(pool.launching.get() + 1);
    let (worker, shared) = (worker.clone(), pool.shared.clone());
    let pool = worker.pool_of(&shared);
    tokio::task::spawn_local(Box::pin(async move {
        let plan = pool.plan().clone();
        let made = match tokio::time::timeout(
            nonzero(plan.server_connect_timeout),
            login::connect(&worker, &pool, slot, None, &[]),
        )
        .await
        {
            Ok(made) => made,
            Err(_) => Err(login::Error::TimedOut),
        };
        pool.launching.set(pool.launching.get() - 1);
        match made {
            Ok(server) => welcome(&worker, &pool, server),
            Err(error) => failed(&worker, &pool, &error),
        }
    }));
}

/// A new connection takes up its work.
pub(super) fn welcome(worker: &Rc<Worker>, pool: &Pool, server: Box<Server>) {
    if worker.config().settings.log_connections {
        let from = server.facts.local.map_or_else(|| "unix socket".to_owned(), |l| l.to_string());
        tracing::info!(target: "pooler", "{} new connection to server (from {from})", name(&pool.shared, &server.facts));
    }
    pool.shared.set_trouble(None);
    pool.arrive(worker, server);
    pool.seek(worker);
}

/// Zero means for ever.
pub(crate) fn nonzero(timeout: Duration) -> Duration {
    const EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    if timeout.is_zero() { EVER } else { timeout }
}

/// A connection couldn't be made: those who wait are told, where a server itself refused. One that starts or stops
/// refuses for now only, so they wait on.
pub(super) fn failed(worker: &Rc<Worker>, pool: &Pool, error: &login::Error) {
    let key = (&pool.shared.database.name, &pool.shared.user.name);
    tracing::warn!("{}/{}: server login failed: {error}", key.0, key.1);
    let said: Option<Arc<str>> = match error {
        login::Error::Refused(text) | login::Error::Unready(text) | login::Error::Full(text) => {
            Some(text.as_str().into())
        }
        _ => None,
    };
    pool.shared.set_trouble(Some(Trouble { at: Instant::now(), said: said.clone() }));
    let (Some(said), login::Error::Refused(_) | login::Error::Full(_)) = (said, error) else { return };
    let connected = pool.shared.servers.load(std::sync::atomic::Ordering::Relaxed);
    if connected == 0 {
        let shared = pool.shared.clone();
        worker.shared.tell_all(move |worker| worker.pool_of(&shared).refuse_all(&said));
    }
}

/// Asks a server that was idle for long whether it's alive; if so, it goes to the next client.
pub(super) fn test(worker: &Rc<Worker>, pool: &Pool, server: Box<Server>) {
    server.marks.state.set(State::Tested);
    let query = pool.plan().server_check_query.clone();
    ask(worker, pool, server, query);
}

/// Cleans a server after a client's session; then it goes to the next client.
pub(crate) fn reset(worker: &Rc<Worker>, pool: &Pool, server: Box<Server>) {
    server.marks.state.set(State::Tested);
    let query = pool.plan().server_reset_query.clone();
    ask(worker, pool, server, query);
}

fn ask(worker: &Rc<Worker>, pool: &Pool, mut server: Box<Server>, query: String) {
    let (worker, pool) = (worker.clone(), worker.pool_of(&pool.shared));
    tokio::task::spawn_local(Box::pin(async move {
        let sql = if query == "<empty>" { "" } else { &query };
        let patience = nonzero(pool.plan().server_connect_timeout);
        let asked = exchange::query(&mut server, sql.as_bytes(), &worker.shared.tracked);
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(_)) if server.replies.status == b'I' => {
                if query.to_ascii_uppercase().contains("DISCARD ALL") {
                    server.replies.statements.clear();
                }
                pool.place(&worker, server);
            }
            Ok(Ok(_)) => pool.close(server, "reset query failed"),
            Ok(Err(e)) => pool.close(server, &e.to_string()),
            Err(_) => pool.close(server, "test query timeout"),
        }
        pool.seek(&worker);
    }));
}

/// Keeps a server aside until no cancel request is under way to it.
pub(super) fn after_cancels(worker: &Rc<Worker>, pool: &Pool, server: Box<Server>) {
    let (worker, pool) = (worker.clone(), worker.pool_of(&pool.shared));
    tokio::task::spawn_local(Box::pin(async move {
        while server.marks.cancels.get() > 0 {
            server.marks.cancelled.notified().await;
        }
        pool.give(&worker, server);
    }));
}

/// A server in the words of the log.
fn name(pool: &SharedPool, facts: &Facts) -> String {
    format!("S-{:#x}: {}/{}@{}", facts.id, pool.database.name, pool.user.name, facts.address)
}

/// The log line of a server's end.
pub(super) fn log_close(pool: &SharedPool, facts: &Facts, why: &str, age: u64) {
    tracing::info!(target: "pooler", "{} closing because: {why} (age={age}s)", name(pool, facts));
}
