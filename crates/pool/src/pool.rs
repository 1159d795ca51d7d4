//! One thread's part of a pool: its idle servers and its waiting clients. A free server goes to the client that has waited
//! longest, on whichever thread; no client waits while any thread has an idle server of its pool.
//!
//! Why none waits in vain: a client that begins to wait first says so (`set_waiters`) and then looks for idle servers
//! elsewhere (`idle_elsewhere`); a thread that puts a server aside first says so (`set_idle`) and then looks for waiting
//! clients (`longest_elsewhere`). All four are sequentially consistent, so that at least one of the two sees the other.

mod early;
pub(crate) mod launch;
mod reach;
pub(crate) mod route;
mod upkeep;
mod waiter;

use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::{Duration, Instant};

use crate::config::PoolMode;
use crate::plan::Plan;
use crate::route::choice::Standing;
use crate::server::{Facts, Marks, Server, State};
use crate::shared::{Message, Shared, SharedPool};
use crate::stats::Stats;
use crate::worker::Worker;
pub(crate) use waiter::Waiter;

/// By how much longer a client of another thread must have waited for a server to move there: moving one costs about as
/// much as a transaction.
const PATIENCE: Duration = Duration::from_millis(2);

/// What others than its holder see of a server.
pub(crate) type Enrolled = (Arc<Facts>, Rc<Marks>);

/// A thread's part of a pool.
#[derive(Debug)]
pub(crate) struct Pool {
    /// What all threads see of it.
    pub(crate) shared: Arc<SharedPool>,
    thread: usize,
    /// What it counts.
    pub(crate) stats: Stats,
    plan: RefCell<Arc<Plan>>,
    mode: Cell<PoolMode>,
    idle: RefCell<VecDeque<Box<Server>>>,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
    /// Every server of this thread, held or idle.
    roll: RefCell<HashMap<u64, Enrolled>>,
    /// Connections being made.
    pub(super) launching: Cell<u32>,
    /// Those among them that are to find out whether a member serves.
    pub(super) trying: Cell<u32>,
    route: RefCell<Option<route::Route>>,
    /// No transaction begins now, because the cluster's leader drains or there's none.
    held: Cell<bool>,
    /// Some member drains: on some servers no transaction begins.
    halting: Cell<bool>,
    /// Idle servers will be offered to other threads as soon as this one has done what it has to do.
    offered: Cell<bool>,
    /// The leader's successor that connections are being made to already.
    early: RefCell<Option<Arc<str>>>,
}

impl Pool {
    pub(crate) fn new(all: &Shared, shared: Arc<SharedPool>, thread: usize) -> Pool {
        let plan = shared.plan();
        let pool = Pool {
            shared,
            thread,
            stats: Stats::default(),
            mode: Cell::new(plan.mode),
            plan: RefCell::new(plan),
            idle: RefCell::default(),
            waiters: RefCell::default(),
            roll: RefCell::default(),
            launching: Cell::new(0),
            trying: Cell::new(0),
            route: RefCell::default(),
            held: Cell::new(false),
            halting: Cell::new(false),
            offered: Cell::new(false),
            early: RefCell::default(),
        };
        pool.set_route(all);
        pool
    }

