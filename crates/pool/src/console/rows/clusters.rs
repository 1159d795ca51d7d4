//! Rows of SHOW CLUSTERS, which pgbouncer doesn't have.

use std::time::Duration;

use super::Row;
use crate::console::table::{Column, Value, int4, int8, text};

/// A row of SHOW CLUSTERS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRow {
    /// Name of the cluster.
    pub cluster: String,
    /// The leader, if there is one.
    pub leader: Option<String>,
    /// `serving`; `draining`: transactions end before a switchover; `holding`: clients wait for its end; `no leader`.
    pub state: &'static str,
    /// Epoch of the leadership.
    pub epoch: i64,
    /// Members whose address is known.
    pub members: u32,
    /// Those among them that may be read from as replicas.
    pub replicas: u32,
    /// Clients that wait because clients of the leader are held.
    pub clients_held: u32,
    /// Holds that have ended.
    pub holds: u64,
    /// How long those took.
    pub hold_time: Duration,
    /// Transactions that were cut.
    pub cuts: u64,
}

impl Row for ClusterRow {
    const COLUMNS: &'static [Column] = &[
        text("cluster"),
        text("leader"),
        text("state"),
        int8("epoch"),
        int4("members"),
        int4("replicas"),
        int4("clients_held"),
        int8("holds"),
        int8("hold_time_us"),
        int8("cuts"),
    ];

    fn values(self) -> Vec<Value> {
        let long = |number: u128| Value::Int8(i64::try_from(number).unwrap_or(i64::MAX));
        vec![
            self.cluster.into(),
            self.leader.map_or(Value::Null, Value::from),
            self.state.into(),
            Value::Int8(self.epoch),
            self.members.into(),
            self.replicas.into(),
            self.clients_held.into(),
            long(self.holds.into()),
            long(self.hold_time.as_micros()),
            long(self.cuts.into()),
        ]
    }
}
