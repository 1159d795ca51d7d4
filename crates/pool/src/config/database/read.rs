//! Reads entries of `[databases]`, `[users]` and `[peers]` from their connection strings.

use std::path::PathBuf;
use std::time::Duration;

use super::{Database, Host, Peer, User};
use crate::config::settings::{Keyword, PoolMode, read_seconds};
use crate::config::target::Draft;
use crate::config::{connection, spelling};

const DATABASE: &[&str] = &[
    "dbname",
    "host",
    "port",
    "user",
    "password",
    "auth_user",
    "auth_query",
    "auth_dbname",
    "pool_size",
    "min_pool_size",
    "reserve_pool_size",
    "reserve_pool",
    "connect_query",
    "pool_mode",
    "query_wait_timeout",
    "load_balance_hosts",
    "max_db_connections",
    "max_db_client_connections",
    "server_lifetime",
    "client_encoding",
    "datestyle",
    "timezone",
    "application_name",
    "cluster",
    "role",
    "prefer",
    "max_lag",
    "fallback",
];

const USER: &[&str] = &[
    "pool_size",
    "reserve_pool_size",
    "pool_mode",
    "max_user_connections",
    "max_user_client_connections",
    "query_timeout",
    "query_wait_timeout",
    "idle_transaction_timeout",
    "transaction_timeout",
    "client_idle_timeout",
];

const PEER: &[&str] = &["host", "port", "pool_size"];

/// What is wrong in an entry, and advice.
pub(in crate::config) type Wrong = (String, String);

/// Goes through the pairs of an entry; `put` gives `None` for a name that it doesn't know.
fn each(
    text: &str,
    known: &[&str],
    kind: &str,
    wrong: &mut Vec<Wrong>,
    mut put: impl FnMut(&str, String) -> Option<Result<(), String>>,
) {
    let pairs = connection::parse(text).unwrap_or_else(|fault| {
        wrong.push(("syntax error in connection string".to_owned(), fault));
        Vec::new()
    });
    for (key, value) in pairs {
        match put(key, value) {
            Some(Ok(())) => {}
            Some(Err(fault)) => wrong.push((fault, String::new())),
            None => wrong
                .push((format!("unrecognized {kind} parameter: {key}"), spelling::advice(key, known.iter().copied()))),
        }
    }
}

impl Database {
    /// The entry `name = text`. The hosts of one without `host` are left to the caller.
    pub(in crate::config) fn read(name: &str, text: &str, wrong: &mut Vec<Wrong>) -> Self {
        let dbname = if name == "*" { String::new() } else { name.to_owned() };
        let mut database = Self { name: name.to_owned(), dbname, ..Self::default() };
        if name == "pgbouncer" {
            wrong.push(("database name \"pgbouncer\" is reserved".to_owned(), String::new()));
        }
        let (mut draft, mut hinted) = (Draft::default(), Vec::new());
        each(text, DATABASE, "connection", wrong, |key, value| match draft.put(key, &value) {
            Some(taken) => {
                hinted.extend(taken.err());
                Some(Ok(()))
            }
            None => database.put(key, value),
        });
        wrong.extend(hinted);
        database.target = draft.finish(&database, wrong);
        if database.ports.len() > 1 && database.ports.len() != database.hosts.len() {
            wrong.push(("there have to be as many ports as hosts, or one".to_owned(), String::new()));
        }
        database
    }

    fn put(&mut self, key: &str, value: String) -> Option<Result<(), String>> {
        let text = Some(value.clone());
        match key {
            "dbname" => self.dbname = value,
            "host" => return Some(self.put_hosts(value)),
            "port" => return Some(self.put_ports(&value)),
            "user" => self.user = text,
            "password" => self.password = Some(value.into()),
            "auth_user" => self.auth_user = text,
            "auth_query" => self.auth_query = text,
            "auth_dbname" if value == "pgbouncer" => {
                return Some(Err("cannot use the reserved \"pgbouncer\" database as an auth_dbname".to_owned()));
            }
            "auth_dbname" => self.auth_dbname = text,
            "pool_size" => return Some(size(&mut self.pool_size, key, &value)),
            "min_pool_size" => return Some(size(&mut self.min_pool_size, key, &value)),
            "reserve_pool_size" | "reserve_pool" => return Some(size(&mut self.reserve_pool_size, key, &value)),
            "connect_query" => self.connect_query = text,
            "pool_mode" => return Some(mode(&mut self.pool_mode, &value)),
            "query_wait_timeout" => return Some(time(&mut self.query_wait_timeout, key, &value)),
            "load_balance_hosts" => return Some(self.put_balance(&value)),
            "max_db_connections" => return Some(limit(&mut self.max_db_connections, key, &value)),
            "max_db_client_connections" => return Some(limit(&mut self.max_db_client_connections, key, &value)),
            "server_lifetime" => return Some(time(&mut self.server_lifetime, key, &value)),
            "client_encoding" => self.client_encoding = text,
            "datestyle" => self.datestyle = text,
            "timezone" => self.timezone = text,
            "application_name" => self.application_name = text,
            _ => return None,
        }
        Some(Ok(()))
    }

