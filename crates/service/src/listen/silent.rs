//! Connections that have asked nothing yet. Whoever opens many of them must not keep out those who ask: the oldest gives
//! way when there are too many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// All of a listener, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Silent(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    tokens: BTreeMap<u64, CancellationToken>,
}

/// One of them, until it asks or ends.
#[derive(Debug)]
pub(super) struct Entry {
    all: Silent,
    number: u64,
    /// It has to give way.
    pub(super) evicted: CancellationToken,
}

impl Silent {
    /// Adds a connection.
    pub(super) fn enter(&self) -> Entry {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, evicted) = (waiting.next, CancellationToken::new());
        waiting.next += 1;
        waiting.tokens.insert(number, evicted.clone());
        Entry { all: self.clone(), number, evicted }
    }

    /// Has the oldest one give way. Returns whether there is any.
    pub(super) fn evict(&self) -> bool {
        let oldest = self.0.lock().unwrap_or_else(PoisonError::into_inner).tokens.pop_first();
        oldest.is_some_and(|(_, token)| {
            token.cancel();
            true
        })
    }
}

impl Entry {
    /// It has asked something, and stays.
    pub(super) fn spoke(&self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).tokens.remove(&self.number);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.spoke();
    }
}
