//! What one decision is made from: everything a node knows at one moment, as plain data. Gathered by the agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{Cluster, Term};
use crate::local::{Answer, DataDir, Local, Process, Sql};
use crate::lsn::Lsn;
use crate::settings::Settings;
use crate::time::Tick;

/// Everything a node knows when it decides.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    /// This member.
    pub me: Me,
    /// Settings in force.
    pub settings: Settings,
    /// The DCS as last read.
    pub dcs: Dcs,
    /// This node's lease.
    pub lease: Option<Lease>,
    /// The local PostgreSQL.
    pub local: Local,
    /// The guard process.
    pub guard: Guard,
    /// The last completed round of questions to the other members.
    pub peers: Option<Round>,
    /// Long work on PostgreSQL that is under way.
    pub job: Option<Job>,
    /// The last work on PostgreSQL if it failed.
    pub failed: Option<Failed>,
    /// What operators want of this node.
    pub wants: Wants,
}

/// This member's identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Me {
    /// Member name.
    pub name: String,
    /// Tag `nofailover`: never leads.
    pub nofailover: bool,
}

/// The DCS as last read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dcs {
    /// The last good reading, whether or not the DCS can be read now.
    pub cluster: Option<Arc<Cluster>>,
    /// The latest attempt to read failed.
    pub unreadable: bool,
    /// The DCS was restored or rebuilt: nothing in it can be trusted until a person has looked.
    pub distrusted: Option<String>,
}

/// This node's lease on the DCS; member and leader keys hang on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The DCS's id of it.
    pub id: i64,
    /// The DCS keeps it at least until this moment: counted from before the last confirmed renewal was sent.
    pub deadline: Tick,
}

/// The guard process as it last answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// Answers and holds no deadline.
    #[default]
    Idle,
    /// Kills PostgreSQL at its deadline unless that is extended.
    Armed {
        /// The term it was armed for.
        term: Term,
        /// The lease deadline it was last given (it acts a margin earlier).
        deadline: Tick,
    },
    /// Has killed PostgreSQL; refuses this term.
    Fenced {
        /// The term that ended.
        term: Term,
    },
    /// Dead or silent since this moment, and no replacement has answered yet.
    Lost(Tick),
}

/// The answers of one round of questions to the other members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    /// When the questions were sent.
    pub asked_at: Tick,
    /// Answers by member; a member that didn't answer in time is absent.
    pub answers: BTreeMap<String, Peer>,
}

/// Another member's own word about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peer {
    /// PostgreSQL runs there.
    pub running: bool,
    /// It runs as a primary.
    pub primary: bool,
    /// The furthest WAL position it holds.
    pub position: Lsn,
    /// Its timeline; 0 when unknown.
    pub timeline: u32,
    /// Tag `nofailover`.
    pub nofailover: bool,
}

/// Work on PostgreSQL that takes time. One at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// What it does.
    pub kind: JobKind,
    /// When it began.
    pub since: Tick,
}

/// Kinds of work on PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobKind {
    /// initdb.
    Bootstrap,
    /// A base backup.
    Clone,
    /// Starting as a primary.
    StartPrimary,
    /// Starting in recovery.
    StartReplica,
    /// Shutting down.
    Stop,
    /// Leaving recovery.
    Promote,
    /// Looking for divergence and repairing it.
    Rejoin,
    /// Changing where WAL is read from.
    Follow,
    /// A checkpoint ahead of a hand-over.
    Checkpoint,
    /// Changing synchronous_standby_names.
    SetSync,
    /// Restart on request.
    Restart,
    /// Wiping for a requested reinitialisation.
    Wipe,
}

/// Work that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What was tried.
    pub kind: JobKind,
    /// When it ended.
    pub at: Tick,
    /// How many times in a row.
    pub times: u32,
    /// What happened, for people.
    pub why: String,
}

/// Requests of operators to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// The agent was told to stop.
    pub leave: bool,
    /// A restart of PostgreSQL was ordered.
    pub restart: bool,
    /// A new clone was ordered.
    pub reinitialize: bool,
}

impl View {
    /// The last good reading of the DCS.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.dcs.cluster.as_deref()
    }

    /// The server's answer, when it gave one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.local.sql {
            Sql::Up(a) => Some(a),
            _ => None,
        }
    }

    /// Whether no process of the server lives.
    pub fn is_stopped(&self) -> bool {
        self.local.process == Process::Stopped
    }

    /// Whether work of this kind is under way.
    pub fn is_doing(&self, kind: JobKind) -> bool {
        self.job.is_some_and(|j| j.kind == kind)
    }

    /// System identifier of the local data, when there is any.
    pub fn system_identifier(&self) -> Option<&str> {
        match (&self.local.sql, &self.local.data) {
            (Sql::Up(a), _) => Some(&a.system_identifier),
            (_, DataDir::Valid(c)) => Some(&c.system_identifier),
            _ => None,
        }
    }
}
