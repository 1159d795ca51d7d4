//! Entries of the sections `[databases]`, `[users]` and `[peers]`.

mod read;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{PoolMode, Secret, Target};

pub(super) use read::Wrong;

/// One entry of `[databases]`. `None` where a setting of `[pgbouncer]` (or nothing) holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// The name that clients ask for; `*` in the fallback.
    pub name: String,
    /// Name of the database on the server; empty in a fallback that leaves it to the client.
    pub dbname: String,
    /// `host` as it's written.
    pub host: Option<String>,
    /// Servers, at least one. An entry without `host` has the directory `unix_socket_dir` here, one with `cluster` nothing.
    pub hosts: Vec<Host>,
    /// Ports: one for all hosts, or one for each. At least one.
    pub ports: Vec<u16>,
    /// The members of a cluster that it goes to, in place of hosts. pgherd's own.
    pub target: Option<Target>,
    /// User for the server, whoever the client is.
    pub user: Option<String>,
    /// Password for the server.
    pub password: Option<Secret>,
    /// Overrides `auth_user`.
    pub auth_user: Option<String>,
    /// Overrides `auth_query`.
    pub auth_query: Option<String>,
    /// Overrides `auth_dbname`.
    pub auth_dbname: Option<String>,
    /// Overrides `default_pool_size`.
    pub pool_size: Option<u32>,
    /// Overrides `min_pool_size`.
    pub min_pool_size: Option<u32>,
    /// Overrides `reserve_pool_size`.
    pub reserve_pool_size: Option<u32>,
    /// SQL that a new server connection begins with.
    pub connect_query: Option<String>,
    /// Overrides `pool_mode`.
    pub pool_mode: Option<PoolMode>,
    /// Overrides `query_wait_timeout`.
    pub query_wait_timeout: Option<Duration>,
    /// Whether a new connection begins with the next host (`round-robin`), or with the same until it fails (`disable`).
    pub load_balance_hosts: bool,
    /// Overrides `max_db_connections`.
    pub max_db_connections: Option<u32>,
    /// Overrides `max_db_client_connections`.
    pub max_db_client_connections: Option<u32>,
    /// Overrides `server_lifetime`.
    pub server_lifetime: Option<Duration>,
    /// `client_encoding` that a server connection begins with.
    pub client_encoding: Option<String>,
    /// `datestyle` that a server connection begins with.
    pub datestyle: Option<String>,
    /// `timezone` that a server connection begins with.
    pub timezone: Option<String>,
    /// `application_name` that a server connection begins with.
    pub application_name: Option<String>,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A host name or an IP address (IPv6 without brackets).
    Tcp(String),
    /// A directory with the server's Unix socket, or, with a leading `@`, its counterpart in the abstract namespace.
    Unix(PathBuf),
}

/// One entry of `[users]`. `None` where the database's or the general setting holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct User {
    /// Name of the user.
    pub name: String,
    /// Overrides the pool size.
    pub pool_size: Option<u32>,
    /// Overrides `reserve_pool_size`.
    pub reserve_pool_size: Option<u32>,
    /// Overrides `pool_mode`.
    pub pool_mode: Option<PoolMode>,
    /// Overrides `max_user_connections`.
    pub max_user_connections: Option<u32>,
    /// Overrides `max_user_client_connections`.
    pub max_user_client_connections: Option<u32>,
    /// Overrides `query_timeout`.
    pub query_timeout: Option<Duration>,
    /// Overrides `query_wait_timeout`.
    pub query_wait_timeout: Option<Duration>,
    /// Overrides `idle_transaction_timeout`.
    pub idle_transaction_timeout: Option<Duration>,
    /// Overrides `transaction_timeout`.
    pub transaction_timeout: Option<Duration>,
    /// Overrides `client_idle_timeout`.
    pub client_idle_timeout: Option<Duration>,
}

/// One entry of `[peers]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The other pooler's `peer_id`.
    pub id: u32,
    /// Where it is.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Most connections to it; `None`: `default_pool_size`.
    pub pool_size: Option<u32>,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            name: String::new(),
            dbname: String::new(),
            host: None,
            hosts: Vec::new(),
            ports: vec![5432],
            target: None,
            user: None,
            password: None,
            auth_user: None,
            auth_query: None,
            auth_dbname: None,
            pool_size: None,
            min_pool_size: None,
            reserve_pool_size: None,
            connect_query: None,
            pool_mode: None,
            query_wait_timeout: None,
            load_balance_hosts: true,
            max_db_connections: None,
            max_db_client_connections: None,
            server_lifetime: None,
            client_encoding: None,
            datestyle: None,
            timezone: None,
            application_name: None,
        }
    }
}

impl Database {
    /// The entry for a database that isn't listed, where `self` is the fallback.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        let dbname = if self.dbname.is_empty() { name.to_owned() } else { self.dbname.clone() };
        Self { name: name.to_owned(), dbname, ..self.clone() }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name) => f.write_str(name),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
