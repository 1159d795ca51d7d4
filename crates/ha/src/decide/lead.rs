//! This node holds the leader key.

use std::time::Duration;

use super::Step;
use crate::action::Action;
use crate::cluster::{Cluster, Leader, Term};
use crate::local::{Answer, DataDir, Sql};
use crate::lsn::Lsn;
use crate::reason::Reason;
use crate::time::Tick;
use crate::view::{Guard, JobKind, Peer, Round};

/// How long a guard may take to be armed before others lead.
const ARMING: Duration = Duration::from_secs(5);
/// How long a restart on request may take before it counts as a server that doesn't come up.
const RESTART: Duration = Duration::from_secs(60);
/// How long a promotion may take before it counts as a server that doesn't come up.
const PROMOTION: Duration = Duration::from_secs(30);
/// How fast crash recovery replays WAL, in bytes a second, for the estimate of how long it takes. Deliberately slow.
const REPLAY_RATE: u64 = 32 << 20;

impl Step<'_> {
    pub(super) fn lead(&mut self, cluster: &Cluster, leader: &Leader) -> Reason {
        let term = leader.term;
        let Some(lease) = self.view.lease.filter(|l| l.id == leader.lease) else {
            return Reason::NoLease;
        };
        let guard_refuses = matches!(self.view.guard, Guard::Fenced { term: t } if t >= term);
        if self.memory.ended >= Some(term) || guard_refuses {
            let quiet = !self.may_be_writable() && !guard_refuses;
            return self.release(term, if quiet { Reason::Released } else { Reason::TermEnded });
        }
        if let Some(reason) = self.await_guard(term, lease.deadline) {
            return reason;
        }
        if let Some(reason) = self.hand_over(cluster, term) {
            return reason;
        }
        if let Some(answer) = self.view.answer().filter(|a| !a.in_recovery) {
            return self.serve(cluster, term, answer);
        }
        self.bring_up(cluster, term)
    }

    /// PostgreSQL waits until the guard is armed for this term; when it can't be, others lead.
    fn await_guard(&mut self, term: Term, deadline: Tick) -> Option<Reason> {
        if matches!(self.view.guard, Guard::Armed { term: armed, .. } if armed == term) {
            self.memory.arming_since = None;
            return None;
        }
        self.arm(term, deadline);
        if self.may_be_writable() {
            return None;
        }
        let since = *self.memory.arming_since.get_or_insert(self.now);
        if self.now >= since + ARMING {
            self.memory.arming_since = None;
            return Some(self.release(term, Reason::GuardLost));
        }
        self.wake(since + ARMING);
        Some(Reason::Arming)
    }

    /// Gives the leader key back once nothing of PostgreSQL can write.
    pub(super) fn release(&mut self, term: Term, reason: Reason) -> Reason {
        if self.may_be_writable() {
            self.kill();
            return reason;
        }
        if let Some(job) = self.view.job {
            return Reason::Busy { kind: job.kind };
        }
        let position = match &self.view.local.data {
            DataDir::Valid(c) if self.view.is_stopped() && c.clean && !c.in_recovery => Some(c.checkpoint),
            _ => None,
        };
        self.memory.ended = self.memory.ended.max(Some(term));
        self.memory.abstain_until = self.now + self.view.settings.ttl.max(Duration::from_secs(10));
        self.act(Action::Release { term, position });
        reason
    }

    /// The server is a running primary: keep the DCS, synchronous replication and requests served.
    fn serve(&mut self, cluster: &Cluster, term: Term, answer: &Answer) -> Reason {
        if let Some(since) = self.trouble_since() {
            return self.unwell(cluster, term, since);
        }
        self.memory.unhealthy_since = None;
        let initialized = cluster.initialize.as_deref().is_some_and(|s| !s.is_empty());
        if !initialized {
            self.act(Action::CompleteInitialize { system_identifier: answer.system_identifier.clone() });
            return Reason::CompletingInitialize;
        }
        if let Some(f) = &cluster.failover
            && f.value.scheduled_at.is_none()
        {
            // A request that named us, or whose old leader is gone, is fulfilled by our leading.
            self.act(Action::ClearFailover { revision: f.revision });
        }
        if self.view.wants.restart && self.view.job.is_none() {
            return self.restart(cluster, term);
        }
        if !self.view.wants.restart {
            self.end_drain(cluster);
        }
        if let Some(reason) = self.synchronize(cluster, term, answer) {
            return reason;
        }
        let known = cluster.status.as_ref().map(|s| s.optime);
        if known != Some(answer.flushed) && self.now >= self.memory.optime_at + self.view.settings.loop_wait {
            self.memory.optime_at = self.now;
            self.act(Action::WriteOptime { term, position: answer.flushed });
        }
        Reason::Leading { name: self.view.me.name.clone() }
    }

    /// Restarts the primary on request, once no pooler's client uses it.
    pub(super) fn restart(&mut self, cluster: &Cluster, term: Term) -> Reason {
        if let Some(reason) = self.drain_for_restart(cluster) {
            return reason;
        }
        self.memory.writable = Some(term);
        self.work(Action::Restart, Reason::Restarting)
    }

    /// The server isn't a running primary yet, or not any more.
    fn bring_up(&mut self, cluster: &Cluster, term: Term) -> Reason {
        if let Some(answer) = self.view.answer().filter(|_| self.view.job.is_none()) {
            return self.promote(cluster, term, answer);
        }
        if self.is_empty() && !self.view.is_doing(JobKind::Bootstrap) {
            return self.release(term, Reason::WaitingForLeader);
        }
        if let Some(job) = self.view.job.filter(|j| j.kind == JobKind::Restart && self.now < j.since + RESTART) {
            self.wake(job.since + RESTART);
            return Reason::Restarting;
        }
        if let Some(job) = self.view.job.filter(|j| j.kind == JobKind::Promote && self.now < j.since + PROMOTION) {
            self.wake(job.since + PROMOTION);
            return Reason::Promoting;
        }
        let since = *self.memory.unhealthy_since.get_or_insert(self.now);
        if let Some(reason) = self.give_up_after(cluster, term, since) {
            return reason;
        }
        if self.view.is_stopped() && self.view.job.is_none() {
            return match &self.view.local.data {
                DataDir::Valid(_) if !self.lease_is_fresh() => Reason::NoLease,
                DataDir::Valid(c) if !c.in_recovery => {
                    if let Some(reason) = self.record_cluster(cluster) {
                        return reason;
                    }
                    self.memory.writable = Some(term);
                    self.work(Action::StartPrimary { term }, Reason::Starting)
                }
                _ => self.work(Action::StartReplica { upstream: None }, Reason::StartingReplica),
            };
        }
        Reason::Recovering { seconds: (self.now - since).as_secs() }
    }

    /// A standby that holds the leader key becomes the primary.
    pub(super) fn promote(&mut self, cluster: &Cluster, term: Term, answer: &Answer) -> Reason {
        if !self.lease_is_fresh() {
            return Reason::NoLease;
        }
        // An attempt at the key that was given up long ago may have succeeded only now.
        let chosen = self.is_chosen(cluster);
        if let Some(reason) = self.unfit(cluster, answer, chosen) {
            return self.release(term, reason);
        }
        if cluster.status.as_ref().is_some_and(|s| s.optime > answer.position()) {
            // What lies beyond is given up with this promotion; nobody may be measured by it afterwards.
            self.act(Action::WriteOptime { term, position: answer.position() });
            return Reason::Promoting;
        }
        if let Some(reason) = self.record_cluster(cluster) {
            return reason;
        }
        if let Some(reason) = self.prepare_sync(cluster, term, answer) {
            return reason;
        }
        let reason = self.work(Action::Promote { term }, Reason::Promoting);
        if reason == Reason::Promoting {
            self.memory.writable = Some(term);
        }
        reason
    }

    /// Since when a server that runs doesn't do its work: refuses connections, or its storage hangs.
    fn trouble_since(&self) -> Option<Tick> {
        let l = &self.view.local;
        [l.refusing_since, l.storage_stuck_since].into_iter().flatten().min()
    }

    /// A gray failure of a primary: reported at once, acted on within primary_start_timeout.
    fn unwell(&mut self, cluster: &Cluster, term: Term, since: Tick) -> Reason {
        let since = *self.memory.unhealthy_since.get_or_insert(since);
        match self.give_up_after(cluster, term, since) {
            Some(reason) => reason,
            None => Reason::Recovering { seconds: (self.now - since).as_secs() },
        }
    }

    /// Safety rule 9: hands over when the server takes too long and another member can take over.
    fn give_up_after(&mut self, cluster: &Cluster, term: Term, since: Tick) -> Option<Reason> {
        let waited = self.now - since;
        let limit = self.view.settings.primary_start_timeout;
        let crashed = !matches!(self.view.local.sql, Sql::Up(_) | Sql::Silent(_));
        let estimate = Duration::from_secs(1) + Duration::from_secs(self.memory.to_replay / REPLAY_RATE);
        let soft = if crashed { estimate.min(limit) } else { limit };
        if waited < soft {
            self.wake(since + soft);
            return None;
        }
        let fresh = since.max(self.now.before(Duration::from_secs(1)));
        let idle = self.view.is_stopped() && self.view.job.is_none();
        let Some(round) = self.round_since(fresh) else {
            return idle.then_some(Reason::AskingPeers);
        };
        let behind = if waited >= limit { self.view.settings.maximum_lag_on_failover } else { 0 };
        let seconds = waited.as_secs();
        match self.successor(cluster, round, behind) {
            Some(to) => {
                let reason = Reason::HandingOver { to, seconds };
                Some(if self.view.is_stopped() { self.release(term, reason) } else { self.fence(Some(term), reason) })
            }
            None => {
                self.wake(self.now + Duration::from_secs(1));
                (!idle).then_some(Reason::NobodyToHandTo { seconds })
            }
        }
    }

    /// The furthest position that this node, the leader, is known to have flushed.
    pub(super) fn known_position(&self, cluster: &Cluster) -> Lsn {
        let published = cluster.status.as_ref().map_or(Lsn(0), |s| s.optime);
        let on_disk = match &self.view.local.data {
            DataDir::Valid(c) if self.view.is_stopped() && !c.in_recovery => c.checkpoint,
            _ => Lsn(0),
        };
        self.memory.flushed.max(published).max(on_disk)
    }

    /// The best running replica at most `behind` bytes behind what this node last flushed.
    pub(super) fn successor(&self, cluster: &Cluster, round: &Round, behind: u64) -> Option<String> {
        let position = self.known_position(cluster);
        let mut best: Option<(&String, Lsn)> = None;
        for (name, peer) in &round.answers {
            let covered = self.covered_by_sync(cluster, name);
            let near = position.bytes_since(peer.position) <= behind || (covered && cluster.sync.is_some());
            let fit = peer.running && !peer.primary && !peer.nofailover && !self.is_on_another_timeline(peer);
            if !fit || !covered || !near {
                continue;
            }
            if best.is_none_or(|(_, position)| peer.position > position) {
                best = Some((name, peer.position));
            }
        }
        best.map(|(name, _)| name.clone())
    }

    /// Whether this member surely doesn't follow what this node wrote.
    pub(super) fn is_on_another_timeline(&self, peer: &Peer) -> bool {
        self.memory.timeline != 0 && peer.timeline != 0 && peer.timeline != self.memory.timeline
    }

    /// Whether the `sync` key allows this member to lead.
    pub(super) fn covered_by_sync(&self, cluster: &Cluster, name: &str) -> bool {
        cluster.sync.as_ref().is_none_or(|s| s.value.covers(name))
    }
}
