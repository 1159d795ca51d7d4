//! The decision: one view in, actions out. This file holds the entry, the safety checks that come before everything, and
//! the choice of branch; the branches are the submodules.

mod bootstrap;
mod drain;
mod elect;
mod follow;
mod handover;
mod lead;
mod lease;
mod leave;
mod pause;
mod sync;

use std::time::Duration;

use crate::action::{Action, Lane};
use crate::cluster::{Cluster, Term};
use crate::local::{DataDir, Process, Sql};
use crate::memory::Memory;
use crate::reason::Reason;
use crate::time::Tick;
use crate::view::{Guard, JobKind, View};

pub use lease::{agent_margin, guard_margin};
pub use sync::standby_names;

/// What to do, why, what to remember and when to decide again at the latest.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What to do, at most one of them disruptive.
    pub actions: Vec<Action>,
    /// Why.
    pub reason: Reason,
    /// What to pass to the next decision.
    pub memory: Memory,
    /// Decide again at this moment if nothing happens before.
    pub wake_at: Tick,
}

/// The guard isn't asked for anything more often than this.
const ARM_EVERY: Duration = Duration::from_millis(100);
/// How long a writable server may be without an armed guard while a new one is started.
const UNGUARDED: Duration = Duration::from_secs(2);

/// Decides. Total and pure: the same view, memory and time always give the same decision.
pub fn decide(view: &View, memory: &Memory, now: Tick) -> Decision {
    let mut step =
        Step { view, now, memory: memory.clone(), actions: Vec::new(), wake_at: now + view.settings.loop_wait };
    let reason = step.run();
    Decision { actions: step.actions, reason, memory: step.memory, wake_at: step.wake_at }
}

/// A decision in the making.
struct Step<'a> {
    view: &'a View,
    now: Tick,
    memory: Memory,
    actions: Vec<Action>,
    wake_at: Tick,
}

impl<'a> Step<'a> {
    fn run(&mut self) -> Reason {
        self.remember();
        self.keep_lease();
        if let Some(reason) = self.fence_if_unsafe() {
            return reason;
        }
        self.keep_guard();
        if self.view.local.process == Process::Orphans {
            self.kill();
            return Reason::Orphans;
        }
        if self.settle_guard() {
            return Reason::Settling;
        }
        if self.view.wants.leave {
            return self.leave();
        }
        if let Some(why) = &self.view.dcs.distrusted {
            return Reason::Distrusted { why: why.clone() };
        }
        let Some(cluster) = self.view.cluster() else {
            return Reason::NoDcs;
        };
        if let Some(reason) = self.refuse_foreign_data(cluster) {
            return reason;
        }
        if self.view.settings.pause {
            return self.pause(cluster);
        }
        match &cluster.leader {
            Some(leader) if leader.name == self.view.me.name => self.lead(cluster, leader),
            Some(leader) => self.follow(cluster, leader),
            None => self.elect(cluster),
        }
    }

    /// Takes what the view shows into memory.
    fn remember(&mut self) {
        let v = self.view;
        self.memory.fencing = self.memory.fencing.filter(|at| v.local.taken_at <= *at);
        if v.is_stopped() && v.job.is_none() {
            self.memory.writable = None;
        }
        if let Some(a) = v.answer().filter(|a| !a.in_recovery) {
            self.memory.flushed =
                if a.timeline == self.memory.timeline { self.memory.flushed.max(a.flushed) } else { a.flushed };
            self.memory.timeline = a.timeline;
            self.memory.to_replay = a.written.bytes_since(a.redo);
        }
        match v.cluster() {
            Some(c) if c.leader.is_none() => {
                self.memory.leaderless_since.get_or_insert(self.now);
                self.memory.unhealthy_since = None;
            }
            Some(c) => {
                self.memory.leaderless_since = None;
                if !c.is_led_by(&v.me.name) {
                    self.memory.abstain_until = Tick::default();
                    self.memory.handover = None;
                    self.memory.unhealthy_since = None;
                    (self.memory.flushed, self.memory.timeline) = Default::default();
                }
            }
            None => {}
        }
    }

