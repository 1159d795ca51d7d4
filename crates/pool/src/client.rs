//! One client connection: its socket and state, and the part of it that the console, the sweep and cancel requests see.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Instant, SystemTime};

use crate::console::rows::Replication;
use crate::flow::{ClientStatements, Requests};
use crate::server::{Facts, Output};
use crate::stream::Stream;
use crate::vars::Vars;

/// Where a client comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// TCP: its address, and ours.
    Tcp(SocketAddr, SocketAddr),
    /// A Unix socket: the process number at the other end, where known.
    Unix(Option<i32>),
}

/// A client that has logged in.
#[derive(Debug)]
pub(crate) struct Client {
    /// The connection.
    pub(crate) stream: Stream,
    /// What has come but couldn't be used yet.
    pub(crate) input: Vec<u8>,
    /// What it hasn't taken yet.
    pub(crate) output: Output,
    /// State of its requests.
    pub(crate) requests: Requests,
    /// Its tracked parameters.
    pub(crate) vars: Vars,
    /// Its prepared statements, where they are renamed.
    pub(crate) statements: Option<Box<ClientStatements>>,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Logs in.
    Login,
    /// Between transactions, or at work on a server.
    Active,
    /// Waits for a server.
    Waiting,
}

/// What happens to a client from outside.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// It's disconnected with this message.
    Close(Arc<str>),
    /// It's told this and goes on.
    Notice(Arc<str>),
    /// The server that it holds is taken away; without one nothing happens.
    Cut(Cut),
}

/// Why a server of a cluster is taken away from the client that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Another leadership is in force.
    Deposed,
    /// The member drains, and time is up.
    Drained,
}

/// What others see of a client.
#[derive(Debug)]
pub(crate) struct Presence {
    /// Number, unique in the process.
    pub(crate) id: u64,
    /// User and database as named at login; empty before.
    pub(crate) names: RefCell<Option<crate::shared::Key>>,
    /// Its pool: the database, and the user that servers see.
    pub(crate) pool: RefCell<Option<crate::shared::Key>>,
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// When it connected, for people.
    pub(crate) connected: SystemTime,
    /// When it connected.
    pub(crate) since: Instant,
    /// What it does.
    pub(crate) state: Cell<State>,
    /// Time-outs of its pool.
    pub(crate) timeouts: Cell<Option<crate::plan::Timeouts>>,
    /// It is a replication connection.
    pub(crate) replication: Cell<Replication>,
    /// Its last request.
    pub(crate) requested: Cell<Option<Instant>>,
    /// Begin of the query that runs.
    pub(crate) query: Cell<Option<Instant>>,
    /// Begin of the transaction that runs.
    pub(crate) transaction: Cell<Option<Instant>>,
    /// Since when it waits for a server.
    pub(crate) waits: Cell<Option<Instant>>,
    /// Since when nothing runs although a transaction is open, or the client is idle altogether.
    pub(crate) idle: Cell<Option<Instant>>,
    /// Whether it was told that it waits (`query_wait_notify`).
    pub(crate) notified: Cell<bool>,
    /// The server that it holds.
    pub(crate) server: RefCell<Option<Arc<Facts>>>,
    /// Its application_name.
    pub(crate) application: RefCell<Option<Arc<[u8]>>>,
    /// TLS version and cipher; empty without TLS.
    pub(crate) tls: RefCell<Box<str>>,
    /// Prepared statements.
    pub(crate) statements: Cell<u32>,
    /// Secret half of the key that cancels its queries.
    pub(crate) key: RefCell<Box<[u8]>>,
    /// An order that it has to follow.
    pub(crate) order: RefCell<Option<Order>>,
    /// Wakes its task.
    pub(crate) waker: RefCell<Option<Waker>>,
}

impl Presence {
    /// A client that has just been accepted.
    pub(crate) fn new(id: u64, origin: Origin) -> Presence {
        Presence {
            id,
            names: RefCell::default(),
            pool: RefCell::default(),
            origin,
            connected: SystemTime::now(),
            since: Instant::now(),
            state: Cell::new(State::Login),
            timeouts: Cell::default(),
            replication: Cell::new(Replication::None),
            requested: Cell::default(),
            query: Cell::default(),
            transaction: Cell::default(),
            waits: Cell::default(),
            idle: Cell::default(),
            notified: Cell::default(),
            server: RefCell::default(),
            application: RefCell::default(),
            tls: RefCell::default(),
            statements: Cell::default(),
            key: RefCell::default(),
            order: RefCell::default(),
            waker: RefCell::default(),
        }
    }

    /// Gives an order; the client's task follows it when it runs next, which is at once.
    pub(crate) fn tell(&self, order: Order) {
        let mut waiting = self.order.borrow_mut();
        // A notice must not take the place of something that has to be done.
        if waiting.is_none() || !matches!(order, Order::Notice(_)) {
            *waiting = Some(order);
        }
        drop(waiting);
        self.wake();
    }

    /// Has the client's task run.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}
