//! What SHOW STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS count, and how averages follow from it.

use std::time::{Duration, Instant};

use crate::console::table::{Column, Table, Value, numeric, text};

/// What is counted for each pool. Averages have the same form: counts and bytes are per second then, and times are per
/// transaction, per query and per server assignment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// How often a client got a server.
    pub server_assignment_count: u64,
    /// Transactions.
    pub xact_count: u64,
    /// Queries.
    pub query_count: u64,
    /// Bytes received from clients.
    pub bytes_received: u64,
    /// Bytes sent to clients.
    pub bytes_sent: u64,
    /// Time that servers spent in transactions.
    pub xact_time: Duration,
    /// Time that servers spent on queries.
    pub query_time: Duration,
    /// Time that clients spent waiting for a server.
    pub wait_time: Duration,
    /// Prepared statements that clients made.
    pub client_parse_count: u64,
    /// Prepared statements that the pooler made on servers.
    pub server_parse_count: u64,
    /// Executions of prepared statements.
    pub bind_count: u64,
    /// Clients that logged in.
    pub client_login_count: u64,
}

/// A row of SHOW STATS: a database's sums and averages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsRow {
    /// Name of the database.
    pub database: String,
    /// Since the pooler started.
    pub total: Counters,
    /// Of the last stats_period.
    pub average: Counters,
}

/// What was counted at the last two ends of a stats_period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    older: Counters,
    newer: Counters,
}

/// When the last two stats_periods ended. Averages are taken from the older end to now, so that they always cover at
/// least a whole period.
#[derive(Debug, Clone, Copy)]
pub struct Period {
    older: Instant,
    newer: Instant,
}

impl Period {
    /// As if periods had ended now and a second ago.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { older: now.checked_sub(Duration::from_secs(1)).unwrap_or(now), newer: now }
    }

    /// A period ends. Every [`History`] rotates at the same time.
    pub fn rotate(&mut self, now: Instant) {
        self.older = self.newer;
        self.newer = now;
    }

    /// The time that averages are over.
    #[must_use]
    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.older)
    }
}

impl History {
    /// A period ends, and this is what has been counted.
    pub fn rotate(&mut self, total: &Counters) {
        self.older = self.newer;
        self.newer = *total;
    }

    /// What had been counted at the older end.
    #[must_use]
    pub fn older(&self) -> &Counters {
        &self.older
    }
}

impl Counters {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.server_assignment_count += other.server_assignment_count;
        self.xact_count += other.xact_count;
        self.query_count += other.query_count;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.xact_time += other.xact_time;
        self.query_time += other.query_time;
        self.wait_time += other.wait_time;
        self.client_parse_count += other.client_parse_count;
        self.server_parse_count += other.server_parse_count;
        self.bind_count += other.bind_count;
        self.client_login_count += other.client_login_count;
    }

    /// Averages of what was counted since `older`, in the time `elapsed`.
    #[must_use]
    pub fn average(&self, older: &Self, elapsed: Duration) -> Self {
        let assignments = self.server_assignment_count.saturating_sub(older.server_assignment_count);
        let xacts = self.xact_count.saturating_sub(older.xact_count);
        let queries = self.query_count.saturating_sub(older.query_count);
        let rate = |now: u64, then: u64| per_second(now.saturating_sub(then), elapsed);
        let each = |now: Duration, then: Duration, count| divide(now.saturating_sub(then), count);
        Self {
            server_assignment_count: per_second(assignments, elapsed),
            xact_count: per_second(xacts, elapsed),
            query_count: per_second(queries, elapsed),
            bytes_received: rate(self.bytes_received, older.bytes_received),
            bytes_sent: rate(self.bytes_sent, older.bytes_sent),
            xact_time: each(self.xact_time, older.xact_time, xacts),
            query_time: each(self.query_time, older.query_time, queries),
            wait_time: each(self.wait_time, older.wait_time, assignments),
            client_parse_count: rate(self.client_parse_count, older.client_parse_count),
            server_parse_count: rate(self.server_parse_count, older.server_parse_count),
            bind_count: rate(self.bind_count, older.bind_count),
            client_login_count: rate(self.client_login_count, older.client_login_count),
        }
    }

    /// The line that log_stats writes at the end of a period, of averages.
    #[must_use]
    pub fn log_line(&self) -> String {
        format!(
            "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, {} client logins/s, \
             in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
            self.xact_count,
            self.query_count,
            self.client_parse_count,
            self.server_parse_count,
            self.bind_count,
            self.client_login_count,
            self.bytes_received,
            self.bytes_sent,
            micros(self.xact_time),
            micros(self.query_time),
            micros(self.wait_time),
        )
    }

    /// In the order of the columns.
    fn numbers(&self) -> [u64; 12] {
        [
            self.server_assignment_count,
            self.xact_count,
            self.query_count,
            self.bytes_received,
            self.bytes_sent,
            micros(self.xact_time),
            micros(self.query_time),
            micros(self.wait_time),
            self.client_parse_count,
            self.server_parse_count,
            self.bind_count,
            self.client_login_count,
        ]
    }
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let per_second = (u128::from(count) * 1_000_000).checked_div(elapsed.as_micros());
    per_second.unwrap_or(0).try_into().unwrap_or(u64::MAX)
}

fn divide(time: Duration, count: u64) -> Duration {
    Duration::from_micros(micros(time).checked_div(count).unwrap_or(0))
}

fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}

pub(super) const STATS: &[Column] = &[
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("total_client_login_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

pub(super) const TOTALS: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("client_parse_count"),
    numeric("server_parse_count"),
    numeric("bind_count"),
    numeric("client_login_count"),
];

pub(super) const AVERAGES: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

pub(super) const SUMS: &[Column] = &[text("name"), numeric("value")];

/// Names in SHOW TOTALS, after `total_` or `avg_`. They aren't those of SHOW STATS.
const NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

impl StatsRow {
    /// The table of SHOW STATS.
    #[must_use]
    pub fn table(rows: impl IntoIterator<Item = Self>) -> Table {
        let numbers = |row: &Self| [row.total.numbers(), row.average.numbers()].concat();
        Self::with(rows, STATS, numbers)
    }

    /// The table of SHOW STATS_TOTALS.
    #[must_use]
    pub fn totals(rows: impl IntoIterator<Item = Self>) -> Table {
        Self::with(rows, TOTALS, |row| row.total.numbers().to_vec())
    }

    /// The table of SHOW STATS_AVERAGES.
    #[must_use]
    pub fn averages(rows: impl IntoIterator<Item = Self>) -> Table {
        Self::with(rows, AVERAGES, |row| row.average.numbers().to_vec())
    }

    fn with(
        rows: impl IntoIterator<Item = Self>,
        columns: &'static [Column],
        numbers: impl Fn(&Self) -> Vec<u64>,
    ) -> Table {
        let values = |row: Self| {
            let numbers = numbers(&row);
            std::iter::once(row.database.into()).chain(numbers.into_iter().map(Value::Numeric)).collect()
        };
        Table { columns, rows: rows.into_iter().map(values).collect() }
    }
}

impl Counters {
    /// The table of SHOW TOTALS, of all databases' sums and averages.
    #[must_use]
    pub fn table(total: &Self, average: &Self) -> Table {
        let named = |prefix: &'static str, counters: &Self| {
            let row = move |(name, number)| vec![format!("{prefix}{name}").into(), Value::Numeric(number)];
            NAMES.into_iter().zip(counters.numbers()).map(row)
        };
        Table { columns: SUMS, rows: named("total_", total).chain(named("avg_", average)).collect() }
    }
}

#[cfg(test)]
mod tests;
