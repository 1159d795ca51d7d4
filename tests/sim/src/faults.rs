//! What goes wrong, and when: the plan of one run, the injection of faults, and the judgement after they have healed.

use std::time::Duration;

use ha::Settings;
use ha::cluster::Failover;

use crate::node::Life;
use crate::oracle::accepts_writes;
use crate::postgres::{Phase, Relation};
use crate::random::Random;
use crate::store::{Op, Us, Write};
use crate::world::{Event, Input, MS, SECOND, World, note};

/// How one run goes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) write_pause: Us,
    fault_pause: Us,
    faults_from: Us,
    faults_until: Us,
    /// The last injected fault is over by then.
    healed: Us,
    machine_pauses: bool,
    paused_by_operator: bool,
    led_at: Option<Us>,
    pub(crate) done: bool,
}

impl Plan {
    pub(crate) fn draw(r: &mut Random) -> Plan {
        let from = r.between(2, 12) * SECOND;
        let until = from + r.between(30, 90) * SECOND;
        Plan {
            write_pause: r.between(15, 60) * MS,
            fault_pause: r.between(600, 6000) * MS,
            faults_from: from,
            faults_until: until,
            healed: until,
            machine_pauses: r.permille(150),
            paused_by_operator: false,
            led_at: None,
            done: false,
        }
    }

    pub(crate) fn first_fault(&self) -> Us {
        self.faults_from
    }

    /// Something goes on until then that isn't normal running.
    pub(crate) fn busy_until(&mut self, until: Us) {
        self.healed = self.healed.max(until);
    }
}

/// Draws a cluster's settings.
pub(crate) fn draw_settings(r: &mut Random) -> Settings {
    let seconds = Duration::from_secs;
    let (ttl, loop_wait, retry_timeout) = [(5, 1, 1), (10, 2, 3), (20, 3, 5), (30, 10, 10)][r.index(4)];
    Settings {
        ttl: seconds(ttl),
        loop_wait: seconds(loop_wait),
        retry_timeout: seconds(retry_timeout),
        synchronous_mode: r.permille(600),
        synchronous_mode_strict: r.permille(300),
        synchronous_node_count: 1 + u32::from(r.permille(250)),
        primary_start_timeout: seconds([0, 5, 20, 300][r.index(4)]),
        primary_stop_timeout: seconds([0, 0, 3][r.index(3)]),
        maximum_lag_on_failover: [1 << 20, 100 << 20][r.index(2)],
        check_timeline: r.permille(200),
        use_pg_rewind: r.permille(850),
        remove_data_directory_on_diverged_timelines: r.permille(300),
        remove_data_directory_on_rewind_failure: r.permille(300),
        ..Settings::default()
    }
}

/// Something that goes wrong, or that an operator does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    AgentKilled(usize, Us),
    AgentStopped(usize, Us),
    AgentDown(usize),
    GuardKilled(usize),
    GuardStopped(usize, Us),
    PostmasterKilled(usize),
    ServerCrashed(usize),
    ServerStopped(usize, Us),
    HostCrashed(usize, Us),
    HostDown(usize),
    MachinePaused(usize, Us),
    StoreCut(usize, [bool; 2], Us),
    StoreDown(Us),
    StoreFlaky(Us),
    /// Answers become slow, and then don't come at all.
    StoreFading(usize, Us, Us),
    PeersCut(usize, usize, bool, Us),
    Isolated(usize, Us),
    Switchover,
    Failover(usize),
    Restart(usize),
    Leave(usize),
    Reinitialize(usize),
    SynchronousMode,
    Pause(Us),
    Resume,
}

impl Fault {
    fn label(&self) -> &'static str {
        match self {
            Fault::AgentKilled(..) => "agent killed",
            Fault::AgentStopped(..) => "agent stopped",
            Fault::AgentDown(_) => "agent started again",
            Fault::GuardKilled(_) => "guard killed",
            Fault::GuardStopped(..) => "guard stopped",
            Fault::PostmasterKilled(_) => "postmaster killed",
            Fault::ServerCrashed(_) => "server crashed",
            Fault::ServerStopped(..) => "server stopped",
            Fault::HostCrashed(..) => "host crashed",
            Fault::HostDown(_) => "host started again",
            Fault::MachinePaused(..) => "machine paused",
            Fault::StoreCut(..) => "DCS cut off",
            Fault::StoreDown(_) => "DCS down",
            Fault::StoreFading(..) => "DCS fading",
            Fault::StoreFlaky(_) => "DCS flaky",
            Fault::PeersCut(..) => "peers cut",
            Fault::Isolated(..) => "isolated",
            Fault::Switchover => "switchover",
            Fault::Failover(_) => "manual failover",
            Fault::Restart(_) => "restart",
            Fault::Leave(_) => "agent leaves",
            Fault::Reinitialize(_) => "reinitialize",
            Fault::SynchronousMode => "synchronous mode changed",
            Fault::Pause(_) => "pause",
            Fault::Resume => "resume",
        }
    }

    /// How long it lasts.
    fn lasts(&self) -> Us {
        match self {
            Fault::AgentKilled(_, t) | Fault::AgentStopped(_, t) | Fault::GuardStopped(_, t) => *t,
            Fault::ServerStopped(_, t) | Fault::HostCrashed(_, t) | Fault::MachinePaused(_, t) => *t,
            Fault::StoreCut(_, _, t) | Fault::StoreDown(t) | Fault::StoreFlaky(t) => *t,
            Fault::StoreFading(_, slow, cut) => slow + cut,
            Fault::PeersCut(_, _, _, t) | Fault::Isolated(_, t) | Fault::Pause(t) => *t,
            _ => 0,
        }
    }
}

