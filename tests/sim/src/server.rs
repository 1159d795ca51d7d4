//! The model server's processes: start, recovery, promotion, shutdown, death; and the guard process that ends them.

use ha::decide::guard_margin;
use ha::view;
use ha::{Action, Term, Tick};

use crate::mutation::Mutation;
use crate::node::{Guard, Life, Watch};
use crate::postgres::{Phase, Required};
use crate::store::{Us, Write};
use crate::world::{Event, Input, MS, PgEvent, SECOND, World, note};

/// How long a shutdown lets WAL senders finish that nobody asked it to wait for.
const OTHERS: Us = 300 * MS;

impl World {
    pub(crate) fn start_server(&mut self, n: usize, as_primary: bool) {
        let (low, high) = if self.random.permille(80) { (3 * SECOND, 15 * SECOND) } else { (80 * MS, 900 * MS) };
        let fails = self.random.permille(30);
        let node = &mut self.nodes[n];
        node.server.vanish();
        node.server.phase = Phase::Starting;
        node.server.pid += 1;
        node.server.since = self.now;
        node.server.sync = Required::parse(&node.disk.sync_names);
        node.disk.standby_signal = !as_primary;
        node.disk.in_recovery = !as_primary;
        node.disk.clean = false;
        let epoch = node.server.epoch;
        note!(self, "{}     server starts as {}", self.nodes[n].name, if as_primary { "primary" } else { "standby" });
        if fails {
            self.after(50 * MS, SECOND, Event::Pg(n, epoch, PgEvent::Killed));
        } else {
            self.after(low, high, Event::Pg(n, epoch, PgEvent::Ready { as_primary }));
        }
        let guard = &self.nodes[n].guard;
        if guard.alive && matches!(guard.watch, Watch::Fenced { settled: false, .. }) {
            let epoch = guard.epoch;
            self.after(2 * MS, 30 * MS, Event::GuardKilled(n, epoch));
        }
    }

    pub(crate) fn server_event(&mut self, n: usize, event: PgEvent) {
        match event {
            PgEvent::Ready { as_primary } => {
                self.nodes[n].server.phase = Phase::Up;
                if as_primary {
                    note!(self, "{}     accepts writes", self.nodes[n].name);
                    self.nodes[n].server.primary = true;
                    self.nodes[n].disk.checkpoint = self.nodes[n].disk.wal.len();
                    self.judge_primary(n, None);
                } else {
                    self.receiver_soon(n);
                }
                self.server_changed(n);
            }
            PgEvent::Promoted { term } => self.promoted(n, term),
            PgEvent::StopTick => self.stop_progress(n),
            PgEvent::SyncInForce => {
                self.nodes[n].server.sync = Required::parse(&self.nodes[n].disk.sync_names);
                self.release_waiting(n);
            }
            PgEvent::OrphansEnd | PgEvent::Killed => self.kill_server(n),
            PgEvent::Receiver => self.receiver(n),
        }
    }

    pub(crate) fn receiver_soon(&mut self, n: usize) {
        let epoch = self.nodes[n].server.epoch;
        self.after(5 * MS, 40 * MS, Event::Pg(n, epoch, PgEvent::Receiver));
    }

    fn judge_primary(&mut self, n: usize, term: Option<Term>) {
        if crate::oracle::wakes_late(&self.nodes[n], self.now) {
            return;
        }
        let result = self.oracle.primary(&self.nodes[n].name, &self.nodes[n].disk, term);
        self.expect(result);
    }

