//! A pooler in front of a cluster that follows its leader. The pooler that a single PostgreSQL is tested with is in
//! `pooler`.

use std::fs::{self, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio_postgres::Config;

use crate::process::{self, Identity};
use crate::reaper::MARK;
use crate::{Cluster, logs, node, programs, sql, wait};

/// Where clients connect.
pub const PORT: u16 = 6543;

/// How long the pooler may take to listen.
const SOON: Duration = Duration::from_secs(20);

/// A pooler. Its processes and files are the cluster's.
#[derive(Debug)]
pub struct Front {
    /// Its address; the port is [`PORT`].
    pub address: Ipv4Addr,
    name: String,
    root: PathBuf,
    program: PathBuf,
    netns: Option<String>,
}

impl Front {
    /// Starts a pooler on the address of the cluster's n-th node, counted from 1. Every database goes to the leader,
    /// `ro` to replicas, and pools are in transaction mode. `settings` are lines of the section `[pgbouncer]`.
    pub async fn start(cluster: &Cluster, n: usize, settings: &[&str]) -> Result<Front> {
        let databases = "* = cluster=otus role=leader\nro = dbname=postgres cluster=otus role=replica";
        Front::start_with(cluster, n, databases, settings).await
    }

    /// The same with other databases.
    pub async fn start_with(cluster: &Cluster, n: usize, databases: &str, settings: &[&str]) -> Result<Front> {
        let node = &cluster.nodes[n - 1];
        let front = Front {
            address: node.address,
            name: format!("front{n}"),
            root: cluster.directory().to_owned(),
            program: cluster.programs().pooler()?,
            netns: node.netns.clone(),
        };
        node::make_owned_directory(&front.root.join("fronts"), 0o755)?;
        front.write("users", "\"postgres\" \"otus\"\n")?;
        front.readable_yaml(&node.yaml())?;
        front.configure(databases, settings)?;
        front.launch().await?;
        Ok(front)
    }

    /// Writes its ini. A pooler that runs reads it when told to.
    pub fn configure(&self, databases: &str, settings: &[&str]) -> Result<()> {
        let text = format!(
            "[databases]\n{databases}\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {PORT}\nunix_socket_dir =\n\
             auth_type = md5\nauth_file = {}\nadmin_users = postgres\npool_mode = transaction\nmetrics_listen =\n\
             cluster_config = {}\nlogfile = {}\n{}\n",
            self.address,
            self.path("users").display(),
            self.path("yml").display(),
            self.log().display(),
            settings.join("\n"),
        );
        self.write("ini", &text)
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.root.join("fronts").join(format!("{}.{extension}", self.name))
    }

    /// What it logs.
    pub fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// What it has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn write(&self, extension: &str, text: &str) -> Result<()> {
        let path = self.path(extension);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("set a file's permissions")?;
        if programs::is_root() { node::own_by_postgres(&path) } else { Ok(()) }
    }

    /// The node's file may be its owner's alone: the pooler gets a copy.
    fn readable_yaml(&self, yaml: &Path) -> Result<()> {
        let text = fs::read_to_string(yaml).with_context(|| format!("read {}", yaml.display()))?;
        self.write("yml", &text)
    }

    /// Starts the program, and waits until it takes connections.
    pub async fn launch(&self) -> Result<()> {
        let output = OpenOptions::new().create(true).append(true).open(self.path("out")).context("open its output")?;
        let mut command = match &self.netns {
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, "setsid"]);
                command
            }
            None => Command::new("setsid"),
        };
        command.arg(&self.program).arg("-q");
        if programs::is_root() {
            command.args(["-u", "postgres"]);
        }
        command.arg(self.path("ini")).env(MARK, &self.root).current_dir(&self.root).stdin(Stdio::null());
        command.stdout(output.try_clone().context("share a file")?).stderr(output);
        let mut child = command.spawn().with_context(|| format!("start {}", self.program.display()))?;
        let process = process::to_file(&self.path("pid"), child.id());
        // Somebody must read its exit status, or a zombie stays.
        std::thread::spawn(move || child.wait());
        let process = process?;
        wait::wait_until("the pooler takes connections", SOON, || async {
            if !process.is_alive() {
                bail!("it has ended:\n{}\n{}", logs::tail(&self.path("out"), 10), logs::tail(&self.log(), 10));
            }
            Ok(tokio::net::TcpStream::connect((self.address, PORT)).await.ok().map(drop))
        })
        .await
    }

    /// Its process while it runs.
    pub fn process(&self) -> Option<Identity> {
        process::from_file(&self.path("pid"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process().context("the pooler doesn't run")?.signal(signal);
        Ok(())
    }

    /// Ends it at once and waits until it is gone.
    pub fn stop(&self) -> Result<()> {
        let process = self.process().context("the pooler doesn't run")?;
        process.signal(Signal::QUIT);
        if !process.wait_gone(SOON) {
            bail!("the pooler doesn't end:\n{}", logs::tail(&self.log(), 20));
        }
        Ok(())
    }

    /// How to connect through it.
    pub fn config(&self, database: &str) -> Config {
        sql::config_at(self.address, PORT, database)
    }

    /// Runs a query through it and returns the rows as text.
    pub async fn sql(&self, database: &str, query: &str) -> Result<Vec<Vec<String>>> {
        sql::query_with(&self.config(database), query).await
    }

    /// Fails on each line worse than LOG that holds none of the expected texts.
    pub fn check_log(&self, expected: &[&str]) -> Result<()> {
        let bad = |line: &&str| [" WARNING ", " ERROR ", " FATAL "].iter().any(|level| line.contains(level));
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().filter(bad).filter(|l| !expected.iter().any(|e| l.contains(e))).collect();
        if lines.is_empty() { Ok(()) } else { bail!("unexpected in the log of {}:\n{}", self.name, lines.join("\n")) }
    }
}
