//! What an instance is told from outside: where it lives, who manages it, what its server parameters are. Plain values;
//! reading them out of YAML is the agent's business.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;

/// A PostgreSQL user that pgherd logs in as.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Role name.
    pub username: String,
    /// Password; `None` where the server asks for none.
    pub password: Option<String>,
    /// libpq connection settings such as `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `channel_binding`, `gssencmode`.
    pub settings: BTreeMap<String, String>,
}

impl std::fmt::Debug for Credentials {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).field("settings", &self.settings).finish()
    }
}

/// Everything about the instance that comes from the local configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the cluster (`cluster_name`).
    pub scope: String,
    /// Name of this member (`application_name` of its replication connection).
    pub name: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where PostgreSQL's programs are; `None` searches PATH, then the newest of `/usr/lib/postgresql/*/bin` and
    /// `/usr/pgsql-*/bin`.
    pub bin_dir: Option<PathBuf>,
    /// Other names of programs (`postgres`, `initdb`, ...), as Patroni's `bin_name`.
    pub bin_names: BTreeMap<String, String>,
    /// `host[,host...]:port` to listen on.
    pub listen: String,
    /// Host and port under which others reach this instance.
    pub connect_address: (String, u16),
    /// Directory of the Unix socket; `None` leaves PostgreSQL's default.
    pub socket_dir: Option<PathBuf>,
    /// Prefer the Unix socket to TCP for the managing connection.
    pub use_unix_socket: bool,
    /// Password file for replication; `None` is `<data_dir>.pgpass`.
    pub pgpass: Option<PathBuf>,
    /// A file to include in place of `postgresql.base.conf`.
    pub custom_conf: Option<PathBuf>,
    /// When root: the user to run PostgreSQL as while there is no data directory whose owner says it.
    pub run_as: Option<String>,
    /// Where the server's stdout and stderr go; `None` is `<data_dir>.log`.
    pub log_file: Option<PathBuf>,
    /// The managing user.
    pub superuser: Credentials,
    /// The replication user.
    pub replication: Credentials,
    /// The user of pg_rewind; `None` is the superuser.
    pub rewind: Option<Credentials>,
    /// At most how often a new connection and the storage are tried.
    pub connect_check_every: Duration,
}

impl Options {
    /// Options with defaults in all that has one.
    pub fn new(scope: &str, name: &str, data_dir: impl Into<PathBuf>, listen: &str) -> Options {
        let user = |name: &str| Credentials { username: name.into(), ..Credentials::default() };
        let listen_at = Listen::parse(listen).unwrap_or(Listen { hosts: vec!["127.0.0.1".into()], port: 5432 });
        Options {
            scope: scope.into(),
            name: name.into(),
            data_dir: data_dir.into(),
            bin_dir: None,
            bin_names: BTreeMap::new(),
            listen: listen.into(),
            connect_address: (listen_at.local_host().to_owned(), listen_at.port),
            socket_dir: None,
            use_unix_socket: true,
            pgpass: None,
            custom_conf: None,
            run_as: None,
            log_file: None,
            superuser: user("postgres"),
            replication: user("replicator"),
            rewind: None,
            connect_check_every: Duration::from_secs(10),
        }
    }
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Addresses, host names or `*`.
    pub hosts: Vec<String>,
    /// The port.
    pub port: u16,
}

impl Listen {
    /// Reads `host[,host...][:port]`, where IPv6 addresses may stand in brackets.
    pub fn parse(text: &str) -> Result<Listen, Error> {
        let bad = |why: &str| {
            Error::Setup(format!(
                "postgresql.listen: {text:?} {why}; write it as host:port, such as 0.0.0.0:5432 or 127.0.0.1,10.0.0.1:5432"
            ))
        };
        let (hosts, port) = match text.rsplit_once(':') {
            Some((h, p)) if !p.contains(']') && (!h.contains(':') || h.ends_with(']')) => {
                (h, p.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(|| bad("has no valid port"))?)
            }
            _ => (text, 5432),
        };
        let hosts: Vec<String> =
            hosts.split(',').map(|h| h.trim().trim_matches(['[', ']']).to_owned()).filter(|h| !h.is_empty()).collect();
        if hosts.is_empty() {
            return Err(bad("names no host"));
        }
        if let Some(h) = hosts.iter().find(|h| h.contains([' ', '\'', '"', '/', '\\'])) {
            return Err(bad(&format!("has a host that can't be one ({h:?})")));
        }
        Ok(Listen { hosts, port })
    }

    /// The host at which this machine itself reaches the server by TCP.
    pub fn local_host(&self) -> &str {
        let local = |h: &&String| h.as_str() == "localhost" || h.starts_with("127.") || h.as_str() == "::1";
        if self.hosts.iter().any(|h| h == "*" || h == "0.0.0.0") {
            return "127.0.0.1";
        }
        if self.hosts.iter().any(|h| h == "::") {
            return "::1";
        }
        self.hosts.iter().find(local).or(self.hosts.first()).map_or("127.0.0.1", String::as_str)
    }
}

/// Server settings that change while the agent runs: the dynamic configuration with the local one merged over it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Configuration {
    /// Server parameters as configured, without defaults.
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf; `None` leaves the file alone.
    pub pg_hba: Option<Vec<String>>,
    /// Lines of pg_ident.conf; `None` leaves the file alone.
    pub pg_ident: Option<Vec<String>>,
    /// Replicas use a physical slot on their upstream.
    pub use_slots: bool,
}

/// A server to stream, clone or rewind from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The member's name.
    pub name: String,
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_read() {
        let one = |t: &str| Listen::parse(t).unwrap();
        assert_eq!(one("0.0.0.0:5433"), Listen { hosts: vec!["0.0.0.0".into()], port: 5433 });
        assert_eq!(one("127.0.0.1,10.0.0.1:5432").hosts, ["127.0.0.1", "10.0.0.1"]);
        assert_eq!(one("*"), Listen { hosts: vec!["*".into()], port: 5432 });
        assert_eq!(one("[::1]:6000"), Listen { hosts: vec!["::1".into()], port: 6000 });
        assert_eq!(one("::"), Listen { hosts: vec!["::".into()], port: 5432 });
        assert_eq!(one("0.0.0.0:1").local_host(), "127.0.0.1");
        assert_eq!(one("10.0.0.1,127.0.11.101:1").local_host(), "127.0.11.101");
        for bad in ["", ":5432", "host:", "host:0", "host:70000", "host:abc", "a b:1", "/tmp:1"] {
            let e = Listen::parse(bad).unwrap_err().to_string();
            assert!(e.contains("postgresql.listen"), "{bad}: {e}");
        }
    }

    #[test]
    fn passwords_are_not_printed() {
        let c = Credentials { username: "u".into(), password: Some("secret".into()), ..Credentials::default() };
        assert!(!format!("{c:?}").contains("secret"));
    }
}