    fn promoted(&mut self, n: usize, term: Term) {
        if self.nodes[n].server.phase != Phase::Up {
            return;
        }
        let newest = self.store.cluster().history.last().map_or(0, |l| l.timeline + 1);
        let newest = self.nodes.iter().map(|x| x.disk.timeline).max().unwrap_or(0).max(newest);
        self.disconnect_all(n);
        self.next_record += 1;
        let id = self.next_record;
        let disk = &mut self.nodes[n].disk;
        let line = ha::cluster::HistoryLine {
            timeline: disk.timeline,
            lsn: disk.position(),
            reason: "no recovery target specified".to_owned(),
            timestamp: String::new(),
            new_leader: String::new(),
        };
        disk.history.push((disk.timeline, disk.wal.len()));
        disk.timeline = newest + 1;
        disk.standby_signal = false;
        disk.in_recovery = false;
        disk.checkpoint = disk.wal.len();
        disk.wal.push(id);
        self.nodes[n].server.primary = true;
        note!(self, "{}     is promoted to timeline {}", self.nodes[n].name, newest + 1);
        self.report.promotions += 1;
        self.judge_primary(n, Some(term));
        self.server_changed(n);
        if self.nodes[n].agent.life == Life::Up && self.now >= self.nodes[n].agent.stopped_until {
            self.send(n, crate::store::Op::Write(Write::History { term, line }), None);
        }
    }

    /// A fast shutdown begins: clients go at once, WAL senders may finish.
    pub(crate) fn stop_server(&mut self, n: usize) {
        let server = &mut self.nodes[n].server;
        if !matches!(server.phase, Phase::Up | Phase::Starting) {
            return;
        }
        if server.phase == Phase::Starting || !server.primary {
            server.phase = Phase::Stopping;
        } else {
            self.next_record += 1;
            let id = self.next_record;
            let node = &mut self.nodes[n];
            node.disk.checkpoint = node.disk.wal.len();
            node.disk.wal.push(id);
            node.server.phase = Phase::Stopping;
        }
        let server = &mut self.nodes[n].server;
        server.waiting.clear();
        server.stopping_since = self.now;
        let epoch = server.epoch;
        self.pump_from(n);
        self.after(20 * MS, 400 * MS, Event::Pg(n, epoch, PgEvent::StopTick));
    }

    /// Ends the shutdown once the WAL senders that count are done.
    pub(crate) fn stop_progress(&mut self, n: usize) {
        let node = &self.nodes[n];
        let (server, end) = (&node.server, node.disk.wal.len());
        if server.phase != Phase::Stopping {
            return;
        }
        let counts = |name: &str| server.wait_for.as_ref().is_none_or(|w| w.iter().any(|x| x == name));
        let patient = self.now < server.stopping_since + OTHERS;
        let waits = server.primary
            && self
                .streams
                .values()
                .filter(|s| s.from == n && s.flushed < end)
                .any(|s| patient || counts(&self.nodes[s.to].name));
        let epoch = server.epoch;
        if waits {
            self.after(50 * MS, 100 * MS, Event::Pg(n, epoch, PgEvent::StopTick));
            return;
        }
        let primary = server.primary;
        self.kill_server(n);
        self.nodes[n].disk.clean = primary;
        note!(self, "{}     shut down", self.nodes[n].name);
    }

    /// Every process is gone at once.
    pub(crate) fn kill_server(&mut self, n: usize) {
        if self.nodes[n].server.phase == Phase::Down {
            return;
        }
        note!(self, "{}     server ends", self.nodes[n].name);
        self.nodes[n].server.vanish();
        self.disconnect_all(n);
        self.server_changed(n);
    }

    /// The postmaster alone is killed; what it leaves behind goes on for a while.
    pub(crate) fn kill_postmaster(&mut self, n: usize) {
        let server = &mut self.nodes[n].server;
        if server.phase != Phase::Up {
            self.kill_server(n);
            return;
        }
        server.phase = Phase::Orphans;
        let epoch = server.epoch;
        self.after(100 * MS, 8 * SECOND, Event::Pg(n, epoch, PgEvent::OrphansEnd));
        self.server_changed(n);
    }

    // ---- the guard ----

    /// Sends an order of the agent to the guard.
    pub(crate) fn ask_guard(&mut self, n: usize, action: Action) {
        let (epoch, from) = (self.nodes[n].guard.epoch, self.nodes[n].agent.epoch);
        self.after(MS / 10, 2 * MS, Event::GuardRequest { node: n, epoch, from, action });
        if !self.nodes[n].guard.alive {
            self.tell(n, MS, 2 * MS, Input::GuardDone);
        }
    }

