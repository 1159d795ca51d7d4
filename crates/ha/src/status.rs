//! What an agent tells the world about itself: one plain value, published after every decision. REST, gRPC and metrics
//! are views of it.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::cluster::{Cluster, Term};
use crate::lsn::Lsn;
use crate::settings::Settings;
use crate::time::Tick;

/// State of PostgreSQL in Patroni's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// initdb runs.
    InitializingNewCluster,
    /// initdb failed.
    InitdbFailed,
    /// A base backup is being taken.
    CreatingReplica,
    /// Accepts connections.
    Running,
    /// Starting up or recovering.
    Starting,
    /// Did not come up.
    StartFailed,
    /// Restarting on request.
    Restarting,
    /// A requested restart failed.
    RestartFailed,
    /// Shutting down.
    Stopping,
    /// Not running.
    #[default]
    Stopped,
    /// Could not be shut down.
    StopFailed,
    /// Ended unexpectedly.
    Crashed,
}

impl State {
    /// Patroni's words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::InitializingNewCluster => "initializing new cluster",
            State::InitdbFailed => "initdb failed",
            State::CreatingReplica => "creating replica",
            State::Running => "running",
            State::Starting => "starting",
            State::StartFailed => "start failed",
            State::Restarting => "restarting",
            State::RestartFailed => "restart failed",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::StopFailed => "stop failed",
            State::Crashed => "crashed",
        }
    }

    /// The value of Patroni's `postgres_state` metric.
    pub fn metric(self) -> u8 {
        match self {
            State::InitializingNewCluster => 0,
            State::InitdbFailed => 1,
            State::CreatingReplica => 4,
            State::Running => 5,
            State::Starting => 6,
            State::StartFailed => 8,
            State::Restarting => 9,
            State::RestartFailed => 10,
            State::Stopping => 11,
            State::Stopped => 12,
            State::StopFailed => 13,
            State::Crashed => 14,
        }
    }
}

/// Role of the local PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Accepts writes.
    Primary,
    /// In recovery, or not running as a primary.
    #[default]
    Replica,
    /// No data directory yet.
    Uninitialized,
}

impl Role {
    /// Patroni's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Uninitialized => "uninitialized",
        }
    }
}

/// One row of pg_stat_replication.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standby {
    /// `usename`.
    pub usename: String,
    /// `application_name`: a member's name.
    pub application_name: String,
    /// `client_addr`, absent over a Unix socket.
    pub client_addr: Option<String>,
    /// `state`.
    pub state: String,
    /// `sync_state`.
    pub sync_state: String,
    /// `sync_priority`.
    pub sync_priority: i32,
    /// `flush_lsn`.
    pub flush_lsn: Option<Lsn>,
}

/// Everything an agent knows about itself and its cluster at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// Cluster name.
    pub scope: String,
    /// Member name.
    pub name: String,
    /// pgherd's version, a dotted number.
    pub version: String,
    /// State of PostgreSQL.
    pub state: State,
    /// Role of PostgreSQL.
    pub role: Role,
    /// Until when this agent may call itself leader; `None` while it doesn't hold the leader key. Readers compare it
    /// with the clock, so that a stuck agent doesn't claim leadership.
    pub leader_until: Option<Tick>,
    /// The term that this node leads.
    pub term: Option<Term>,
    /// When the agent last completed a decision.
    pub decided_at: Tick,
    /// When the look at PostgreSQL began that this is from; `None` before the first.
    pub looked_at: Option<Tick>,
    /// server_version_num.
    pub server_version: Option<u32>,
    /// As PostgreSQL prints it, `2026-11-23 06:13:28.171607+00:00`.
    pub postmaster_start_time: Option<String>,
    /// Timeline.
    pub timeline: Option<u32>,
    /// System identifier.
    pub system_identifier: Option<String>,
    /// Write position of a primary.
    pub location: Option<Lsn>,
    /// What a replica has received.
    pub received_location: Option<Lsn>,
    /// What a replica has replayed.
    pub replayed_location: Option<Lsn>,
    /// Commit time of the last replayed transaction, as PostgreSQL prints it.
    pub replayed_timestamp: Option<String>,
    /// Replay is paused.
    pub replay_paused: bool,
    /// `streaming`, `in archive recovery`, or absent.
    pub replication_state: Option<String>,
    /// Standbys connected to this node.
    pub replication: Vec<Standby>,
    /// A synchronous standby according to the DCS.
    pub sync_standby: bool,
    /// Parameters that wait for a restart: name to old and new value.
    pub pending_restart: Map<String, Value>,
    /// Tags as configured.
    pub tags: Map<String, Value>,
    /// Maintenance mode.
    pub pause: bool,
    /// When the DCS was last read, Unix seconds.
    pub dcs_last_seen: i64,
    /// Settings in force.
    pub settings: Settings,
    /// The last reading of the DCS.
    pub cluster: Option<Arc<Cluster>>,
    /// Why the last decision was made, in plain words.
    pub reason: String,
    /// The same as a short stable label for metrics.
    pub reason_label: &'static str,
    /// A fault a person must look at (gray failure, DCS rebuilt, system identifier mismatch, full disk).
    pub trouble: Option<String>,
    /// The configured watchdog device could not be used.
    pub watchdog_failed: bool,
}
