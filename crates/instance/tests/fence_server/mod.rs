//! A real PostgreSQL in a directory of its own, for tests that kill it. Reachable over its Unix socket alone.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part of it; only tests do")]

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use instance::fence;

#[path = "../postgres_programs/mod.rs"]
mod postgres_programs;
use postgres_programs::BIN;

pub(crate) struct Server {
    dir: tempfile::TempDir,
    postmaster: Option<Child>,
    clients: Vec<Child>,
}

/// A command that runs as a user PostgreSQL accepts.
pub(crate) fn as_postgres(program: impl AsRef<Path>) -> Command {
    let program = program.as_ref();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn until(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(Duration::from_secs(20), condition), "not within 20 s: {what}");
}

pub(crate) fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

impl Server {
    /// A new, running server.
    pub(crate) fn start() -> Server {
        let dir = tempfile::Builder::new().prefix("pgherd-fence-").tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
            nix::unistd::chown(dir.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let mut server = Server { dir, postmaster: None, clients: Vec::new() };
        let ok = as_postgres(BIN.join("initdb"))
            .args(["-N", "-A", "trust", "--no-locale", "-U", "postgres", "-D"])
            .arg(server.data_dir())
            .status();
        assert!(ok.unwrap().success(), "initdb");
        server.start_again();
        until("the server answers", || server.sql("select 1"));
        server
    }

    /// Starts PostgreSQL in the directory, and doesn't wait.
    pub(crate) fn start_again(&mut self) -> u32 {
        let mut command = as_postgres(BIN.join("postgres"));
        command.arg("-D").arg(self.data_dir()).arg("-k").arg(self.dir.path());
        for setting in ["listen_addresses=", "max_connections=120", "fsync=off", "autovacuum=off"] {
            command.args(["-c", setting]);
        }
        // As the agent does: a server killed while it wrote one leaves an empty lock file.
        for lock in [self.data_dir().join("postmaster.pid"), self.dir.path().join(".s.PGSQL.5432.lock")] {
            if lock.metadata().is_ok_and(|m| m.len() == 0) {
                std::fs::remove_file(lock).unwrap();
            }
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let child = command.stderr(log).spawn().unwrap();
        let pid = child.id();
        if let Some(mut old) = self.postmaster.replace(child) {
            old.wait().unwrap();
        }
        pid
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn postmaster(&self) -> u32 {
        self.postmaster.as_ref().unwrap().id()
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        fence::processes(&self.data_dir())
    }

    fn client(&self, program: &str) -> Command {
        let mut command = as_postgres(BIN.join(program));
        command.arg("-h").arg(self.dir.path()).args(["-U", "postgres"]);
        command
    }

    /// Runs SQL; whether that succeeded.
    pub(crate) fn sql(&self, sql: &str) -> bool {
        self.client("psql").args(["-X", "-q", "-c", sql, "postgres"]).status().unwrap().success()
    }

    /// Runs SQL in a session of its own, and doesn't wait.
    pub(crate) fn sql_in_background(&mut self, sql: &str) {
        let child = self.client("psql").args(["-X", "-q", "-c", sql, "postgres"]).spawn().unwrap();
        self.clients.push(child);
    }

    /// This many sessions that commit as fast as they can, all of them connected.
    pub(crate) fn with_writers(mut self, count: usize) -> Server {
        assert!(self.client("pgbench").args(["-i", "-q", "postgres"]).status().unwrap().success());
        let n = count.to_string();
        let child = self.client("pgbench").args(["-n", "-T", "300", "-c", &n, "postgres"]).spawn().unwrap();
        self.clients.push(child);
        let are_there =
            format!("select 1 / (count(*) >= {n})::int from pg_stat_activity where application_name = 'pgbench'");
        until("the writers are connected", || self.sql(&are_there));
        self
    }

    /// Sessions whose backends notice nothing, not even the death of the postmaster.
    pub(crate) fn with_deaf_backends(mut self, count: usize) -> Server {
        for _ in 0..count {
            self.sql_in_background("do 'begin loop end loop; end'");
        }
        let run = format!(
            "select 1 / (count(*) >= {count})::int from pg_stat_activity where state = 'active' and query like 'do%'"
        );
        until("the backends run", || self.sql(&run));
        self
    }

    /// kill -9 of the postmaster, and of it alone.
    pub(crate) fn kill_postmaster(&mut self) {
        let mut child = self.postmaster.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for client in &mut self.clients {
            let _ = client.kill();
            let _ = client.wait();
        }
        fence::fence(&self.data_dir(), None, Duration::from_secs(10));
        if let Some(postmaster) = &mut self.postmaster {
            let _ = postmaster.kill();
            let _ = postmaster.wait();
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", std::fs::read_to_string(self.log_file()).unwrap_or_default());
        }
    }
}
