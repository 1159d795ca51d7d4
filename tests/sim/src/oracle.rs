//! The invariants, checked from outside: it sees every disk and every acknowledgement, and no node sees it.

use ha::Term;

use crate::node::Node;
use crate::postgres::{Disk, Phase};
use crate::store::{Store, Us};

/// How long after a pause of the whole machine its guard may take.
const AFTER_PAUSE: Us = 200_000;

/// How long after maintenance mode a primary may take to get the key back or to be demoted.
const AFTER_RESUME: Us = 5_000_000;

/// A broken promise, in words.
pub(crate) type Broken = String;

/// What must stay true.
#[derive(Default)]
pub(crate) struct Oracle {
    /// Commits acknowledged under the `sync` key: records up to it, and its identity.
    protected: Vec<(usize, u64)>,
    last_term: Term,
    /// When maintenance mode last ended.
    pub(crate) resumed: Us,
    pub(crate) acknowledged: u64,
    pub(crate) acknowledged_sync: u64,
}

/// Whether clients' writes on this node go through at this moment.
pub(crate) fn accepts_writes(n: &Node, now: Us) -> bool {
    n.host_up
        && n.server.primary
        && matches!(n.server.phase, Phase::Up | Phase::Orphans)
        && !n.server.is_frozen(now)
        && now >= n.paused_until
}

/// Whether the whole machine has just come out of a pause: its guard is about to act on a deadline long past.
pub(crate) fn wakes_late(n: &Node, now: Us) -> bool {
    n.paused_until != 0 && now < n.paused_until + AFTER_PAUSE
}

impl Oracle {
    /// At most one node accepts writes, and it holds the leader key at that moment. (In maintenance mode a person
    /// answers for the second part.)
    pub(crate) fn one_writable(&self, nodes: &[Node], store: &Store, now: Us) -> Result<(), Broken> {
        let mut found: Option<&Node> = None;
        let paused = store.settings.pause || now < self.resumed + AFTER_RESUME;
        for n in nodes.iter().filter(|n| accepts_writes(n, now)) {
            if wakes_late(n, now) {
                continue;
            }
            if let Some(other) = found {
                return Err(format!("{} and {} both accept writes", other.name, n.name));
            }
            found = Some(n);
            if !paused && !store.cluster().is_led_by(&n.name) {
                return Err(format!("{} accepts writes without holding the leader key", n.name));
            }
        }
        Ok(())
    }

    /// A commit was acknowledged. It is protected when synchronous replication promised to keep it.
    pub(crate) fn acknowledge(&mut self, position: usize, id: u64, protected: bool) {
        self.acknowledged += 1;
        if protected {
            self.acknowledged_sync += 1;
            self.protected.push((position, id));
        }
    }

    /// The `sync` key is gone: what follows is asynchronous, and so a failover may lose what came before.
    pub(crate) fn forget_protected(&mut self) {
        self.protected.clear();
    }

    /// A server has come out of recovery or started as a primary.
    pub(crate) fn primary(&mut self, name: &str, disk: &Disk, term: Option<Term>) -> Result<(), Broken> {
        if let Some((position, id)) = self.missing(disk) {
            return Err(format!(
                "{name} became primary without the acknowledged synchronous commit {id} at {position}"
            ));
        }
        if let Some(term) = term {
            if term < self.last_term {
                return Err(format!("{name} became primary under term {term:?} after {:?}", self.last_term));
            }
            self.last_term = term;
        }
        Ok(())
    }

    /// Acknowledged while another history was already in force.
    pub(crate) fn on_primary(&self, name: &str, disk: &Disk, position: usize, id: u64) -> Result<(), Broken> {
        if disk.wal.get(position - 1) == Some(&id) {
            return Ok(());
        }
        Err(format!("synchronous commit {id} was acknowledged although {name} already leads without it"))
    }

    fn missing(&self, disk: &Disk) -> Option<(usize, u64)> {
        self.protected.iter().find(|(position, id)| disk.wal.get(position - 1) != Some(id)).copied()
    }

    /// Data is about to be overwritten or removed: every protected commit must be elsewhere.
    pub(crate) fn destroy(&self, nodes: &[Node], victim: usize) -> Result<(), Broken> {
        let elsewhere =
            nodes.iter().enumerate().any(|(i, n)| i != victim && n.disk.exists && self.missing(&n.disk).is_none());
        if elsewhere {
            return Ok(());
        }
        Err(format!("{} destroys the only copy of acknowledged commits", nodes[victim].name))
    }
}
