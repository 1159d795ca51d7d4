//! How the model agent performs actions: what takes how long, what can fail, and which steps need the agent alive.

use ha::action::Lane;
use ha::poolers::Drain;
use ha::view::JobKind;
use ha::{Action, Term};

use crate::node::Life;
use crate::postgres::{Disk, Phase, Relation};
use crate::store::{Op, Write};
use crate::world::{Ended, Event, Input, MS, PgEvent, SECOND, World, note};

impl World {
    pub(crate) fn perform(&mut self, n: usize, action: Action) {
        match action.lane() {
            Lane::Lease | Lane::Dcs => self.perform_on_store(n, &action),
            Lane::Guard => self.ask_guard(n, action),
            Lane::Peers => self.ask_peers(n),
            Lane::Fence => {
                self.report.fences += 1;
                let epoch = self.nodes[n].server.epoch;
                // Now and then a process in the middle of a disk access dies late. The margin doesn't cover that; the
                // guard is taken to be luckier.
                let guarded = self.now >= self.nodes[n].guard_hurt;
                let slow = if guarded && self.random.permille(60) { 1500 * MS } else { 80 * MS };
                let took = self.random.between(3 * MS, slow);
                self.at(self.now + took, Event::Pg(n, epoch, PgEvent::Killed));
                self.tell(n, took + 1, took + MS, Input::FenceDone);
            }
            Lane::Exit => self.exit(n),
            Lane::Postgres => self.begin_work(n, action),
        }
    }

    fn exit(&mut self, n: usize) {
        note!(self, "{}     agent leaves", self.nodes[n].name);
        self.report.leaves += 1;
        if let Some(lease) = self.nodes[n].agent.view.lease {
            self.send(n, Op::Revoke(lease.id), None);
        }
        self.kill_agent(n);
        let again = self.random.between(SECOND, 10 * SECOND);
        self.plan.busy_until(self.now + again);
        self.at(self.now + again, Event::Undo(crate::faults::Fault::AgentDown(n)));
    }

    fn perform_on_store(&mut self, n: usize, action: &Action) {
        let lane = Some(action.lane());
        let view = &self.nodes[n].agent.view;
        let lease = view.lease.map_or(0, |l| l.id);
        let term = view.cluster().and_then(|c| c.term()).unwrap_or_default();
        let name = self.nodes[n].name.clone();
        let op = match action.clone() {
            Action::Grant => Op::Grant(view.settings.ttl),
            Action::Renew => Op::KeepAlive(lease),
            Action::Revoke => Op::Revoke(lease),
            Action::ClaimInitialize => Op::Write(Write::ClaimInitialize { lease }),
            Action::CompleteInitialize { system_identifier } => {
                Op::Write(Write::CompleteInitialize { term, system_identifier })
            }
            Action::Acquire => Op::Write(Write::Acquire { name, lease }),
            Action::Release { term, position } => Op::Write(Write::Release { term, position }),
            Action::WriteSync { term, state, revision } => Op::Write(Write::Sync { term, state, revision }),
            Action::WriteOptime { term, position } => Op::Write(Write::Optime { term, position }),
            Action::ClearFailover { revision } => Op::Write(Write::ClearFailover { revision }),
            Action::Drain { to, patience } => {
                let drain = Drain { to, patience_ms: patience.as_millis() as u64 };
                Op::Write(Write::Drain { member: name, lease, drain })
            }
            Action::EndDrain { revision } => Op::Write(Write::EndDrain { member: name, revision }),
            _ => return,
        };
        self.send(n, op, lane);
    }

