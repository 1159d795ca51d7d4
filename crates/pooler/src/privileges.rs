//! The system user that the pooler runs as, and how many files it may open.

use std::ffi::CString;

use nix::unistd::{self, User};
use pool::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Becomes another user, with all of that user's groups. Has to be called before other threads are started.
pub(crate) fn become_user(name: &str) -> Result<(), String> {
    let user = User::from_name(name).ok().flatten();
    let user = user.ok_or_else(|| format!("could not find user '{name}' to switch to"))?;
    if user.uid == unistd::geteuid() && user.uid == unistd::getuid() {
        return Ok(());
    }
    let groups = CString::new(name)
        .map_err(|e| e.to_string())
        .and_then(|name| unistd::initgroups(&name, user.gid).map_err(|e| e.desc().to_owned()));
    groups.map_err(|e| format!("failed to reset groups: {e}"))?;
    unistd::setgid(user.gid).map_err(|e| format!("failed to assume identity of user '{name}': {}", e.desc()))?;
    unistd::setuid(user.uid).map_err(|e| format!("failed to assume identity of user '{name}': {}", e.desc()))
}

/// Whether this is root.
pub(crate) fn is_root() -> bool {
    unistd::geteuid().is_root() || unistd::getuid().is_root()
}

/// Allows itself as many open files as the system does, and says how many that is and how many it may come to.
pub(crate) fn raise_file_limit(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    let show = |n: Option<u64>| n.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let clients = u64::from(config.settings.max_client_conn);
    let expected = clients + servers(config) + OWN_FILES;
    tracing::info!(
        target: "pooler",
        "kernel file descriptor limit: {} (hard: {}); max_client_conn: {clients}, max expected fd use: {expected}",
        show(now.current),
        show(now.maximum),
    );
    if now.current.is_some_and(|limit| limit < expected) {
        tracing::warn!(
            target: "pooler",
            "the limit on open files is lower than what max_client_conn and the pools may need: raise it (ulimit -n, \
             LimitNOFILE= in the unit)"
        );
    }
}

/// Files besides connections: the log, listening sockets, what each thread waits with.
const OWN_FILES: u64 = 64;

/// Server connections that the databases listed may come to: a pool for each user, unless one is forced.
fn servers(config: &Config) -> u64 {
    let users = config.credentials.len().max(1) as u64;
    let of = |database: &pool::config::Database| {
        let size = database.pool_size.unwrap_or(config.settings.default_pool_size);
        let pools = if database.user.is_some() { 1 } else { users };
        u64::from(size) * pools
    };
    config.databases.values().map(of).sum()
}