    /// Whether PostgreSQL here accepts writes, or might.
    fn seems_writable(&self) -> bool {
        let starting = self.view.is_doing(JobKind::StartPrimary)
            || self.view.is_doing(JobKind::Promote)
            || (self.view.is_doing(JobKind::Restart) && self.memory.writable.is_some());
        let running = match (&self.view.local.sql, self.view.local.process) {
            (_, Process::Stopped) => false,
            // A promotion that took too long may still come about.
            (Sql::Up(a), _) => !a.in_recovery || self.memory.writable.is_some(),
            (_, Process::Running { standby, .. }) => !standby || self.memory.writable.is_some(),
            (_, Process::Orphans) => true,
        };
        starting || running
    }

    /// Whether PostgreSQL here accepts writes, or might: also while a kill is under way, because the job that was ended
    /// for it may have started the server since the last look.
    fn may_be_writable(&self) -> bool {
        self.seems_writable() || self.memory.fencing.is_some()
    }

    /// Safety rule 1: a server that may be writable is killed unless the leader key is provably ours for some time yet
    /// and the guard stands by.
    fn fence_if_unsafe(&mut self) -> Option<Reason> {
        if !self.seems_writable() {
            self.memory.unguarded_since = None;
            return self.memory.fencing.map(|_| Reason::Killing);
        }
        let leader = self.view.cluster().and_then(|c| c.leader.as_ref());
        if self.view.settings.pause {
            let stranger = leader.filter(|l| l.name != self.view.me.name)?;
            return Some(self.fence(None, Reason::LeadershipLost { leader: stranger.name.clone() }));
        }
        let Some(leader) = leader else {
            return Some(self.fence(self.memory.writable, Reason::LeaseLost));
        };
        let term = leader.term;
        let Some(lease) = self.view.lease else {
            return Some(self.fence(Some(term), Reason::LeaseLost));
        };
        if leader.name != self.view.me.name || leader.lease != lease.id {
            let reason = Reason::LeadershipLost { leader: leader.name.clone() };
            return Some(self.fence(self.memory.writable, reason));
        }
        if self.memory.ended == Some(term) {
            return Some(self.fence(Some(term), Reason::TermEnded));
        }
        let last = lease.deadline.before(agent_margin(self.view.settings.ttl));
        if self.now >= last {
            return Some(self.fence(Some(term), Reason::LeaseNotRenewed));
        }
        self.wake(last);
        self.check_guard(term)
    }

    /// A writable server whose guard has fenced, or stays away, is killed.
    fn check_guard(&mut self, term: Term) -> Option<Reason> {
        match self.view.guard {
            Guard::Armed { term: armed, .. } if armed == term => {
                self.memory.unguarded_since = None;
                None
            }
            Guard::Fenced { term: fenced } if fenced >= term => Some(self.fence(Some(term), Reason::GuardFenced)),
            _ => {
                let since = *self.memory.unguarded_since.get_or_insert(self.now);
                if self.now >= since + UNGUARDED {
                    return Some(self.fence(Some(term), Reason::GuardLost));
                }
                self.wake(since + UNGUARDED);
                None
            }
        }
    }

    /// Moves the deadline of an armed guard on with the lease, whatever else is going on.
    fn keep_guard(&mut self) {
        let (Some(leader), Some(lease)) = (self.view.cluster().and_then(|c| c.leader.as_ref()), self.view.lease) else {
            return;
        };
        let mine = leader.name == self.view.me.name && leader.lease == lease.id;
        if let Guard::Armed { term, deadline } = self.view.guard
            && mine
            && term == leader.term
            && deadline != lease.deadline
            && !self.view.settings.pause
        {
            self.arm(term, lease.deadline);
        }
    }

    /// Orders the guard to be armed, not more often than it can answer.
    fn arm(&mut self, term: Term, deadline: Tick) {
        let next = self.memory.armed_at.map_or(self.now, |at| at + ARM_EVERY);
        if self.now < next {
            self.wake(next);
            return;
        }
        self.memory.armed_at = Some(self.now);
        self.act(Action::Arm { term, deadline });
    }

    /// A guard that has fenced goes on killing whatever appears in the data directory, because an agent may have been
    /// halfway through starting PostgreSQL, until it is told that the fencing is known. Told again when a start fails.
    fn settle_guard(&mut self) -> bool {
        let Guard::Fenced { term } = self.view.guard else {
            self.memory.settled = None;
            return false;
        };
        if !self.view.is_stopped() || self.view.job.is_some() {
            return false;
        }
        let failed_at = self.view.failed.as_ref().map_or(Tick::default(), |f| f.at);
        if self.memory.settled.is_some_and(|(t, at)| t == term && at >= failed_at) {
            return false;
        }
        self.memory.settled = Some((term, self.now));
        self.act(Action::Disarm);
        true
    }

