//! The simulated world: its state, the queue of events in virtual time, and the step. What the events do is in the
//! other modules.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use ha::local::Local;
use ha::view::Peer;
use ha::{Action, Settings, Tick};

use crate::faults::{Fault, Plan};
use crate::mutation::Mutation;
use crate::node::Node;
use crate::oracle::{Broken, Oracle};
use crate::random::Random;
use crate::report::Report;
use crate::store::{Answer, Op, Snapshot, Store, Us, Write};
use crate::stream::Stream;

/// A second in virtual time.
pub(crate) const SECOND: Us = 1_000_000;
/// A millisecond.
pub(crate) const MS: Us = 1000;
/// Lines of the trace that a failure shows.
const TRACE: usize = 400;

/// Something that happens to an agent process.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    Boot,
    Perform(Action),
    Answer(u64, Answer),
    TimedOut(u64),
    Watched,
    Retry,
    Probed { number: u64, local: Box<Local>, ends: Option<Ended> },
    Poked,
    WorkStep(u64),
    FenceDone,
    PeerAnswered { round: u64, name: String, peer: Peer },
    RoundOver(u64),
    GuardSays(ha::view::Guard),
    GuardDone,
    GuardReplaced,
    Wake(u64),
    Leave,
}

/// What a probe's result comes with.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// This work is over; why, if it failed.
    Work {
        number: u64,
        failure: Option<String>,
    },
    Fence,
}

/// Something that happens to a server's processes.
#[derive(Debug, Clone)]
pub(crate) enum PgEvent {
    Ready {
        as_primary: bool,
    },
    Promoted {
        term: ha::Term,
    },
    StopTick,
    /// Every process has read the configuration again.
    SyncInForce,
    OrphansEnd,
    Receiver,
    Killed,
}

/// Everything that can happen.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Agent(usize, u32, Input),
    /// A request of this node (and agent process) reaches the store.
    Arrive {
        node: usize,
        epoch: u32,
        number: u64,
        op: Op,
    },
    /// An operator writes to the store.
    Operator(Op),
    LeaseEnd(i64),
    StoreUp,
    Pg(usize, u32, PgEvent),
    Ship(u32),
    Deliver {
        stream: u32,
        records: Vec<u64>,
        timeline: u32,
        history: Vec<(u32, usize)>,
    },
    Acknowledge {
        stream: u32,
        flushed: usize,
    },
    GuardTimer(usize, u32),
    GuardRequest {
        node: usize,
        epoch: u32,
        from: u32,
        action: Action,
    },
    GuardKilled(usize, u32),
    Write(usize),
    NextFault,
    Undo(Fault),
    Check,
}

/// The whole world.
pub(crate) struct World {
    pub(crate) now: Us,
    pub(crate) random: Random,
    queue: BinaryHeap<Reverse<(Us, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) store: Store,
    pub(crate) streams: BTreeMap<u32, Stream>,
    pub(crate) next_stream: u32,
    /// Messages from one node to another are lost until then.
    pub(crate) peer_cut: BTreeMap<(usize, usize), Us>,
    /// Requests to the store are lost or late now and then until this moment.
    pub(crate) flaky_until: Us,
    pub(crate) oracle: Oracle,
    pub(crate) plan: Plan,
    pub(crate) report: Report,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) broken: Option<Broken>,
    pub(crate) next_record: u64,
    pub(crate) writing: bool,
    tracing: bool,
    pub(crate) trace: VecDeque<String>,
    print: bool,
}

/// Adds a line to the trace, formatting it only when somebody will read it.
macro_rules! note {
    ($world:expr, $($arg:tt)*) => { if $world.is_traced() { let line = format!($($arg)*); $world.add_note(line); } };
}
pub(crate) use note;

impl World {
    pub(crate) fn new(random: Random, settings: Settings, plan: Plan, mutation: Option<Mutation>) -> World {
        World {
            now: 0,
            random,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            nodes: Vec::new(),
            store: Store::new(settings),
            streams: BTreeMap::new(),
            next_stream: 0,
            peer_cut: BTreeMap::new(),
            flaky_until: 0,
            oracle: Oracle::default(),
            plan,
            report: Report::default(),
            mutation,
            broken: None,
            next_record: 0,
            writing: true,
            tracing: false,
            trace: VecDeque::new(),
            print: false,
        }
    }

    pub(crate) fn trace_on(&mut self, print: bool) {
        (self.tracing, self.print) = (true, print);
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.tracing
    }

