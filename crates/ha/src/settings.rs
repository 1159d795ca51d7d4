//! The dynamic configuration's HA settings, read from its JSON. Server parameters are not here.

use std::time::Duration;

use serde_json::Value;

/// Settings that every member takes from the DCS, with Patroni's names and defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Lease time to live.
    pub ttl: Duration,
    /// Time between two decisions when nothing happens.
    pub loop_wait: Duration,
    /// How long DCS and PostgreSQL operations are tried again.
    pub retry_timeout: Duration,
    /// A replica further behind than this many bytes may not become leader.
    pub maximum_lag_on_failover: u64,
    /// How long a leader's PostgreSQL may take to start or to answer before leadership is handed over. Zero hands it
    /// over at once.
    pub primary_start_timeout: Duration,
    /// How long a stop of the leader's PostgreSQL may take before it is killed; zero waits as long as the lease allows.
    pub primary_stop_timeout: Duration,
    /// Maintenance mode.
    pub pause: bool,
    /// Commits wait for standbys.
    pub synchronous_mode: bool,
    /// Never fall back to asynchronous replication.
    pub synchronous_mode_strict: bool,
    /// How many standbys commits wait for.
    pub synchronous_node_count: u32,
    /// Only members on the leader's timeline may become leader.
    pub check_timeline: bool,
    /// Repair a diverged data directory with pg_rewind.
    pub use_pg_rewind: bool,
    /// Keep physical slots for members.
    pub use_slots: bool,
    /// Clone again when pg_rewind fails.
    pub remove_data_directory_on_rewind_failure: bool,
    /// Clone again when timelines diverged and pg_rewind isn't used.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// Lines to keep in the `history` key; 0 keeps all.
    pub max_timelines_history: u32,
    /// How long an absent member's slot is kept.
    pub member_slots_ttl: Duration,
    /// How long poolers let transactions go on when a server is about to go away as planned (pgherd's own setting).
    pub switchover_drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
            maximum_lag_on_failover: 1 << 20,
            primary_start_timeout: Duration::from_secs(300),
            primary_stop_timeout: Duration::ZERO,
            pause: false,
            synchronous_mode: false,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            check_timeline: false,
            use_pg_rewind: false,
            use_slots: true,
            remove_data_directory_on_rewind_failure: false,
            remove_data_directory_on_diverged_timelines: false,
            max_timelines_history: 0,
            member_slots_ttl: Duration::from_secs(30 * 60),
            switchover_drain_timeout: Duration::from_secs(5),
        }
    }
}

/// A setting that can't be used: its path in the configuration, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Such as `ttl` or `postgresql.use_slots`.
    pub path: String,
    /// A sentence for people.
    pub message: String,
}

impl Settings {
    /// Reads settings out of a dynamic configuration. Every faulty value is reported and replaced by its default.
    pub fn from_json(config: &Value) -> (Settings, Vec<Problem>) {
        parse::settings(config)
    }
}

mod parse;
pub use parse::{bool as parse_bool, bytes as parse_bytes, duration as parse_duration};
