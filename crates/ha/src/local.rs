//! The local PostgreSQL as a probe saw it. How it is probed is in the `instance` crate.

use std::collections::BTreeMap;

use crate::lsn::Lsn;
use crate::status::Standby;
use crate::time::Tick;

/// One look at the local data directory and server.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Local {
    /// When the look began: what it shows was true then or later.
    pub taken_at: Tick,
    /// The data directory.
    pub data: DataDir,
    /// The server's processes.
    pub process: Process,
    /// What the server says.
    pub sql: Sql,
    /// The storage under the data directory hasn't answered a small synced write since this moment.
    pub storage_stuck_since: Option<Tick>,
    /// New connections aren't answered since this moment, although the reserved one may be ("too many clients" is an
    /// answer).
    pub refusing_since: Option<Tick>,
}

/// State of the data directory.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum DataDir {
    /// Missing or without files.
    #[default]
    Empty,
    /// A cluster.
    Valid(ControlData),
    /// Has files but isn't a usable cluster (left by a failed clone, or not PostgreSQL's); the text says why.
    Damaged(String),
}

/// What pg_controldata says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ControlData {
    /// Database system identifier.
    pub system_identifier: String,
    /// Whether the server was shut down cleanly (as primary or in recovery).
    pub clean: bool,
    /// Whether it last ran in recovery (state `in archive recovery` or `shut down in recovery`).
    pub in_recovery: bool,
    /// Latest checkpoint's timeline, or the minimum recovery ending location's when that is further.
    pub timeline: u32,
    /// Latest checkpoint's location.
    pub checkpoint: Lsn,
    /// Latest checkpoint's REDO location.
    pub redo: Lsn,
    /// Minimum recovery ending location; zero on a primary.
    pub minimum_recovery: Lsn,
    /// Parameters that a standby must have at least as large as its primary: `max_connections`, `max_worker_processes`,
    /// `max_wal_senders`, `max_prepared_transactions`, `max_locks_per_transaction`.
    pub required_parameters: BTreeMap<String, i64>,
}

impl ControlData {
    /// The furthest position known to be in the data directory without reading WAL.
    pub fn position(&self) -> Lsn {
        self.checkpoint.max(self.minimum_recovery)
    }
}

/// The server's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Process {
    /// None at all.
    #[default]
    Stopped,
    /// The postmaster is gone but others of its processes live: they may go on committing. Nothing may be started.
    Orphans,
    /// The postmaster lives.
    Running {
        /// Its pid.
        pid: u32,
        /// Whether it was started with standby.signal (in recovery until promoted).
        standby: bool,
        /// When it was started or first seen.
        since: Tick,
    },
}

/// What the server answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Sql {
    /// Not running, or not asked yet.
    #[default]
    Down,
    /// Starting up, recovering or shutting down: it answers but takes no connection.
    NotReady,
    /// An answer.
    Up(Box<Answer>),
    /// It should answer but hasn't since this moment.
    Silent(Tick),
}

/// One answer of the server to the probe's query.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// pg_is_in_recovery().
    pub in_recovery: bool,
    /// Timeline: of the insertion point on a primary; received or replayed, whichever is later, on a replica.
    pub timeline: u32,
    /// System identifier.
    pub system_identifier: String,
    /// server_version_num.
    pub server_version: u32,
    /// pg_postmaster_start_time() as text with `+00:00`.
    pub postmaster_start_time: String,
    /// Primary: pg_current_wal_lsn().
    pub written: Lsn,
    /// Primary: pg_current_wal_flush_lsn().
    pub flushed: Lsn,
    /// Where crash recovery would begin: redo_lsn of pg_control_checkpoint().
    pub redo: Lsn,
    /// Timeline of the last checkpoint or restart point: timeline_id of pg_control_checkpoint().
    pub checkpoint_timeline: u32,
    /// Replica: pg_last_wal_receive_lsn().
    pub received: Lsn,
    /// Replica: the beginning of a segment that it wants next although it hasn't replayed all before it. It has the first
    /// part of a record there and waits for the rest. Nothing says that it has received anything of that segment.
    pub waits_at: Option<Lsn>,
    /// Replica: pg_last_wal_replay_lsn().
    pub replayed: Lsn,
    /// Commit time of the last replayed transaction as text.
    pub replayed_timestamp: Option<String>,
    /// pg_is_wal_replay_paused().
    pub replay_paused: bool,
    /// Status of the WAL receiver (`streaming`), `None` when there is none.
    pub receiver: Option<String>,
    /// The host and port the WAL receiver reads from.
    pub receiver_from: Option<(String, u16)>,
    /// Host and port in primary_conninfo in force; `None` when it is empty.
    pub upstream: Option<(String, u16)>,
    /// synchronous_standby_names in force.
    pub synchronous_standby_names: String,
    /// Standbys connected here.
    pub replication: Vec<Standby>,
    /// Parameters in pg_settings that wait for a restart: name, value in force, value configured.
    pub pending_restart: Vec<(String, String, String)>,
}

impl Answer {
    /// The furthest position this server holds.
    pub fn position(&self) -> Lsn {
        if self.in_recovery { self.received.max(self.replayed) } else { self.written.max(self.flushed) }
    }
}
