//! Sums of what all threads counted, and averages over the last periods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::console::rows::{Counters, History, Period, StatsRow};
use crate::shared::{Shared, lock};
use crate::worker::Worker;

/// What had been counted at the ends of the last periods.
#[derive(Debug)]
pub(crate) struct Books {
    period: Period,
    databases: BTreeMap<Arc<str>, History>,
}

impl Books {
    pub(crate) fn new() -> Books {
        Books { period: Period::new(Instant::now()), databases: BTreeMap::new() }
    }
}

/// What a thread has counted, by pool.
pub(crate) fn counted(worker: &Worker) -> Vec<(Arc<str>, Counters)> {
    worker.pools().iter().map(|p| (p.shared.database.name.clone(), p.stats.counters())).collect()
}

/// Sums by database.
pub(crate) fn sum(parts: impl IntoIterator<Item = (Arc<str>, Counters)>) -> BTreeMap<Arc<str>, Counters> {
    let mut sums: BTreeMap<Arc<str>, Counters> = BTreeMap::new();
    for (name, counters) in parts {
        sums.entry(name).or_default().add(&counters);
    }
    sums
}

/// What has been counted, by database.
async fn counters(shared: &Shared) -> BTreeMap<Arc<str>, Counters> {
    sum(shared.call_all(|worker| counted(worker)).await.into_iter().flatten())
}

/// Rows of SHOW STATS.
pub(crate) async fn stats(shared: &Shared) -> Vec<StatsRow> {
    let sums = counters(shared).await;
    let books = lock(&shared.books);
    let elapsed = books.period.elapsed(Instant::now());
    let row = |(name, total): (Arc<str>, Counters)| {
        let history = books.databases.get(&name).copied().unwrap_or_default();
        StatsRow { database: name.to_string(), total, average: total.average(history.older(), elapsed) }
    };
    sums.into_iter().map(row).collect()
}

/// Sums over all databases: totals and averages.
pub(crate) async fn sums(shared: &Shared) -> (Counters, Counters) {
    let rows = stats(shared).await;
    let (mut total, mut older) = (Counters::default(), Counters::default());
    for row in &rows {
        total.add(&row.total);
    }
    let books = lock(&shared.books);
    for history in books.databases.values() {
        older.add(history.older());
    }
    (total, total.average(&older, books.period.elapsed(Instant::now())))
}

/// A period ends.
pub(crate) async fn rotate(shared: &Shared) {
    let sums = counters(shared).await;
    let mut books = lock(&shared.books);
    books.period.rotate(Instant::now());
    for (name, total) in sums {
        books.databases.entry(name).or_default().rotate(&total);
    }
}
