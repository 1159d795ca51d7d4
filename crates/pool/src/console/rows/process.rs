//! Rows about the pooler as a process: settings, memory, open sockets, how many of everything there are.

use super::Row;
use crate::console::table::{Column, Table, Value, bytea, int4, int8, text};

/// A row of SHOW CONFIG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRow {
    /// Name of the setting.
    pub key: &'static str,
    /// Its value.
    pub value: Option<String>,
    /// What it is when the file doesn't set it.
    pub default: Option<String>,
    /// Whether it can be changed without a restart.
    pub changeable: bool,
}

impl Row for ConfigRow {
    const COLUMNS: &'static [Column] = &[text("key"), text("value"), text("default"), text("changeable")];

    fn values(self) -> Vec<Value> {
        vec![self.key.into(), self.value.into(), self.default.into(), yes_no(self.changeable)]
    }
}

fn yes_no(yes: bool) -> Value {
    if yes { "yes" } else { "no" }.into()
}

/// A row of SHOW MEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemRow {
    /// Name of a cache of objects, as `client_cache`.
    pub name: &'static str,
    /// Bytes of one object.
    pub size: u32,
    /// Objects in use.
    pub used: u32,
    /// Objects allocated and free.
    pub free: u32,
    /// Bytes of all of them.
    pub memtotal: u32,
}

impl Row for MemRow {
    const COLUMNS: &'static [Column] = &[text("name"), int4("size"), int4("used"), int4("free"), int4("memtotal")];

    fn values(self) -> Vec<Value> {
        vec![self.name.into(), self.size.into(), self.used.into(), self.free.into(), self.memtotal.into()]
    }
}

/// A row of SHOW FDS: a socket, and what a process that takes it over has to know.
#[derive(Clone, PartialEq, Eq)]
pub struct FdRow {
    /// The file descriptor.
    pub fd: i32,
    /// `pooler` (a listening socket), `client` or `server`.
    pub task: &'static str,
    /// User that logged in.
    pub user: Option<String>,
    /// Name of the database.
    pub database: Option<String>,
    /// Address of the other side, or of the listening socket; `unix` for a Unix socket.
    pub addr: String,
    /// Port that goes with it.
    pub port: u16,
    /// The cancel key.
    pub cancel: u64,
    /// File descriptor of the other half, 0 for none.
    pub link: i32,
    /// The parameter client_encoding.
    pub client_encoding: Option<String>,
    /// The parameter standard_conforming_strings.
    pub std_strings: Option<String>,
    /// The parameter DateStyle.
    pub datestyle: Option<String>,
    /// The parameter TimeZone.
    pub timezone: Option<String>,
    /// Secret of a user that auth_query found.
    pub password: Option<String>,
    /// SCRAM key to log in to the server with.
    pub scram_client_key: Option<Vec<u8>>,
    /// SCRAM key to check the server with.
    pub scram_server_key: Option<Vec<u8>>,
}

/// Without its secrets.
impl std::fmt::Debug for FdRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FdRow")
            .field("fd", &self.fd)
            .field("task", &self.task)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("addr", &self.addr)
            .field("port", &self.port)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

impl Row for FdRow {
    const COLUMNS: &'static [Column] = &[
        int4("fd"),
        text("task"),
        text("user"),
        text("database"),
        text("addr"),
        int4("port"),
        int8("cancel"),
        int4("link"),
        text("client_encoding"),
        text("std_strings"),
        text("datestyle"),
        text("timezone"),
        text("password"),
        bytea("scram_client_key"),
        bytea("scram_server_key"),
    ];

    fn values(self) -> Vec<Value> {
        vec![
            Value::Int4(self.fd),
            self.task.into(),
            self.user.into(),
            self.database.into(),
            self.addr.into(),
            self.port.into(),
            Value::Int8(self.cancel.cast_signed()),
            Value::Int4(self.link),
            self.client_encoding.into(),
            self.std_strings.into(),
            self.datestyle.into(),
            self.timezone.into(),
            self.password.into(),
            self.scram_client_key.into(),
            self.scram_server_key.into(),
        ]
    }
}

/// What SHOW LISTS counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListCounts {
    /// Databases, the console's too.
    pub databases: u32,
    /// Users that are known by name.
    pub users: u32,
    /// Other poolers of the group.
    pub peers: u32,
    /// Pools, the console's too.
    pub pools: u32,
    /// Pools of connections to peers.
    pub peer_pools: u32,
    /// Client objects allocated and free.
    pub free_clients: u32,
    /// Clients.
    pub used_clients: u32,
    /// Clients logging in.
    pub login_clients: u32,
    /// Server objects allocated and free.
    pub free_servers: u32,
    /// Server connections.
    pub used_servers: u32,
    /// Host names in the DNS cache.
    pub dns_names: u32,
    /// Zones in the DNS cache.
    pub dns_zones: u32,
    /// DNS queries under way.
    pub dns_queries: u32,
    /// DNS queries not sent yet.
    pub dns_pending: u32,
}

pub(super) const LISTS: &[Column] = &[text("list"), int4("items")];

impl ListCounts {
    /// The table of SHOW LISTS.
    #[must_use]
    pub fn table(self) -> Table {
        let counts = [
            ("databases", self.databases),
            ("users", self.users),
            ("peers", self.peers),
            ("pools", self.pools),
            ("peer_pools", self.peer_pools),
            ("free_clients", self.free_clients),
            ("used_clients", self.used_clients),
            ("login_clients", self.login_clients),
            ("free_servers", self.free_servers),
            ("used_servers", self.used_servers),
            ("dns_names", self.dns_names),
            ("dns_zones", self.dns_zones),
            ("dns_queries", self.dns_queries),
            ("dns_pending", self.dns_pending),
        ];
        let rows = counts.into_iter().map(|(list, items)| vec![list.into(), items.into()]).collect();
        Table { columns: LISTS, rows }
    }
}

/// What SHOW STATE tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Clients are served.
    Active,
    /// By PAUSE of all databases.
    Paused,
    /// By SUSPEND.
    Suspended,
}

pub(super) const STATE: &[Column] = &[text("key"), text("value")];

impl State {
    /// The table of SHOW STATE.
    #[must_use]
    pub fn table(self) -> Table {
        let states = [("active", Self::Active), ("paused", Self::Paused), ("suspended", Self::Suspended)];
        let rows = states.into_iter().map(|(key, state)| vec![key.into(), yes_no(state == self)]).collect();
        Table { columns: STATE, rows }
    }
}