    fn put_hosts(&mut self, value: String) -> Result<(), String> {
        self.hosts = value.split(',').map(str::trim).filter(|host| !host.is_empty()).map(Host::read).collect();
        self.host = Some(value);
        if self.hosts.is_empty() { Err("host has no name".to_owned()) } else { Ok(()) }
    }

    fn put_ports(&mut self, value: &str) -> Result<(), String> {
        self.ports = value.split(',').map(port).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn put_balance(&mut self, value: &str) -> Result<(), String> {
        let round_robin = value.eq_ignore_ascii_case("round-robin");
        self.load_balance_hosts = round_robin;
        let valid = round_robin || value.eq_ignore_ascii_case("disable");
        if valid { Ok(()) } else { Err(format!("invalid load_balance_hosts: {value}")) }
    }
}

impl User {
    /// The entry `name = text`.
    pub(in crate::config) fn read(name: &str, text: &str, wrong: &mut Vec<Wrong>) -> Self {
        let mut user = Self { name: name.to_owned(), ..Self::default() };
        each(text, USER, "user", wrong, |key, value| user.put(key, &value));
        user
    }

    fn put(&mut self, key: &str, value: &str) -> Option<Result<(), String>> {
        Some(match key {
            "pool_size" => size(&mut self.pool_size, key, value),
            "reserve_pool_size" => size(&mut self.reserve_pool_size, key, value),
            "pool_mode" => mode(&mut self.pool_mode, value),
            "max_user_connections" => limit(&mut self.max_user_connections, key, value),
            "max_user_client_connections" => limit(&mut self.max_user_client_connections, key, value),
            "query_timeout" => time(&mut self.query_timeout, key, value),
            "query_wait_timeout" => time(&mut self.query_wait_timeout, key, value),
            "idle_transaction_timeout" => time(&mut self.idle_transaction_timeout, key, value),
            "transaction_timeout" => time(&mut self.transaction_timeout, key, value),
            "client_idle_timeout" => time(&mut self.client_idle_timeout, key, value),
            _ => return None,
        })
    }
}

impl Peer {
    /// The entry `id = text`.
    pub(in crate::config) fn read(id: &str, text: &str, wrong: &mut Vec<Wrong>) -> Option<Self> {
        let number = id.parse().ok().filter(|id| (1..=16383).contains(id));
        let (mut host, mut port_number, mut pool_size) = (None, 6432, None);
        each(text, PEER, "connection", wrong, |key, value| {
            match key {
                "host" => host = Some(Host::read(&value)),
                "port" => return Some(port(&value).map(|number| port_number = number)),
                "pool_size" => return Some(size(&mut pool_size, key, &value)),
                _ => return None,
            }
            Some(Ok(()))
        });
        if number.is_none() {
            wrong.push(("ids of peers must be a number larger than 0 and at most 16383".to_owned(), String::new()));
        }
        if host.is_none() {
            wrong.push((format!("host was not provided for peer {id}"), String::new()));
        }
        Some(Self { id: number?, host: host?, port: port_number, pool_size })
    }
}

impl Host {
    /// One host of a list.
    pub(crate) fn read(text: &str) -> Self {
        if text.starts_with(['/', '@']) {
            return Self::Unix(PathBuf::from(text));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        Self::Tcp(bare.to_owned())
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.trim().parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("invalid port: {text}"))
}

/// A count; -1 is not set, as in pgbouncer.
fn count(key: &str, text: &str) -> Result<Option<u32>, String> {
    match text.parse() {
        Ok(-1) => Ok(None),
        Ok(number) => u32::try_from(number).map(Some).map_err(|_| bad(key, text)),
        Err::<i64, _>(_) => Err(bad(key, text)),
    }
}

fn bad(key: &str, value: &str) -> String {
    format!("invalid value \"{value}\" for parameter {key}")
}

fn size(field: &mut Option<u32>, key: &str, text: &str) -> Result<(), String> {
    *field = count(key, text)?;
    Ok(())
}

/// A count of which zero, too, leaves it to the general setting, as in pgbouncer.
fn limit(field: &mut Option<u32>, key: &str, text: &str) -> Result<(), String> {
    *field = count(key, text)?.filter(|number| *number != 0);
    Ok(())
}

/// A time; zero leaves it to the general setting, as in pgbouncer.
fn time(field: &mut Option<Duration>, key: &str, text: &str) -> Result<(), String> {
    let read = read_seconds(text).ok_or_else(|| bad(key, text))?;
    *field = Some(read).filter(|time| !time.is_zero());
    Ok(())
}

fn mode(field: &mut Option<PoolMode>, text: &str) -> Result<(), String> {
    *field = Some(PoolMode::find(text).ok_or_else(|| format!("invalid pool mode: {text}"))?);
    Ok(())
}

#[cfg(test)]
mod tests;
