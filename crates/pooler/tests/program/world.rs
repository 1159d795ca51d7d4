//! A directory and an address for one test, the program in them, and waiting for conditions.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::postgres::Postgres;

/// Longest wait for anything.
const LONG: Duration = Duration::from_secs(20);

/// Who the program becomes when the tests run as root.
const SOMEBODY: &str = "nobody";

/// Tests of one process have the same address.
static PORT: AtomicU16 = AtomicU16::new(6432);

pub(crate) struct World {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) postgres: Postgres,
    dir: TempDir,
}

/// A process of the program; it's killed in the end.
pub(crate) struct Program {
    child: Child,
}

/// A process in the background; it's killed in the end.
pub(crate) struct Daemon(pub(crate) i32);

impl World {
    pub(crate) fn new() -> World {
        let open = fs::Permissions::from_mode(0o777);
        let dir = tempfile::Builder::new().prefix("pgherd-program-").permissions(open.clone()).tempdir().unwrap();
        fs::set_permissions(dir.path(), open).unwrap();
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let host = format!("127.{}.{middle}.{low}", 128 + high % 64);
        let postgres = Postgres::start(&host);
        let world = World { host, port: PORT.fetch_add(1, Ordering::Relaxed), postgres, dir };
        world.configure("");
        world
    }

    /// Writes the ini, with further settings at its end.
    pub(crate) fn configure(&self, more: &str) {
        let dir = self.dir.path().display();
        let (host, port, server) = (&self.host, self.port, self.postgres.address);
        let text = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = {host}\nlisten_port = {port}\n\
             unix_socket_dir = {dir}\npidfile = {dir}/pid\nlogfile = {dir}/log\nauth_type = trust\n\
             auth_file = {dir}/users\nadmin_users = admin\nmetrics_listen =\nworkers = 2\nlog_connections = 0\n\
             log_disconnections = 0\nserver_tls_sslmode = disable\n{more}\n",
            server.ip(),
            server.port()
        );
        fs::write(self.ini(), text).unwrap();
        fs::write(self.path("users"), "\"u\" \"\"\n\"admin\" \"\"\n").unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn ini(&self) -> PathBuf {
        self.path("pooler.ini")
    }

    pub(crate) fn unix(&self) -> PathBuf {
        self.path(&format!(".s.PGSQL.{}", self.port))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.path("printed")).unwrap_or_default()
    }

    pub(crate) fn pidfile(&self) -> Option<i32> {
        fs::read_to_string(self.path("pid")).ok()?.trim().parse().ok()
    }

    /// The program with these flags, as a user that isn't root; what it prints is added to a file.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgherd-pooler"));
        if geteuid().is_root() && !flags.contains(&"-u") {
            command.args(["-u", SOMEBODY]);
        }
        command.args(flags).arg(self.ini()).stdin(Stdio::null());
        self.to_file(&mut command);
        command
    }

    pub(crate) fn to_file(&self, command: &mut Command) {
        let printed = OpenOptions::new().create(true).append(true).open(self.path("printed")).unwrap();
        command.stdout(printed.try_clone().unwrap()).stderr(printed);
    }

    /// Starts the program and waits until it's up.
    pub(crate) fn start(&self, flags: &[&str]) -> Program {
        Program::of(&mut self.command(flags)).up(self)
    }

    /// Runs the program to its end; returns its exit code and what it printed.
    pub(crate) fn run(&self, flags: &[&str]) -> (i32, String) {
        let before = self.printed().len();
        let code = Program::of(&mut self.command(flags)).exit().code().unwrap();
        (code, self.printed()[before..].to_owned())
    }

    /// Waits for a line in the log.
    pub(crate) fn logged(&self, text: &str) {
        until(&format!("{text:?} is logged"), || self.log().contains(text));
    }

    pub(crate) async fn client(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user("u").dbname("db");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Program {
    pub(crate) fn of(command: &mut Command) -> Program {
        Program { child: command.spawn().unwrap() }
    }

    pub(crate) fn up(mut self, world: &World) -> Program {
        let up = format!("[{}] LOG process up: ", self.pid());
        until("the program is up", || {
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended: {}", world.printed());
            world.log().contains(&up) || world.printed().contains(&up)
        });
        self
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub(crate) fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the program ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub(crate) fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // A zombie waits for a parent that may never look.
        !stat.is_empty() && !stat.contains(") Z ")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.0)).unwrap_or_default();
        if self.is_alive() && name.starts_with("pgherd-pooler") {
            let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
        }
    }
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