impl World {
    pub(crate) fn next_fault(&mut self) {
        if self.now >= self.plan.faults_until {
            self.after(0, SECOND, Event::Check);
            return;
        }
        let pause = self.plan.fault_pause;
        self.after(pause / 4, pause * 2, Event::NextFault);
        if self.plan.paused_by_operator {
            return;
        }
        let fault = self.draw_fault();
        self.inject(fault);
    }

    fn draw_fault(&mut self) -> Fault {
        let ttl = self.store.settings.ttl.as_micros() as Us;
        let leader = self.nodes.iter().position(|n| accepts_writes(n, self.now));
        let anyone = self.random.index(self.nodes.len());
        let n = leader.filter(|_| self.random.permille(600)).unwrap_or(anyone);
        let other = (n + 1 + self.random.index(self.nodes.len() - 1)) % self.nodes.len();
        let r = &mut self.random;
        let short = r.between(50 * MS, 3 * SECOND);
        let long = if r.permille(300) { r.between(ttl / 2, 2 * ttl) } else { r.between(SECOND / 2, ttl) };
        match r.index(100) {
            0..=7 => Fault::AgentKilled(n, if r.coin() { short } else { long }),
            8..=16 => Fault::AgentStopped(n, long),
            17..=19 => Fault::GuardKilled(n),
            20..=21 => Fault::GuardStopped(n, long),
            22..=28 => Fault::PostmasterKilled(n),
            29..=32 => Fault::ServerCrashed(n),
            33..=36 => Fault::ServerStopped(n, long),
            37..=42 => Fault::HostCrashed(n, long),
            43..=45 if self.plan.machine_pauses => Fault::MachinePaused(n, long),
            43..=45 => Fault::StoreFading(n, short, long),
            46..=51 => Fault::StoreCut(n, [[true, true], [true, false], [false, true]][r.index(3)], long),
            52..=55 => Fault::StoreDown(if r.coin() { short } else { long }),
            56..=61 => Fault::StoreFlaky(2 * long),
            62..=66 => Fault::PeersCut(n, other, r.coin(), long),
            67..=73 => Fault::Isolated(n, long),
            74..=82 => Fault::Switchover,
            83..=85 => Fault::Failover(other),
            86..=88 => Fault::Restart(n),
            89..=91 => Fault::Leave(n),
            92..=93 => Fault::Reinitialize(n),
            94..=96 => Fault::SynchronousMode,
            _ => Fault::Pause(r.between(5 * SECOND, 20 * SECOND)),
        }
    }

