//! What a pool does now and then: closing servers that are too old, idle or dead, keeping a minimum open, serving those
//! who wait for something that nobody announces.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Pool;
use crate::server::{Marks, State};
use crate::worker::Worker;

impl Pool {
    /// Looks after the pool; called a few times a second.
    pub(crate) fn keep_up(&self, worker: &Rc<Worker>) {
        self.close_spent(worker);
        if self.is_paused() {
            return self.close_idle("pause mode");
        }
        if self.first_waiter().is_some() {
            self.seek(worker);
        } else {
            self.show_oldest();
        }
        let plan = self.plan().clone();
        let wanted = plan.min_size.min(plan.size);
        if self.thread == 0 && self.shared.servers.load(Ordering::Relaxed) < wanted && self.is_in_use(&plan) {
            let ready = self.shared.trouble().is_none_or(|t| t.at.elapsed() >= plan.server_login_retry);
            if ready {
                self.open_spare(worker);
            }
        }
    }

    /// A minimum is kept for a pool that has clients, or whose user is the database's own.
    fn is_in_use(&self, plan: &crate::plan::Plan) -> bool {
        plan.forced_user || self.shared.clients.load(Ordering::Relaxed) > 0
    }

    fn close_spent(&self, worker: &Rc<Worker>) {
        let idle = self.idle.take();
        let plan = self.plan().clone();
        let mut count = self.shared.servers.load(Ordering::Relaxed);
        let mut kept = std::collections::VecDeque::new();
        for mut server in idle {
            let idle_over = !plan.server_idle_timeout.is_zero()
                && server.released.elapsed() >= plan.server_idle_timeout
                && count > plan.min_size;
            let why = if server.marks.outdated.get() {
                Some("database configuration changed")
            } else if !server.is_quiet(&worker.shared.tracked) {
                Some("server conn crashed?")
            } else if self.is_expired(&server) {
                Some("server lifetime over")
            } else if idle_over {
                Some("server idle timeout")
            } else {
                None
            };
            match why {
                Some(why) => {
                    count = count.saturating_sub(1);
                    self.close(server, why);
                }
                None => {
                    if self.must_be_tested(&server) {
                        server.marks.state.set(State::Used);
                    }
                    kept.push_back(server);
                }
            }
        }
        self.shared.set_idle(self.thread, kept.len());
        *self.idle.borrow_mut() = kept;
    }

    /// Closes all idle servers.
    pub(crate) fn close_idle(&self, why: &str) {
        for server in self.idle.take() {
            self.close(server, why);
        }
        self.shared.set_idle(self.thread, 0);
    }

    /// Closes the server that has been idle longest. Whether there was one.
    pub(crate) fn close_oldest_idle(&self, why: &str) -> bool {
        let mut idle = self.idle.borrow_mut();
        let Some(server) = idle.pop_front() else { return false };
        self.shared.set_idle(self.thread, idle.len());
        drop(idle);
        self.close(server, why);
        true
    }

    /// No server of now is used for another client: idle ones go at once, held ones when they're given back.
    pub(crate) fn outdate(&self, why: &str) {
        for (_, marks) in self.roll.borrow().values() {
            marks.outdated.set(true);
        }
        self.close_idle(why);
    }

    /// Every server of this thread.
    pub(crate) fn servers(&self) -> Vec<super::Enrolled> {
        self.roll.borrow().values().cloned().collect()
    }

    /// What others see of a server of this thread.
    pub(crate) fn marks(&self, id: u64) -> Option<Rc<Marks>> {
        self.roll.borrow().get(&id).map(|(_, marks)| marks.clone())
    }

    /// Clients that wait, and since when the first of them does.
    pub(crate) fn waiting(&self, worker: &Worker) -> (usize, Option<std::time::Duration>) {
        let count = self.waiters.borrow().iter().filter(|w| !w.is_gone()).count();
        let now = worker.shared.nanos(Instant::now());
        let since = self.first_waiter().map(|w| std::time::Duration::from_nanos(now.saturating_sub(w.since)));
        (count, since)
    }

    /// Connections being made.
    pub(crate) fn launching(&self) -> u32 {
        self.launching.get()
    }
}
