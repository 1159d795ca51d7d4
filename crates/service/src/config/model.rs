//! The configuration as the programs see it: plain structs, read and checked. Reading and checking are not here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::read::host_port;

/// Everything that one node's file, environment and flags say. Patroni's names throughout.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the cluster.
    pub scope: String,
    /// Name of this node; empty in a configuration meant for the admin client only.
    pub name: String,
    /// First part of every DCS key, with a leading slash and none at the end (`/service`).
    pub namespace: String,
    /// The REST interface.
    pub restapi: RestApi,
    /// How the admin client connects.
    pub ctl: Ctl,
    /// pgherd's own control interface.
    pub control: Control,
    /// The store that all members share.
    pub dcs: Dcs,
    /// What is done once, when a cluster is created.
    pub bootstrap: Bootstrap,
    /// The local PostgreSQL.
    pub postgresql: Postgresql,
    /// Logging.
    pub log: Log,
    /// The hardware watchdog.
    pub watchdog: Watchdog,
    /// Tags of this member, published as they are.
    pub tags: Map<String, Value>,
    /// All layers merged, as read. For `--print-config` and for finding what a reload changed.
    pub(super) merged: Merged,
}

/// A text that must not be shown. `Debug` prints stars.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

/// A host (name, address, `*`, or for listening several of them with commas) and a port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostPort {
    /// Host without the brackets that IPv6 addresses carry beside a port.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') && !self.host.contains(',') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for HostPort {
    type Err = String;

    /// Reads `host:port`, `[v6]:port`, `*:port` or `a,b:port`.
    fn from_str(text: &str) -> Result<HostPort, String> {
        host_port(text, None)
    }
}

/// User and password of HTTP Basic authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basic {
    /// User.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// Whether callers must show a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerifyClient {
    /// Not asked for.
    #[default]
    None,
    /// Checked when shown; calls that change something need one.
    Optional,
    /// Every call needs one.
    Required,
}

/// Section `restapi`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RestApi {
    /// Where to listen.
    pub listen: HostPort,
    /// The address other members and clients use.
    pub connect_address: HostPort,
    /// Credentials that calls which change something need.
    pub authentication: Option<Basic>,
    /// Certificate chain (PEM). Its presence turns TLS on.
    pub certfile: Option<PathBuf>,
    /// Private key (PEM); absent means that it is in `certfile`.
    pub keyfile: Option<PathBuf>,
    /// Password of the private key.
    pub keyfile_password: Option<Secret>,
    /// Certificate authority for client certificates.
    pub cafile: Option<PathBuf>,
    /// Whether client certificates are checked.
    pub verify_client: VerifyClient,
    /// Addresses, networks and host names that may call what changes something; empty admits all.
    pub allowlist: Vec<String>,
    /// Members of the cluster are on the allowlist too.
    pub allowlist_include_members: bool,
    /// Headers added to every answer.
    pub http_extra_headers: BTreeMap<String, String>,
    /// Headers added to answers over TLS.
    pub https_extra_headers: BTreeMap<String, String>,
}

impl RestApi {
    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.certfile.is_some() { "https" } else { "http" }
    }

    /// The address that this member publishes as `api_url`.
    pub fn api_url(&self) -> String {
        format!("{}://{}/patroni", self.scheme(), self.connect_address)
    }
}

/// Section `ctl`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ctl {
    /// Credentials for the members' interfaces; falls back on `restapi.authentication`.
    pub authentication: Option<Basic>,
    /// Servers' certificates aren't verified.
    pub insecure: bool,
    /// Certificate authority of the members' certificates.
    pub cacert: Option<PathBuf>,
    /// Client certificate (PEM).
    pub certfile: Option<PathBuf>,
    /// Its private key; absent means that it is in `certfile`.
    pub keyfile: Option<PathBuf>,
    /// Password of the private key.
    pub keyfile_password: Option<Secret>,
}

/// Section `control`, pgherd's own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Control {
    /// A port of its own for gRPC; absent shares `restapi.listen`.
    pub listen: Option<HostPort>,
}

/// Which store the cluster's state is kept in.
#[derive(Debug, Clone, PartialEq)]
pub enum Dcs {
    /// etcd v3 (sections `etcd` and `etcd3`).
    Etcd(Etcd),
    /// One file on this machine (section `embedded`).
    Embedded(Embedded),
}

/// Section `etcd` or `etcd3`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Etcd {
    /// URLs such as `http://10.0.0.1:2379`, never empty.
    pub endpoints: Vec<String>,
    /// User.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Certificate authority of the servers' certificates.
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its private key; absent means that it is in `cert`.
    pub key: Option<PathBuf>,
}

/// Section `embedded`, pgherd's own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embedded {
    /// The SQLite file, shared by all agents of this machine.
    pub path: PathBuf,
}

