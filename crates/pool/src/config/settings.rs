//! Section `[pgbouncer]`: every setting with its default and with what changes it. How values
//! are written is in `notation`; which settings do nothing here is in `config::support`.

mod kinds;
mod notation;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use notation::Notation;

pub(super) use kinds::Keyword;
pub use kinds::{AuthType, FileMode, List, OnCancelled, PoolMode, SslMode};
pub(super) use notation::seconds as read_seconds;
pub use table::{Change, SetError, Setting, changes, find, set, show};

/// Not set, where `SHOW CONFIG` gives NULL for that.
const NULL: Option<&str> = None;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn owned(value: &str) -> String {
    value.to_owned()
}

table::settings! {
    /// Users who may do everything on the console.
    admin_users: List as Names = List::default() => Some(""), Live;
    /// Append the client's address and port to its `application_name`.
    application_name_add_host: bool as Flag = false => Some("0"), Live;
    /// Database in which `auth_query` runs; `None`: the one that the client asks for.
    auth_dbname: Option<String> as Text = None => NULL, Live;
    /// The user list.
    auth_file: Option<PathBuf> as Text = None => NULL, Live;
    /// Host-based rules.
    auth_hba_file: Option<PathBuf> as Text = None => Some(""), Live;
    /// The ident map.
    auth_ident_file: Option<PathBuf> as Text = None => NULL, Live;
    /// Options of LDAP, which isn't supported.
    auth_ldap_options: Option<String> as Text = None => NULL, Live;
    /// SQL that gives a user's name and secret.
    auth_query: String as Text = owned(AUTH_QUERY) => Some(AUTH_QUERY), Live;
    /// How clients prove who they are.
    auth_type: AuthType as Word = AuthType::Md5 => Some("md5"), Live;
    /// User that runs `auth_query`.
    auth_user: Option<String> as Text = None => NULL, Live;
    /// Time after which an unused database made by `*` is forgotten.
    autodb_idle_timeout: Duration as Seconds = seconds(3600) => Some("3600"), Live;
    /// Time after which a client that does nothing is disconnected; zero: never.
    client_idle_timeout: Duration as Seconds = seconds(0) => Some("0"), Live;
    /// Longest time that a client may take to log in; zero: for ever.
    client_login_timeout: Duration as Seconds = seconds(60) => Some("60"), Live;
    /// Certificates of those who sign clients' certificates.
    client_tls_ca_file: Option<PathBuf> as Text = None => Some(""), Live;
    /// Our certificate for clients.
    client_tls_cert_file: Option<PathBuf> as Text = None => Some(""), Live;
    /// Ciphers for clients (OpenSSL's syntax), up to TLS 1.2.
    client_tls_ciphers: String as Text = owned("default") => Some("default"), Live;
    /// Ciphers for clients, TLS 1.3.
    client_tls13_ciphers: String as Text = owned("") => Some(""), Live;
    /// Parameters of finite-field Diffie-Hellman, which TLS here doesn't use.
    client_tls_dheparams: String as Text = owned("auto") => Some("auto"), Live;
    /// Curve of the key exchange.
    client_tls_ecdhcurve: String as Text = owned("auto") => Some("auto"), Live;
    /// Key of our certificate.
    client_tls_key_file: Option<PathBuf> as Text = None => Some(""), Live;
    /// Protocol versions for clients: `secure`, `all`, `legacy`, or a list of `tlsv1.2` and the like.
    client_tls_protocols: String as Text = owned("secure") => Some("secure"), Live;
    /// TLS with clients.
    client_tls_sslmode: SslMode as Word = SslMode::Disable => Some("disable"), Live;
    /// Configuration of an agent, which says where the clusters' DCS is. pgherd's own.
    cluster_config: Option<PathBuf> as Text = None => Some(""), Live;
    /// The ini file itself.
    conffile: PathBuf as Text = PathBuf::new() => NULL, Live;
    /// Most server connections of a pool.
    default_pool_size: u32 as Integer = 20 => Some("20"), Live;
    /// Refuse the simple query protocol.
    disable_pqexec: bool as Flag = false => Some("0"), Fixed;
    /// Longest time that an answer of the name service is kept.
    dns_max_ttl: Duration as Seconds = seconds(15) => Some("15"), Live;
    /// Longest time that a failure of the name service is kept.
    dns_nxdomain_ttl: Duration as Seconds = seconds(15) => Some("15"), Live;
    /// How often zones' serial numbers are looked at; not supported.
    dns_zone_check_period: Duration as Seconds = seconds(0) => Some("0"), Live;
    /// Time after which a client that does nothing in a transaction is disconnected; zero: never.
    idle_transaction_timeout: Duration as Seconds = seconds(0) => Some("0"), Live;
    /// Parameters of the startup packet that are dropped.
    ignore_startup_parameters: List as Names = List::default() => Some(""), Live;
    /// Name of the service. Has no use outside Windows.
    job_name: String as Text = owned("pgbouncer") => Some("pgbouncer"), Fixed;
    /// Addresses to listen at: names, addresses or `*`. Empty: Unix sockets only.
    listen_addr: List as Names = List::default() => Some(""), Fixed;
    /// Length of the queue of connections that aren't accepted yet.
    listen_backlog: u32 as Integer = 128 => Some("128"), Fixed;
    /// Port to listen at, also in the Unix socket's name.
    listen_port: u16 as Integer = 6432 => Some("6432"), Fixed;
    /// Log logins.
    log_connections: bool as Flag = true => Some("1"), Live;
    /// Log disconnections.
    log_disconnections: bool as Flag = true => Some("1"), Live;
    /// Log errors that clients get from the pooler.
    log_pooler_errors: bool as Flag = true => Some("1"), Live;
    /// Log statistics every `stats_period`.
    log_stats: bool as Flag = true => Some("1"), Live;
    /// A notice for every client that logs in; empty: none.
    login_notify_message: String as Text = owned("") => Some(""), Live;
    /// The log.
    logfile: Option<PathBuf> as Text = None => Some(""), Live;
    /// Most client connections.
    max_client_conn: u32 as Integer = 100 => Some("100"), Live;
    /// Most server connections of a database; zero: no limit.
    max_db_connections: u32 as Integer = 0 => Some("0"), Live;
    /// Most client connections of a database; zero: no limit.
    max_db_client_connections: u32 as Integer = 0 => Some("0"), Live;
    /// Longest message, in bytes.
    max_packet_size: usize as Integer = 2_147_483_647 => Some("2147483647"), Live;
    /// Prepared statements that a server connection keeps; zero: they aren't followed.
    max_prepared_statements: u32 as Integer = 200 => Some("200"), Live;
    /// Most server connections of a user; zero: no limit.
    max_user_connections: u32 as Integer = 0 => Some("0"), Live;
    /// Most client connections of a user; zero: no limit.
    max_user_client_connections: u32 as Integer = 0 => Some("0"), Live;
    /// Where Prometheus metrics and health are served, as `address:port`; empty: nowhere. pgherd's own.
    metrics_listen: String as Text = owned("127.0.0.1:9127") => Some("127.0.0.1:9127"), Fixed;
    /// Fewest server connections of a pool in use.
    min_pool_size: u32 as Integer = 0 => Some("0"), Live;
    /// Our number among peered poolers; peering isn't supported.
    peer_id: u32 as Integer = 0 => Some("0"), Live;
    /// The pid file.
    pidfile: Option<PathBuf> as Text = None => Some(""), Fixed;
    /// Size of a buffer, in bytes.
    pkt_buf: usize as Integer = 4096 => Some("4096"), Fixed;
    /// Time after which an unused pool is forgotten; zero: never.
    pool_idle_timeout: Duration as Seconds = seconds(0) => Some("0"), Live;
    /// When a server connection goes back to its pool.
    pool_mode: PoolMode as Word = PoolMode::Session => Some("session"), Live;
    /// Longest time that a query may run; zero: for ever.
    query_timeout: Duration as Seconds = seconds(0) => Some("0"), Live;
    /// Time of waiting for a server after which the client is told; zero: it isn't told.
    query_wait_notify: Duration as Seconds = seconds(5) => Some("5"), Live;
    /// Longest time that a query may wait for a server; zero: for ever.
    query_wait_timeout: Duration as Seconds = seconds(120) => Some("120"), Live;
    /// Longest time that a cancel request may wait; zero: for ever.
    cancel_wait_timeout: Duration as Seconds = seconds(10) => Some("10"), Live;
    /// More server connections for a pool whose clients wait for long.
    reserve_pool_size: u32 as Integer = 0 => Some("0"), Live;
    /// How long they have to have waited; zero: no reserve.
    reserve_pool_timeout: Duration as Seconds = seconds(5) => Some("5"), Live;
    /// A resolv.conf of our own; not supported.
    resolv_conf: Option<PathBuf> as Text = None => Some(""), Fixed;
    /// How often one connection's data is handled before it's the others' turn.
    sbuf_loopcnt: u32 as Integer = 5 => Some("5"), Live;
    /// Iterations of SCRAM secrets that are made here.
    scram_iterations: u32 as Integer = 4096 => Some("4096"), Live;
    /// Servers idle for longer are checked before use; zero: always.
    server_check_delay: Duration as Seconds = seconds(30) => Some("30"), Live;
    /// With what; `<empty>` is a query without a statement; nothing: they are never checked.
    server_check_query: String as Text = owned("<empty>") => Some("<empty>"), Live;
    /// Longest time to connect and log in to a server.
    server_connect_timeout: Duration as Seconds = seconds(15) => Some("15"), Live;
    /// In session mode, close a server that has to be closed as soon as its transaction ends.
    server_fast_close: bool as Flag = false => Some("0"), Live;
    /// Time after which an idle server is closed; zero: never.
    server_idle_timeout: Duration as Seconds = seconds(600) => Some("600"), Live;
    /// Age at which an unused server is closed; zero: after one use.
    server_lifetime: Duration as Seconds = seconds(3600) => Some("3600"), Live;
    /// Time between a failed login at a server and the next one.
    server_login_retry: Duration as Seconds = seconds(15) => Some("15"), Live;
    /// SQL that cleans a server after a session.
    server_reset_query: String as Text = owned("DISCARD ALL") => Some("DISCARD ALL"), Live;
    /// Clean in all pool modes.
    server_reset_query_always: bool as Flag = false => Some("0"), Live;
    /// Use idle servers in turn, not the last used first.
    server_round_robin: bool as Flag = false => Some("0"), Live;
    /// Certificates of those who sign servers' certificates.
    server_tls_ca_file: Option<PathBuf> as Text = None => Some(""), Live;
    /// Our certificate for servers.
    server_tls_cert_file: Option<PathBuf> as Text = None => Some(""), Live;
    /// Ciphers for servers (OpenSSL's syntax), up to TLS 1.2.
    server_tls_ciphers: String as Text = owned("default") => Some("default"), Live;
    /// Ciphers for servers, TLS 1.3.
    server_tls13_ciphers: String as Text = owned("") => Some(""), Live;
    /// Key of our certificate.
    server_tls_key_file: Option<PathBuf> as Text = None => Some(""), Live;
    /// Protocol versions for servers, as in `client_tls_protocols`.
    server_tls_protocols: String as Text = owned("secure") => Some("secure"), Live;
    /// TLS with servers.
    server_tls_sslmode: SslMode as Word = SslMode::Prefer => Some("prefer"), Live;
    /// Let several processes listen at the same port.
    so_reuseport: bool as Flag = false => Some("0"), Fixed;
    /// Period of averages and of the statistics in the log.
    stats_period: Duration as WholeSeconds = seconds(60) => Some("60"), Live;
    /// Users who may look at everything on the console.
    stats_users: List as Names = List::default() => Some(""), Live;
    /// Longest time that SUSPEND or an online restart waits for buffers to empty.
    suspend_timeout: Duration as Seconds = seconds(10) => Some("10"), Live;
    /// What a client is told of a commit whose wait for a synchronous standby was cancelled. pgherd's own.
    sync_commit_cancelled: OnCancelled as Word = OnCancelled::Ignore => Some("ignore"), Live;
    /// Log to syslog; not supported.
    syslog: bool as Flag = false => Some("0"), Live;
    /// Its facility.
    syslog_facility: String as Text = owned("daemon") => Some("daemon"), Live;
    /// Our name there.
    syslog_ident: String as Text = owned("pgbouncer") => Some("pgbouncer"), Live;
    /// Accept a connection only when its first data is there.
    tcp_defer_accept: bool as Flag = true => Some("1"), Live;
    /// TCP keep-alive.
    tcp_keepalive: bool as Flag = true => Some("1"), Live;
    /// Lost probes until a connection counts as dead; zero: as the system has it.
    tcp_keepcnt: u32 as Integer = 0 => Some("0"), Live;
    /// Silence before the first probe; zero: as the system has it.
    tcp_keepidle: Duration as WholeSeconds = seconds(0) => Some("0"), Live;
    /// Time between probes; zero: as the system has it.
    tcp_keepintvl: Duration as WholeSeconds = seconds(0) => Some("0"), Live;
    /// Size of the kernel's socket buffers, in bytes; zero: as the system has it.
    tcp_socket_buffer: usize as Integer = 0 => Some("0"), Live;
    /// Longest time that sent data may stay unacknowledged (given in milliseconds); zero: as the system has it.
    tcp_user_timeout: Duration as Milliseconds = seconds(0) => Some("0"), Live;
    /// Parameters that follow a client from server to server, besides the usual ones.
    track_extra_parameters: List as Names = vec![owned("IntervalStyle")].into() => Some("IntervalStyle"), Fixed;
    /// Longest time that a transaction may take; zero: for ever.
    transaction_timeout: Duration as Seconds = seconds(0) => Some("0"), Live;
    /// Directory of the Unix socket; a leading `@`: in the abstract namespace; `None`: no Unix socket.
    unix_socket_dir: Option<PathBuf> as Text = Some(PathBuf::from("/tmp")) => Some("/tmp"), Fixed;
    /// Group of the Unix socket.
    unix_socket_group: Option<String> as Text = None => Some(""), Fixed;
    /// Permissions of the Unix socket.
    unix_socket_mode: FileMode as Permissions = FileMode(0o777) => Some("0777"), Fixed;
    /// System user to become.
    user: Option<String> as Text = None => NULL, Fixed;
    /// How much is logged, 0 to 3.
    verbose: u32 as Integer = 0 => NULL, Live;
    /// Threads; zero: one for each core. pgherd's own.
    workers: u32 as Integer = 0 => Some("0"), Fixed;
}

/// The query that pgbouncer has by default (its documentation, `auth_query`).
const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
                          FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

#[cfg(test)]
mod tests;
