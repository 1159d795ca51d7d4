//! What a thread counts for a pool. Counters are plain numbers of one thread; sums over threads are made when asked for.

use std::cell::Cell;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::client::Presence;
use crate::console::rows::Counters;
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
    moves: Cell<u64>,
    /// Parse messages.
    pub(crate) parses: Parses,
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

    /// A server was sent to another thread.
    pub(crate) fn moved(&self) {
        add(&self.moves, 1);
    }

    /// How often a server was sent to another thread.
    pub(crate) fn moves(&self) -> u64 {
        self.moves.get()
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

    /// Requests went to a server, which `owes` an answer to them or to earlier ones.
    #[inline]
    pub(crate) fn asked(&self, presence: &Presence, taken: &Taken, owes: bool) {
        add(&self.binds, u64::from(taken.binds));
        if !owes {
            return;
        }
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
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            server_assignment_count: self.assignments.get(),
            xact_count: self.transactions.get(),
            query_count: self.queries.get(),
            bytes_received: self.received.get(),
            bytes_sent: self.sent.get(),
            xact_time: self.transaction_time.get(),
            query_time: self.query_time.get(),
            wait_time: self.wait_time.get(),
            client_parse_count: self.parses.client.get(),
            server_parse_count: self.parses.server.get(),
            bind_count: self.binds.get(),
            client_login_count: self.logins.get(),
        }
    }
}
