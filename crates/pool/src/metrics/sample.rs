//! Gathers what metrics tell: one question to each thread, answered with counts, and what all threads share.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::process::{self, Process};
use crate::admin::{books, clusters, show};
use crate::client::State;
use crate::console::rows::{self, ClusterRow, Counters, DatabaseRow, ListCounts, PoolRow};
use crate::shared::{Key, Message, Shared};
use crate::worker::Worker;

/// Series of clients by application. Applications name themselves, so that their number has no bound of its own.
const MOST_CLIENT_SERIES: usize = 500;

/// What stands for the names of applications beyond those.
const OTHER_APPLICATIONS: &str = "(other)";

/// Everything that a page of metrics shows.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) threads: Vec<Thread>,
    pub(super) process: Process,
    pub(super) shutting_down: bool,
    /// What takes all threads to know; `None` when one didn't answer.
    pub(super) whole: Option<Whole>,
}

/// One thread.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) clients: u32,
    /// Processor time, if it answered.
    pub(super) cpu: Option<Duration>,
}

/// What all threads together tell.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) state: rows::State,
    pub(super) lists: ListCounts,
    pub(super) consoles: u32,
    pub(super) max_client_conn: u32,
    pub(super) max_user_connections: u32,
    pub(super) databases: Vec<DatabaseRow>,
    pub(super) pools: Vec<PoolRow>,
    /// By database.
    pub(super) totals: BTreeMap<Arc<str>, Counters>,
    /// Servers that changed threads, by database.
    pub(super) moves: BTreeMap<Arc<str>, u64>,
    pub(super) clients: Vec<(Clients, u32)>,
    pub(super) cancels: Cancels,
    pub(super) clusters: Vec<ClusterRow>,
}

/// Clients that have these in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Clients {
    pub(super) database: String,
    pub(super) user: String,
    pub(super) application: String,
    pub(super) state: &'static str,
}

/// What became of cancel requests.
#[derive(Debug)]
pub(super) struct Cancels {
    pub(super) forwarded: u64,
    pub(super) passed_on: u64,
    pub(super) unmatched: u64,
}

/// What one thread answers.
struct Part {
    cpu: Duration,
    tally: show::Tally,
    pools: Vec<PoolRow>,
    counted: Vec<(Arc<str>, Counters)>,
    moves: Vec<(Arc<str>, u64)>,
    clients: HashMap<Group, u32>,
    waiting: Vec<(Arc<str>, u32)>,
}

/// Clients of a thread that have these in common.
type Group = (Option<Key>, Option<Arc<[u8]>>, &'static str);

/// Asks every thread at the same time. `None` for those that don't answer within `patience`.
pub(super) async fn ask<T: Send + 'static>(
    shared: &Shared,
    patience: Duration,
    act: impl Fn(&Rc<Worker>) -> T + Clone + Send + 'static,
) -> Vec<Option<T>> {
    let deadline = Instant::now() + patience;
    let ask = |thread| {
        let (answer, answered) = oneshot::channel();
        let act = act.clone();
        let work = move |worker: &Rc<Worker>| {
            // A thread that was stuck has no use for questions that nobody waits for any more.
            if !answer.is_closed() {
                let _ = answer.send(act(worker));
            }
        };
        shared.send(thread, Message::Call(Box::new(work)));
        answered
    };
    let asked: Vec<_> = (0..shared.threads()).map(ask).collect();
    let mut answers = Vec::with_capacity(asked.len());
    for answered in asked {
        answers.push(timeout_at(deadline, answered).await.ok().and_then(Result::ok));
    }
    answers
}

/// Whether no new clients are taken any more.
pub(super) fn is_shutting_down(shared: &Shared) -> bool {
    shared.shutdown.load(Ordering::SeqCst) > 0 || !*shared.listening.borrow()
}

