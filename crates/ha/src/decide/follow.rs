//! Another member holds the leader key.

use std::time::Duration;

use super::Step;
use super::bootstrap::is_primary;
use crate::action::Action;
use crate::cluster::{Cluster, Leader};
use crate::local::{Answer, DataDir, Process, Sql};
use crate::members::leader_position;
use crate::reason::Reason;
use crate::view::JobKind;

/// How long a replica may be without a stream before its history is compared with the leader's.
const DETACHED: Duration = Duration::from_secs(3);
/// How long a replica may recover before that is told.
const LONG_RECOVERY: Duration = Duration::from_secs(30);
/// How long until it is compared again under the same leader.
const CHECK_AGAIN: Duration = Duration::from_secs(10);

impl Step<'_> {
    pub(super) fn follow(&mut self, cluster: &Cluster, leader: &Leader) -> Reason {
        self.disarm_if_quiet();
        if let Some(job) = self.view.job {
            return self.let_work_go_on(leader, job.kind);
        }
        if self.view.wants.reinitialize && is_primary(cluster, &leader.name) && self.view.local.data != DataDir::Empty {
            return self.work(Action::Wipe, Reason::Reinitializing);
        }
        if self.is_empty() {
            return self.clone_from(cluster, leader);
        }
        match self.view.local.process {
            Process::Stopped => self.start_following(cluster, leader),
            Process::Running { .. } => match self.view.answer() {
                Some(answer) => self.stay_attached(cluster, leader, answer),
                None => self.await_recovery(leader),
            },
            Process::Orphans => Reason::Orphans,
        }
    }

    /// Work goes on, but for a clone of a member that doesn't lead any more.
    fn let_work_go_on(&mut self, leader: &Leader, kind: JobKind) -> Reason {
        let elsewhere = self.memory.upstream.as_ref().is_some_and(|u| *u != leader.name);
        if kind == JobKind::Clone && elsewhere {
            self.kill();
            return Reason::ChangingUpstream { leader: leader.name.clone() };
        }
        Reason::Busy { kind }
    }

    /// A server that recovers takes no connection; one that waits for WAL from a former leader never will.
    fn await_recovery(&mut self, leader: &Leader) -> Reason {
        let elsewhere = self.memory.upstream.as_ref().is_some_and(|u| *u != leader.name);
        if elsewhere && self.view.local.sql == Sql::NotReady {
            let wait_for = Some(Vec::new());
            return self.work(Action::Stop { wait_for }, Reason::ChangingUpstream { leader: leader.name.clone() });
        }
        self.still_recovering()
    }

    /// A start that takes its time is told of: it may be waiting for WAL that doesn't come.
    pub(super) fn still_recovering(&mut self) -> Reason {
        match self.view.local.process {
            Process::Running { since, .. } if self.now >= since + LONG_RECOVERY => {
                Reason::ReplicaRecovering { seconds: (self.now - since).as_secs() }
            }
            _ => Reason::Busy { kind: JobKind::StartReplica },
        }
    }

    /// Starts a stopped server, after a look for divergence when it may have gone its own way.
    fn start_following(&mut self, cluster: &Cluster, leader: &Leader) -> Reason {
        self.memory.detached_since = None;
        let upstream = Some(leader.name.clone());
        let DataDir::Valid(control) = &self.view.local.data else {
            return Reason::WaitingForPrimary { leader: leader.name.clone() };
        };
        let ahead = cluster.members.get(&leader.name).and_then(|m| m.timeline).is_some_and(|t| t != control.timeline);
        let suspicious = !control.in_recovery || (ahead && (self.rejoin_failed() || self.start_failed()));
        let checked = self.memory.rejoin.is_some_and(|(term, _)| term == leader.term) && !self.rejoin_failed();
        if suspicious && !checked {
            return self.check_history(cluster, leader);
        }
        self.memory.upstream.clone_from(&upstream);
        self.work(Action::StartReplica { upstream }, Reason::StartingReplica)
    }

    /// A replica whose history has left the leader's may not even start.
    fn start_failed(&self) -> bool {
        self.view.failed.as_ref().is_some_and(|f| f.kind == JobKind::StartReplica)
    }

    fn rejoin_failed(&self) -> bool {
        self.view.failed.as_ref().is_some_and(|f| f.kind == JobKind::Rejoin)
    }

    fn check_history(&mut self, cluster: &Cluster, leader: &Leader) -> Reason {
        let name = leader.name.clone();
        if !is_primary(cluster, &name) {
            return Reason::WaitingForPrimary { leader: name };
        }
        let reason = self.work(Action::Rejoin { from: name.clone() }, Reason::CheckingHistory { leader: name });
        if matches!(reason, Reason::CheckingHistory { .. }) {
            self.memory.rejoin = Some((leader.term, self.now));
        }
        reason
    }

    /// Keeps a running replica attached to the leader. One that waits for WAL that the leader hasn't come to is attached
    /// in name only, whatever its WAL receiver says: the rest of a former leader's last record doesn't come.
    fn stay_attached(&mut self, cluster: &Cluster, leader: &Leader, answer: &Answer) -> Reason {
        if self.view.wants.restart {
            return self.drain_for_restart(cluster).unwrap_or_else(|| self.work(Action::Restart, Reason::Restarting));
        }
        let wanted = cluster.members.get(&leader.name).and_then(|m| m.host_port());
        if answer.upstream != wanted && wanted.is_some() {
            let upstream = Some(leader.name.clone());
            self.memory.upstream.clone_from(&upstream);
            return self.work(Action::Follow { upstream }, Reason::ChangingUpstream { leader: leader.name.clone() });
        }
        let streaming = answer.receiver.as_deref() == Some("streaming");
        let stuck = answer.waits_at.is_some_and(|at| at > leader_position(cluster));
        if streaming && !stuck {
            self.memory.detached_since = None;
            self.end_drain(cluster);
            return Reason::Following { name: self.view.me.name.clone(), leader: leader.name.clone() };
        }
        let since = *self.memory.detached_since.get_or_insert(self.now);
        let last = self.memory.rejoin.filter(|(term, _)| *term == leader.term).map(|(_, at)| at);
        let due = last.map_or(since + DETACHED, |at| (at + CHECK_AGAIN).max(since + DETACHED));
        if self.now >= due && is_primary(cluster, &leader.name) {
            return self.check_history(cluster, leader);
        }
        self.wake(due.max(self.now + Duration::from_secs(1)));
        Reason::NotStreaming { leader: leader.name.clone() }
    }
}
