//! What applies to one pool: the settings of the whole, its database's and its user's put together.

use std::time::Duration;

use crate::config::{Config, Database, Host, OnCancelled, PoolMode, Role, Secret, Target};

/// Settings of one pool.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// When servers are given back.
    pub(crate) mode: PoolMode,
    /// Most server connections.
    pub(crate) size: u32,
    /// Fewest, while the pool is in use.
    pub(crate) min_size: u32,
    /// More of them, for clients that have waited for long.
    pub(crate) reserve_size: u32,
    /// How long they have to have waited.
    pub(crate) reserve_pool_timeout: Duration,
    /// Most server connections of the database; zero is no limit.
    pub(crate) max_db_connections: u32,
    /// Most server connections of the user; zero is no limit.
    pub(crate) max_user_connections: u32,
    /// Servers, tried in turn.
    pub(crate) hosts: Vec<(Host, u16)>,
    /// The members of a cluster that servers are at, in place of hosts.
    pub(crate) target: Option<Target>,
    /// Begin with another one each time.
    pub(crate) balance_hosts: bool,
    /// Name of the database on the server.
    pub(crate) dbname: String,
    /// The server's user is the one configured for the database, whoever the client is.
    pub(crate) forced_user: bool,
    /// User on the server.
    pub(crate) user: String,
    /// Its password, where the database's entry has one.
    pub(crate) password: Option<Secret>,
    /// SQL that a new connection begins with.
    pub(crate) connect_query: Option<String>,
    /// Parameters that a new connection begins with.
    pub(crate) parameters: Vec<(&'static str, String)>,
    /// Use idle servers in turn.
    pub(crate) server_round_robin: bool,
    /// Servers idle for longer are asked whether they live; zero: never.
    pub(crate) server_check_delay: Duration,
    /// With what.
    pub(crate) server_check_query: String,
    /// What cleans a server after a session.
    pub(crate) server_reset_query: String,
    /// And after each transaction.
    pub(crate) server_reset_query_always: bool,
    /// Servers older than this are closed; zero: never.
    pub(crate) server_lifetime: Duration,
    /// Servers idle for longer are closed; zero: never.
    pub(crate) server_idle_timeout: Duration,
    /// Longest time to connect and log in.
    pub(crate) server_connect_timeout: Duration,
    /// Time after a failure before the next attempt.
    pub(crate) server_login_retry: Duration,
    /// Prepared statements that a server keeps; zero: they aren't renamed.
    pub(crate) max_prepared_statements: usize,
    /// Ends of server connections are logged.
    pub(crate) log_disconnections: bool,
    /// A commit that no synchronous standby has confirmed is an error (`sync_commit_cancelled`).
    pub(crate) sync_errors: bool,
    /// Longest message from a client.
    pub(crate) max_packet_size: usize,
}

/// Time-outs of a client; zero: none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// Waiting for a server.
    pub(crate) query_wait: Duration,
    /// One query.
    pub(crate) query: Duration,
    /// Nothing done in an open transaction.
    pub(crate) idle_transaction: Duration,
    /// One transaction.
    pub(crate) transaction: Duration,
    /// Nothing done at all.
    pub(crate) client_idle: Duration,
}

impl Plan {
    /// Whether servers connected under `other` are of no use under this.
    pub(crate) fn leads_elsewhere(&self, other: &Plan) -> bool {
        let key = |p: &Plan| (p.hosts.clone(), p.dbname.clone(), p.user.clone(), p.password.clone());
        let more = |p: &Plan| (p.connect_query.clone(), p.parameters.clone());
        // Servers are asked at login whether they tell of such commits.
        let asked = self.sync_errors && !other.sync_errors;
        key(self) != key(other) || more(self) != more(other) || self.target != other.target || asked
    }

    /// For a user of a database.
    pub(crate) fn of(config: &Config, database: &Database, user: &str) -> Plan {
        let settings = &config.settings;
        let own = config.users.get(user);
        let mode = own.and_then(|u| u.pool_mode).or(database.pool_mode).unwrap_or(settings.pool_mode);
        let reserve = own.and_then(|u| u.reserve_pool_size).or(database.reserve_pool_size);
        let port = |i: usize| database.ports.get(i).or(database.ports.first()).copied().unwrap_or(5432);
        Plan {
            mode,
            size: own.and_then(|u| u.pool_size).or(database.pool_size).unwrap_or(settings.default_pool_size),
            min_size: database.min_pool_size.unwrap_or(settings.min_pool_size),
            reserve_size: reserve.unwrap_or(settings.reserve_pool_size),
            reserve_pool_timeout: settings.reserve_pool_timeout,
            max_db_connections: database.max_db_connections.unwrap_or(settings.max_db_connections),
            max_user_connections: own.and_then(|u| u.max_user_connections).unwrap_or(settings.max_user_connections),
            hosts: database.hosts.iter().enumerate().map(|(i, h)| (h.clone(), port(i))).collect(),
            target: database.target.clone(),
            balance_hosts: database.load_balance_hosts,
            dbname: database.dbname.clone(),
            forced_user: database.user.is_some(),
            user: database.user.clone().unwrap_or_else(|| user.to_owned()),
            password: database.password.clone(),
            connect_query: database.connect_query.clone(),
            parameters: parameters(database),
            // Readers are spread over the members, idle connections included.
            server_round_robin: settings.server_round_robin
                || database.target.as_ref().is_some_and(|t| t.role != Role::Leader),
            server_check_delay: settings.server_check_delay,
            server_check_query: settings.server_check_query.clone(),
            server_reset_query: settings.server_reset_query.clone(),
            server_reset_query_always: settings.server_reset_query_always && mode != PoolMode::Session,
            server_lifetime: database.server_lifetime.unwrap_or(settings.server_lifetime),
            server_idle_timeout: settings.server_idle_timeout,
            server_connect_timeout: settings.server_connect_timeout,
            server_login_retry: settings.server_login_retry,
            max_prepared_statements: settings.max_prepared_statements as usize,
            log_disconnections: settings.log_disconnections,
            sync_errors: settings.sync_commit_cancelled == OnCancelled::Error,
            max_packet_size: settings.max_packet_size,
        }
    }
}

impl Timeouts {
    /// All of them; those that are zero are off.
    pub(crate) fn all(&self) -> [Duration; 5] {
        [self.query_wait, self.query, self.idle_transaction, self.transaction, self.client_idle]
    }

    /// For a client that logged in as this user.
    pub(crate) fn of(config: &Config, database: &Database, user: &str) -> Timeouts {
        let settings = &config.settings;
        let own = config.users.get(user);
        let either = |own: Option<Option<Duration>>, all: Duration| own.flatten().unwrap_or(all);
        Timeouts {
            query_wait: own
                .and_then(|u| u.query_wait_timeout)
                .or(database.query_wait_timeout)
                .unwrap_or(settings.query_wait_timeout),
            query: either(own.map(|u| u.query_timeout), settings.query_timeout),
            idle_transaction: either(own.map(|u| u.idle_transaction_timeout), settings.idle_transaction_timeout),
            transaction: either(own.map(|u| u.transaction_timeout), settings.transaction_timeout),
            client_idle: either(own.map(|u| u.client_idle_timeout), settings.client_idle_timeout),
        }
    }
}

fn parameters(database: &Database) -> Vec<(&'static str, String)> {
    let named = [
        ("client_encoding", &database.client_encoding),
        ("datestyle", &database.datestyle),
        ("timezone", &database.timezone),
        ("application_name", &database.application_name),
    ];
    named.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
}
