//! One pool as all threads see it: how many servers it has, which threads have clients waiting or servers idle, and the
//! last failure to connect.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Database, User, lock};
use crate::plan::Plan;
use crate::server::authenticate::Credential;
use crate::vars::Vars;

/// A pool of server connections for one user of one database.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The database.
    pub(crate) database: Arc<Database>,
    /// The user.
    pub(crate) user: Arc<User>,
    /// Server connections on all threads, those being made included.
    pub(crate) servers: AtomicU32,
    /// Clients that have logged in, on all threads.
    pub(crate) clients: AtomicU32,
    /// A bit for each thread on which clients wait.
    waiting: AtomicU64,
    lanes: Box<[Lane]>,
    plan: Mutex<Arc<Plan>>,
    credential: Mutex<Credential>,
    welcome: Mutex<Option<Arc<Welcome>>>,
    trouble: Mutex<Option<Trouble>>,
    /// Connections to each member of the cluster that the database is at.
    members: Mutex<HashMap<Arc<str>, u32>>,
}

/// A thread's part, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane {
    /// When the client that waits longest began to (nanoseconds since the start).
    oldest: AtomicU64,
    waiters: AtomicU32,
    idle: AtomicU32,
    /// Servers on their way there.
    coming: AtomicU32,
}

/// A parameter's name and value.
pub(crate) type Parameter = (Box<[u8]>, Box<[u8]>);

/// What a server tells at login, for clients that log in later.
#[derive(Debug)]
pub(crate) struct Welcome {
    /// All parameters reported, in order.
    pub(crate) parameters: Vec<Parameter>,
    /// The tracked ones among them.
    pub(crate) vars: Vars,
}

/// The last failure to connect or log in to the server.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    /// When.
    pub(crate) at: Instant,
    /// What the server said, if it did.
    pub(crate) said: Option<Arc<str>>,
}

impl Pool {
    pub(crate) fn new(database: Arc<Database>, user: Arc<User>, plan: Plan, threads: usize) -> Pool {
        Pool {
            database,
            user,
            servers: AtomicU32::new(0),
            clients: AtomicU32::new(0),
            waiting: AtomicU64::new(0),
            lanes: (0..threads).map(|_| Lane::default()).collect(),
            plan: Mutex::new(Arc::new(plan)),
            credential: Mutex::default(),
            welcome: Mutex::default(),
            trouble: Mutex::default(),
            members: Mutex::default(),
        }
    }

    /// What clients have shown that servers can be logged in to with.
    pub(crate) fn credential(&self) -> Credential {
        lock(&self.credential).clone()
    }

    /// A client has proved who it is. Keys that an earlier one has shown stay where this one shows none.
    pub(crate) fn set_credential(&self, shown: Credential) {
        let mut credential = lock(&self.credential);
        let keys = shown.keys.or(credential.keys.take());
        *credential = Credential { known: shown.known, keys };
    }

    /// Settings in force.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        lock(&self.plan).clone()
    }

    /// Puts others in force; threads take them over when they're told.
    pub(crate) fn set_plan(&self, plan: Plan) {
        *lock(&self.plan) = Arc::new(plan);
    }

    /// Tells the others how many clients of a thread wait, and since when the first does; `None`: none waits.
    pub(crate) fn set_waiters(&self, thread: usize, count: usize, since: Option<u64>) {
        self.lanes[thread].waiters.store(count as u32, Ordering::Relaxed);
        match since {
            Some(since) => {
                self.lanes[thread].oldest.store(since, Ordering::SeqCst);
                if self.waiting.load(Ordering::Relaxed) & 1 << thread == 0 {
                    self.waiting.fetch_or(1 << thread, Ordering::SeqCst);
                }
            }
            None => {
                self.waiting.fetch_and(!(1 << thread), Ordering::SeqCst);
            }
        }
    }

    /// The other thread whose client waits longest, and since when.
    #[inline]
    pub(crate) fn longest_elsewhere(&self, thread: usize) -> Option<(usize, u64)> {
        let others = self.waiting.load(Ordering::SeqCst) & !(1 << thread);
        if others == 0 {
            return None;
        }
        let waiting = (0..self.lanes.len()).filter(|t| others & 1 << t != 0);
        waiting.map(|t| (t, self.lanes[t].oldest.load(Ordering::Relaxed))).min_by_key(|(_, since)| *since)
    }

    /// Other threads on which clients wait and how many, the one that waits longest first.
    pub(crate) fn waiting_elsewhere(&self, thread: usize) -> Vec<(usize, u32)> {
        let mut waiting: Vec<usize> = self.threads_waiting().filter(|t| *t != thread).collect();
        waiting.sort_by_key(|t| self.lanes[*t].oldest.load(Ordering::Relaxed));
        let count = |t: usize| self.lanes[t].waiters.load(Ordering::Relaxed).max(1).saturating_sub(self.coming(t));
        waiting.into_iter().map(|t| (t, count(t))).collect()
    }

    /// Servers on their way to a thread.
    pub(crate) fn coming(&self, thread: usize) -> u32 {
        self.lanes[thread].coming.load(Ordering::Relaxed)
    }

    /// A server is sent to a thread.
    pub(crate) fn sent(&self, thread: usize) {
        self.lanes[thread].coming.fetch_add(1, Ordering::Relaxed);
    }

    /// It's there.
    pub(crate) fn came(&self, thread: usize) {
        self.lanes[thread].coming.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells the others how many idle servers a thread has.
    #[inline]
    pub(crate) fn set_idle(&self, thread: usize, idle: usize) {
        self.lanes[thread].idle.store(idle as u32, Ordering::SeqCst);
    }

    /// Another thread that has an idle server.
    pub(crate) fn idle_elsewhere(&self, thread: usize) -> Option<usize> {
        (0..self.lanes.len()).find(|t| *t != thread && self.lanes[*t].idle.load(Ordering::SeqCst) > 0)
    }

    /// Threads on which clients wait.
    pub(crate) fn threads_waiting(&self) -> impl Iterator<Item = usize> {
        let waiting = self.waiting.load(Ordering::SeqCst);
        (0..self.lanes.len()).filter(move |t| waiting & 1 << t != 0)
    }

    /// Connections to each member of a cluster, those being made included.
    pub(crate) fn members(&self) -> HashMap<Arc<str>, u32> {
        lock(&self.members).clone()
    }

    /// Counts a connection to a member that begins or ends.
    pub(super) fn count_member(&self, member: &Arc<str>, begins: bool) {
        let mut members = lock(&self.members);
        let count = members.entry(member.clone()).or_default();
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            members.remove(member);
        }
    }

    /// What servers of this pool tell at login.
    pub(crate) fn welcome(&self) -> Option<Arc<Welcome>> {
        lock(&self.welcome).clone()
    }

    /// Remembers what a server told.
    pub(crate) fn set_welcome(&self, welcome: Arc<Welcome>) {
        *lock(&self.welcome) = Some(welcome);
    }

    /// Forgets it: the servers are others now.
    pub(crate) fn forget_welcome(&self) {
        *lock(&self.welcome) = None;
    }

    /// The last failure, unless a connection has been made since.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        lock(&self.trouble).clone()
    }

    /// Notes a failure or that connections can be made.
    pub(crate) fn set_trouble(&self, trouble: Option<Trouble>) {
        *lock(&self.trouble) = trouble;
    }
}
