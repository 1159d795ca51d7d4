//! One thread of the pooler: its runtime, its mailbox, its clients and its part of every pool. A client stays on the thread
//! that took it in; servers move.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

use slab::Slab;
use tokio::sync::mpsc;

use crate::client::{Order, Origin, Presence};
use crate::config::Config;
use crate::flow::Registry;
use crate::pool::Pool;
use crate::route::Cluster;
use crate::shared::{Key, Message, Shared, SharedPool};
use crate::stream::Stream;
use crate::{session, sweep};

/// Bytes read at once.
const READ: usize = 16 * 1024;

/// A thread's world.
pub(crate) struct Worker {
    /// Its number.
    pub(crate) index: usize,
    /// What all threads share.
    pub(crate) shared: Arc<Shared>,
    /// Buffers for whoever runs right now.
    pub(crate) scratch: RefCell<Scratch>,
    /// Prepared statements.
    pub(crate) registry: Rc<Registry>,
    /// Its clients.
    pub(crate) clients: RefCell<Slab<Rc<Presence>>>,
    /// When time-outs of its clients are looked at.
    pub(crate) sweeps: sweep::Schedule,
    /// SUSPEND: nothing is read from clients or servers.
    pub(crate) suspended: Cell<bool>,
    /// Pools with idle servers that clients of other threads wait for.
    pub(crate) offers: Offers,
    config: RefCell<Arc<Config>>,
    pools: RefCell<HashMap<Key, Rc<Pool>>>,
}

/// Pools whose idle servers are to be offered to other threads, and who does it.
#[derive(Default)]
pub(crate) struct Offers {
    pools: RefCell<Vec<Arc<SharedPool>>>,
    waker: RefCell<Option<Waker>>,
}

impl Offers {
    /// One more pool, once everything else that is ready has run.
    pub(crate) fn add(&self, pool: Arc<SharedPool>) {
        self.pools.borrow_mut().push(pool);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Returns the pools as soon as there are any.
    async fn taken(&self) -> Vec<Arc<SharedPool>> {
        poll_fn(|cx| {
            let pools = self.pools.take();
            if pools.is_empty() {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(pools)
        })
        .await
    }
}

/// Buffers that a task uses between two waits, and never across one.
pub(crate) struct Scratch {
    /// What was read.
    pub(crate) read: Vec<u8>,
    /// What a server gets, where it isn't what was read.
    pub(crate) to_server: Vec<u8>,
    /// What a client gets, where it isn't what was read.
    pub(crate) to_client: Vec<u8>,
}

impl Worker {
    /// A thread's world before its first client.
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Rc<Worker> {
        let config = shared.config();
        Rc::new(Worker {
            index,
            shared,
            scratch: RefCell::new(Scratch { read: vec![0; READ], to_server: Vec::new(), to_client: Vec::new() }),
            registry: Registry::new(index),
            clients: RefCell::default(),
            sweeps: sweep::Schedule::default(),
            suspended: Cell::new(false),
            offers: Offers::default(),
            config: RefCell::new(config),
            pools: RefCell::default(),
        })
    }

    /// The configuration that this thread goes by.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    /// Takes over the configuration in force.
    pub(crate) fn reload(&self) {
        let config = self.shared.config();
        *self.config.borrow_mut() = config;
        for pool in self.pools() {
            pool.reload(&self.shared);
        }
    }

    /// This thread's part of a pool.
    pub(crate) fn pool_of(&self, shared: &Arc<SharedPool>) -> Rc<Pool> {
        let key: Key = (shared.database.name.clone(), shared.user.name.clone());
        if let Some(pool) = self.pools.borrow().get(&key) {
            return pool.clone();
        }
        let pool = Rc::new(Pool::new(&self.shared, shared.clone(), self.index));
        self.pools.borrow_mut().insert(key, pool.clone());
        pool
    }

    /// Its pools whose databases are at a cluster.
    pub(crate) fn pools_at(&self, cluster: &Arc<Cluster>) -> Vec<Rc<Pool>> {
        self.pools.borrow().values().filter(|pool| pool.is_at(cluster)).cloned().collect()
    }

    /// Takes over the newest topology of a cluster.
    pub(crate) fn follow(self: &Rc<Self>, cluster: &Arc<Cluster>) {
        for pool in self.pools_at(cluster) {
            pool.follow(self);
        }
    }

    /// Looks for servers for those who wait for a cluster's members.
    pub(crate) fn seek(self: &Rc<Self>, cluster: &Arc<Cluster>) {
        for pool in self.pools_at(cluster) {
            pool.seek(self);
        }
    }

    /// All pools that this thread has a part of.
    pub(crate) fn pools(&self) -> Vec<Rc<Pool>> {
        self.pools.borrow().values().cloned().collect()
    }

    /// Does what a message asks.
    pub(crate) fn receive(self: &Rc<Self>, message: Message) {
        match message {
            Message::Call(act) => act(self),
            Message::Client(accepted) => match accepted.stream.attach() {
                Ok(stream) => self.admit(stream, accepted.origin),
                Err(e) => {
                    self.shared.clients[self.index].fetch_sub(1, Ordering::Relaxed);
                    tracing::warn!("register a client's connection: {e}");
                }
            },
            Message::Server(pool, moved) => {
                pool.came(self.index);
                match moved.attach() {
                    Ok(server) => self.pool_of(&pool).arrive(self, server),
                    Err(e) => tracing::warn!("take a server connection from another thread: {e}"),
                }
            }
        }
    }

    /// Begins a client's session. The client counts as this thread's since it was accepted.
    pub(crate) fn admit(self: &Rc<Self>, stream: Stream, origin: Origin) {
        let presence = Rc::new(Presence::new(self.shared.id(), origin));
        let slot = self.clients.borrow_mut().insert(presence.clone());
        let seat = Seat { worker: self.clone(), slot, presence };
        tokio::task::spawn_local(session::run(seat, stream));
    }

    /// Stops or resumes reading.
    pub(crate) fn set_suspended(&self, suspended: bool) {
        self.suspended.set(suspended);
        for (_, client) in self.clients.borrow().iter() {
            client.wake();
        }
    }

    /// Gives an order to every client that `which` picks.
    pub(crate) fn tell_clients(&self, order: &Order, which: impl Fn(&Presence) -> bool) {
        let clients: Vec<Rc<Presence>> = self.clients.borrow().iter().map(|(_, p)| p.clone()).collect();
        for client in clients.into_iter().filter(|p| which(p)) {
            client.tell(order.clone());
        }
    }
}

/// A client's place on a thread; left when dropped.
pub(crate) struct Seat {
    /// The thread.
    pub(crate) worker: Rc<Worker>,
    /// Number of the place on this thread.
    pub(crate) slot: usize,
    /// What others see of the client.
    pub(crate) presence: Rc<Presence>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.clients.borrow_mut().try_remove(self.slot);
        self.worker.shared.clients[self.worker.index].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a thread until its mailbox closes.
pub(crate) async fn run(worker: Rc<Worker>, mut mailbox: mpsc::UnboundedReceiver<Message>) {
    let sweep = tokio::task::spawn_local(sweep::run(worker.clone()));
    let giver = worker.clone();
    let offers = tokio::task::spawn_local(async move {
        loop {
            for pool in giver.offers.taken().await {
                giver.pool_of(&pool).offer(&giver);
            }
        }
    });
    while let Some(message) = mailbox.recv().await {
        worker.receive(message);
    }
    sweep.abort();
    offers.abort();
}