    fn inject(&mut self, fault: Fault) {
        if !self.is_possible(&fault) {
            return;
        }
        *self.report.faults.entry(fault.label()).or_default() += 1;
        note!(self, "FAULT  {fault:?}");
        let until = self.now + fault.lasts();
        self.plan.busy_until(until);
        match fault.clone() {
            Fault::AgentKilled(n, _) => {
                self.nodes[n].agent_hurt = until + 3 * SECOND;
                self.kill_agent(n);
                self.at(until, Event::Undo(Fault::AgentDown(n)));
            }
            Fault::AgentStopped(n, _) => {
                self.nodes[n].agent_hurt = until + 3 * SECOND;
                self.nodes[n].agent.stopped_until = until;
            }
            Fault::GuardKilled(n) => {
                self.nodes[n].guard_hurt = self.now + 4 * SECOND;
                self.nodes[n].guard.alive = false;
                self.guard_lost(n);
            }
            Fault::GuardStopped(n, _) => {
                self.nodes[n].guard_hurt = until + 4 * SECOND;
                self.nodes[n].guard.frozen_until = until;
                let epoch = self.nodes[n].guard.epoch;
                self.at(self.now + SECOND, Event::Undo(Fault::GuardStopped(n, epoch.into())));
            }
            Fault::PostmasterKilled(n) => self.kill_postmaster(n),
            Fault::ServerCrashed(n) => self.kill_server(n),
            Fault::ServerStopped(n, _) => self.nodes[n].server.frozen_until = until,
            Fault::HostCrashed(n, _) => {
                self.nodes[n].agent_hurt = until + 3 * SECOND;
                self.crash_host(n);
                self.at(until, Event::Undo(Fault::HostDown(n)));
            }
            Fault::MachinePaused(n, _) => {
                self.nodes[n].agent_hurt = until + 3 * SECOND;
                self.nodes[n].paused_until = until;
            }
            Fault::StoreCut(n, which, _) => self.cut_store(n, which, until),
            Fault::StoreFading(n, slow, cut) => {
                self.nodes[n].store_slow = self.now + slow;
                self.at(self.now + slow, Event::Undo(Fault::StoreFading(n, 0, cut)));
            }
            Fault::StoreDown(_) => {
                self.store.down_until = self.store.down_until.max(until);
                self.at(until, Event::StoreUp);
            }
            Fault::StoreFlaky(_) => self.flaky_until = until,
            Fault::PeersCut(a, b, both, _) => {
                self.peer_cut.insert((a, b), until);
                if both {
                    self.peer_cut.insert((b, a), until);
                }
            }
            Fault::Isolated(n, _) => {
                self.cut_store(n, [true, true], until);
                for other in (0..self.nodes.len()).filter(|o| *o != n) {
                    self.peer_cut.insert((n, other), until);
                    self.peer_cut.insert((other, n), until);
                }
            }
            _ => self.operate(fault, until),
        }
    }

    /// What operators do.
    fn operate(&mut self, fault: Fault, until: Us) {
        let settings = self.store.settings.clone();
        let configure = |s: Settings| Event::Operator(Op::Write(Write::Configure(Box::new(s))));
        match fault {
            Fault::Switchover => {
                let Some(leader) = self.store.cluster().leader.as_ref().map(|l| l.name.clone()) else { return };
                let others: Vec<&str> = self.nodes.iter().map(|n| n.name.as_str()).filter(|n| *n != leader).collect();
                let named = self.random.coin().then(|| others[self.random.index(others.len())].to_owned());
                let request = Failover { leader: Some(leader), candidate: named, scheduled_at: None };
                self.report.switchovers_asked += 1;
                self.at(self.now, Event::Operator(Op::Write(Write::RequestFailover(request))));
            }
            Fault::Failover(n) => {
                let candidate = Some(self.nodes[n].name.clone());
                let request = Failover { leader: None, candidate, scheduled_at: None };
                self.at(self.now, Event::Operator(Op::Write(Write::RequestFailover(request))));
            }
            Fault::Restart(n) => self.nodes[n].agent.view.wants.restart = true,
            Fault::Leave(n) => {
                self.nodes[n].agent_hurt = self.now + 10 * SECOND;
                self.tell(n, MS, 5 * MS, Input::Leave);
            }
            Fault::Reinitialize(n) => self.nodes[n].agent.view.wants.reinitialize = true,
            Fault::SynchronousMode => {
                let on = if self.random.permille(300) { settings.synchronous_mode } else { !settings.synchronous_mode };
                let strict = self.random.permille(300);
                let count = 1 + u32::from(self.random.permille(300));
                self.at(
                    self.now,
                    configure(Settings {
                        synchronous_mode: on,
                        synchronous_mode_strict: strict,
                        synchronous_node_count: count,
                        ..settings
                    }),
                );
            }
            Fault::Pause(_) => {
                self.plan.paused_by_operator = true;
                self.at(self.now, configure(Settings { pause: true, ..settings }));
                let down = self.random.between(0, 2) * self.random.between(SECOND, 4 * SECOND);
                if down > 0 {
                    self.store.down_until = self.now + SECOND + down;
                    self.at(self.now + SECOND + down, Event::StoreUp);
                }
                self.at(until.max(self.store.down_until + 3 * SECOND), Event::Undo(Fault::Resume));
            }
            _ => {}
        }
    }

