//! One node of a cluster: its configuration file, its directories, and the processes found there. How nodes make a
//! cluster is in `cluster`.

use std::fs::{self, OpenOptions};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::process::{self, Identity};
use crate::programs::{self, Programs};
use crate::reaper::MARK;
use crate::yaml::NodeConfig;

/// One node. Dropping it ends nothing: that is [`crate::Reaper`]'s work.
#[derive(Debug, Clone)]
pub struct Node {
    /// Member name, `pg1`.
    pub name: String,
    /// Its address; PostgreSQL is on port 5432, REST on 8008.
    pub address: Ipv4Addr,
    /// Network namespace that its processes run in.
    pub netns: Option<String>,
    root: PathBuf,
    programs: Programs,
}

impl Node {
    /// The n-th node, counted from 1, of the cluster in the directory `root`.
    pub fn new(n: u8, address: Ipv4Addr, root: &Path, programs: &Programs) -> Node {
        Node { name: format!("pg{n}"), address, netns: None, root: root.to_owned(), programs: programs.clone() }
    }

    /// The same node with its processes in a network namespace.
    pub fn in_netns(mut self, name: Option<String>) -> Node {
        self.netns = name;
        self
    }

    /// Its configuration file.
    pub fn yaml(&self) -> PathBuf {
        self.root.join(format!("{}.yml", self.name))
    }

    /// What the agent, its guard and its PostgreSQL print.
    pub fn log(&self) -> PathBuf {
        self.root.join("logs").join(format!("{}.log", self.name))
    }

    /// PostgreSQL's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.root.join("data").join(&self.name)
    }

    /// Directory of PostgreSQL's socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.root.join("run").join(&self.name)
    }

    fn pid_file(&self) -> PathBuf {
        self.root.join("pids").join(&self.name)
    }

    /// Makes its directories, owned by the user that PostgreSQL runs as. What is there stays.
    pub fn prepare_directories(&self) -> Result<()> {
        for directory in ["logs", "pids", "data", "run"] {
            fs::create_dir_all(self.root.join(directory)).with_context(|| format!("create {directory}"))?;
        }
        for (directory, mode) in [(self.data_dir(), 0o700), (self.socket_dir(), 0o755)] {
            make_owned_directory(&directory, mode)?;
        }
        Ok(())
    }

    /// Writes its configuration file. The file holds passwords, so only its owner can read it.
    pub fn write_yaml(&self, config: &NodeConfig<'_>) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.yaml();
        fs::write(&path, config.render()?).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("protect the configuration file")?;
        if programs::is_root() { own_by_postgres(&path) } else { Ok(()) }
    }

    /// Starts the agent in a session of its own, so that it outlives the terminal.
    pub fn start(&self) -> Result<Identity> {
        if let Some(running) = self.agent() {
            bail!("the agent of {} runs already (process {})", self.name, running.pid);
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log()).context("open the agent's log")?;
        let mut command = self.command("setsid");
        command.arg(&self.programs.agent).arg(self.yaml());
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share the log")?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("start {}", self.programs.agent.display()))?;
        let identity = process::to_file(&self.pid_file(), child.id());
        // Somebody must read its exit status, or a zombie stays.
        std::thread::spawn(move || child.wait());
        identity
    }

    /// A command that runs in this node's network.
    pub fn command(&self, program: &str) -> Command {
        let mut command = match &self.netns {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg(program);
                command
            }
        };
        command.env(MARK, &self.root).current_dir(&self.root);
        command
    }

    /// The agent while it runs.
    pub fn agent(&self) -> Option<Identity> {
        process::from_file(&self.pid_file())
    }

    /// SIGTERM; waits until the agent has gone. An error when it doesn't in time (it is not killed).
    pub fn stop(&self, timeout: Duration) -> Result<()> {
        let Some(agent) = self.agent() else { return Ok(()) };
        agent.signal(Signal::TERM);
        if !agent.wait_gone(timeout) {
            bail!("the agent of {} did not stop within {} s", self.name, timeout.as_secs());
        }
        Ok(())
    }

    /// Sends a signal to the agent.
    pub fn signal_agent(&self, signal: Signal) -> Result<()> {
        let agent = self.agent().with_context(|| format!("no agent runs on {}", self.name))?;
        if !agent.signal(signal) {
            bail!("the agent of {} has ended", self.name);
        }
        Ok(())
    }

    /// Kills the agent, the guard and every process of PostgreSQL at once, as the death of the host would.
    pub fn kill(&self) {
        loop {
            let found: Vec<Identity> =
                self.agent().into_iter().chain(self.guards()).chain(self.postgres_processes()).collect();
            if found.is_empty() {
                return;
            }
            for identity in &found {
                identity.signal(Signal::KILL);
            }
            for identity in &found {
                identity.wait_gone(Duration::from_secs(5));
            }
        }
    }

    /// What its PostgreSQL logs.
    pub fn server_log(&self) -> String {
        fs::read_to_string(self.data_dir().with_extension("log")).unwrap_or_default()
    }

    /// The guard processes of this node, at most one when all is well.
    pub fn guards(&self) -> Vec<Identity> {
        let data_dir = self.data_dir();
        let data_dir = data_dir.to_string_lossy();
        let is_guard = |pid: i32| {
            let arguments = process::arguments(pid);
            arguments.get(1).is_some_and(|a| a == "guard") && arguments.iter().any(|a| a.contains(&*data_dir))
        };
        process::all().into_iter().filter(|i| is_guard(i.pid)).collect()
    }

    /// Every process of this node's PostgreSQL.
    pub fn postgres_processes(&self) -> Vec<Identity> {
        let data_dir = self.data_dir();
        let ours = |pid: i32| process::name(pid) == "postgres" && process::directory(pid) == Some(data_dir.clone());
        process::all().into_iter().filter(|i| ours(i.pid)).collect()
    }

    /// The postmaster, by its pid file.
    pub fn postmaster(&self) -> Option<Identity> {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        let identity = Identity::of(text.lines().next()?.trim().parse().ok()?)?;
        (process::directory(identity.pid)? == self.data_dir()).then_some(identity)
    }

    /// The log so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

/// Makes a directory that PostgreSQL's user owns.
pub fn make_owned_directory(directory: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let context = || format!("prepare {}", directory.display());
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory).with_context(context)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(mode)).with_context(context)?;
    if programs::is_root() { own_by_postgres(directory) } else { Ok(()) }
}

/// Gives a file to PostgreSQL's user.
pub fn own_by_postgres(path: &Path) -> Result<()> {
    let user = postgres_user()?;
    nix::unistd::chown(path, Some(user.uid), Some(user.gid)).with_context(|| format!("give {} away", path.display()))
}

/// The user that PostgreSQL runs as where this process is root's.
pub(crate) fn postgres_user() -> Result<nix::unistd::User> {
    nix::unistd::User::from_name("postgres")
        .context("look up the user postgres")?
        .context("there is no user postgres: install the package postgresql")
}
