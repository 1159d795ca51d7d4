//! A cluster as all threads see it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::gate::{Door, Entry, Gates, Setback, Turn};
use super::hold::held_by;
use super::{Member, Report, Topology};
use crate::shared::lock;

/// The part of a cluster's state that all threads see.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) name: Arc<str>,
    topology: watch::Sender<Arc<Topology>>,
    /// What there is to say.
    pub(super) report: watch::Sender<Report>,
    gates: Mutex<Gates>,
    opened: tokio::sync::Notify,
    conducted: AtomicBool,
    /// Waits of clients are counted, because a hold is in force or has just ended.
    counting: AtomicBool,
    tally: Mutex<Tally>,
    /// Transactions cut since the start.
    pub(crate) cuts: AtomicU64,
    /// Holds that have ended since the start, and how long they lasted in microseconds.
    pub(crate) holds: (AtomicU64, AtomicU64),
}

/// How long clients waited in a hold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    begun: Option<Instant>,
    /// It began with a hold, not with another leader out of the blue.
    holds: bool,
    /// Whoever began to wait later waited for something else.
    released: Option<Instant>,
    pub(super) clients: u32,
    pub(super) longest: Duration,
}

impl Cluster {
    /// A cluster of which nothing is known yet.
    pub(crate) fn new(name: &str) -> Cluster {
        Cluster {
            name: name.into(),
            topology: watch::Sender::default(),
            report: watch::Sender::default(),
            gates: Mutex::default(),
            opened: tokio::sync::Notify::new(),
            conducted: AtomicBool::new(false),
            counting: AtomicBool::new(false),
            tally: Mutex::default(),
            cuts: AtomicU64::new(0),
            holds: (AtomicU64::new(0), AtomicU64::new(0)),
        }
    }

    /// The view in force.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.topology.borrow().clone()
    }

    /// The leader, where its address is known.
    pub(crate) fn leader(&self) -> Option<Member> {
        let topology = self.topology();
        topology.members.iter().find(|m| topology.leader.as_ref() == Some(&m.name)).cloned()
    }

    /// What clients of the leader meet with now, in a word.
    pub(crate) fn state(&self) -> &'static str {
        let topology = self.topology();
        let Some(leader) = &topology.leader else { return "no leader" };
        if topology.draining.contains_key(leader) {
            return if self.report.borrow().drained.contains_key(leader) { "holding" } else { "draining" };
        }
        if self.counting.load(Ordering::Relaxed) { "holding" } else { "serving" }
    }

    /// Shows each view that is put in force.
    pub(crate) fn topologies(&self) -> watch::Receiver<Arc<Topology>> {
        self.topology.subscribe()
    }

    /// Puts another view in force. Whether it is another.
    pub(super) fn set_topology(&self, topology: Topology) -> bool {
        self.topology.send_if_modified(|known| {
            let differs = **known != topology;
            if differs {
                self.gates(|gates| gates.renew(&topology));
                // Before any thread lets a client go: those that come back soon don't count twice.
                if held_by(&topology).is_none() {
                    self.release();
                }
                *known = Arc::new(topology);
            }
            differs
        })
    }

    /// Whether nobody has begun to conduct its holds; from now on somebody has.
    pub(super) fn is_unconducted(&self) -> bool {
        !self.conducted.swap(true, Ordering::SeqCst)
    }

    /// Shows what there is to say.
    pub(super) fn reports(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    pub(super) fn gates<T>(&self, act: impl FnOnce(&mut Gates) -> T) -> T {
        act(&mut lock(&self.gates))
    }

    /// Asks for a connection to be begun.
    pub(crate) fn enter(self: &Arc<Self>, door: &Door) -> Entry {
        match self.gates(|gates| gates.enter(door)) {
            Some(false) => Entry::Open,
            Some(true) => Entry::First(Turn { cluster: self.clone(), door: door.clone() }),
            None => Entry::Busy,
        }
    }

    /// A connection has proved that the member serves. Whether that's news.
    pub(crate) fn proved(&self, door: &Door) -> bool {
        let is_news = self.gates(|gates| gates.proved(door));
        if is_news {
            self.opened.notify_waiters();
        }
        is_news
    }

    /// Returns when some member has been proved to serve since this was called.
    pub(crate) fn opened(&self) -> tokio::sync::futures::Notified<'_> {
        self.opened.notified()
    }

    /// A connection couldn't be made.
    pub(crate) fn failed(&self, door: &Door, unpromoted: bool) -> Setback {
        self.gates(|gates| gates.failed(door, unpromoted, Instant::now()))
    }

    /// A client that wanted the leader has a server now, and waited since then.
    pub(crate) fn waited(&self, since: Instant) {
        if !self.counting.load(Ordering::Relaxed) {
            return;
        }
        let mut tally = lock(&self.tally);
        // Before the release only those go on whose thread hasn't heard of the hold yet: they will meet with it.
        if let Some(begun) = tally.begun
            && tally.released.map_or(!tally.holds, |released| since <= released)
        {
            tally.clients += 1;
            tally.longest = tally.longest.max(since.max(begun).elapsed());
        }
    }

    /// Begins to count waits.
    pub(super) fn count(&self, begun: Instant, holds: bool) {
        *lock(&self.tally) = Tally { begun: Some(begun), holds, ..Tally::default() };
        self.counting.store(true, Ordering::Relaxed);
    }

    /// Clients go on from now on, if they don't yet.
    pub(super) fn release(&self) {
        let mut tally = lock(&self.tally);
        if tally.begun.is_some() {
            tally.released.get_or_insert_with(Instant::now);
        }
    }

    /// They don't after all.
    pub(super) fn hold_again(&self) {
        lock(&self.tally).released = None;
    }

    /// Ends counting.
    pub(super) fn counted(&self) -> Tally {
        self.counting.store(false, Ordering::Relaxed);
        std::mem::take(&mut *lock(&self.tally))
    }
}
