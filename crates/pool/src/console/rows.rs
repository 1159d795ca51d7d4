//! Rows of every SHOW as plain structs, and the tables that they make: pgbouncer's columns, types and spellings. Not
//! where the numbers come from.

mod clusters;
mod process;
mod routing;
mod sockets;
mod stats;

pub use clusters::ClusterRow;
pub use process::{ConfigRow, FdRow, ListCounts, MemRow, State};
pub use routing::{DatabaseRow, DnsHostRow, DnsZoneRow, PeerPoolRow, PeerRow, PoolRow, UserRow};
pub use sockets::{Buffers, ClientState, Endpoint, Replication, ServerState, Side, SocketRow};
pub use stats::{Counters, History, Period, StatsRow};

use super::command::Show;
use super::table::{Column, Table, Value};

/// A row of a SHOW that lists things.
pub trait Row {
    /// The columns of its table.
    const COLUMNS: &'static [Column];

    /// Its values, one for each column.
    fn values(self) -> Vec<Value>;
}

impl Table {
    /// The table of these rows.
    #[must_use]
    pub fn of<R: Row>(rows: impl IntoIterator<Item = R>) -> Self {
        Self { columns: R::COLUMNS, rows: rows.into_iter().map(Row::values).collect() }
    }
}

/// The columns of a SHOW.
pub(super) fn columns(show: Show) -> &'static [Column] {
    match show {
        Show::Clients | Show::Servers => sockets::LISTED,
        Show::Sockets | Show::ActiveSockets => sockets::COLUMNS,
        Show::Clusters => ClusterRow::COLUMNS,
        Show::Config => ConfigRow::COLUMNS,
        Show::Databases => DatabaseRow::COLUMNS,
        Show::DnsHosts => DnsHostRow::COLUMNS,
        Show::DnsZones => DnsZoneRow::COLUMNS,
        Show::Fds => FdRow::COLUMNS,
        Show::Lists => process::LISTS,
        Show::Mem => MemRow::COLUMNS,
        Show::PeerPools => PeerPoolRow::COLUMNS,
        Show::Peers => PeerRow::COLUMNS,
        Show::Pools => PoolRow::COLUMNS,
        Show::State => process::STATE,
        Show::Stats => stats::STATS,
        Show::StatsAverages => stats::AVERAGES,
        Show::StatsTotals => stats::TOTALS,
        Show::Totals => stats::SUMS,
        Show::Users => UserRow::COLUMNS,
    }
}

#[cfg(test)]
mod tests;
