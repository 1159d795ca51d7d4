//! The model agent: observe, decide, order. It differs from the real one in its I/O alone; the decisions are the real
//! `ha::decide`. How actions are performed is in `perform`.

use std::collections::BTreeMap;

use ha::action::Lane;
use ha::cluster::Member;
use ha::local::{Answer as Sql1, Local, Process, Sql};
use ha::status::Standby;
use ha::view::{self, Lease, Peer};
use ha::{Action, Tick, View};

use crate::mutation::Mutation;
use crate::node::{Agent, Life};
use crate::postgres::{Phase, lsn};
use crate::store::{Answer, Op, Us, Write};
use crate::world::{Ended, Event, Input, MS, SECOND, World, note};

impl World {
    /// Starts an agent process.
    pub(crate) fn start_agent(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if !node.host_up || node.agent.life != Life::Down {
            return;
        }
        let mut agent = Agent::new(node.agent.epoch + 1);
        agent.life = Life::Adopting;
        agent.view.me = view::Me { name: node.name.clone(), nofailover: node.nofailover };
        // The dynamic configuration is cached on disk.
        agent.view.settings = node.agent.view.settings.clone();
        agent.adopting_since = self.now;
        agent.view.guard = node.guard.as_seen();
        if !node.guard.alive || node.guard.is_frozen(self.now) {
            node.guard.replace();
            agent.view.guard = view::Guard::Idle;
        }
        node.agent = agent;
        note!(self, "{}     agent starts", self.nodes[n].name);
        self.tell(n, MS, 50 * MS, Input::Boot);
    }

    /// Ends an agent process without a word.
    pub(crate) fn kill_agent(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let settings = node.agent.view.settings.clone();
        node.agent = Agent::new(node.agent.epoch + 1);
        node.agent.view.settings = settings;
    }

    pub(crate) fn agent_input(&mut self, n: usize, input: Input) {
        match input {
            Input::Boot | Input::Retry => self.read_store(n),
            Input::Watched => self.read_store(n),
            Input::Perform(action) => self.perform(n, action),
            Input::Answer(number, answer) => self.answered(n, number, Some(answer)),
            Input::TimedOut(number) => self.answered(n, number, None),
            Input::Poked => self.probe(n, None),
            Input::Probed { number, local, ends } => self.probed(n, number, *local, ends),
            Input::WorkStep(number) => self.work_step(n, number),
            Input::FenceDone => self.probe(n, Some(Ended::Fence)),
            Input::PeerAnswered { round, name, peer } => self.peer_answered(n, round, name, peer),
            Input::RoundOver(number) => self.round_over(n, number),
            Input::GuardSays(guard) => {
                self.nodes[n].agent.view.guard = guard;
                self.decide(n);
            }
            Input::GuardDone => {
                *self.nodes[n].agent.lane(Lane::Guard) = false;
                self.decide(n);
            }
            Input::GuardReplaced => self.guard_replaced(n),
            Input::Wake(generation) => self.woken(n, generation),
            Input::Leave => {
                self.nodes[n].agent.view.wants.leave = true;
                self.decide(n);
            }
        }
    }

    fn woken(&mut self, n: usize, generation: u64) {
        let agent = &self.nodes[n].agent;
        if agent.wake_generation != generation {
            return;
        }
        let heartbeat = agent.view.settings.loop_wait.as_micros() as Us;
        if agent.view.dcs.unreadable || self.now >= agent.read_at + heartbeat {
            self.read_store(n);
        }
        self.probe(n, None);
        self.decide(n);
    }

    /// Reads the store; at most one reading is under way.
    pub(crate) fn read_store(&mut self, n: usize) {
        let agent = &mut self.nodes[n].agent;
        if agent.reading {
            agent.read_again = true;
            return;
        }
        (agent.reading, agent.read_again) = (true, false);
        self.send(n, Op::Read, None);
    }

    /// Looks at the local server; the result arrives a moment later.
    pub(crate) fn probe(&mut self, n: usize, ends: Option<Ended>) {
        let number = self.nodes[n].agent.number();
        let local = Box::new(self.look(n));
        self.tell(n, MS / 5, 10 * MS, Input::Probed { number, local, ends });
    }

