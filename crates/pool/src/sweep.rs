//! Time-outs and upkeep, a few times a second: no query pays for a timer.

use std::cell::Cell;
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

/// When clients are looked at next: not before one could run into a time-out, so that thousands of idle ones cost nothing.
#[derive(Default)]
pub(crate) struct Schedule {
    last: Cell<Option<Instant>>,
    due: Cell<Option<Instant>>,
}

impl Schedule {
    /// A client has come that may run into these.
    pub(crate) fn expect(&self, timeouts: &Timeouts) {
        let next = shortest(&timeouts.all()).map(|t| Instant::now() + t);
        self.due.set(earlier(self.due.get(), next));
    }

    /// Whether clients are to be looked at. `common` are the time-outs that every client may run into at any time.
    fn is_due(&self, common: &[Duration], now: Instant) -> bool {
        let Some(last) = self.last.get() else { return true };
        let next = earlier(self.due.get(), shortest(common).map(|t| last + t));
        next.is_some_and(|at| at <= now)
    }

    fn looked(&self, now: Instant, due: Option<Instant>) {
        self.last.set(Some(now));
        self.due.set(due);
    }
}

/// The shortest time-out that isn't off.
fn shortest(timeouts: &[Duration]) -> Option<Duration> {
    timeouts.iter().copied().filter(|t| !t.is_zero()).min()
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

/// The first moment at which a client could run into a time-out, by what it does now and by what it may begin after `now`.
fn first(presence: &Presence, timeouts: Option<&Timeouts>, common: &[Duration; 2], now: Instant) -> Option<Instant> {
    let own = timeouts.map(Timeouts::all).unwrap_or_default();
    let [login, notify] = *common;
    let (waits, idle) = (presence.waits.get(), presence.idle.get());
    let running = [
        (presence.query.get(), timeouts.map(|t| t.query)),
        (presence.transaction.get(), timeouts.map(|t| t.transaction)),
        (waits, timeouts.map(|t| t.query_wait)),
        (waits.filter(|_| !presence.notified.get()), Some(notify)),
        (idle, timeouts.map(|t| t.idle_transaction)),
        (idle, timeouts.map(|t| t.client_idle)),
        (Some(presence.since).filter(|_| presence.state.get() == State::Login), Some(login)),
    ];
    let ends = running.into_iter().filter_map(|(since, limit)| Some(since? + limit.filter(|l| !l.is_zero())?));
    let later = shortest(&own).map(|t| now + t);
    ends.filter(|end| *end > now).chain(later).min()
}

fn clients(worker: &Rc<Worker>) {
    let config = worker.config();
    let login = config.settings.client_login_timeout;
    let common = [login, config.settings.query_wait_notify];
    let now = Instant::now();
    if !worker.sweeps.is_due(&common, now) {
        return;
    }
    let mut due = None;
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
        due = earlier(due, first(&presence, timeouts.as_ref(), &common, now));
    }
    worker.sweeps.looked(now, due);
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timeouts(query_wait: u32, client_idle: u32) -> Timeouts {
        let off = Duration::ZERO;
        let (query_wait, client_idle) = (SECOND * query_wait, SECOND * client_idle);
        Timeouts { query_wait, query: off, idle_transaction: off, transaction: off, client_idle }
    }

    #[test]
    fn clients_are_looked_at_when_one_may_be_late() {
        let (schedule, now) = (Schedule::default(), Instant::now());
        assert!(schedule.is_due(&[], now), "the first time");
        schedule.looked(now, None);
        assert!(!schedule.is_due(&[Duration::ZERO], now + 1000 * SECOND), "nobody can be late");
        assert!(!schedule.is_due(&[60 * SECOND, 5 * SECOND], now + 4 * SECOND));
        assert!(schedule.is_due(&[60 * SECOND, 5 * SECOND], now + 5 * SECOND));
        schedule.looked(now, Some(now + 3 * SECOND));
        assert!(schedule.is_due(&[5 * SECOND], now + 3 * SECOND));
        schedule.expect(&timeouts(120, 1));
        assert!(schedule.is_due(&[5 * SECOND], now + 2 * SECOND), "a client with a shorter time-out has come");
    }

    #[test]
    fn the_first_moment_is_that_of_what_runs_or_may_begin() {
        let presence = Presence::new(1, crate::client::Origin::Unix(None));
        let now = presence.since + 10 * SECOND;
        let common = [60 * SECOND, 5 * SECOND];
        let at = |presence: &Presence, t: Option<&Timeouts>| {
            first(presence, t, &common, now).map(|at| at.duration_since(now).as_secs())
        };
        assert_eq!(at(&presence, None), Some(50), "its login");
        presence.state.set(State::Active);
        assert_eq!(at(&presence, None), None);
        assert_eq!(at(&presence, Some(&timeouts(120, 0))), Some(120), "a wait that begins now");
        presence.waits.set(Some(now - 3 * SECOND));
        assert_eq!(at(&presence, Some(&timeouts(120, 0))), Some(2), "the notice");
        presence.notified.set(true);
        assert_eq!(at(&presence, Some(&timeouts(120, 0))), Some(117));
        presence.waits.set(None);
        presence.idle.set(Some(now - 7 * SECOND));
        assert_eq!(at(&presence, Some(&timeouts(120, 9))), Some(2));
    }
}
