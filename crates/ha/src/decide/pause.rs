//! Maintenance mode: a person is in charge. Nothing is started, stopped, fenced or promoted by itself; requested
//! switchovers, restarts and reinitialisations are still done, and the leader key is kept.

use super::Step;
use crate::action::Action;
use crate::cluster::{Cluster, Leader};
use crate::reason::Reason;
use crate::view::Guard;

impl Step<'_> {
    pub(super) fn pause(&mut self, cluster: &Cluster) -> Reason {
        if matches!(self.view.guard, Guard::Armed { .. }) {
            self.act(Action::Disarm);
        }
        if let Some(job) = self.view.job
            && self.memory.handover.is_none()
        {
            return Reason::Busy { kind: job.kind };
        }
        match &cluster.leader {
            Some(l) if l.name == self.view.me.name => self.pause_leading(cluster, l),
            Some(l) if self.view.answer().is_some() || self.view.wants.reinitialize => self.follow(cluster, l),
            Some(_) => paused("PostgreSQL isn't running here and is left so"),
            None => self.pause_leaderless(cluster),
        }
    }

    fn pause_leading(&mut self, cluster: &Cluster, leader: &Leader) -> Reason {
        if let Some(reason) = self.hand_over(cluster, leader.term) {
            return reason;
        }
        match self.view.answer() {
            Some(answer) if !answer.in_recovery => {
                if self.view.wants.restart {
                    return self.restart(cluster, leader.term);
                }
                self.end_drain(cluster);
                if cluster.failover.as_ref().is_some_and(|f| f.value.scheduled_at.is_none())
                    && let Some(f) = &cluster.failover
                {
                    self.act(Action::ClearFailover { revision: f.revision });
                }
                self.synchronize(cluster, leader.term, answer).unwrap_or_else(|| {
                    paused(&format!("no action. I am ({}), the leader with the lock", self.view.me.name))
                })
            }
            Some(answer) if cluster.failover.is_some() => self.promote(cluster, leader.term, answer),
            _ => paused("I hold the leader key, but PostgreSQL doesn't run as a primary"),
        }
    }

    fn pause_leaderless(&mut self, cluster: &Cluster) -> Reason {
        let me = Some(self.view.me.name.as_str());
        let chosen = cluster.failover.as_ref().is_some_and(|f| f.value.candidate.as_deref() == me);
        if self.may_be_writable() {
            if self.lease_is_fresh() {
                self.act(Action::Acquire);
            }
            return paused("the leader key is free and PostgreSQL runs as a primary here: taking it");
        }
        if chosen && self.view.answer().is_some() {
            return self.elect(cluster);
        }
        paused("no leader, and no automatic election")
    }
}

fn paused(doing: &str) -> Reason {
    Reason::Paused { doing: doing.to_owned() }
}