    /// What a probe sees at this moment.
    fn look(&mut self, n: usize) -> Local {
        let tick = self.tick(n);
        let frozen = self.nodes[n].server.is_frozen(self.now) && self.nodes[n].server.phase != Phase::Down;
        let silent = &mut self.nodes[n].agent.silent_since;
        if frozen {
            silent.get_or_insert(tick);
        } else {
            *silent = None;
        }
        let silent = *silent;
        let node = &self.nodes[n];
        let server = &node.server;
        let running = Process::Running {
            pid: server.pid,
            standby: node.disk.standby_signal,
            since: node.clock.tick(server.since),
        };
        let process = match server.phase {
            Phase::Down => Process::Stopped,
            Phase::Orphans if self.mutation == Some(Mutation::OrphansUnseen) => Process::Stopped,
            Phase::Orphans => Process::Orphans,
            _ => running,
        };
        let sql = match (server.phase, silent) {
            (Phase::Down | Phase::Orphans, _) => Sql::Down,
            (_, Some(since)) => Sql::Silent(since),
            (Phase::Up, None) => Sql::Up(Box::new(self.sql(n))),
            _ => Sql::NotReady,
        };
        Local { taken_at: tick, data: node.disk.data_dir(), process, sql, ..Local::default() }
    }

    fn sql(&self, n: usize) -> Sql1 {
        let node = &self.nodes[n];
        let disk = &node.disk;
        let stream = self.stream_to(n).and_then(|id| self.streams.get(&id));
        let address = |i: usize| (self.nodes[i].name.clone(), 5432);
        let replication = self.standbys(n).into_iter().map(|(name, flushed)| Standby {
            application_name: name.to_owned(),
            state: "streaming".to_owned(),
            sync_state: if node.server.sync.counts(name) { "sync" } else { "async" }.to_owned(),
            flush_lsn: Some(lsn(flushed)),
            ..Standby::default()
        });
        let in_recovery = !node.server.primary;
        let position = disk.position();
        let primary = if in_recovery { ha::Lsn(0) } else { position };
        let replica = if in_recovery { position } else { ha::Lsn(0) };
        Sql1 {
            in_recovery,
            timeline: disk.timeline,
            system_identifier: disk.system_identifier.clone(),
            written: primary,
            flushed: primary,
            redo: lsn(disk.checkpoint),
            received: replica,
            replayed: replica,
            receiver: stream.map(|_| "streaming".to_owned()),
            receiver_from: stream.map(|s| address(s.from)),
            upstream: disk.upstream.filter(|_| in_recovery).map(address),
            synchronous_standby_names: disk.sync_names.clone(),
            replication: replication.collect(),
            ..Sql1::default()
        }
    }

    fn probed(&mut self, n: usize, number: u64, local: Local, ends: Option<Ended>) {
        let tick = self.tick(n);
        let agent = &mut self.nodes[n].agent;
        match ends {
            Some(Ended::Work { number: work, failure }) => {
                let Some(w) = agent.work.take_if(|w| w.number == work) else { return };
                *agent.lane(Lane::Postgres) = false;
                agent.view.job = None;
                agent.end_work(w.kind, failure, tick);
            }
            Some(Ended::Fence) => {
                *agent.lane(Lane::Fence) = false;
                *agent.lane(Lane::Postgres) = false;
            }
            None => {}
        }
        // A result that is older than one already taken says nothing new.
        if number > agent.probe_number {
            agent.probe_number = number;
            agent.view.local = local;
        }
        self.decide(n);
    }

    /// A request was answered, or wasn't in time.
    fn answered(&mut self, n: usize, number: u64, answer: Option<Answer>) {
        let Some(request) = self.nodes[n].agent.requests.remove(&number) else { return };
        if answer.is_none() {
            self.report.dcs_timeouts += 1;
        }
        let ttl = self.nodes[n].agent.view.settings.ttl;
        let counted_from = if self.mutation == Some(Mutation::LeaseFromAnswer) { self.tick(n) } else { request.sent };
        let adopting = self.nodes[n].agent.life == Life::Adopting;
        let agent = &mut self.nodes[n].agent;
        match (&request.op, answer) {
            (Op::Read, Some(Answer::Snapshot(s))) => {
                agent.reading &= request.lane.is_some();
                agent.read_at = self.now;
                self.take_snapshot(n, s);
            }
            (Op::Read, _) => {
                agent.reading &= request.lane.is_some();
                agent.view.dcs.unreadable = true;
                self.tell(n, 200 * MS, SECOND, Input::Retry);
            }
            (Op::Grant(_), Some(Answer::Lease(id))) => {
                agent.view.lease = Some(Lease { id, deadline: counted_from + ttl });
            }
            (Op::KeepAlive(id), Some(Answer::Kept)) => {
                let id = *id;
                let old = agent.view.lease.filter(|l| l.id == id).map_or(Tick(0), |l| l.deadline);
                agent.view.lease = Some(Lease { id, deadline: old.max(counted_from + ttl) });
            }
            (Op::KeepAlive(id), Some(Answer::LeaseGone)) if agent.view.lease.is_some_and(|l| l.id == *id) => {
                agent.view.lease = None;
            }
            (Op::Write(Write::Member { .. }), _) => agent.publishing = false,
            _ => {}
        }
        if adopting {
            self.adopt(n, &request.op);
            return;
        }
        match (&request.op, request.lane) {
            // A write is only over once its effect has been read.
            (Op::Write(_), Some(lane)) => {
                self.send(n, Op::Read, Some(lane));
            }
            (_, Some(lane)) => *self.nodes[n].agent.lane(lane) = false,
            (_, None) => {}
        }
        if self.nodes[n].agent.read_again && !self.nodes[n].agent.reading {
            self.read_store(n);
        }
        self.decide(n);
    }