/// Everything as it is now.
pub(super) async fn take(shared: &Arc<Shared>, patience: Duration) -> Sample {
    let parts = ask(shared, patience, part).await;
    let clients = shared.clients.iter().map(|count| count.load(Ordering::Relaxed));
    let thread = |(clients, part): (u32, &Option<Part>)| Thread { clients, cpu: part.as_ref().map(|p| p.cpu) };
    Sample {
        threads: clients.zip(&parts).map(thread).collect(),
        process: Process::now(shared.began),
        shutting_down: is_shutting_down(shared),
        // Without one thread's part sums would fall, which in a counter looks like a restart.
        whole: parts.into_iter().collect::<Option<Vec<Part>>>().map(|parts| whole(shared, parts)),
    }
}

fn part(worker: &Rc<Worker>) -> Part {
    let moves = worker.pools().into_iter().map(|p| (p.shared.database.name.clone(), p.stats.moves()));
    Part {
        tally: show::tally(worker),
        pools: show::pool_rows(worker),
        counted: books::counted(worker),
        moves: moves.collect(),
        clients: clients(worker),
        waiting: clusters::waiting(worker),
        cpu: process::thread_time(),
    }
}

/// Clients that have logged in: what others say of themselves isn't worth a label.
fn clients(worker: &Worker) -> HashMap<Group, u32> {
    let mut groups = HashMap::new();
    for (_, client) in worker.clients.borrow().iter() {
        let state = match client.state.get() {
            State::Login => continue,
            State::Active => "active",
            State::Waiting => "waiting",
        };
        let group = (client.names.borrow().clone(), client.application.borrow().clone(), state);
        *groups.entry(group).or_default() += 1;
    }
    groups
}

fn whole(shared: &Arc<Shared>, parts: Vec<Part>) -> Whole {
    let tallies: Vec<show::Tally> = parts.iter().map(|p| p.tally).collect();
    let (mut pools, mut counted, mut moves, mut groups) = (Vec::new(), Vec::new(), BTreeMap::new(), Vec::new());
    let mut waiting = Vec::new();
    for part in parts {
        pools.extend(part.pools);
        counted.extend(part.counted);
        groups.extend(part.clients);
        waiting.extend(part.waiting);
        for (database, count) in part.moves {
            *moves.entry(database).or_default() += count;
        }
    }
    let config = shared.config();
    let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    Whole {
        state: show::state(shared),
        lists: show::count_lists(shared, &tallies),
        consoles: shared.consoles.load(Ordering::Relaxed),
        max_client_conn: config.settings.max_client_conn,
        max_user_connections: config.settings.max_user_connections,
        databases: show::databases(shared),
        pools: show::sum_pools(shared, pools),
        totals: books::sum(counted),
        moves,
        clusters: clusters::rows(shared, waiting),
        clients: bounded(named(groups), MOST_CLIENT_SERIES),
        cancels: Cancels {
            forwarded: count(&shared.cancels.forwarded),
            passed_on: count(&shared.cancels.passed_on),
            unmatched: count(&shared.cancels.unmatched),
        },
    }
}

/// The groups of all threads, by names that are text.
pub(super) fn named(groups: Vec<(Group, u32)>) -> BTreeMap<Clients, u32> {
    let mut sums = BTreeMap::new();
    for ((names, application, state), count) in groups {
        let (database, user) = names.map(|(d, u)| (d.to_string(), u.to_string())).unwrap_or_default();
        let application = String::from_utf8_lossy(application.as_deref().unwrap_or_default()).into_owned();
        *sums.entry(Clients { database, user, application, state }).or_default() += count;
    }
    sums
}

/// At most that many groups with the names of their applications, the largest, and the others without.
pub(super) fn bounded(groups: BTreeMap<Clients, u32>, most: usize) -> Vec<(Clients, u32)> {
    if groups.len() <= most {
        return groups.into_iter().collect();
    }
    let mut groups: Vec<(Clients, u32)> = groups.into_iter().collect();
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut kept: BTreeMap<Clients, u32> = BTreeMap::new();
    for (i, (mut clients, count)) in groups.into_iter().enumerate() {
        if i >= most {
            OTHER_APPLICATIONS.clone_into(&mut clients.application);
        }
        *kept.entry(clients).or_default() += count;
    }
    kept.into_iter().collect()
}
