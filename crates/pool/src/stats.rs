//! What a thread counts for a pool. Counters are plain numbers of one thread; sums over threads are made when asked for.

use std::cell::Cell;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::client::Presence;
use crate::flow::requests::{Parses, Taken};

/// Counters of one pool on one thread.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    assignments: Cell<u64>,
    transactions: Cell<u64>,
    queries: Cell<u64>,
    received: Cell<u64>,
    sent: Cell<u64>,
    transaction_time: Cell<Duration>,
    query_time: Cell<Duration>,
    wait_time: Cell<Duration>,
    binds: Cell<u64>,
    logins: Cell<u64>,
    /// Parse messages.
    pub(crate) parses: Parses,
}

/// Sums of counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Servers given to clients.
    pub(crate) assignments: u64,
    /// Transactions ended.
    pub(crate) transactions: u64,
    /// Queries answered.
    pub(crate) queries: u64,
    /// Bytes from clients.
    pub(crate) received: u64,
    /// Bytes to clients.
    pub(crate) sent: u64,
    /// Time in transactions.
    pub(crate) transaction_time: Duration,
    /// Time in queries.
    pub(crate) query_time: Duration,
    /// Time that clients waited for servers.
    pub(crate) wait_time: Duration,
    /// Bind messages.
    pub(crate) binds: u64,
    /// Logins of clients.
    pub(crate) logins: u64,
    /// Parse messages from clients.
    pub(crate) client_parses: u64,
    /// Parse messages to servers.
    pub(crate) server_parses: u64,
}

fn add<T: Copy + AddAssign>(cell: &Cell<T>, more: T) {
    let mut sum = cell.get();
    sum += more;
    cell.set(sum);
}

impl Stats {
    /// A client got a server.
    #[inline]
    pub(crate) fn assigned(&self) {
        add(&self.assignments, 1);
    }

    /// A client has waited for a server.
    pub(crate) fn waited(&self, time: Duration) {
        add(&self.wait_time, time);
    }

    /// A client has logged in.
    pub(crate) fn logged_in(&self) {
        add(&self.logins, 1);
    }

    /// Bytes came from a client.
    #[inline]
    pub(crate) fn received(&self, bytes: usize) {
        add(&self.received, bytes as u64);
    }

    /// Bytes came from a server.
    #[inline]
    pub(crate) fn sent(&self, bytes: usize) {
        add(&self.sent, bytes as u64);
    }

    /// Requests went to a server.
    #[inline]
    pub(crate) fn asked(&self, presence: &Presence, taken: &Taken) {
        if taken.used == 0 {
            return;
        }
        add(&self.binds, u64::from(taken.binds));
        presence.idle.set(None);
        if presence.query.get().is_none() {
            let now = Instant::now();
            presence.requested.set(Some(now));
            presence.query.set(Some(now));
            if presence.transaction.get().is_none() {
                presence.transaction.set(Some(now));
            }
        }
    }

    /// A server said that it's ready for the next query.
    #[inline]
    pub(crate) fn answered(&self, presence: &Presence, status: u8) {
        let now = Instant::now();
        add(&self.queries, 1);
        if let Some(begun) = presence.query.take() {
            add(&self.query_time, now - begun);
        }
        if status == b'I' {
            add(&self.transactions, 1);
            if let Some(begun) = presence.transaction.take() {
                add(&self.transaction_time, now - begun);
            }
        }
        presence.idle.set(Some(now));
    }

    /// The counters now.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            assignments: self.assignments.get(),
            transactions: self.transactions.get(),
            queries: self.queries.get(),
            received: self.received.get(),
            sent: self.sent.get(),
            transaction_time: self.transaction_time.get(),
            query_time: self.query_time.get(),
            wait_time: self.wait_time.get(),
            binds: self.binds.get(),
            logins: self.logins.get(),
            client_parses: self.parses.client.get(),
            server_parses: self.parses.server.get(),
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, more: Totals) {
        self.assignments += more.assignments;
        self.transactions += more.transactions;
        self.queries += more.queries;
        self.received += more.received;
        self.sent += more.sent;
        self.transaction_time += more.transaction_time;
        self.query_time += more.query_time;
        self.wait_time += more.wait_time;
        self.binds += more.binds;
        self.logins += more.logins;
        self.client_parses += more.client_parses;
        self.server_parses += more.server_parses;
    }
}