    fn begin_work(&mut self, n: usize, action: Action) {
        let Some(work) = self.nodes[n].agent.work.as_mut().filter(|w| w.action == action) else { return };
        let number = work.number;
        work.waits_for_server =
            matches!(action, Action::StartPrimary { .. } | Action::StartReplica { .. } | Action::Promote { .. });
        let phase = self.nodes[n].server.phase;
        match action {
            Action::StartPrimary { .. } | Action::StartReplica { .. } if phase != Phase::Down => {
                self.finish(n, Some("it runs already"));
            }
            Action::StartPrimary { .. } => self.start_server(n, true),
            Action::StartReplica { upstream } => {
                let upstream = upstream.and_then(|name| self.index_of(&name));
                self.nodes[n].disk.upstream = upstream;
                self.start_server(n, false);
            }
            Action::Stop { wait_for } => match phase {
                Phase::Down => self.finish(n, None),
                _ => {
                    self.nodes[n].server.wait_for = wait_for;
                    self.stop_server(n);
                }
            },
            Action::Promote { term } => self.promote(n, term),
            Action::Rejoin { .. } => self.tell(n, 50 * MS, SECOND, Input::WorkStep(number)),
            Action::Clone { .. } => self.tell(n, SECOND, 4 * SECOND, Input::WorkStep(number)),
            Action::Bootstrap => self.tell(n, SECOND / 2, 2 * SECOND, Input::WorkStep(number)),
            Action::Checkpoint => self.tell(n, 30 * MS, 700 * MS, Input::WorkStep(number)),
            Action::Restart => {
                let primary = self.nodes[n].server.primary;
                self.kill_server(n);
                self.nodes[n].disk.clean = primary;
                self.tell(n, 50 * MS, 500 * MS, Input::WorkStep(number));
            }
            Action::Wipe => {
                self.kill_server(n);
                self.tell(n, 100 * MS, SECOND, Input::WorkStep(number));
            }
            Action::Follow { .. } | Action::SetSync { .. } => self.tell(n, 5 * MS, 80 * MS, Input::WorkStep(number)),
            _ => {}
        }
    }