    /// A new agent process on a node that runs a primary: when the leader key is still ours it is moved to a fresh lease
    /// before anything is decided, so that whatever an earlier process has on its way comes to nothing.
    fn adopt(&mut self, n: usize, op: &Op) {
        let local = self.look(n);
        let writable = matches!(local.process, Process::Running { standby: false, .. });
        let agent = &self.nodes[n].agent;
        // Without an armed guard nobody else ends a primary that can't be adopted.
        let guarded = matches!(agent.view.guard, view::Guard::Armed { .. });
        let patience = if guarded { agent.view.settings.ttl.as_micros() as Us } else { 2 * SECOND };
        let in_time = self.now < agent.adopting_since + patience;
        let readable = !agent.view.dcs.unreadable;
        let leader = agent.view.cluster().and_then(|c| c.leader.clone()).filter(|l| l.name == self.nodes[n].name);
        let lease = agent.view.lease;
        match (op, leader, lease) {
            // Read again soon, as after every failed reading.
            (Op::Read, ..) if writable && !readable && in_time => {}
            (Op::Read, Some(leader), Some(lease)) if readable && leader.lease == lease.id => self.adopted(n, true),
            (Op::Read, Some(_), None) if readable && writable && in_time => {
                let ttl = self.nodes[n].agent.view.settings.ttl;
                self.send(n, Op::Grant(ttl), None);
            }
            (Op::Grant(_), Some(leader), Some(lease)) if in_time => {
                let write = Write::Move { term: leader.term, from: leader.lease, to: lease.id };
                self.send(n, Op::Write(write), None);
            }
            (Op::Grant(_), ..) if in_time => self.tell(n, 100 * MS, 300 * MS, Input::Retry),
            (Op::Write(_), ..) if in_time => {
                // The next attempt is made with another lease, unless this one is seen to hold the key.
                self.read_store(n);
            }
            (Op::Read, Some(_), Some(_)) if readable && writable && in_time => {
                self.nodes[n].agent.view.lease = None;
                self.tell(n, 50 * MS, 100 * MS, Input::Retry);
            }
            _ => self.adopted(n, false),
        }
    }

    fn adopted(&mut self, n: usize, leads: bool) {
        self.report.adoptions += u64::from(leads);
        let local = self.look(n);
        let agent = &mut self.nodes[n].agent;
        agent.life = Life::Up;
        agent.view.local = local;
        if !leads {
            agent.view.lease = None;
        }
        self.decide(n);
    }

    /// One decision, and its orders.
    pub(crate) fn decide(&mut self, n: usize) {
        if self.nodes[n].agent.life != Life::Up {
            return;
        }
        let now = self.tick(n);
        let agent = &mut self.nodes[n].agent;
        if let Some(mutation) = self.mutation {
            mutation.confuse(&mut agent.memory);
        }
        let decision = match self.mutation.and_then(|m| m.distort(&agent.view)) {
            Some(view) => ha::decide(&view, &agent.memory, now),
            None => ha::decide(&agent.view, &agent.memory, now),
        };
        self.report.decisions += 1;
        let label = decision.reason.label();
        if label != self.nodes[n].agent.last_reason {
            note!(self, "{}     {}", self.nodes[n].name, decision.reason);
            self.nodes[n].agent.last_reason = label;
            self.report.count_reason(label);
        }
        self.nodes[n].agent.memory = decision.memory;
        for action in decision.actions {
            self.order(n, action);
        }
        let agent = &mut self.nodes[n].agent;
        agent.wake_generation += 1;
        let (generation, epoch) = (agent.wake_generation, agent.epoch);
        let at = self.nodes[n].clock.when(decision.wake_at).max(self.now + MS);
        self.at(at, Event::Agent(n, epoch, Input::Wake(generation)));
        self.publish(n);
    }

