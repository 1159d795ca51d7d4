//! The agent was told to stop: PostgreSQL is shut down, leadership handed over.

use std::time::Duration;

use super::Step;
use crate::action::Action;
use crate::cluster::{Cluster, Leader};
use crate::local::DataDir;
use crate::reason::Reason;
use crate::view::JobKind;

/// How long a look for divergence and its repair are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

impl Step<'_> {
    pub(super) fn leave(&mut self) -> Reason {
        if self.view.settings.pause {
            self.act(Action::Exit);
            return Reason::Leaving { what: "maintenance mode: PostgreSQL is left running".to_owned() };
        }
        match self.view.job.map(|j| j.kind) {
            // A rewind that is cut short costs a new clone: it is let finish if it doesn't take too long.
            Some(JobKind::Rejoin) if self.view.job.is_some_and(|j| self.now < j.since + PATIENCE) => {
                self.wake(self.view.job.map_or(self.now, |j| j.since + PATIENCE));
                return leaving("finishing a rewind");
            }
            Some(JobKind::Clone | JobKind::Bootstrap | JobKind::Rejoin) => {
                self.kill();
                return leaving("ending unfinished work");
            }
            Some(JobKind::Stop) | None => {}
            Some(kind) => return Reason::Busy { kind },
        }
        let led =
            self.view.cluster().and_then(|c| c.leader.as_ref().filter(|l| l.name == self.view.me.name).map(|l| (c, l)));
        match led {
            Some((cluster, leader)) if !self.view.dcs.unreadable && self.view.dcs.distrusted.is_none() => {
                self.leave_leadership(cluster, leader)
            }
            _ => self.stop_and_exit(),
        }
    }

    fn leave_leadership(&mut self, cluster: &Cluster, leader: &Leader) -> Reason {
        let term = leader.term;
        let stopping = self.memory.handover.as_ref().is_some_and(|h| h.term == term && h.stopping);
        if self.view.is_stopped() && self.view.job.is_none() && !stopping {
            let data = matches!(self.view.local.data, DataDir::Valid(_));
            return if data { self.release(term, Reason::Released) } else { self.stop_and_exit() };
        }
        if self.memory.handover.as_ref().is_none_or(|h| h.term != term) {
            self.begin_handover(term, None);
        }
        let Some(handover) = self.memory.handover.clone() else {
            return leaving("shutting down PostgreSQL");
        };
        if handover.stopping {
            return self.finish_stop(cluster, term, &handover);
        }
        if handover.candidate.is_none()
            && let Some(round) = self.round_since(handover.since)
        {
            let best = self.streaming_successor(cluster, round, self.view.settings.maximum_lag_on_failover);
            if best.is_none() && !round.answers.is_empty() && self.asks_for_a_successor(round, handover.since) {
                return Reason::AskingPeers;
            }
            if let Some(h) = &mut self.memory.handover {
                h.candidate = best;
            }
        } else if handover.candidate.is_none() {
            return Reason::AskingPeers;
        }
        self.shut_down_for(cluster)
    }

    fn stop_and_exit(&mut self) -> Reason {
        if self.view.is_doing(JobKind::Stop) {
            return leaving("shutting down PostgreSQL");
        }
        if !self.view.is_stopped() {
            if let Some(cluster) = self.view.cluster().filter(|_| !self.view.dcs.unreadable)
                && let Some(reason) = self.drain(cluster, None)
            {
                return reason;
            }
            if self.view.failed.as_ref().is_some_and(|f| f.kind == JobKind::Stop) {
                self.kill();
            } else {
                self.act(Action::Stop { wait_for: Some(Vec::new()) });
            }
            return leaving("shutting down PostgreSQL");
        }
        self.act(Action::Exit);
        leaving("done")
    }
}

fn leaving(what: &str) -> Reason {
    Reason::Leaving { what: what.to_owned() }
}