    /// Whether PostgreSQL here certainly can't write: the guard has nothing to guard.
    fn is_quiet(&self) -> bool {
        let in_recovery = self.view.answer().is_some_and(|a| a.in_recovery);
        !self.may_be_writable() && (self.view.is_stopped() || in_recovery)
    }

    /// Takes the deadline from a guard that has nothing to guard.
    fn disarm_if_quiet(&mut self) {
        if matches!(self.view.guard, Guard::Armed { .. }) && self.is_quiet() {
            self.act(Action::Disarm);
        }
    }

    /// Kills PostgreSQL; `ended` is a term that is over with that.
    fn fence(&mut self, ended: Option<Term>, reason: Reason) -> Reason {
        if let Some(term) = ended {
            self.memory.ended = self.memory.ended.max(Some(term));
        }
        self.memory.handover = None;
        self.kill();
        reason
    }

    fn kill(&mut self) {
        self.memory.fencing = Some(self.now);
        self.act(Action::Fence);
    }

    /// A data directory of another cluster, or one that isn't usable, is never touched.
    fn refuse_foreign_data(&mut self, cluster: &Cluster) -> Option<Reason> {
        if let DataDir::Damaged(why) = &self.view.local.data
            && self.view.is_stopped()
            && self.view.job.is_none()
        {
            return self.refuse_damaged_data(cluster, why.clone());
        }
        let ours = self.view.system_identifier()?;
        let theirs = cluster.initialize.as_deref().filter(|s| !s.is_empty())?;
        if ours == theirs {
            return None;
        }
        let reason = Reason::ForeignData { ours: ours.to_owned(), cluster: theirs.to_owned() };
        if self.may_be_writable() {
            // Whoever changed the key by hand can mend it; stopping the server that serves would mend nothing.
            return Some(reason);
        }
        Some(self.give_back(cluster, reason))
    }

    /// Damaged data is left to a person, unless a person has ordered a new clone.
    fn refuse_damaged_data(&mut self, cluster: &Cluster, why: String) -> Option<Reason> {
        let other_leads = cluster.leader.as_ref().is_some_and(|l| l.name != self.view.me.name);
        if self.view.wants.leave || (self.view.wants.reinitialize && other_leads) {
            return None;
        }
        Some(self.give_back(cluster, Reason::DataDamaged { why }))
    }

    /// A node that can't serve doesn't keep the leader key from those who can.
    fn give_back(&mut self, cluster: &Cluster, reason: Reason) -> Reason {
        match cluster.leader.as_ref().filter(|l| l.name == self.view.me.name && !self.view.settings.pause) {
            Some(leader) => self.release(leader.term, reason),
            None => reason,
        }
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Starts work on PostgreSQL unless some is under way; a failure of the same work is waited out first.
    fn work(&mut self, action: Action, reason: Reason) -> Reason {
        debug_assert_eq!(action.lane(), Lane::Postgres);
        if let Some(job) = self.view.job {
            return Reason::Busy { kind: job.kind };
        }
        if let Some(f) = self.view.failed.as_ref().filter(|f| Some(f.kind) == action.job()) {
            let pause = Duration::from_secs(1 << f.times.min(5)).min(Duration::from_secs(30));
            if self.now < f.at + pause {
                self.wake(f.at + pause);
                return Reason::Backoff { kind: f.kind, why: f.why.clone() };
            }
        }
        self.act(action);
        reason
    }

    /// Makes sure that the next decision comes at `at` or before.
    fn wake(&mut self, at: Tick) {
        // What is due already was seen to in this decision.
        if at > self.now {
            self.wake_at = self.wake_at.min(at);
        }
    }

    /// A round of answers asked for at `since` or later; asks for one when there is none.
    fn round_since(&mut self, since: Tick) -> Option<&'a crate::view::Round> {
        match &self.view.peers {
            Some(round) if round.asked_at >= since => Some(round),
            _ => {
                self.act(Action::AskPeers);
                None
            }
        }
    }
}
