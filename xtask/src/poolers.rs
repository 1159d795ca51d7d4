//! The poolers of a cluster on this machine: one a node, on port 6543, from the ini of the seed with addresses and
//! paths changed, and with two databases more: the leader and the replicas of the cluster. What a pooler does is in the crate `pool`.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::node::{self, Node};
use harness::process::{self, Identity};
use harness::reaper::MARK;
use harness::{logs, programs};

use crate::place::Place;

/// Where clients connect.
pub(crate) const PORT: u16 = 6543;

/// How long a pooler may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node's pooler.
pub(crate) struct Pooler<'a> {
    node: &'a Node,
    root: &'a Path,
}

impl<'a> Pooler<'a> {
    /// The pooler of a node.
    pub(crate) fn of(node: &'a Node, place: &'a Place) -> Pooler<'a> {
        Pooler { node, root: &place.directory }
    }

    fn directory(&self) -> PathBuf {
        self.root.join("poolers")
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.directory().join(format!("{}.{extension}", self.node.name))
    }

    /// Its configuration.
    pub(crate) fn ini(&self) -> PathBuf {
        self.path("ini")
    }

    fn pid_file(&self) -> PathBuf {
        self.root.join("pids").join(format!("{}-pooler", self.node.name))
    }

    /// Its process while it runs.
    pub(crate) fn process(&self) -> Option<Identity> {
        process::from_file(&self.pid_file())
    }

    /// Writes the files that are not there; a file that somebody changed stays.
    pub(crate) fn configure(&self) -> Result<()> {
        node::make_owned_directory(&self.directory(), 0o755)?;
        let users = self.directory().join("userlist.txt");
        if !users.exists() {
            write(&users, "\"postgres\" \"otus\"\n", 0o600)?;
        }
        if !self.ini().exists() {
            write(&self.ini(), &self.text(&users), 0o644)?;
        }
        Ok(())
    }

    fn text(&self, users: &Path) -> String {
        let (address, users) = (self.node.address, users.display());
        let (log, pid) = (self.path("log"), self.path("pid"));
        format!(
            "[databases]\n\
             rw = dbname=postgres cluster=otus role=leader pool_mode=transaction\n\
             ro = dbname=postgres cluster=otus role=replica pool_mode=transaction\n\
             * = host={address} port=5432\n\
             [users]\n\
             [pgbouncer]\n\
             logfile = {}\n\
             pidfile = {}\n\
             listen_addr = {address}\n\
             listen_port = {PORT}\n\
             unix_socket_dir = {}\n\
             auth_type = md5\n\
             auth_file = {users}\n\
             admin_users = postgres\n\
             stats_users = stats, postgres\n\
             metrics_listen = {address}:9127\n\
             cluster_config = {}\n",
            log.display(),
            pid.display(),
            self.node.socket_dir().display(),
            self.node.yaml().display(),
        )
    }

    /// Starts it in a session of its own, and waits until it takes connections. False when it ran already.
    pub(crate) fn start(&self, program: &Path) -> Result<bool> {
        if self.process().is_some() {
            return Ok(false);
        }
        let output = self.root.join("logs").join(format!("{}-pooler.log", self.node.name));
        let log = OpenOptions::new().create(true).append(true).open(&output).context("open the pooler's output")?;
        let mut command = Command::new("setsid");
        command.arg(program).arg("-q");
        if programs::is_root() {
            command.args(["-u", "postgres"]);
        }
        command.arg(self.ini()).env(MARK, self.root).current_dir(self.root).stdin(Stdio::null());
        command.stdout(log.try_clone().context("share the pooler's output")?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let process = process::to_file(&self.pid_file(), child.id());
        // Somebody must read its exit status, or a zombie stays.
        std::thread::spawn(move || child.wait());
        self.wait(process?, &output)?;
        Ok(true)
    }

    fn wait(&self, process: Identity, output: &Path) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect((self.node.address, PORT)).is_err() {
            if !process.is_alive() || Instant::now() > deadline {
                let said = [logs::tail(output, 10), logs::tail(&self.path("log"), 10)].join("\n");
                bail!("the pooler of {} doesn't take connections:\n{said}", self.node.name);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context("set a file's permissions")?;
    if programs::is_root() { node::own_by_postgres(path) } else { Ok(()) }
}