    #[allow(clippy::print_stdout, reason = "a trace was asked for")]
    pub(crate) fn add_note(&mut self, line: String) {
        let line = format!("{:>4}.{:06} {line}", self.now / SECOND, self.now % SECOND);
        if self.print {
            println!("{line}");
        }
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// Adds the state of everything to the trace.
    pub(crate) fn describe(&mut self) {
        let c = self.store.cluster();
        let mut lines = vec![format!("leader {:?}, sync {:?}, failover {:?}", c.leader, c.sync, c.failover)];
        lines.push(format!("history {:?}, settings {:?}", c.history, self.store.settings));
        for n in &self.nodes {
            let (s, d) = (&n.server, &n.disk);
            lines.push(format!(
                "{} {:?}: {}; server {:?} primary {} names {:?}; timeline {} of {:?}, {} records; guard {:?}; failed {:?}",
                n.name,
                n.agent.life,
                n.agent.last_reason,
                s.phase,
                s.primary,
                d.sync_names,
                d.timeline,
                d.history,
                d.wal.len(),
                n.guard.watch,
                n.agent.view.failed
            ));
        }
        lines.into_iter().for_each(|l| self.add_note(l));
    }

    /// Lets something happen at a moment.
    pub(crate) fn at(&mut self, at: Us, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at.max(self.now), self.sequence)));
        self.events.insert(self.sequence, event);
    }

    /// Lets something happen after a random time within these bounds.
    pub(crate) fn after(&mut self, low: Us, high: Us, event: Event) {
        let at = self.now + self.random.between(low, high);
        self.at(at, event);
    }

    /// Lets something happen to the present agent process of a node.
    pub(crate) fn tell(&mut self, node: usize, low: Us, high: Us, input: Input) {
        let epoch = self.nodes[node].agent.epoch;
        self.after(low, high, Event::Agent(node, epoch, input));
    }

    /// A node's own clock.
    pub(crate) fn tick(&self, node: usize) -> Tick {
        self.nodes[node].clock.tick(self.now)
    }

    /// Records the first broken promise.
    pub(crate) fn expect(&mut self, result: Result<(), Broken>) {
        if let Err(what) = result
            && self.broken.is_none()
        {
            self.broken = Some(what);
        }
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.peer_cut.get(&(from, to)).is_some_and(|until| self.now < *until)
    }

    /// Performs the next event. False when the queue is empty.
    pub(crate) fn step(&mut self) -> bool {
        let Some(Reverse((at, sequence))) = self.queue.pop() else {
            return false;
        };
        let Some(event) = self.events.remove(&sequence) else {
            return true;
        };
        self.now = at;
        if let Some(until) = self.held_back(&event) {
            self.at(until, event);
            return true;
        }
        self.happen(event);
        let result = self.oracle.one_writable(&self.nodes, &self.store, self.now);
        self.expect(result);
        true
    }

    /// Until when the receiver of an event stands still.
    fn held_back(&self, event: &Event) -> Option<Us> {
        let until = match event {
            Event::Agent(n, ..) => self.nodes[*n].paused_until.max(self.nodes[*n].agent.stopped_until),
            Event::GuardTimer(n, _) | Event::GuardKilled(n, _) | Event::GuardRequest { node: n, .. } => {
                self.nodes[*n].paused_until.max(self.nodes[*n].guard.frozen_until)
            }
            Event::Pg(n, _, PgEvent::Killed) => self.nodes[*n].paused_until,
            Event::Pg(n, ..) => self.nodes[*n].paused_until.max(self.nodes[*n].server.frozen_until),
            _ => 0,
        };
        (until > self.now).then_some(until)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Agent(n, epoch, input) => {
                if self.nodes[n].agent.epoch == epoch && self.nodes[n].host_up {
                    self.agent_input(n, input);
                }
            }
            Event::Arrive { node, epoch, number, op } => self.arrive(node, epoch, number, &op),
            Event::Operator(op) => {
                self.write_to_store(&op);
            }
            Event::LeaseEnd(id) => self.lease_end(id),
            Event::StoreUp => self.store_up(),
            Event::Pg(n, epoch, e) => {
                if self.nodes[n].server.epoch == epoch {
                    self.server_event(n, e);
                }
            }
            Event::Ship(id) => self.ship(id),
            Event::Deliver { stream, records, timeline, history } => self.deliver(stream, records, timeline, history),
            Event::Acknowledge { stream, flushed } => self.acknowledged(stream, flushed),
            Event::GuardTimer(n, epoch) => self.guard_timer(n, epoch),
            Event::GuardRequest { node, epoch, from, action } => self.guard_request(node, epoch, from, &action),
            Event::GuardKilled(n, epoch) => self.guard_killed(n, epoch),
            Event::Write(n) => self.client_write(n),
            Event::NextFault => self.next_fault(),
            Event::Undo(fault) => self.undo(&fault),
            Event::Check => self.check_progress(),
        }
    }

    /// A request of an operator or a node takes effect; everybody who watches hears of it.
    pub(crate) fn write_to_store(&mut self, op: &Op) -> Answer {
        let before = self.store.revision();
        let had_sync = self.store.cluster().sync.is_some();
        let answer = self.store.apply(op, self.now);
        if let Answer::Lease(id) = answer
            && let Some(end) = self.store.lease_end(id)
        {
            self.at(end, Event::LeaseEnd(id));
        }
        if had_sync && self.store.cluster().sync.is_none() {
            self.oracle.forget_protected();
        }
        if self.store.revision() != before {
            if let Op::Write(Write::Drain { member, .. }) = op
                && !self.random.permille(300)
            {
                let drained = Write::Drained { member: member.clone(), revision: self.store.revision() };
                self.after(MS, 8 * SECOND, Event::Operator(Op::Write(drained)));
            }
            note!(self, "DCS    {op:?} -> {answer:?} (revision {})", self.store.revision());
            self.tell_watchers();
        }
        answer
    }

    pub(crate) fn tell_watchers(&mut self) {
        for n in 0..self.nodes.len() {
            let cut = self.now < self.nodes[n].store_cut[1];
            let lost = self.now < self.flaky_until && self.random.permille(200);
            if !cut && !lost {
                self.tell(n, MS / 2, 10 * MS, Input::Watched);
            }
        }
    }

    fn lease_end(&mut self, id: i64) {
        let Some(end) = self.store.lease_end(id) else { return };
        if self.now < self.store.down_until {
            return;
        }
        if end > self.now {
            self.at(end, Event::LeaseEnd(id));
            return;
        }
        let before = self.store.revision();
        self.store.expire(self.now);
        if self.store.revision() != before {
            note!(self, "DCS    lease {id} ended (revision {})", self.store.revision());
            self.tell_watchers();
        }
    }

    fn store_up(&mut self) {
        if self.now < self.store.down_until {
            return;
        }
        note!(self, "DCS    is back");
        for (id, end) in self.store.restart_leases(self.now) {
            self.at(end, Event::LeaseEnd(id));
        }
        self.tell_watchers();
    }

    /// A node sends a request to the store.
    pub(crate) fn send(&mut self, node: usize, op: Op, lane: Option<ha::action::Lane>) -> u64 {
        let sent = self.tick(node);
        let ttl = self.nodes[node].agent.view.settings.ttl.as_micros() as Us;
        let agent = &mut self.nodes[node].agent;
        let (number, epoch) = (agent.number(), agent.epoch);
        agent.requests.insert(number, crate::node::Request { op: op.clone(), sent, lane });
        let timeout = (ttl / 4).clamp(SECOND / 2, 3 * SECOND);
        self.tell(node, timeout, timeout, Input::TimedOut(number));
        let flaky = self.now < self.flaky_until;
        let cut = self.now < self.nodes[node].store_cut[0];
        let late = self.random.permille(if flaky { 60 } else { 2 });
        if late {
            self.after(10 * MS, 2 * ttl, Event::Arrive { node, epoch, number, op });
            return number;
        }
        let lost = cut || (flaky && self.random.permille(60));
        if !lost {
            self.after(MS / 2, 6 * MS, Event::Arrive { node, epoch, number, op });
        }
        number
    }

    fn arrive(&mut self, node: usize, epoch: u32, number: u64, op: &Op) {
        if self.now < self.store.down_until {
            if self.random.permille(300) {
                let up = self.store.down_until + self.random.between(0, 300 * MS);
                self.at(up, Event::Arrive { node, epoch, number, op: op.clone() });
            }
            return;
        }
        let answer = self.write_to_store(op);
        let flaky = self.now < self.flaky_until && self.random.permille(60);
        if self.now >= self.nodes[node].store_cut[1] && !flaky {
            let late = self.random.permille(if self.now < self.flaky_until { 100 } else { 2 });
            let slow = self.now < self.nodes[node].store_slow;
            let latest = if late || slow { 1300 * MS } else { 6 * MS };
            self.after(MS / 2, latest, Event::Agent(node, epoch, Input::Answer(number, answer)));
        }
    }

    /// The store's reading as a node gets it.
    pub(crate) fn take_snapshot(&mut self, node: usize, s: Snapshot) {
        let view = &mut self.nodes[node].agent.view;
        view.dcs.unreadable = false;
        if view.dcs.cluster.as_ref().is_none_or(|c| c.revision <= s.cluster.revision) {
            view.dcs.cluster = Some(s.cluster);
            view.settings = s.settings;
        }
    }
}