    fn order(&mut self, n: usize, action: Action) {
        let tick = self.tick(n);
        let early = self.mutation == Some(Mutation::ReleaseBeforeGone) && action == Action::Fence;
        let leader = self.nodes[n].agent.view.cluster().and_then(|c| c.leader.clone());
        let agent = &mut self.nodes[n].agent;
        let lane = action.lane();
        if *agent.lane(lane) || (lane == Lane::Postgres && *agent.lane(Lane::Fence)) {
            return;
        }
        *agent.lane(lane) = true;
        if let Some(kind) = action.job() {
            let number = agent.number();
            agent.view.job = Some(view::Job { kind, since: tick });
            agent.work = Some(crate::node::Work { kind, action: action.clone(), number, waits_for_server: false });
        }
        if lane == Lane::Fence {
            agent.work = None;
            agent.view.job = None;
            *agent.lane(Lane::Postgres) = true;
        }
        if !matches!(action, Action::Renew | Action::Arm { .. } | Action::WriteOptime { .. }) {
            note!(self, "{}       {action:?}", self.nodes[n].name);
        }
        self.tell(n, 0, 2 * MS, Input::Perform(action));
        if let (true, Some(leader)) = (early, leader.filter(|l| l.name == self.nodes[n].name)) {
            self.order(n, Action::Release { term: leader.term, position: None });
        }
    }

    /// Keeps the member key as the world should see it.
    fn publish(&mut self, n: usize) {
        let name = self.nodes[n].name.clone();
        let agent = &self.nodes[n].agent;
        let (Some(lease), false) = (agent.view.lease, agent.publishing) else { return };
        let member = Member { lease: lease.id, ..member(&name, &agent.view) };
        // Compared with what is there: an older value may arrive late.
        let present = agent.view.cluster().and_then(|c| c.members.get(&name));
        if present == Some(&member) || agent.view.dcs.unreadable {
            return;
        }
        let agent = &mut self.nodes[n].agent;
        agent.publishing = true;
        self.send(n, Op::Write(Write::Member { lease: lease.id, member: Box::new(member) }), None);
    }

    fn peer_answered(&mut self, n: usize, number: u64, name: String, peer: Peer) {
        let Some(asking) = self.nodes[n].agent.round.as_mut().filter(|a| a.number == number) else { return };
        asking.round.answers.insert(name, peer);
        asking.missing -= 1;
        if asking.missing == 0 {
            self.round_over(n, number);
        }
    }

    fn round_over(&mut self, n: usize, number: u64) {
        let agent = &mut self.nodes[n].agent;
        if let Some(asking) = agent.round.take_if(|a| a.number == number) {
            agent.view.peers = Some(asking.round);
            *agent.lane(Lane::Peers) = false;
            self.decide(n);
        }
    }

    /// Asks every other member at once.
    pub(crate) fn ask_peers(&mut self, n: usize) {
        let asked_at = self.tick(n);
        let number = self.nodes[n].agent.number();
        let others: Vec<usize> = (0..self.nodes.len()).filter(|i| *i != n).collect();
        let round = view::Round { asked_at, answers: BTreeMap::new() };
        let missing = others.len();
        self.nodes[n].agent.round = Some(crate::node::Asking { number, missing, round });
        self.tell(n, SECOND, SECOND, Input::RoundOver(number));
        for other in others {
            let stopped = self.now < self.nodes[other].agent.stopped_until.max(self.nodes[other].paused_until);
            let up = self.nodes[other].host_up && self.nodes[other].agent.life == Life::Up && !stopped;
            if up && !self.is_cut(n, other) && !self.is_cut(other, n) {
                let view = &self.nodes[other].agent.view;
                let answer = view.answer();
                let peer = Peer {
                    running: answer.is_some(),
                    primary: answer.is_some_and(|a| !a.in_recovery),
                    position: answer.map(Sql1::position).unwrap_or_default(),
                    timeline: answer.map_or(0, |a| a.timeline),
                    nofailover: view.me.nofailover,
                };
                let name = self.nodes[other].name.clone();
                self.tell(n, MS, 30 * MS, Input::PeerAnswered { round: number, name, peer });
            }
        }
    }
}

impl Agent {
    fn end_work(&mut self, kind: view::JobKind, failure: Option<String>, at: Tick) {
        match kind {
            view::JobKind::Restart => self.view.wants.restart = false,
            view::JobKind::Wipe => self.view.wants.reinitialize = false,
            _ => {}
        }
        self.view.failed = match failure {
            Some(why) => {
                let times = self.view.failed.as_ref().filter(|f| f.kind == kind).map_or(0, |f| f.times) + 1;
                Some(view::Failed { kind, at, times, why })
            }
            None => None,
        };
    }
}

/// A member key's value.
fn member(name: &str, view: &View) -> Member {
    let answer = view.answer();
    let role = if answer.is_some_and(|a| !a.in_recovery) { "primary" } else { "replica" };
    let state = match &view.local.sql {
        Sql::Up(_) => "running",
        Sql::Down => "stopped",
        _ => "starting",
    };
    Member {
        name: name.to_owned(),
        conn_url: format!("postgres://{name}:5432/postgres"),
        state: state.to_owned(),
        role: role.to_owned(),
        timeline: answer.map(|a| a.timeline),
        ..Member::default()
    }
}
