//! Rows about where clients are routed: databases, users, pools, peers and names looked up.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Row;
use crate::console::table::{Column, Value, int4, int8, text};

/// A row of SHOW POOLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRow {
    /// Name of the database.
    pub database: String,
    /// Name of the user whose server connections it holds.
    pub user: String,
    /// Clients linked to a server, or idle.
    pub cl_active: u32,
    /// Clients waiting for a server.
    pub cl_waiting: u32,
    /// Cancel requests forwarded, not answered yet.
    pub cl_active_cancel_req: u32,
    /// Cancel requests not forwarded yet.
    pub cl_waiting_cancel_req: u32,
    /// Servers linked to a client.
    pub sv_active: u32,
    /// Servers that forward a cancel request.
    pub sv_active_cancel: u32,
    /// Servers that wait until cancel requests for them are done.
    pub sv_being_canceled: u32,
    /// Servers free to be used at once.
    pub sv_idle: u32,
    /// Servers idle for longer than server_check_delay.
    pub sv_used: u32,
    /// Servers under server_reset_query or server_check_query.
    pub sv_tested: u32,
    /// Servers logging in.
    pub sv_login: u32,
    /// How long the first client in the queue has waited.
    pub maxwait: Duration,
    /// `session`, `transaction` or `statement`.
    pub pool_mode: &'static str,
    /// `round-robin` or `disable`, where there are several hosts.
    pub load_balance_hosts: Option<&'static str>,
}

impl Row for PoolRow {
    const COLUMNS: &'static [Column] = &[
        text("database"),
        text("user"),
        int4("cl_active"),
        int4("cl_waiting"),
        int4("cl_active_cancel_req"),
        int4("cl_waiting_cancel_req"),
        int4("sv_active"),
        int4("sv_active_cancel"),
        int4("sv_being_canceled"),
        int4("sv_idle"),
        int4("sv_used"),
        int4("sv_tested"),
        int4("sv_login"),
        int4("maxwait"),
        int4("maxwait_us"),
        text("pool_mode"),
        text("load_balance_hosts"),
    ];

    fn values(self) -> Vec<Value> {
        let [seconds, microseconds] = split(self.maxwait);
        vec![
            self.database.into(),
            self.user.into(),
            self.cl_active.into(),
            self.cl_waiting.into(),
            self.cl_active_cancel_req.into(),
            self.cl_waiting_cancel_req.into(),
            self.sv_active.into(),
            self.sv_active_cancel.into(),
            self.sv_being_canceled.into(),
            self.sv_idle.into(),
            self.sv_used.into(),
            self.sv_tested.into(),
            self.sv_login.into(),
            seconds,
            microseconds,
            self.pool_mode.into(),
            self.load_balance_hosts.into(),
        ]
    }
}

/// A wait as two columns: whole seconds, and the microseconds on top of them.
pub(super) fn split(wait: Duration) -> [Value; 2] {
    [seconds(wait), wait.subsec_micros().into()]
}

fn seconds(duration: Duration) -> Value {
    Value::Int4(duration.as_secs().try_into().unwrap_or(i32::MAX))
}

/// A row of SHOW DATABASES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseRow {
    /// Name that clients connect to.
    pub name: String,
    /// The setting `host`; none for the console itself and for the default Unix socket.
    pub host: Option<String>,
    /// The setting `port`.
    pub port: u16,
    /// Name on the server.
    pub database: String,
    /// The user that the configuration forces.
    pub force_user: Option<String>,
    /// Server connections a pool may have.
    pub pool_size: u32,
    /// Server connections a pool keeps.
    pub min_pool_size: u32,
    /// Extra server connections a pool may have.
    pub reserve_pool_size: u32,
    /// Age at which a server connection is closed.
    pub server_lifetime: Duration,
    /// The database's own pool mode, where it has one.
    pub pool_mode: Option<&'static str>,
    /// `round-robin` or `disable`, where there are several hosts.
    pub load_balance_hosts: Option<&'static str>,
    /// max_db_connections in force; 0 for no limit.
    pub max_connections: u32,
    /// Server connections there are.
    pub current_connections: u32,
    /// max_db_client_connections in force; 0 for no limit.
    pub max_client_connections: u32,
    /// Client connections there are.
    pub current_client_connections: u32,
    /// By PAUSE or KILL of this database.
    pub paused: bool,
    /// By DISABLE.
    pub disabled: bool,
}

impl Row for DatabaseRow {
    const COLUMNS: &'static [Column] = &[
        text("name"),
        text("host"),
        int4("port"),
        text("database"),
        text("force_user"),
        int4("pool_size"),
        int4("min_pool_size"),
        int4("reserve_pool_size"),
        int4("server_lifetime"),
        text("pool_mode"),
        text("load_balance_hosts"),
        int4("max_connections"),
        int4("current_connections"),
        int4("max_client_connections"),
        int4("current_client_connections"),
        int4("paused"),
        int4("disabled"),
    ];

    fn values(self) -> Vec<Value> {
        vec![
            self.name.into(),
            self.host.into(),
            self.port.into(),
            self.database.into(),
            self.force_user.into(),
            self.pool_size.into(),
            self.min_pool_size.into(),
            self.reserve_pool_size.into(),
            seconds(self.server_lifetime),
            self.pool_mode.into(),
            self.load_balance_hosts.into(),
            self.max_connections.into(),
            self.current_connections.into(),
            self.max_client_connections.into(),
            self.current_client_connections.into(),
            self.paused.into(),
            self.disabled.into(),
        ]
    }
}