    /// Agent and guard of a node save each other, so only one of them is hurt at a time; and a pause begins when all
    /// is well, since it is an operator's promise to look after the cluster.
    fn is_possible(&self, fault: &Fault) -> bool {
        let free = |n: usize| self.now >= self.nodes[n].agent_hurt && self.nodes[n].agent.life == Life::Up;
        let guarded = |n: usize| self.now >= self.nodes[n].guard_hurt;
        match fault {
            Fault::AgentKilled(n, _) | Fault::AgentStopped(n, _) | Fault::Leave(n) | Fault::MachinePaused(n, _) => {
                free(*n) && guarded(*n)
            }
            Fault::HostCrashed(n, _) => self.nodes[*n].host_up && guarded(*n) && free(*n),
            Fault::GuardKilled(n) | Fault::GuardStopped(n, _) => free(*n) && guarded(*n) && self.nodes[*n].host_up,
            Fault::PostmasterKilled(n) | Fault::ServerCrashed(n) | Fault::ServerStopped(n, _) => {
                self.nodes[*n].server.phase == Phase::Up
            }
            Fault::Restart(n) | Fault::Reinitialize(n) => free(*n) && self.nodes[*n].server.phase == Phase::Up,
            Fault::Pause(_) => {
                let well = |n: usize| free(n) && guarded(n) && self.now >= self.nodes[n].store_cut[0];
                (0..self.nodes.len()).all(well)
                    && self.nodes.iter().any(|n| accepts_writes(n, self.now))
                    && self.now >= self.plan.healed.min(self.flaky_until)
            }
            _ => true,
        }
    }

    fn cut_store(&mut self, n: usize, which: [bool; 2], until: Us) {
        for (slot, cut) in self.nodes[n].store_cut.iter_mut().zip(which) {
            if cut {
                *slot = until;
            }
        }
    }

    fn crash_host(&mut self, n: usize) {
        self.kill_agent(n);
        self.kill_server(n);
        let node = &mut self.nodes[n];
        node.guard.epoch += 1;
        node.guard.alive = false;
        node.host_up = false;
    }

    /// The end of a fault, where something must be done for it.
    pub(crate) fn undo(&mut self, fault: &Fault) {
        note!(self, "UNDO   {fault:?}");
        match *fault {
            Fault::AgentDown(n) => self.start_agent(n),
            Fault::HostDown(n) => {
                self.nodes[n].host_up = true;
                self.nodes[n].guard.replace();
                self.start_agent(n);
            }
            Fault::GuardStopped(n, epoch) if u64::from(self.nodes[n].guard.epoch) == epoch => self.guard_lost(n),
            // As with every other fault: none begins in a pause.
            Fault::StoreFading(n, _, cut) if !self.plan.paused_by_operator => {
                self.cut_store(n, [true, true], self.now + cut);
            }
            Fault::Resume => {
                self.plan.paused_by_operator = false;
                self.oracle.resumed = self.now;
                let settings = Settings { pause: false, ..self.store.settings.clone() };
                self.write_to_store(&Op::Write(Write::Configure(Box::new(settings))));
                self.plan.busy_until(self.now);
            }
            _ => {}
        }
    }

    // ---- after the faults ----

    /// Looks whether the cluster is whole again, and complains when that takes too long.
    pub(crate) fn check_progress(&mut self) {
        self.at(self.now + 200 * MS, Event::Check);
        let healed = self.plan.healed.max(self.flaky_until).max(self.store.down_until);
        if self.now < healed {
            return;
        }
        let s = &self.store.settings;
        let ttl = s.ttl.as_micros() as Us;
        let loop_wait = s.loop_wait.as_micros() as Us;
        // A lease restarted by the DCS, patience with members ahead and with requests, a back-off, and a slow start.
        let leader_bound = 3 * ttl + 2 * loop_wait + 60 * SECOND;
        let level_bound = leader_bound + 2 * loop_wait + 90 * SECOND;
        let leader =
            self.nodes.iter().position(|n| accepts_writes(n, self.now) && self.store.cluster().is_led_by(&n.name));
        let Some(leader) = leader else {
            self.plan.led_at = None;
            self.writing = true;
            if self.now > healed + leader_bound {
                self.broken.get_or_insert(format!("no leader {} s after the faults", leader_bound / SECOND));
            }
            return;
        };
        let since = *self.plan.led_at.get_or_insert(self.now);
        self.report.slowest_leader_ms = self.report.slowest_leader_ms.max((since - healed.min(since)) / MS);
        self.writing = self.now < since + SECOND;
        if !self.writing && self.is_level(leader) {
            self.report.slowest_level_ms = self.report.slowest_level_ms.max((self.now - healed) / MS);
            self.plan.done = true;
        } else if self.now > healed + level_bound {
            self.broken.get_or_insert(format!("replicas not level {} s after the faults", level_bound / SECOND));
        }
    }

    fn is_level(&self, leader: usize) -> bool {
        let source = &self.nodes[leader].disk;
        (0..self.nodes.len()).filter(|n| *n != leader).all(|n| {
            let node = &self.nodes[n];
            let s = &self.store.settings;
            let repairable = s.use_pg_rewind || s.remove_data_directory_on_diverged_timelines;
            let foreign = node.disk.exists && node.disk.system_identifier != source.system_identifier;
            let stuck = node.disk.exists && !repairable && node.disk.relation_to(source) != Relation::Ancestor;
            let streams = self.streams.values().any(|x| x.to == n && x.from == leader);
            foreign || stuck || (streams && node.disk.wal == source.wal)
        })
    }
}
