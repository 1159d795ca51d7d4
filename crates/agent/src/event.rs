//! What the engine hears about, and from whom.

use std::time::Duration;

use ha::action::Lane;
use ha::command::{Order, Reply};
use ha::local::Local;
use ha::view::{JobKind, Round};
use ha::{Action, Tick};
use instance::guard::Report;
use tokio::sync::oneshot;

/// Where an answer to an order goes.
pub(crate) type Answer = oneshot::Sender<Reply>;

/// Something happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The DCS was read.
    Read(Reading),
    /// PostgreSQL was looked at.
    Probed(Box<Local>),
    /// The postmaster ended, or something else asks for a look at once.
    Look,
    /// An answer about the lease.
    Leased(Leased),
    /// A write to the DCS ended (and the DCS was read afterwards).
    Written(Action, Result<Option<i64>, dcs::Error>, Reading),
    /// The guard answered, or didn't.
    Guard(Result<Report, String>),
    /// The guard process died.
    GuardLost,
    /// The other members were asked.
    Answered(Round),
    /// Work on PostgreSQL ended, with a look at the result.
    Worked {
        /// What was done.
        kind: JobKind,
        /// When it began: names the job.
        since: Tick,
        /// How it ended.
        result: Result<(), String>,
        /// The look.
        local: Box<Local>,
    },
    /// PostgreSQL was killed, or some of its processes could not be (their number).
    Fenced(usize, Box<Local>),
    /// The member key was written.
    Published(Result<i64, dcs::Error>),
    /// Upkeep ended.
    Kept(crate::upkeep::Kept),
    /// An order for this node's engine.
    Order(Order, Answer),
    /// The configuration file is to be read again.
    Reload,
    /// The agent is to stop.
    Stop,
}

/// One attempt to read the DCS.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// When it was begun.
    pub(crate) began: Tick,
    /// What came of it.
    pub(crate) result: Result<dcs::Snapshot, dcs::Error>,
}

/// What came of an attempt to get or renew the lease.
#[derive(Debug)]
pub(crate) enum Leased {
    /// A lease and what it was asked for, held at least until `began + ttl`.
    Held {
        /// The DCS's id of it.
        id: i64,
        /// When it was asked for.
        began: Tick,
        /// Its life from then.
        ttl: Duration,
    },
    /// A new lease that the leader key is about to be moved to.
    Next {
        /// The DCS's id of it.
        id: i64,
        /// When it was asked for.
        began: Tick,
        /// Its life from then.
        ttl: Duration,
    },
    /// It is gone.
    Gone,
    /// No answer; what was known stays so.
    Unknown(dcs::Error),
}

/// Which lane is free again after an event.
impl Event {
    pub(crate) fn frees(&self) -> Option<Lane> {
        match self {
            Event::Leased(Leased::Next { .. }) => None,
            Event::Leased(_) => Some(Lane::Lease),
            Event::Written(..) => Some(Lane::Dcs),
            Event::Guard(_) => Some(Lane::Guard),
            Event::Answered(_) => Some(Lane::Peers),
            Event::Fenced(..) => Some(Lane::Fence),
            _ => None,
        }
    }
}
