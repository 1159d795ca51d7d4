//! What agent and guard say to each other: one JSON object a line over a Unix socket. Framing and rules are elsewhere.
//!
//! `Status` and `Exit` keep their form forever, so that a guard of any version can be taken over by a newer one.

use ha::{Term, Tick};
use serde::{Deserialize, Serialize};

use super::watchdog;

/// Longest line either side accepts, in bytes.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// A request with the number its reply will carry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Message {
    pub(super) id: u64,
    pub(super) request: Request,
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// The state, nothing else.
    Status,
    /// Hold this deadline for this term.
    Arm {
        term: Term,
        #[serde(with = "tick")]
        deadline: Tick,
        postmaster: Option<u32>,
        watchdog: Option<watchdog::Config>,
    },
    /// The lease was renewed.
    Extend {
        term: Term,
        #[serde(with = "tick")]
        deadline: Tick,
    },
    /// PostgreSQL was started with this pid.
    Postmaster { pid: u32 },
    /// Don't wait for the deadline.
    FenceNow,
    /// There is nothing to guard any more, or the fencing was noticed.
    Disarm,
    /// Leave. A guard that hands over leaves without fencing although it is armed.
    Exit { hand_over: bool },
}

/// The answer to every request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) id: u64,
    /// Why the request was refused.
    pub(super) refused: Option<String>,
    pub(super) report: Report,
}

/// What a guard says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program it runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// What it does.
    pub state: State,
    /// Processes of the instance that the last fencing could not end yet; it goes on trying.
    #[serde(default)]
    pub left: Vec<u32>,
    /// The postmaster as the agent named it.
    #[serde(default)]
    pub postmaster: Option<u32>,
    /// The watchdog device in use.
    #[serde(default)]
    pub watchdog: Option<watchdog::Config>,
    /// What doesn't work: the watchdog device, or a privilege it wanted.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// What a guard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was armed since it started.
    Idle,
    /// It kills at the deadline.
    Armed {
        /// The leader epoch it guards.
        term: Term,
        /// When it kills.
        #[serde(with = "tick")]
        deadline: Tick,
    },
    /// It has killed, and accepts no deadline of this term or an older one.
    Fenced {
        /// The leader epoch that ended.
        term: Term,
        /// The agent has noticed. Until then every new process of the instance is killed too.
        settled: bool,
    },
    /// There is nothing to guard: maintenance mode, or PostgreSQL isn't a primary any more.
    Disarmed,
}

/// Ticks travel as nanoseconds since boot.
mod tick {
    use ha::Tick;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(tick: &Tick, s: S) -> Result<S::Ok, S::Error> {
        tick.0.serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Tick, D::Error> {
        u64::deserialize(d).map(Tick)
    }
}
