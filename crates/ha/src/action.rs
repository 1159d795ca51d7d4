//! What a decision asks for. Performed by the agent; every action may be asked for again until the view shows its effect.

use std::time::Duration;

use crate::cluster::{SyncState, Term};
use crate::lsn::Lsn;
use crate::time::Tick;
use crate::view::JobKind;

/// One thing to do. An action whose lane is busy is dropped by the agent: the decision is made again when it is free.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Get a lease.
    Grant,
    /// Renew the lease.
    Renew,
    /// End the lease and the keys on it.
    Revoke,

    /// Create the empty `initialize` key on our lease.
    ClaimInitialize,
    /// Write our system identifier to `initialize` and, where absent, the first `config`.
    CompleteInitialize {
        /// The identifier.
        system_identifier: String,
    },
    /// Create the leader key on our lease if it is absent.
    Acquire,
    /// Delete the leader key of this term, and note how far a clean shutdown got.
    Release {
        /// Only this term's key.
        term: Term,
        /// The shutdown checkpoint, after a clean shutdown.
        position: Option<Lsn>,
    },
    /// Compare-and-swap the `sync` key (revision 0: it must be absent), under this term.
    WriteSync {
        /// Term.
        term: Term,
        /// New value; `None` deletes.
        state: Option<SyncState>,
        /// Revision expected.
        revision: i64,
    },
    /// Write `status`, under this term.
    WriteOptime {
        /// Term.
        term: Term,
        /// The leader's position.
        position: Lsn,
    },
    /// Empty the `failover` key if it is unchanged.
    ClearFailover {
        /// Revision expected.
        revision: i64,
    },

    /// Tell poolers to leave this member's server (`drain/<me>`).
    Drain {
        /// Who takes over.
        to: Option<String>,
        /// How long transactions may go on.
        patience: Duration,
    },
    /// Let poolers come back, if the key is unchanged.
    EndDrain {
        /// Revision expected.
        revision: i64,
    },

    /// Arm the guard, or move its deadline on.
    Arm {
        /// Term.
        term: Term,
        /// The lease deadline.
        deadline: Tick,
    },
    /// Take the guard's deadline away: nothing writable runs, or a person is in charge.
    Disarm,

    /// Ask the other members for their state, with a short deadline.
    AskPeers,

    /// Kill every process of the server at once. Preempts whatever job is under way.
    Fence,
    /// initdb.
    Bootstrap,
    /// Base backup into an empty directory.
    Clone {
        /// Member.
        from: String,
    },
    /// Start accepting writes.
    StartPrimary {
        /// Under this term.
        term: Term,
    },
    /// Start in recovery.
    StartReplica {
        /// Member to stream from, if any.
        upstream: Option<String>,
    },
    /// Fast shutdown.
    Stop {
        /// WAL senders of these members are waited for, others are ended after a short bound; `None` waits for all.
        wait_for: Option<Vec<String>>,
    },
    /// Leave recovery.
    Promote {
        /// Under this term.
        term: Term,
    },
    /// Compare histories with this member, and rewind or clone again as configured if they diverged; then start.
    Rejoin {
        /// The leader.
        from: String,
    },
    /// Read WAL from this member, or from nobody and stop the receiver.
    Follow {
        /// Member.
        upstream: Option<String>,
    },
    /// Checkpoint.
    Checkpoint,
    /// Set synchronous_standby_names.
    SetSync {
        /// The setting's text; empty stands for whatever the configuration says.
        value: String,
    },
    /// Restart in the present role, on request.
    Restart,
    /// Remove the data directory, on request.
    Wipe,
    /// End the agent.
    Exit,
}

/// Actions of one lane are done one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Lease traffic.
    Lease,
    /// Writes to the DCS.
    Dcs,
    /// Talk with the guard.
    Guard,
    /// Questions to other members.
    Peers,
    /// Work on PostgreSQL.
    Postgres,
    /// Killing PostgreSQL: takes the Postgres lane away from whatever holds it.
    Fence,
    /// Ending.
    Exit,
}

impl Action {
    /// The lane of this action.
    pub fn lane(&self) -> Lane {
        use Action::*;
        match self {
            Grant | Renew | Revoke => Lane::Lease,
            ClaimInitialize | CompleteInitialize { .. } | Acquire | Release { .. } | WriteSync { .. } => Lane::Dcs,
            WriteOptime { .. } | ClearFailover { .. } | Drain { .. } | EndDrain { .. } => Lane::Dcs,
            Arm { .. } | Disarm => Lane::Guard,
            AskPeers => Lane::Peers,
            Fence => Lane::Fence,
            Exit => Lane::Exit,
            _ => Lane::Postgres,
        }
    }

    /// The kind of job that an action of the Postgres lane starts.
    pub fn job(&self) -> Option<JobKind> {
        Some(match self {
            Action::Bootstrap => JobKind::Bootstrap,
            Action::Clone { .. } => JobKind::Clone,
            Action::StartPrimary { .. } => JobKind::StartPrimary,
            Action::StartReplica { .. } => JobKind::StartReplica,
            Action::Stop { .. } => JobKind::Stop,
            Action::Promote { .. } => JobKind::Promote,
            Action::Rejoin { .. } => JobKind::Rejoin,
            Action::Follow { .. } => JobKind::Follow,
            Action::Checkpoint => JobKind::Checkpoint,
            Action::SetSync { .. } => JobKind::SetSync,
            Action::Restart => JobKind::Restart,
            Action::Wipe => JobKind::Wipe,
            _ => return None,
        })
    }
}