    pub(crate) fn guard_request(&mut self, n: usize, epoch: u32, from: u32, action: &Action) {
        let guard = &mut self.nodes[n].guard;
        if guard.epoch != epoch || !guard.alive {
            return;
        }
        match *action {
            Action::Arm { term, deadline } => match guard.watch {
                Watch::Fenced { term: old, .. } if term <= old => {}
                Watch::Armed { term: old, .. } if term < old => {}
                _ => guard.watch = Watch::Armed { term, deadline },
            },
            _ => {
                guard.watch = match guard.watch {
                    Watch::Fenced { term, .. } => Watch::Fenced { term, settled: true },
                    _ => Watch::Idle,
                };
            }
        }
        self.set_guard_timer(n);
        let seen = self.nodes[n].guard.as_seen();
        self.after(MS, MS, Event::Agent(n, from, Input::GuardSays(seen)));
        self.after(2 * MS, 2 * MS, Event::Agent(n, from, Input::GuardDone));
    }

    fn set_guard_timer(&mut self, n: usize) {
        let node = &self.nodes[n];
        if let Watch::Armed { .. } = node.guard.watch {
            let at = node.clock.when(self.guard_due(n));
            let epoch = node.guard.epoch;
            self.at(at, Event::GuardTimer(n, epoch));
        }
    }

    fn guard_due(&self, n: usize) -> Tick {
        let node = &self.nodes[n];
        match node.guard.watch {
            Watch::Armed { deadline, .. } => deadline.before(guard_margin(node.agent.view.settings.ttl)),
            _ => Tick::NEVER,
        }
    }

    pub(crate) fn guard_timer(&mut self, n: usize, epoch: u32) {
        let guard = &self.nodes[n].guard;
        if guard.epoch != epoch || !guard.alive || self.tick(n) < self.guard_due(n) {
            return;
        }
        if self.mutation == Some(Mutation::GuardSleeps) {
            return;
        }
        let Watch::Armed { term, .. } = guard.watch else { return };
        note!(self, "{}     guard fences", self.nodes[n].name);
        self.report.guard_fences += 1;
        self.nodes[n].guard.watch = Watch::Fenced { term, settled: false };
        // A late timer and the kill itself.
        self.after(MS, 60 * MS, Event::GuardKilled(n, epoch));
        let seen = self.nodes[n].guard.as_seen();
        self.tell(n, MS, MS, Input::GuardSays(seen));
    }

    pub(crate) fn guard_killed(&mut self, n: usize, epoch: u32) {
        let guard = &self.nodes[n].guard;
        if guard.epoch == epoch && guard.alive && matches!(guard.watch, Watch::Fenced { settled: false, .. }) {
            self.kill_server(n);
        }
    }

    /// The agent finds that its guard is dead or silent.
    pub(crate) fn guard_lost(&mut self, n: usize) {
        let tick = self.tick(n);
        if self.nodes[n].agent.life != Life::Down {
            self.tell(n, 0, MS, Input::GuardSays(view::Guard::Lost(tick)));
            self.tell(n, 100 * MS, 900 * MS, Input::GuardReplaced);
        }
    }

    pub(crate) fn guard_replaced(&mut self, n: usize) {
        let guard = &mut self.nodes[n].guard;
        guard.replace();
        let agent = &mut self.nodes[n].agent;
        agent.view.guard = view::Guard::Idle;
        *agent.lane(ha::action::Lane::Guard) = false;
        self.decide(n);
    }
}

impl Guard {
    pub(crate) fn new() -> Guard {
        Guard { epoch: 0, alive: true, frozen_until: 0, watch: Watch::Idle }
    }

    pub(crate) fn is_frozen(&self, now: Us) -> bool {
        now < self.frozen_until
    }

    /// A new process in the place of this one.
    pub(crate) fn replace(&mut self) {
        *self = Guard { epoch: self.epoch + 1, ..Guard::new() };
    }

    /// What an agent hears from it.
    pub(crate) fn as_seen(&self) -> view::Guard {
        match self.watch {
            Watch::Idle => view::Guard::Idle,
            Watch::Armed { term, deadline } => view::Guard::Armed { term, deadline },
            Watch::Fenced { term, .. } => view::Guard::Fenced { term },
        }
    }
}
