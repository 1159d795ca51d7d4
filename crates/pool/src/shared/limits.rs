//! Databases and users as all threads see them, and the slots that keep the number of server connections within limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::SharedPool;

/// A database that clients name.
#[derive(Debug)]
pub(crate) struct Database {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Server connections in all its pools.
    pub(crate) servers: AtomicU32,
    /// Clients.
    pub(crate) clients: AtomicU32,
    /// No client gets a server (PAUSE, KILL).
    pub(crate) paused: AtomicBool,
    /// No new client is let in (DISABLE).
    pub(crate) disabled: AtomicBool,
}

impl Database {
    pub(crate) fn new(name: &str, paused: bool) -> Database {
        Database {
            name: name.into(),
            servers: AtomicU32::new(0),
            clients: AtomicU32::new(0),
            paused: AtomicBool::new(paused),
            disabled: AtomicBool::new(false),
        }
    }
}

/// A user that clients name.
#[derive(Debug)]
pub(crate) struct User {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Server connections in all its pools.
    pub(crate) servers: AtomicU32,
    /// Clients.
    pub(crate) clients: AtomicU32,
}

impl User {
    pub(crate) fn new(name: &str) -> User {
        User { name: name.into(), servers: AtomicU32::new(0), clients: AtomicU32::new(0) }
    }
}

/// Why there is no room for one more server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The pool has its size.
    Pool,
    /// `max_db_connections`.
    Database,
    /// `max_user_connections`.
    User,
}

/// Room for one server connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    pool: Arc<SharedPool>,
    /// The member of a cluster that the connection goes to.
    member: Option<Arc<str>>,
}

impl Slot {
    /// Takes room within the limits (zero is none), all or nothing.
    pub(crate) fn take(pool: &Arc<SharedPool>, size: u32, database: u32, user: u32) -> Result<Slot, Full> {
        if !add_below(&pool.servers, size.max(1)) {
            return Err(Full::Pool);
        }
        if !add_below(&pool.database.servers, database) {
            pool.servers.fetch_sub(1, Ordering::SeqCst);
            return Err(Full::Database);
        }
        if !add_below(&pool.user.servers, user) {
            pool.database.servers.fetch_sub(1, Ordering::SeqCst);
            pool.servers.fetch_sub(1, Ordering::SeqCst);
            return Err(Full::User);
        }
        Ok(Slot { pool: pool.clone(), member: None })
    }

    /// Counts the connection among those to this member.
    pub(crate) fn lead_to(&mut self, member: &Arc<str>) {
        self.pool.count_member(member, true);
        self.member = Some(member.clone());
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(member) = &self.member {
            self.pool.count_member(member, false);
        }
        self.pool.user.servers.fetch_sub(1, Ordering::SeqCst);
        self.pool.database.servers.fetch_sub(1, Ordering::SeqCst);
        self.pool.servers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A client's place in the counts of its database, its user and its pool; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// Its pool.
    pub(crate) pool: Arc<SharedPool>,
    /// The user that it logged in as.
    pub(crate) user: Arc<User>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.user.clients.fetch_sub(1, Ordering::Relaxed);
        self.pool.database.clients.fetch_sub(1, Ordering::Relaxed);
        self.pool.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds one where the count stays within `limit`; zero is no limit.
pub(crate) fn add_below(count: &AtomicU32, limit: u32) -> bool {
    let add = |n: u32| (limit == 0 || n < limit).then_some(n + 1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).is_ok()
}
