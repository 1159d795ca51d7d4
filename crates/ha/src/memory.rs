//! What a node remembers from one decision to the next. Lost when the agent restarts: nothing here may be needed for
//! safety beyond what the DCS, the guard and PostgreSQL say themselves.

use crate::cluster::Term;
use crate::lsn::Lsn;
use crate::time::Tick;

/// What a node remembers from one decision to the next.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Memory {
    /// A start as primary or a promotion was ordered under this term, and PostgreSQL hasn't been seen stopped since.
    pub writable: Option<Term>,
    /// The last term that ended with PostgreSQL killed or shut down for a hand-over. It is never served again.
    pub ended: Option<Term>,
    /// The last position known to be flushed on this node as primary.
    pub flushed: Lsn,
    /// The timeline of that position.
    pub timeline: u32,
    /// How much WAL a crash would have to replay, in bytes, as last known.
    pub to_replay: u64,
    /// When the last renewal was ordered.
    pub renewed_at: Tick,
    /// Since when the leader key is absent.
    pub leaderless_since: Option<Tick>,
    /// Until when this node leaves the leader key to others.
    pub abstain_until: Tick,
    /// Since when PostgreSQL doesn't serve although this node leads.
    pub unhealthy_since: Option<Tick>,
    /// Since when a writable server has had no armed guard.
    pub unguarded_since: Option<Tick>,
    /// Since when this node leads without an armed guard and PostgreSQL waits for it.
    pub arming_since: Option<Tick>,
    /// When the guard was last ordered to be armed.
    pub armed_at: Option<Tick>,
    /// The fenced term that the guard was told we know of, and when.
    pub settled: Option<(Term, Tick)>,
    /// When PostgreSQL was last ordered to be killed: only a later look can show that it is gone.
    pub fencing: Option<Tick>,
    /// A hand-over under way.
    pub handover: Option<Handover>,
    /// The revision of a request that could not be fulfilled.
    pub refused: Option<i64>,
    /// When the last look for divergence began, and for which term.
    pub rejoin: Option<(Term, Tick)>,
    /// The member that PostgreSQL was last told to read WAL or a clone from.
    pub upstream: Option<String>,
    /// Since when the replica isn't streaming.
    pub detached_since: Option<Tick>,
    /// Synchronous replication: the setting seen in force, and since when.
    pub sync_since: Option<(String, Tick)>,
    /// The setting in force, and the flush position read after every process had come to know it.
    pub sync_mark: Option<(String, Lsn)>,
    /// The revision of the `sync` key that the last write ordered of it was to replace.
    pub sync_written: Option<i64>,
    /// The term in which asynchronous replication was last seen to be in force.
    pub async_in: Option<Term>,
    /// Since when no standby can be synchronous.
    pub no_standby_since: Option<Tick>,
    /// When `status` was last ordered to be written.
    pub optime_at: Tick,
    /// Since when poolers are waited for to leave this member's server.
    pub draining_since: Option<Tick>,
    /// The checkpoint ahead of a restart on request was ordered.
    pub checkpointed: bool,
}

/// A planned hand-over of leadership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The term being given up.
    pub term: Term,
    /// The revision of the request that is carried out; `None` when this node leaves by itself.
    pub request: Option<i64>,
    /// Since when.
    pub since: Tick,
    /// The chosen successor, once known.
    pub candidate: Option<String>,
    /// The checkpoint ahead of the shutdown was ordered.
    pub checkpointed: bool,
    /// The shutdown was ordered.
    pub stopping: bool,
    /// When PostgreSQL was first seen shut down.
    pub stopped: Option<Tick>,
}
