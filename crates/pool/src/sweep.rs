//! Time-outs and upkeep, a few times a second: no query pays for a timer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{Order, Presence, State};
use crate::plan::{Plan, Timeouts};
use crate::worker::Worker;

/// What a client is told that waits for long (`query_wait_notify`).
const QUEUED: &str = "No server connection available in postgres backend, client is waiting in a queue";

/// Time between two sweeps.
const PERIOD: Duration = Duration::from_millis(333);

/// Sweeps until the thread ends.
pub(crate) async fn run(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        open_pools(&worker);
        for pool in worker.pools() {
            pool.keep_up(&worker);
        }
        clients(&worker);
    }
}

/// Pools that are filled before their first client: those whose user the database's entry names.
fn open_pools(worker: &Rc<Worker>) {
    let config = worker.config();
    if worker.index != 0 {
        return;
    }
    for (name, entry) in &config.databases {
        let least = entry.min_pool_size.unwrap_or(config.settings.min_pool_size);
        let Some(user) = entry.user.as_deref().filter(|_| least > 0) else { continue };
        let (database, user) = (worker.shared.database(name), worker.shared.user(user));
        let shared = worker.shared.pool(&database, &user, || Plan::of(&config, entry, &user.name));
        worker.pool_of(&shared);
    }
}

fn clients(worker: &Rc<Worker>) {
    let config = worker.config();
    let login = config.settings.client_login_timeout;
    let now = Instant::now();
    let present: Vec<Rc<Presence>> = worker.clients.borrow().iter().map(|(_, p)| p.clone()).collect();
    for presence in present {
        let timeouts = presence.timeouts.get();
        let over = if presence.state.get() == State::Login {
            late(&presence, timeouts.as_ref(), login, now)
        } else {
            timeouts.and_then(|t| overdue(&presence, &t, now))
        };
        if let Some(text) = over {
            presence.tell(Order::Close(Arc::from(text)));
        } else if is_over(presence.waits.get(), config.settings.query_wait_notify, now) && !presence.notified.get() {
            presence.notified.set(true);
            presence.tell(Order::Notice(Arc::from(QUEUED)));
        }
    }
}

/// The time-out that a client has run into before its session began.
fn late(presence: &Presence, timeouts: Option<&Timeouts>, login: Duration, now: Instant) -> Option<&'static str> {
    if timeouts.is_some_and(|t| is_over(presence.waits.get(), t.query_wait, now)) {
        return Some("query_wait_timeout");
    }
    let waits_for_server = presence.pool.borrow().is_some();
    let text = if waits_for_server { "client_login_timeout (server down)" } else { "client_login_timeout" };
    is_over(Some(presence.since), login, now).then_some(text)
}

/// The time-out that a client in its session has run into.
fn overdue(presence: &Presence, timeouts: &Timeouts, now: Instant) -> Option<&'static str> {
    let transaction = presence.transaction.get();
    if presence.state.get() == State::Waiting {
        return is_over(presence.waits.get(), timeouts.query_wait, now).then_some("query_wait_timeout");
    }
    if presence.query.get().is_some() {
        if is_over(presence.query.get(), timeouts.query, now) {
            return Some("query timeout");
        }
    } else if transaction.is_some() {
        if is_over(presence.idle.get(), timeouts.idle_transaction, now) {
            return Some("idle transaction timeout");
        }
    } else if is_over(presence.idle.get(), timeouts.client_idle, now) {
        return Some("client_idle_timeout");
    }
    is_over(transaction, timeouts.transaction, now).then_some("transaction timeout")
}

fn is_over(since: Option<Instant>, timeout: Duration, now: Instant) -> bool {
    !timeout.is_zero() && since.is_some_and(|s| now.saturating_duration_since(s) >= timeout)
}