    fn promote(&mut self, n: usize, term: Term) {
        let server = &self.nodes[n].server;
        if server.phase != Phase::Up || server.primary || self.random.permille(30) {
            self.finish(n, Some("pg_promote failed"));
            return;
        }
        let epoch = server.epoch;
        self.after(30 * MS, 300 * MS, Event::Pg(n, epoch, PgEvent::Promoted { term }));
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|x| x.name == name)
    }

    /// The work under way is over: a fresh probe comes with that news.
    pub(crate) fn finish(&mut self, n: usize, failure: Option<&str>) {
        let Some(number) = self.nodes[n].agent.work.as_ref().map(|w| w.number) else { return };
        self.probe(n, Some(Ended::Work { number, failure: failure.map(str::to_owned) }));
    }

    /// Processes of the server changed: the agent looks, and work that waits for this ends.
    pub(crate) fn server_changed(&mut self, n: usize) {
        let node = &self.nodes[n];
        if node.agent.life == Life::Down {
            return;
        }
        let server = (node.server.phase, node.server.primary);
        match (node.agent.work.as_ref().map(|w| (w.kind, w.waits_for_server)), server) {
            (Some((JobKind::StartPrimary | JobKind::StartReplica, true)), (Phase::Up, _)) => self.finish(n, None),
            (Some((JobKind::Restart, true)), (Phase::Up, _)) => self.finish(n, None),
            (Some((JobKind::Promote, true)), (Phase::Up, true)) => self.finish(n, None),
            (Some((JobKind::Stop, _)), (Phase::Down, _)) => self.finish(n, None),
            (Some((_, true)), (Phase::Down | Phase::Orphans, _)) => self.finish(n, Some("PostgreSQL ended")),
            _ => self.tell(n, MS / 2, 3 * MS, Input::Poked),
        }
    }

    /// A later step of the work under way. Needs the agent to be running.
    pub(crate) fn work_step(&mut self, n: usize, number: u64) {
        let Some(work) = self.nodes[n].agent.work.clone().filter(|w| w.number == number) else { return };
        match work.action {
            Action::Bootstrap => self.bootstrap(n),
            Action::Clone { from } => self.clone_data(n, &from),
            Action::Rejoin { from } => self.rejoin(n, &from),
            Action::Checkpoint => {
                self.nodes[n].disk.checkpoint = self.nodes[n].disk.wal.len();
                self.finish(n, None);
            }
            Action::Restart => {
                self.await_server(n);
                let primary = !self.nodes[n].disk.in_recovery;
                self.start_server(n, primary);
            }
            Action::Wipe => {
                let wanted = self.nodes[n].agent.view.wants.reinitialize;
                let kept = self.oracle.destroy(&self.nodes, n);
                self.expect(if wanted { kept } else { Err("a data directory was wiped unasked".to_owned()) });
                self.nodes[n].disk = Disk::default();
                self.report.reinitialized += 1;
                self.finish(n, None);
            }
            Action::Follow { upstream } => {
                let upstream = upstream.and_then(|name| self.index_of(&name));
                self.nodes[n].disk.upstream = upstream;
                if let Some(id) = self.stream_to(n) {
                    self.disconnect(id);
                }
                if let (Some(_), Phase::Up) = (upstream, self.nodes[n].server.phase) {
                    self.receiver_soon(n);
                }
                self.finish(n, None);
            }
            Action::SetSync { value } => {
                self.nodes[n].disk.sync_names = value;
                let epoch = self.nodes[n].server.epoch;
                self.after(0, 300 * MS, Event::Pg(n, epoch, PgEvent::SyncInForce));
                self.finish(n, None);
            }
            _ => {}
        }
    }

    fn await_server(&mut self, n: usize) {
        if let Some(w) = &mut self.nodes[n].agent.work {
            w.waits_for_server = true;
        }
    }

    fn bootstrap(&mut self, n: usize) {
        if self.random.permille(50) {
            self.finish(n, Some("initdb failed"));
            return;
        }
        self.next_record += 1;
        let id = self.next_record;
        self.nodes[n].disk = Disk {
            exists: true,
            system_identifier: format!("sys{id}"),
            wal: vec![id],
            timeline: 1,
            clean: true,
            ..Disk::default()
        };
        self.report.bootstraps += 1;
        self.finish(n, None);
    }

    /// The server to copy from, if it can be reached.
    fn source(&self, n: usize, from: &str) -> Option<usize> {
        let up = self.index_of(from)?;
        let node = &self.nodes[up];
        let reachable = node.host_up && !self.is_cut(n, up) && !self.is_cut(up, n);
        let serves =
            node.server.phase == Phase::Up && !node.server.is_frozen(self.now) && self.now >= node.paused_until;
        (reachable && serves && up != n).then_some(up)
    }

    fn clone_data(&mut self, n: usize, from: &str) {
        let Some(up) = self.source(n, from).filter(|_| !self.random.permille(50)) else {
            self.finish(n, Some("pg_basebackup failed"));
            return;
        };
        if self.nodes[n].disk.exists {
            self.expect(Err(format!("{} clones over existing data", self.nodes[n].name)));
        }
        let source = self.nodes[up].disk.clone();
        self.nodes[n].disk.copy_from(&source, up);
        self.report.clones += 1;
        self.finish(n, None);
    }

    /// Compares histories and repairs what the settings allow. Leaves PostgreSQL running when there was nothing to do.
    fn rejoin(&mut self, n: usize, from: &str) {
        let Some(up) = self.source(n, from).filter(|up| self.nodes[*up].server.primary) else {
            self.finish(n, Some("the leader can't be reached"));
            return;
        };
        let source = self.nodes[up].disk.clone();
        if self.nodes[n].disk.relation_to(&source) == Relation::Ancestor {
            self.finish(n, None);
            return;
        }
        self.kill_server(n);
        let settings = self.nodes[n].agent.view.settings.clone();
        let wipe = if settings.use_pg_rewind {
            let fails = self.random.permille(100);
            if fails && !settings.remove_data_directory_on_rewind_failure {
                self.finish(n, Some("pg_rewind failed"));
                return;
            }
            fails
        } else if settings.remove_data_directory_on_diverged_timelines {
            true
        } else {
            self.finish(n, Some("histories diverged, and nothing may be rewound or removed"));
            return;
        };
        let kept = self.oracle.destroy(&self.nodes, n);
        self.expect(kept);
        if wipe {
            self.nodes[n].disk = Disk::default();
        } else {
            self.nodes[n].disk.copy_from(&source, up);
            self.report.rewinds += 1;
        }
        self.finish(n, None);
    }
}