/// A row of SHOW USERS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Name of the user.
    pub name: String,
    /// The user's own pool_size, where there is one.
    pub pool_size: Option<u32>,
    /// The user's own reserve_pool_size, where there is one.
    pub reserve_pool_size: Option<u32>,
    /// The user's own pool mode, where there is one.
    pub pool_mode: Option<&'static str>,
    /// max_user_connections in force; 0 for no limit.
    pub max_user_connections: u32,
    /// Server connections there are.
    pub current_connections: u32,
    /// max_user_client_connections in force; 0 for no limit.
    pub max_user_client_connections: u32,
    /// Client connections there are.
    pub current_client_connections: u32,
}

impl Row for UserRow {
    const COLUMNS: &'static [Column] = &[
        text("name"),
        text("pool_size"),
        text("reserve_pool_size"),
        text("pool_mode"),
        int4("max_user_connections"),
        int4("current_connections"),
        int4("max_user_client_connections"),
        int4("current_client_connections"),
    ];

    fn values(self) -> Vec<Value> {
        // The two sizes are text columns: empty, or aligned to the right.
        let aligned = |size: Option<u32>| size.map_or_else(String::new, |size| format!("{size:9}"));
        vec![
            self.name.into(),
            aligned(self.pool_size).into(),
            aligned(self.reserve_pool_size).into(),
            self.pool_mode.into(),
            self.max_user_connections.into(),
            self.current_connections.into(),
            self.max_user_client_connections.into(),
            self.current_client_connections.into(),
        ]
    }
}

/// A row of SHOW PEERS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRow {
    /// Number of the peer.
    pub peer_id: u32,
    /// Its host.
    pub host: Option<String>,
    /// Its port.
    pub port: u16,
    /// Connections for cancel requests that it may get.
    pub pool_size: u32,
}

impl Row for PeerRow {
    const COLUMNS: &'static [Column] = &[int4("peer_id"), text("host"), int4("port"), int4("pool_size")];

    fn values(self) -> Vec<Value> {
        vec![self.peer_id.into(), self.host.into(), self.port.into(), self.pool_size.into()]
    }
}

/// A row of SHOW PEER_POOLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPoolRow {
    /// Number of the peer.
    pub peer_id: u32,
    /// Cancel requests forwarded, not answered yet.
    pub cl_active_cancel_req: u32,
    /// Cancel requests not forwarded yet.
    pub cl_waiting_cancel_req: u32,
    /// Connections that forward a cancel request.
    pub sv_active_cancel: u32,
    /// Connections logging in.
    pub sv_login: u32,
}

impl Row for PeerPoolRow {
    const COLUMNS: &'static [Column] = &[
        int4("peer_id"),
        int4("cl_active_cancel_req"),
        int4("cl_waiting_cancel_req"),
        int4("sv_active_cancel"),
        int4("sv_login"),
    ];

    fn values(self) -> Vec<Value> {
        vec![
            self.peer_id.into(),
            self.cl_active_cancel_req.into(),
            self.cl_waiting_cancel_req.into(),
            self.sv_active_cancel.into(),
            self.sv_login.into(),
        ]
    }
}

/// A row of SHOW DNS_HOSTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsHostRow {
    /// Name that was looked up.
    pub hostname: String,
    /// How long the answer is good for.
    pub ttl: Duration,
    /// The answer.
    pub addrs: Vec<IpAddr>,
}

impl Row for DnsHostRow {
    const COLUMNS: &'static [Column] = &[text("hostname"), int8("ttl"), text("addrs")];

    fn values(self) -> Vec<Value> {
        // Each with a port that means nothing.
        let addresses: Vec<String> = self.addrs.iter().map(|addr| SocketAddr::new(*addr, 0).to_string()).collect();
        let ttl = Value::Int8(self.ttl.as_secs().try_into().unwrap_or(i64::MAX));
        vec![self.hostname.into(), ttl, addresses.join(",").into()]
    }
}

/// A row of SHOW DNS_ZONES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsZoneRow {
    /// Name of the zone.
    pub zonename: String,
    /// Its serial number, when it was last seen.
    pub serial: u32,
    /// Host names of the zone that are in use.
    pub count: u32,
}

impl Row for DnsZoneRow {
    const COLUMNS: &'static [Column] = &[text("zonename"), int8("serial"), int4("count")];

    fn values(self) -> Vec<Value> {
        vec![self.zonename.into(), Value::Int8(self.serial.into()), self.count.into()]
    }
}
