//! Orders that people and programs give an agent, and the answers they get. How they travel is not here.

use serde_json::Value;

/// Something an operator wants of this agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Restart PostgreSQL here.
    Restart(RestartFilter),
    /// Read the configuration again.
    Reload,
    /// Wipe the data directory and clone it again.
    Reinitialize {
        /// End whatever long work is under way first.
        force: bool,
        /// Clone from the leader rather than from a `clonefrom` replica.
        from_leader: bool,
    },
    /// Planned change of leader.
    Switchover {
        /// The present leader as the operator believes; refused when it isn't.
        leader: Option<String>,
        /// Who takes over; `None` picks the best.
        candidate: Option<String>,
    },
    /// Change of leader to a named candidate although the leader may be gone.
    Failover {
        /// Who takes over.
        candidate: String,
    },
    /// Merge into the dynamic configuration (`null` deletes), if its revision is still this one where given.
    PatchConfig {
        /// The changes.
        patch: Value,
        /// mod_revision that the writer saw.
        revision: Option<i64>,
    },
    /// Replace the dynamic configuration.
    PutConfig {
        /// The whole new configuration.
        config: Value,
        /// mod_revision that the writer saw.
        revision: Option<i64>,
    },
}

/// Conditions under which a restart is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestartFilter {
    /// Only in this role (`primary`, `replica`, ...).
    pub role: Option<String>,
    /// Only when the server's version is less than this (`9.5.2`).
    pub postgres_version: Option<String>,
    /// Only when parameters wait for a restart.
    pub restart_pending: bool,
    /// Give up waiting for PostgreSQL to come up after this many seconds.
    pub timeout_secs: Option<u64>,
}

/// A command with who gave it and from where, for the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// What is wanted.
    pub command: Command,
    /// Basic-auth user, certificate subject, or `anonymous`.
    pub who: String,
    /// Peer address and interface, such as `10.0.0.9:53122 over gRPC`.
    pub from: String,
}

/// How a command ended. REST and gRPC map it to their own codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done (REST 200).
    Done,
    /// Accepted, goes on in the background (202).
    Accepted,
    /// The request makes no sense (400).
    Invalid,
    /// Someone else changed it first (409).
    Conflict,
    /// Not possible in the present state (412).
    Precondition,
    /// Well-formed but a value is wrong (422).
    Unprocessable,
    /// Tried and failed, or can't be tried now (503).
    Failed,
    /// The DCS could not be read or written (502).
    Dcs,
}

/// An answer to an order.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// How it ended.
    pub outcome: Outcome,
    /// For people, in Patroni's words where Patroni has any.
    pub message: String,
    /// A JSON result where there is one (the new configuration).
    pub body: Option<Value>,
}

impl Reply {
    /// An answer with a message only.
    pub fn new(outcome: Outcome, message: impl Into<String>) -> Reply {
        Reply { outcome, message: message.into(), body: None }
    }
}
