//! Nobody holds the leader key.

use std::time::Duration;

use super::Step;
use super::bootstrap::has_existed;
use crate::action::Action;
use crate::cluster::{Cluster, Failover};
use crate::local::Answer;
use crate::reason::Reason;
use crate::view::{Peer, Round};

/// How old the answers of other members may be.
const FRESH: Duration = Duration::from_secs(2);
/// How long the others leave a requested successor to take the key; the member that stepped down waits twice as long.
const YIELD: Duration = Duration::from_secs(5);
/// How long the others leave an heir to take the key that nobody named in a request.
const INHERIT: Duration = Duration::from_secs(1);
/// How long a lease may last that was given before the DCS was emptied, its setting with it.
const UNKNOWN_LEASE: Duration = Duration::from_secs(30);
/// How long the end of the receiver may take to be seen.
const LOOK: Duration = Duration::from_millis(200);

impl Step<'_> {
    pub(super) fn elect(&mut self, cluster: &Cluster) -> Reason {
        self.disarm_if_quiet();
        self.memory.handover = None;
        if self.is_empty() {
            return self.begin_empty(cluster);
        }
        if let Some(job) = self.view.job {
            return Reason::Busy { kind: job.kind };
        }
        let request = cluster.failover.as_ref().map(|f| &f.value).filter(|f| f.scheduled_at.is_none());
        if self.view.is_stopped() {
            return self.start_before_election(cluster, request);
        }
        let Some(answer) = self.view.answer() else {
            return self.still_recovering();
        };
        if let Some(reason) = self.stand_aside(request).or_else(|| self.leave_it_to_the_heir(cluster, request)) {
            return reason;
        }
        let chosen = self.is_chosen(cluster);
        if let Some(reason) = self.unfit(cluster, answer, chosen).or_else(|| self.outwait_an_unknown_leader(cluster)) {
            return reason;
        }
        self.compete(cluster, answer, chosen)
    }

    /// Whether an operator named this node, and the last leader didn't hand over to another.
    pub(super) fn is_chosen(&self, cluster: &Cluster) -> bool {
        let me = Some(self.view.me.name.as_str());
        let request = cluster.failover.as_ref().map(|f| &f.value).filter(|f| f.scheduled_at.is_none());
        request.and_then(|r| r.candidate.as_deref()) == me && self.heir(cluster).is_none_or(|heir| Some(heir) == me)
    }

    /// A stopped server competes from recovery, so that its real position is known.
    fn start_before_election(&mut self, cluster: &Cluster, request: Option<&Failover>) -> Reason {
        if self.claimed_by_me(cluster) && self.lease_is_fresh() && self.now >= self.memory.abstain_until {
            // Fresh from initdb: nobody else can have data.
            self.act(Action::Acquire);
            return Reason::Acquiring;
        }
        if let Some(reason) = self.stand_aside(request)
            && !matches!(reason, Reason::NoFailoverTag)
        {
            return reason;
        }
        self.work(Action::StartReplica { upstream: None }, Reason::StartingReplica)
    }

    /// Whether others go first for now.
    fn stand_aside(&mut self, request: Option<&Failover>) -> Option<Reason> {
        let me = &self.view.me.name;
        if self.view.me.nofailover {
            return Some(Reason::NoFailoverTag);
        }
        let since = self.memory.leaderless_since.unwrap_or(self.now);
        if let Some(r) = request {
            let stepped_down = r.leader.as_ref() == Some(me);
            let other = r.candidate.as_ref().is_some_and(|c| c != me);
            let until = since + if stepped_down { 2 * YIELD } else { YIELD };
            if (stepped_down || other) && self.now < until {
                self.wake(until);
                let to = r.candidate.clone().unwrap_or_else(|| "another member".to_owned());
                return Some(Reason::YieldingTo { to });
            }
            if r.candidate.as_ref() == Some(me) {
                return None;
            }
        }
        if self.now < self.memory.abstain_until {
            self.wake(self.memory.abstain_until);
            return Some(Reason::Abstaining);
        }
        None
    }

    /// The member that the last leader handed over to. It said so in its drain order, which goes with its lease: the key
    /// was released, it didn't expire, and it's released only when no process of PostgreSQL is left.
    fn heir<'c>(&self, cluster: &'c Cluster) -> Option<&'c str> {
        cluster.drains.values().find_map(|order| order.value.to.as_deref())
    }

    /// Whether another member is the heir, and its time isn't over.
    fn leave_it_to_the_heir(&mut self, cluster: &Cluster, request: Option<&Failover>) -> Option<Reason> {
        let named = request.is_some_and(|r| r.candidate.is_some());
        let heir = self.heir(cluster).filter(|heir| !named && *heir != self.view.me.name)?;
        let until = self.memory.leaderless_since.unwrap_or(self.now) + INHERIT;
        if self.now >= until {
            return None;
        }
        self.wake(until);
        Some(Reason::YieldingTo { to: heir.to_owned() })
    }

    /// Whether the last leader handed over to this replica.
    fn is_heir(&self, cluster: &Cluster, answer: &Answer) -> bool {
        answer.in_recovery && self.heir(cluster) == Some(self.view.me.name.as_str())
    }

    /// Whether an answer holds every byte that the last leader wrote.
    fn is_complete(cluster: &Cluster, answer: &Answer) -> bool {
        cluster.status.as_ref().is_some_and(|s| s.optime.bytes_since(answer.position()) == 0)
    }

    /// There is data, and the DCS knows nothing of any cluster: it's new, or was emptied. Somebody may still lead by what was
    /// there before, for as long as a lease lasts.
    fn outwait_an_unknown_leader(&mut self, cluster: &Cluster) -> Option<Reason> {
        if cluster.initialize.is_some() || has_existed(cluster) {
            return None;
        }
        let wait = self.view.settings.ttl.max(UNKNOWN_LEASE);
        let until = self.memory.leaderless_since.unwrap_or(self.now) + wait;
        if self.now >= until {
            return None;
        }
        self.wake(until);
        Some(Reason::EmptyDcs { seconds: wait.as_secs() })
    }

    /// Why this node must not lead, whatever the others say.
    pub(super) fn unfit(&self, cluster: &Cluster, answer: &Answer, chosen: bool) -> Option<Reason> {
        if !self.covered_by_sync(cluster, &self.view.me.name) {
            let allowed = cluster.sync.as_ref().map(|s| {
                let mut names = vec![s.value.leader.clone()];
                names.extend(s.value.standbys.iter().cloned());
                names.join(", ")
            });
            return Some(Reason::NotSynchronous { allowed: allowed.unwrap_or_default() });
        }
        let position = answer.position();
        if let Some(line) = cluster.history.iter().find(|l| l.timeline == answer.timeline)
            && position > line.lsn
        {
            return Some(Reason::HistoryDiverged { timeline: line.timeline, end: line.lsn });
        }
        let reached = cluster.history.last().map_or(0, |l| l.timeline + 1);
        if self.view.settings.check_timeline && answer.timeline < reached {
            return Some(Reason::BehindTimeline { mine: answer.timeline, theirs: reached });
        }
        let allowed = self.view.settings.maximum_lag_on_failover;
        let lag = cluster.status.as_ref().map_or(0, |s| s.optime.bytes_since(position));
        // Whoever the `sync` key names has all that was acknowledged, whatever the old leader had written besides.
        let complete = cluster.sync.is_some();
        (lag > allowed && !chosen && !complete).then_some(Reason::TooFarBehind { lag, allowed })
    }

    /// Stops the receiver, compares positions, and reaches for the key.
    fn compete(&mut self, cluster: &Cluster, answer: &Answer, chosen: bool) -> Reason {
        if !self.lease_is_fresh() {
            return Reason::NoLease;
        }
        let leaderless = self.memory.leaderless_since.unwrap_or(self.now);
        // The others are asked while the receiver stops.
        let round = self.round_since(leaderless.max(self.now.before(FRESH)));
        let looked = self.view.local.taken_at >= leaderless;
        let heir = self.is_heir(cluster, answer);
        if heir && !looked && self.now < leaderless + LOOK {
            // What is known is from a moment when the leader was still writing.
            self.wake(leaderless + LOOK);
            return Reason::Election;
        }
        // An heir's receiver ends with its leader, which is down; whoever else may lead takes the key first.
        let inherits = heir && looked && Self::is_complete(cluster, answer);
        let receives = answer.receiver.is_some() || (answer.upstream.is_some() && !inherits);
        if answer.in_recovery && receives {
            // Safety rule 4: a leader that wakes late must not collect this node's acknowledgement any more.
            return self.work(Action::Follow { upstream: None }, Reason::StoppingReceiver);
        }
        let Some(round) = round else {
            return Reason::Election;
        };
        let patience = leaderless + (self.view.settings.ttl / 2).max(YIELD);
        if !chosen
            && self.now < patience
            && let Some(reason) = self.better_peer(cluster, round, answer)
        {
            // Asked again at a fraction of the patience; whoever is ahead may be unable to reach the DCS.
            self.wake((round.asked_at + FRESH).min(patience));
            return reason;
        }
        self.act(Action::Acquire);
        Reason::Acquiring
    }

    /// A member that should lead rather than this one.
    fn better_peer(&self, cluster: &Cluster, round: &Round, answer: &Answer) -> Option<Reason> {
        let ahead = |p: &Peer| (p.timeline, p.position) > (answer.timeline, answer.position());
        for (name, peer) in &round.answers {
            if peer.running && peer.primary {
                return Some(Reason::PeerPrimary { peer: name.clone() });
            }
            if peer.running && !peer.nofailover && self.covered_by_sync(cluster, name) && ahead(peer) {
                return Some(Reason::PeerAhead { peer: name.clone() });
            }
        }
        None
    }
}
