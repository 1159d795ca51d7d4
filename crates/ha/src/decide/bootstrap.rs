//! Making the first data directory of a cluster, and cloning it to the others.

use super::Step;
use crate::action::Action;
use crate::cluster::{Cluster, Leader};
use crate::local::DataDir;
use crate::reason::Reason;

impl Step<'_> {
    /// No leader, and no data here.
    pub(super) fn begin_empty(&mut self, cluster: &Cluster) -> Reason {
        if let Some(job) = self.view.job {
            return Reason::Busy { kind: job.kind };
        }
        match cluster.initialize.as_deref() {
            None if cluster.members.values().any(|m| m.is_running()) => Reason::WaitingForLeader,
            None if has_existed(cluster) => Reason::WaitingForLeader,
            None if self.view.me.nofailover => Reason::NoFailoverTag,
            None if !self.lease_is_fresh() => Reason::NoLease,
            None => {
                self.act(Action::ClaimInitialize);
                Reason::Claiming
            }
            Some("") if self.claimed_by_me(cluster) => self.work(Action::Bootstrap, Reason::Bootstrapping),
            Some("") => Reason::WaitingForBootstrap,
            Some(_) => Reason::WaitingForLeader,
        }
    }

    /// Whether the empty `initialize` key hangs on our lease.
    pub(super) fn claimed_by_me(&self, cluster: &Cluster) -> bool {
        cluster.initialize.as_deref() == Some("")
            && cluster.initialize_lease != 0
            && self.view.lease.is_some_and(|l| l.id == cluster.initialize_lease)
    }

    /// Another member leads, and there is no data here.
    pub(super) fn clone_from(&mut self, cluster: &Cluster, leader: &Leader) -> Reason {
        if cluster.initialize.as_deref().is_none_or(str::is_empty) || !is_primary(cluster, &leader.name) {
            return Reason::WaitingForPrimary { leader: leader.name.clone() };
        }
        let from = leader.name.clone();
        self.memory.upstream = Some(from.clone());
        self.work(Action::Clone { from: from.clone() }, Reason::Cloning { from })
    }

    /// Before anything can be written to a new cluster: records it, so that nobody else makes one of the same name.
    pub(super) fn record_cluster(&mut self, cluster: &Cluster) -> Option<Reason> {
        if cluster.initialize.as_deref().is_some_and(|s| !s.is_empty()) {
            return None;
        }
        let system_identifier = self.view.system_identifier()?.to_owned();
        self.act(Action::CompleteInitialize { system_identifier });
        Some(Reason::CompletingInitialize)
    }

    /// Whether there is no data here.
    pub(super) fn is_empty(&self) -> bool {
        self.view.local.data == DataDir::Empty && self.view.is_stopped()
    }
}

/// Whether a primary of this cluster has ever accepted writes, whatever became of the `initialize` key: its data must be
/// waited for.
pub(super) fn has_existed(cluster: &Cluster) -> bool {
    cluster.status.is_some() || cluster.sync.is_some() || !cluster.history.is_empty()
}

/// Whether a member says of itself that it runs and accepts writes.
pub(super) fn is_primary(cluster: &Cluster, name: &str) -> bool {
    let member = cluster.members.get(name);
    member.is_some_and(|m| m.is_running() && matches!(m.role.as_str(), "primary" | "master"))
}
