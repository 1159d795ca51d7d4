//! A planned hand-over: a requested switchover or failover while this node leads, or its own departure.

use std::time::Duration;

use super::Step;
use crate::action::Action;
use crate::cluster::{Cluster, Failover, Revisioned, Term};
use crate::local::{Answer, DataDir};
use crate::memory::Handover;
use crate::reason::Reason;
use crate::time::Tick;
use crate::view::{JobKind, Peer, Round};

/// How long a shutdown for a successor may take unless primary_stop_timeout says otherwise.
const STOP: Duration = Duration::from_secs(15);
/// How long a candidate may take to be seen to have caught up.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How long a candidate may take to stream again, after a restart of this server for one: a replica tries every
/// `wal_retrieve_retry_interval`, 5 s by default.
const RECONNECT: Duration = Duration::from_secs(7);
/// How long the successor may take to say that it has everything, once nothing can be added any more.
const CONFIRM: Duration = Duration::from_secs(1);
/// How often the others are asked meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(200);

impl Step<'_> {
    /// Goes on with a hand-over, or begins one that was requested. `None` when there is nothing to hand over.
    pub(super) fn hand_over(&mut self, cluster: &Cluster, term: Term) -> Option<Reason> {
        // An older request was made of an earlier leader: by now it is fulfilled, or has come to nothing.
        let request =
            cluster.failover.as_ref().filter(|f| f.value.scheduled_at.is_none() && f.revision > term.revision);
        let request = request.filter(|f| self.memory.refused != Some(f.revision));
        let revision = request.map(|f| f.revision);
        if self.memory.handover.as_ref().is_some_and(|h| !h.stopping && h.request != revision) {
            // Taken back, or another has come in its place.
            self.memory.handover = None;
        }
        if self.memory.handover.as_ref().is_none_or(|h| h.term != term) {
            self.memory.handover = None;
            let request = request?;
            if !self.is_for_me_to_obey(request) || self.view.answer().is_none_or(|a| a.in_recovery) {
                return None;
            }
            self.begin_handover(term, revision);
        }
        let handover = self.memory.handover.clone()?;
        if handover.stopping {
            return Some(self.finish_stop(cluster, term, &handover));
        }
        if handover.candidate.is_none() {
            match self.choose_successor(cluster, request, &handover) {
                Ok(name) => self.remember_candidate(name),
                Err(reason) => return Some(reason),
            }
        }
        Some(self.shut_down_for(cluster))
    }

    /// For a request, or because this node leaves.
    pub(super) fn begin_handover(&mut self, term: Term, request: Option<i64>) {
        self.memory.handover = Some(Handover {
            term,
            request,
            since: self.now,
            candidate: None,
            checkpointed: false,
            stopping: false,
            stopped: None,
        });
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
                self.streaming_successor(cluster, round, allowed)
                    .ok_or_else(|| "no healthy candidate answers".to_owned())
            }
        };
        let behind = match &named {
            Some(name) => round.answers.get(name).is_some_and(|p| self.is_behind(cluster, p)),
            None => !round.answers.is_empty(),
        };
        let detached = match &named {
            Some(name) => round.answers.contains_key(name) && !self.streams_here(name),
            None => self.nobody_streams(round),
        };
        if found.is_err()
            && (behind && self.asks_again(round, since, CATCH_UP)
                || detached && self.asks_again(round, since, RECONNECT))
        {
            return Err(Reason::AskingPeers);
        }
        found.map_err(|why| self.refuse_handover(request, why))
    }

    /// This node goes on leading.
    fn refuse_handover(&mut self, request: Option<&Revisioned<Failover>>, why: String) -> Reason {
        if let Some(r) = request {
            self.memory.refused = Some(r.revision);
            self.act(Action::ClearFailover { revision: r.revision });
        }
        self.memory.handover = None;
        Reason::SwitchoverRefused { why }
    }

    /// Whether a member gets its WAL from this server right now. A shutdown waits for such members only.
    fn streams_here(&self, name: &str) -> bool {
        let streams = |a: &Answer| a.replication.iter().any(|s| s.application_name == name && s.state == "streaming");
        self.view.answer().is_some_and(streams)
    }

    /// Whether none of the members that answer gets its WAL from here.
    fn nobody_streams(&self, round: &Round) -> bool {
        !round.answers.is_empty() && !round.answers.keys().any(|name| self.streams_here(name))
    }

    /// The best member to hand over to while this server runs.
    pub(super) fn streaming_successor(&self, cluster: &Cluster, round: &Round, behind: u64) -> Option<String> {
        let mut round = round.clone();
        round.answers.retain(|name, _| self.streams_here(name));
        self.successor(cluster, &round, behind)
    }

    /// Whether a member hasn't got enough of what this node, the leader, has flushed.
    fn is_behind(&self, cluster: &Cluster, peer: &Peer) -> bool {
        self.known_position(cluster).bytes_since(peer.position) > self.view.settings.maximum_lag_on_failover
    }

    /// Members speak of their last look, which may be older than this node's: they get some time to have caught up, or to
    /// have connected again, before they count as behind. Asks again, unless that time is over.
    fn asks_again(&mut self, round: &Round, since: Tick, patience: Duration) -> bool {
        if self.now >= since + patience {
            return false;
        }
        let next = round.asked_at + ASK_EVERY;
        if self.now >= next {
            self.act(Action::AskPeers);
        }
        self.wake(next.max(self.now + ASK_EVERY));
        true
    }

    /// The same for a node that leaves: it does so even when nobody can take over.
    pub(super) fn asks_for_a_successor(&mut self, round: &Round, since: Tick) -> bool {
        let patience = if self.nobody_streams(round) { RECONNECT } else { CATCH_UP };
        self.asks_again(round, since, patience)
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
        } else if !self.streams_here(name) {
            Err(format!("candidate {name} isn't streaming from this leader"))
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
            return self.release_to(cluster, term, handover);
        }
        if self.view.wants.leave {
            return self.fence(Some(term), Reason::Switchover { to });
        }
        self.take_back(cluster)
    }

    /// PostgreSQL is down: the key goes to a successor that has everything. (Whom the `sync` key names has all that was
    /// acknowledged.)
    fn release_to(&mut self, cluster: &Cluster, term: Term, handover: &Handover) -> Reason {
        let to = handover.candidate.clone().unwrap_or_else(|| "whoever is best".to_owned());
        let requested = cluster.failover.as_ref().filter(|f| f.value.scheduled_at.is_none());
        if let Some(other) = requested.filter(|f| Some(f.revision) != handover.request) {
            // It came too late to be looked at, and must not be taken for the one that was.
            self.act(Action::ClearFailover { revision: other.revision });
            return Reason::Switchover { to };
        }
        if cluster.sync.is_some() {
            return self.release(term, Reason::Released);
        }
        let stopped = *self.memory.handover.as_mut().map_or(&mut None, |h| &mut h.stopped).get_or_insert(self.now);
        let end = match &self.view.local.data {
            DataDir::Valid(c) if c.clean && !c.in_recovery => Some(c.checkpoint),
            _ => None,
        };
        let round = self.round_since(stopped);
        let has_all = |p: &Peer| p.running && !p.primary && end.is_some_and(|end| end.bytes_since(p.position) == 0);
        let answers = round.map(|r| &r.answers);
        let confirmed = match &handover.candidate {
            // Whoever leaves for good doesn't mind who else it is.
            Some(name) if !self.view.wants.leave => answers.and_then(|a| a.get(name)).is_some_and(has_all),
            _ => answers.is_some_and(|a| a.values().any(has_all)),
        };
        if confirmed {
            return self.release(term, Reason::Released);
        }
        if self.now < stopped + CONFIRM {
            self.wake(stopped + CONFIRM);
            if let Some(round) = round {
                self.asks_again(round, stopped, CONFIRM);
            }
            return Reason::Switchover { to };
        }
        if self.view.wants.leave {
            return self.release(term, Reason::Released);
        }
        self.refuse_handover(requested, format!("{to} has not received everything; PostgreSQL is started here again"))
    }

    /// The successor has frozen, or something else holds the shutdown up: better to go on here than to stay down for it.
    fn take_back(&mut self, cluster: &Cluster) -> Reason {
        self.kill();
        let why = "PostgreSQL did not shut down in time; it is started here again";
        self.refuse_handover(cluster.failover.as_ref(), why.to_owned())
    }
}
