//! Poolers are told before a server goes away as planned, and are waited for: their clients then wait for a moment rather
//! than see an error. This only delays what was decided elsewhere, by a bounded time.

use std::time::Duration;

use super::Step;
use crate::action::Action;
use crate::cluster::Cluster;
use crate::reason::Reason;

/// How much longer than their clients' transactions poolers may take to say that they are done.
const SLACK: Duration = Duration::from_secs(1);

impl Step<'_> {
    /// Why the server can't go away yet: some pooler's clients still use it. `None` once none does, when nobody is in front
    /// of it, or when those who don't answer have had their time.
    pub(super) fn drain(&mut self, cluster: &Cluster, to: Option<&str>) -> Option<Reason> {
        let patience = self.view.settings.switchover_drain_timeout;
        if cluster.poolers.is_empty() || self.view.lease.is_none() {
            return None;
        }
        let until = *self.memory.draining_since.get_or_insert(self.now) + patience + SLACK;
        if self.now >= until {
            return None;
        }
        self.wake(until);
        let order = cluster.drains.get(&self.view.me.name);
        let Some(order) = order.filter(|order| order.value.to.as_deref() == to) else {
            self.act(Action::Drain { to: to.map(str::to_owned), patience });
            return Some(Reason::Draining { poolers: cluster.poolers.len() });
        };
        let done = |obeyed: Option<&i64>| obeyed == Some(&order.revision);
        let poolers = cluster.poolers.values().filter(|p| !done(p.drained.get(&self.view.me.name))).count();
        (poolers > 0).then_some(Reason::Draining { poolers })
    }

    /// Why a restart on request can't begin yet. A checkpoint first, so that the shutdown is short, then the poolers.
    pub(super) fn drain_for_restart(&mut self, cluster: &Cluster) -> Option<Reason> {
        if cluster.poolers.is_empty() {
            return None;
        }
        if !self.memory.checkpointed {
            self.memory.checkpointed = true;
            return Some(self.work(Action::Checkpoint, Reason::Restarting));
        }
        self.drain(cluster, None)
    }

    /// The server stays, or is back: poolers may use it.
    pub(super) fn end_drain(&mut self, cluster: &Cluster) {
        (self.memory.draining_since, self.memory.checkpointed) = (None, false);
        if let Some(order) = cluster.drains.get(&self.view.me.name) {
            self.act(Action::EndDrain { revision: order.revision });
        }
    }
}
