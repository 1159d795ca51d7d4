//! A planned hand-over: a requested switchover or failover while this node leads, or its own departure.

use std::time::Duration;

use super::Step;
use crate::action::Action;
use crate::cluster::{Cluster, Failover, Revisioned, Term};
use crate::memory::Handover;
use crate::reason::Reason;
use crate::time::Tick;
use crate::view::{JobKind, Peer, Round};

/// How long a shutdown for a successor may take unless primary_stop_timeout says otherwise.
const STOP: Duration = Duration::from_secs(15);
/// How long a candidate may take to be seen to have caught up.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How often the others are asked meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(200);

impl Step<'_> {
    /// Goes on with a hand-over, or begins one that was requested. `None` when there is nothing to hand over.
    pub(super) fn hand_over(&mut self, cluster: &Cluster, term: Term) -> Option<Reason> {
        // An older request was made of an earlier leader: by now it is fulfilled, or has come to nothing.
        let request =
            cluster.failover.as_ref().filter(|f| f.value.scheduled_at.is_none() && f.revision > term.revision);
        let request = request.filter(|f| self.memory.refused != Some(f.revision));
        if self.memory.handover.as_ref().is_none_or(|h| h.term != term) {
            self.memory.handover = None;
            let request = request?;
            if !self.is_for_me_to_obey(request) || self.view.answer().is_none_or(|a| a.in_recovery) {
                return None;
            }
            self.begin_handover(term);
        }
        let handover = self.memory.handover.clone()?;
        if handover.stopping {
            return Some(self.finish_stop(cluster, term, &handover));
        }
        if handover.candidate.is_none() {
            // A leader that leaves for good does so even when nobody can take over.
            match self.choose_successor(cluster, request, &handover) {
                Ok(name) => self.remember_candidate(name),
                Err(reason) => return Some(reason),
            }
        }
        Some(self.shut_down_for(cluster))
    }

    pub(super) fn begin_handover(&mut self, term: Term) {
        let since = self.now;
        self.memory.handover = Some(Handover { term, since, candidate: None, checkpointed: false, stopping: false });
    }

    fn remember_candidate(&mut self, name: String) {
        if let Some(h) = &mut self.memory.handover {
            h.candidate = Some(name);
        }
    }

    /// Whether the request asks this node, as the leader, to step down.
    fn is_for_me_to_obey(&self, request: &Revisioned<Failover>) -> bool {
        let me = &self.view.me.name;
        request.value.leader.as_ref().is_none_or(|l| l == me) && request.value.candidate.as_ref() != Some(me)
    }

    fn choose_successor(
        &mut self,
        cluster: &Cluster,
        request: Option<&Revisioned<Failover>>,
        handover: &Handover,
    ) -> Result<String, Reason> {
        let since = handover.since;
        let round = self.round_since(since);
        // What was flushed may be more than was known: a candidate is measured by a look of its own time.
        let looked = self.view.local.taken_at >= since;
        let Some(round) = round.filter(|_| looked) else {
            return Err(Reason::AskingPeers);
        };
        let named = request.and_then(|r| r.value.candidate.clone());
        let found = match &named {
            Some(name) => self.check_candidate(cluster, round, name).map(|()| name.clone()),
            None => {
                let allowed = self.view.settings.maximum_lag_on_failover;
                self.successor(cluster, round, allowed).ok_or_else(|| "no healthy candidate answers".to_owned())
            }
        };
        let behind = match &named {
            Some(name) => round.answers.get(name).is_some_and(|p| self.is_behind(cluster, p)),
            None => !round.answers.is_empty(),
        };
        if found.is_err() && behind && self.asks_again(round, since) {
            return Err(Reason::AskingPeers);
        }
        found.map_err(|why| {
            if let Some(r) = request {
                self.act(Action::ClearFailover { revision: r.revision });
            }
            self.memory.handover = None;
            Reason::SwitchoverRefused { why }
        })
    }

    /// Whether a member hasn't got enough of what this node, the leader, has flushed.
    fn is_behind(&self, cluster: &Cluster, peer: &Peer) -> bool {
        self.known_position(cluster).bytes_since(peer.position) > self.view.settings.maximum_lag_on_failover
    }

    /// Members speak of their last look, which may be older than this node's: they get some time to have caught up
    /// before they count as behind. Asks again, unless that time is over.
    pub(super) fn asks_again(&mut self, round: &Round, since: Tick) -> bool {
        if self.now >= since + CATCH_UP {
            return false;
        }
        let next = round.asked_at + ASK_EVERY;
        if self.now >= next {
            self.act(Action::AskPeers);
        }
        self.wake(next.max(self.now + ASK_EVERY));
        true
    }

    /// Why a named candidate can't take over.
    fn check_candidate(&self, cluster: &Cluster, round: &Round, name: &str) -> Result<(), String> {
        let Some(peer) = round.answers.get(name) else {
            return Err(format!("candidate {name} doesn't answer"));
        };
        let lag = self.known_position(cluster).bytes_since(peer.position);
        if !peer.running || peer.primary {
            Err(format!("PostgreSQL of candidate {name} isn't a running replica"))
        } else if peer.nofailover {
            Err(format!("candidate {name} is tagged nofailover"))
        } else if !self.covered_by_sync(cluster, name) {
            let why = if cluster.members.get(name).is_some_and(|m| m.tag("nosync")) { " (tagged nosync)" } else { "" };
            Err(format!("candidate {name} isn't a synchronous standby{why}"))
        } else if self.is_on_another_timeline(peer) {
            Err(format!(
                "candidate {name} is on timeline {}, not on the leader's {}",
                peer.timeline, self.memory.timeline
            ))
        } else if self.is_behind(cluster, peer) {
            Err(format!("candidate {name} is {lag} bytes behind"))
        } else {
            Ok(())
        }
    }

    /// A checkpoint first, so that the shutdown's own is short; then the shutdown, which waits for the successor.
    pub(super) fn shut_down_for(&mut self, cluster: &Cluster) -> Reason {
        let Some(mut handover) = self.memory.handover.clone() else {
            return Reason::Released;
        };
        let to = handover.candidate.clone().unwrap_or_else(|| "whoever is best".to_owned());
        let reason = Reason::Switchover { to };
        if let Some(job) = self.view.job {
            return Reason::Busy { kind: job.kind };
        }
        if !handover.checkpointed {
            handover.checkpointed = true;
            self.memory.handover = Some(handover);
            self.act(Action::Checkpoint);
            return reason;
        }
        if let Some(reason) = self.drain(cluster, handover.candidate.as_deref()) {
            return reason;
        }
        handover.stopping = true;
        let mut wait_for: Vec<String> = handover.candidate.clone().into_iter().collect();
        for name in cluster.sync.iter().flat_map(|s| &s.value.standbys) {
            if !wait_for.contains(name) {
                wait_for.push(name.clone());
            }
        }
        self.memory.handover = Some(handover);
        self.act(Action::Stop { wait_for: Some(wait_for) });
        reason
    }

    /// The shutdown was ordered: release the key once every process is gone.
    pub(super) fn finish_stop(&mut self, cluster: &Cluster, term: Term, handover: &Handover) -> Reason {
        let to = handover.candidate.clone().unwrap_or_else(|| "whoever is best".to_owned());
        if self.view.is_doing(JobKind::Stop) {
            let limit = match self.view.settings.primary_stop_timeout {
                Duration::ZERO => STOP,
                limit => limit,
            };
            let until = self.view.job.map_or(handover.since, |j| j.since) + limit;
            if self.now < until {
                self.wake(until);
                return Reason::Switchover { to };
            }
        } else if self.view.is_stopped() {
            return self.release(term, Reason::Released);
        }
        if self.view.wants.leave {
            return self.fence(Some(term), Reason::Switchover { to });
        }
        self.take_back(cluster)
    }

    /// The successor has frozen, or something else holds the shutdown up: better to go on here than to stay down for it.
    fn take_back(&mut self, cluster: &Cluster) -> Reason {
        if let Some(request) = &cluster.failover {
            self.memory.refused = Some(request.revision);
            self.act(Action::ClearFailover { revision: request.revision });
        }
        self.memory.handover = None;
        self.kill();
        Reason::SwitchoverRefused { why: "PostgreSQL did not shut down in time; it is started here again".to_owned() }
    }
}