    /// Settings in force.
    #[inline]
    pub(crate) fn plan(&self) -> Ref<'_, Arc<Plan>> {
        self.plan.borrow()
    }

    /// Takes over the settings in force.
    pub(crate) fn reload(&self, all: &Shared) {
        let plan = self.shared.plan();
        self.mode.set(plan.mode);
        *self.plan.borrow_mut() = plan;
        self.set_route(all);
    }

    /// When servers are given back.
    #[inline]
    pub(crate) fn mode(&self) -> PoolMode {
        self.mode.get()
    }

    /// Takes an idle server, unless others wait already. `None`: the caller has to wait.
    pub(crate) fn take(&self, worker: &Rc<Worker>) -> Option<Box<Server>> {
        if self.is_held() || !self.waiters.borrow().is_empty() {
            return None;
        }
        self.take_idle(worker)
    }

    fn is_held(&self) -> bool {
        self.is_paused() || self.held.get()
    }

    fn is_paused(&self) -> bool {
        self.shared.database.paused.load(Ordering::Relaxed)
    }

    fn take_idle(&self, worker: &Rc<Worker>) -> Option<Box<Server>> {
        let round_robin = self.plan().server_round_robin;
        loop {
            let mut server = {
                let mut idle = self.idle.borrow_mut();
                // The one used last is the one whose memory is warm.
                let server = if round_robin { idle.pop_front() } else { idle.pop_back() }?;
                self.shared.set_idle(self.thread, idle.len());
                server
            };
            if server.marks.outdated.get() {
                self.close(server, "outdated");
                continue;
            }
            if !server.is_quiet(&worker.shared.tracked) {
                self.close(server, "server conn crashed?");
                continue;
            }
            if self.must_be_tested(&server) {
                launch::test(worker, self, server);
                continue;
            }
            server.marks.state.set(State::Active);
            return Some(server);
        }
    }

    /// Whether a server has been idle so long that it's asked whether it's alive before a client gets it.
    fn must_be_tested(&self, server: &Server) -> bool {
        let plan = self.plan();
        let delay = plan.server_check_delay;
        !delay.is_zero() && !plan.server_check_query.is_empty() && server.released.elapsed() >= delay
    }

    /// Begins to wait for a server. An error is what the client is told.
    pub(crate) fn wait(&self, worker: &Rc<Worker>, cx: &Context<'_>) -> Result<Rc<Waiter>, Arc<str>> {
        if let Some(refusal) = self.fails_fast() {
            self.launch(worker);
            return Err(refusal);
        }
        let waiter = Rc::new(Waiter::new(cx.waker().clone(), worker.shared.nanos(Instant::now())));
        self.waiters.borrow_mut().push_back(waiter.clone());
        self.show_oldest();
        self.seek(worker);
        Ok(waiter)
    }

    /// What a client is told at once, because the server can't be reached and nothing else is there.
    fn fails_fast(&self) -> Option<Arc<str>> {
        let trouble = self.shared.trouble()?;
        let connected = self.shared.servers.load(Ordering::Relaxed).saturating_sub(self.launching.get());
        if connected > 0 || self.is_held() {
            return None;
        }
        Some(match &trouble.said {
            Some(said) => format!("server login has been failing, cached error: {said} (server_login_retry)").into(),
            None => "server login has been failing, try again later (server_login_retry)".into(),
        })
    }

    /// Looks for servers for those who wait: idle here, idle on other threads, new ones.
    pub(crate) fn seek(&self, worker: &Rc<Worker>) {
        if self.is_held() {
            return;
        }
        while self.first_waiter().is_some() {
            let Some(server) = self.take_idle(worker) else { break };
            self.hand_over(worker, server);
        }
        if self.waiters.borrow().is_empty() {
            return;
        }
        if let Some(other) = self.shared.idle_elsewhere(self.thread) {
            let (pool, thread) = (self.shared.clone(), self.thread);
            worker.shared.send(other, Message::Call(Box::new(move |w| w.pool_of(&pool).donate(w, thread))));
            return;
        }
        self.launch(worker);
    }

    /// Gives an idle server to clients that wait on another thread.
    fn donate(&self, worker: &Rc<Worker>, thread: usize) {
        // Whoever asks may know of the end of a hold already.
        self.follow(worker);
        if self.first_waiter().is_some() || self.is_held() {
            return;
        }
        if let Some(server) = self.take_idle(worker) {
            self.send(worker, server, thread);
        }
    }

    /// Takes back a server that is free.
    pub(crate) fn give(&self, worker: &Rc<Worker>, server: Box<Server>) {
        server.marks.client.set(None);
        if server.marks.outdated.get() || self.is_expired(&server) {
            self.close(server, "server lifetime over");
            return self.refill(worker);
        }
        if server.marks.cancels.get() > 0 {
            // A late cancel request would hit the next client's query.
            server.marks.state.set(State::BeingCanceled);
            return launch::after_cancels(worker, self, server);
        }
        if self.plan().server_reset_query_always && !self.plan().server_reset_query.is_empty() {
            return launch::reset(worker, self, server);
        }
        server.marks.state.set(State::Idle);
        self.place(worker, server);
    }

    /// Puts a clean server where it's needed most.
    pub(super) fn place(&self, worker: &Rc<Worker>, mut server: Box<Server>) {
        if self.is_paused() {
            return self.close(server, "pause mode");
        }
        if server.marks.outdated.get() {
            self.close(server, "server lifetime over");
            return self.refill(worker);
        }
        if self.held.get() {
            // It goes on from here if the leader stays the same.
            return self.put_aside(worker, server);
        }
        let Some(here) = self.first_waiter() else { return self.put_aside(worker, server) };
        let patience = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        match self.shared.longest_elsewhere(self.thread) {
            // One at a time: a thread that gets what it lacks lets others be before it has said so.
            Some((thread, since)) if since.saturating_add(patience) < here.since && self.shared.coming(thread) == 0 => {
                self.send(worker, server, thread);
            }
            _ => {
                server.released = Instant::now();
                self.hand_over(worker, server);
            }
        }
    }

    fn put_aside(&self, worker: &Rc<Worker>, mut server: Box<Server>) {
        server.released = Instant::now();
        server.marks.state.set(State::Idle);
        let mut idle = self.idle.borrow_mut();
        idle.push_back(server);
        self.shared.set_idle(self.thread, idle.len());
        drop(idle);
        if self.shared.longest_elsewhere(self.thread).is_some() && !self.offered.replace(true) {
            worker.offers.add(self.shared.clone());
        }
    }

    /// Gives idle servers to clients that wait on other threads. It comes after whatever this thread has to do already:
    /// one of its own clients may want them, and that costs less.
    pub(crate) fn offer(&self, worker: &Rc<Worker>) {
        self.offered.set(false);
        if self.is_held() || self.first_waiter().is_some() {
            return;
        }
        for (thread, waiters) in self.shared.waiting_elsewhere(self.thread) {
            for _ in 0..waiters {
                let Some(server) = self.take_idle(worker) else { return };
                self.send(worker, server, thread);
            }
        }
    }

    /// Gives a server to the client that has waited longest.
    fn hand_over(&self, worker: &Rc<Worker>, server: Box<Server>) {
        let waiter = self.waiters.borrow_mut().pop_front();
        self.show_oldest();
        match waiter {
            Some(waiter) => {
                server.marks.state.set(State::Active);
                waiter.grant(Ok(server));
            }
            None => self.put_aside(worker, server),
        }
    }

    /// Sends a server to another thread.
    fn send(&self, worker: &Rc<Worker>, server: Box<Server>, thread: usize) {
        self.roll.borrow_mut().remove(&server.facts.id);
        match server.detach() {
            Ok(moved) => {
                self.stats.moved();
                self.shared.sent(thread);
                worker.shared.send(thread, Message::Server(self.shared.clone(), Box::new(moved)));
            }
            Err(e) => tracing::warn!("move a server connection to another thread: {e}"),
        }
    }

    /// A server arrives: from another thread, or new.
    pub(crate) fn arrive(&self, worker: &Rc<Worker>, server: Box<Server>) {
        self.follow(worker);
        self.enrol(&server);
        if matches!(self.standing(&server.facts), Standing::Outdated | Standing::Deposed) {
            server.marks.outdated.set(true);
        }
        self.place(worker, server);
    }

    /// A server was closed: those who wait, on whichever thread, may have another.
    pub(crate) fn refill(&self, worker: &Rc<Worker>) {
        if self.first_waiter().is_some() {
            self.seek(worker);
        }
        for thread in self.shared.threads_waiting().filter(|t| *t != self.thread) {
            let pool = self.shared.clone();
            worker.shared.send(thread, Message::Call(Box::new(move |w| w.pool_of(&pool).seek(w))));
        }
    }

    /// Takes a server that is not idle into the books.
    pub(super) fn enrol(&self, server: &Server) {
        self.roll.borrow_mut().insert(server.facts.id, (server.facts.clone(), server.marks.clone()));
    }

    /// Closes a server, saying why.
    pub(crate) fn close(&self, server: Box<Server>, why: &str) {
        self.roll.borrow_mut().remove(&server.facts.id);
        let facts = &server.facts;
        if self.plan().log_disconnections {
            launch::log_close(&self.shared, facts, why, facts.since.elapsed().as_secs());
        }
        server.terminate();
    }

    /// The first who still waits; those who gave up are dropped on the way.
    fn first_waiter(&self) -> Option<Rc<Waiter>> {
        let mut waiters = self.waiters.borrow_mut();
        while waiters.front().is_some_and(|w| w.is_gone()) {
            waiters.pop_front();
        }
        waiters.front().cloned()
    }

    /// Forgets a client that has given up waiting; what it was given meanwhile goes back.
    pub(crate) fn give_up(&self, worker: &Rc<Worker>, waiter: &Waiter) {
        if let Some(Ok(server)) = waiter.leave() {
            self.give(worker, server);
        }
        self.first_waiter();
        self.show_oldest();
    }

    fn show_oldest(&self) {
        let waiters = self.waiters.borrow();
        self.shared.set_waiters(self.thread, waiters.len(), waiters.front().map(|w| w.since));
    }

    /// Tells everyone who waits that there will be no server.
    pub(super) fn refuse_all(&self, message: &Arc<str>) {
        for waiter in self.waiters.take() {
            waiter.grant(Err(message.clone()));
        }
        self.show_oldest();
    }

    fn is_expired(&self, server: &Server) -> bool {
        let lifetime = self.plan().server_lifetime;
        !lifetime.is_zero() && server.facts.since.elapsed() >= lifetime
    }
}
