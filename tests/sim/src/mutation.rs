//! Bugs put in on purpose: each breaks one safety rule, and the simulation must find every one of them.

use std::sync::Arc;

use ha::View;
use ha::cluster::{Revisioned, SyncState};

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// The guard never acts on its deadline (rule 2).
    GuardSleeps,
    /// The lease is counted from the renewal's answer rather than from before it was sent (rule 1).
    LeaseFromAnswer,
    /// The leader key is released when killing begins rather than when every process is gone (rule 3).
    ReleaseBeforeGone,
    /// Processes that outlive the postmaster aren't noticed (rule 3).
    OrphansUnseen,
    /// An election takes no notice of the `sync` key (rule 4).
    ElectionIgnoresSync,
    /// A new leader doesn't narrow the `sync` key to itself before it is promoted (rule 4).
    SyncNotNarrowed,
    /// An unconfirmed write of the `sync` key is forgotten (rule 4).
    LateWriteForgotten,
}

impl Mutation {
    /// What the mutated agent remembers, where that is how the bug shows.
    pub(crate) fn confuse(self, memory: &mut ha::Memory) {
        if self == Mutation::LateWriteForgotten {
            memory.sync_written = Some(-1);
        }
    }

    /// The view that the mutated agent decides on, where that is how the bug shows.
    pub(crate) fn distort(self, view: &View) -> Option<View> {
        let cluster = view.cluster()?;
        let me = &view.me.name;
        let key = cluster.sync.as_ref()?;
        let value = match self {
            Mutation::ElectionIgnoresSync if !key.value.covers(me) => {
                let standbys = key.value.standbys.iter().chain([me]).cloned().collect();
                SyncState { standbys, ..key.value.clone() }
            }
            Mutation::SyncNotNarrowed if cluster.is_led_by(me) && key.value.leader != *me => {
                SyncState { leader: me.clone(), ..SyncState::default() }
            }
            _ => return None,
        };
        let sync = Some(Revisioned { revision: key.revision, value });
        let mut view = view.clone();
        view.dcs.cluster = Some(Arc::new(ha::Cluster { sync, ..cluster.clone() }));
        Some(view)
    }
}