/// Section `bootstrap`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bootstrap {
    /// The dynamic configuration that a new cluster starts with.
    pub dcs: Value,
    /// Options for initdb as command line arguments, such as `--encoding=UTF8`, `--data-checksums`.
    pub initdb: Vec<String>,
    /// Lines for pg_hba.conf unless `postgresql.pg_hba` says otherwise.
    pub pg_hba: Vec<String>,
    /// Roles to create.
    pub users: BTreeMap<String, BootstrapUser>,
}

/// A role created with the cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BootstrapUser {
    /// Password.
    pub password: Option<Secret>,
    /// Attributes for CREATE ROLE (`createrole`, `createdb`, ...).
    pub options: Vec<String>,
}

/// Section `postgresql`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Postgresql {
    /// Where PostgreSQL listens; the host may be a comma-separated list or `*`.
    pub listen: HostPort,
    /// The address that others reach it at.
    pub connect_address: HostPort,
    /// Data directory, absolute.
    pub data_dir: PathBuf,
    /// Where the configuration files are; absent means the data directory.
    pub config_dir: Option<PathBuf>,
    /// Where the server programs are; absent means PATH.
    pub bin_dir: Option<PathBuf>,
    /// Other names for server programs, by their usual name (`postgres: postgres-custom`).
    pub bin_name: BTreeMap<String, String>,
    /// The password file that pgherd writes.
    pub pgpass: Option<PathBuf>,
    /// The agent connects over a Unix socket.
    pub use_unix_socket: bool,
    /// Replication connections to the local server use a Unix socket.
    pub use_unix_socket_repl: bool,
    /// A configuration file to use in place of `postgresql.base.conf`.
    pub custom_conf: Option<PathBuf>,
    /// The roles that pgherd itself uses.
    pub authentication: Authentication,
    /// Server parameters of this node, as PostgreSQL writes them.
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf.
    pub pg_hba: Option<Vec<String>>,
    /// Lines of pg_ident.conf.
    pub pg_ident: Option<Vec<String>>,
    /// Options for pg_basebackup as command line arguments (`--max-rate=100M`, `--verbose`).
    pub basebackup: Vec<String>,
    /// Options for pg_rewind as command line arguments.
    pub rewind: Vec<String>,
    /// How long pg_ctl-like operations may take.
    pub pg_ctl_timeout: Duration,
    /// The user that PostgreSQL runs as when the agent runs as root (pgherd's own); absent means the data directory's
    /// owner.
    pub run_as: Option<String>,
}

/// The roles that pgherd itself uses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Authentication {
    /// Superuser.
    pub superuser: Credentials,
    /// Streaming replication.
    pub replication: Credentials,
    /// pg_rewind; absent means the superuser.
    pub rewind: Option<Credentials>,
}

/// How one role connects.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Credentials {
    /// Role.
    pub username: String,
    /// Password.
    pub password: Option<Secret>,
    /// libpq connection options (`sslmode`, `sslcert`, ...) by libpq's own name.
    pub options: BTreeMap<String, String>,
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    /// Form of a line.
    pub kind: LogKind,
    /// Least important level that is written.
    pub level: Level,
    /// Python logging format of a line; absent means Patroni's (`%(asctime)s %(levelname)s: %(message)s`).
    pub format: Option<String>,
    /// strftime format of `asctime`; absent means `%Y-%m-%d %H:%M:%S` and milliseconds.
    pub dateformat: Option<String>,
    /// Directory for a log file in place of stderr.
    pub dir: Option<PathBuf>,
    /// How many old files are kept.
    pub file_num: u32,
    /// Size in bytes at which a new file begins.
    pub file_size: u64,
    /// Levels by module.
    pub loggers: BTreeMap<String, Level>,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogKind {
    /// Text.
    #[default]
    Plain,
    /// One JSON object.
    Json,
}

/// Severity, by Python's names as in Patroni's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// DEBUG (and NOTSET).
    Debug,
    /// INFO.
    #[default]
    Info,
    /// WARNING.
    Warning,
    /// ERROR (and CRITICAL).
    Error,
}

/// Section `watchdog`.
#[derive(Debug, Clone, PartialEq)]
pub struct Watchdog {
    /// Whether it is used.
    pub mode: WatchdogMode,
    /// Its device.
    pub device: PathBuf,
    /// The watchdog fires this long before the lease ends; `None` (-1 in the file) means half the ttl.
    pub safety_margin: Option<Duration>,
}

impl Default for Watchdog {
    fn default() -> Watchdog {
        Watchdog {
            mode: WatchdogMode::Automatic,
            device: PathBuf::from("/dev/watchdog"),
            safety_margin: Some(Duration::from_secs(5)),
        }
    }
}

/// Whether the watchdog is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchdogMode {
    /// Never.
    Off,
    /// Where it works.
    #[default]
    Automatic,
    /// A node without it can't be leader.
    Required,
}

/// The merged layers. `Debug` shows nothing of them, because there are secrets inside.
#[derive(Clone, PartialEq, Default)]
pub(super) struct Merged(pub(super) Value);

impl fmt::Debug for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(merged layers)")
    }
}
