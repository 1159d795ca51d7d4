//! A real etcd of one or three members, started and hurt member by member.

use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::node::Node;
use crate::process::{self, Identity};
use crate::programs;
use crate::reaper::MARK;
use crate::wait::wait_until;

/// etcd's members. Dropping this ends nothing: that is [`crate::Reaper`]'s work.
#[derive(Debug, Clone)]
pub struct Etcd {
    /// Its members in order.
    pub members: Vec<EtcdMember>,
}

/// One member.
#[derive(Debug, Clone)]
pub struct EtcdMember {
    /// `pg1` for the member beside pg1.
    pub name: String,
    /// Its address; clients connect to port 2379, members to 2380.
    pub address: Ipv4Addr,
    netns: Option<String>,
    root: PathBuf,
}

impl Etcd {
    /// A member beside each of these nodes, with data under `root`. Nothing is started.
    pub fn beside(nodes: &[Node], root: &Path) -> Etcd {
        let member = |n: &Node| EtcdMember {
            name: n.name.clone(),
            address: n.address,
            netns: n.netns.clone(),
            root: root.to_owned(),
        };
        Etcd { members: nodes.iter().map(member).collect() }
    }

    /// Client addresses, `host:port`.
    pub fn hosts(&self) -> Vec<String> {
        self.members.iter().map(|m| format!("{}:2379", m.address)).collect()
    }

    /// Starts every member that doesn't run.
    pub fn start(&self) -> Result<()> {
        for member in &self.members {
            if member.process().is_none() {
                self.start_member(member)?;
            }
        }
        Ok(())
    }

    /// Starts one member.
    pub fn start_member(&self, member: &EtcdMember) -> Result<Identity> {
        programs::require("etcd", "etcd-server")?;
        for directory in ["logs", "pids", "etcd"] {
            fs::create_dir_all(member.root.join(directory)).with_context(|| format!("create {directory}"))?;
        }
        let log = OpenOptions::new().create(true).append(true).open(member.log()).context("open etcd's log")?;
        let mut command = member.command();
        command.args(self.arguments(member)).env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share the log")?).stderr(log);
        let mut child = command.spawn().context("start etcd")?;
        let identity = process::to_file(&member.pid_file(), child.id());
        std::thread::spawn(move || child.wait());
        identity
    }

    /// The settings of the seed's etcd.conf as arguments, with this cluster's addresses.
    fn arguments(&self, member: &EtcdMember) -> Vec<String> {
        let peer = |m: &EtcdMember| format!("http://{}:2380", m.address);
        let client = format!("http://{}:2379", member.address);
        let all: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, peer(m))).collect();
        let data = member.root.join("etcd").join(&member.name);
        [
            ("name", member.name.clone()),
            ("data-dir", data.display().to_string()),
            ("listen-client-urls", client.clone()),
            ("advertise-client-urls", client),
            ("listen-peer-urls", peer(member)),
            ("initial-advertise-peer-urls", peer(member)),
            ("initial-cluster", all.join(",")),
            ("initial-cluster-token", "otus".to_owned()),
            ("logger", "zap".to_owned()),
        ]
        .map(|(key, value)| format!("--{key}={value}"))
        .into()
    }

    /// Waits until every member answers and one leads.
    pub async fn wait_healthy(&self, timeout: Duration) -> Result<()> {
        let endpoints = self.hosts().join(",");
        let netns = self.members.first().and_then(|m| m.netns.clone());
        wait_until("etcd answers", timeout, || async {
            for member in &self.members {
                if member.process().is_none() {
                    bail!("etcd member {} has ended: see {}", member.name, member.log().display());
                }
            }
            Ok(health(&self.members, &endpoints, netns.as_deref()).await?.then_some(()))
        })
        .await
    }

    /// Keys that begin with a prefix. Needs etcdctl.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut command = etcdctl(self.members.first().and_then(|m| m.netns.as_deref()));
        command.args(["--endpoints", &self.hosts().join(","), "get", "--prefix", "--keys-only", prefix]);
        let output = command.output().await.context("run etcdctl")?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect())
    }

    /// Every value that a key has had since it was made, the last one last. Needs etcdctl.
    pub async fn values(&self, key: &str) -> Result<Vec<String>> {
        let endpoints = self.hosts().join(",");
        let ask = |arguments: &[&str]| {
            let mut command = etcdctl(self.members.first().and_then(|m| m.netns.as_deref()));
            command.args(["--endpoints", &endpoints]).args(arguments);
            command
        };
        let output = ask(&["get", key, "-w", "json"]).output().await.context("run etcdctl")?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).context("read etcdctl's answer")?;
        let (made, count) = (&answer["kvs"][0]["create_revision"], answer["kvs"][0]["version"].as_u64());
        let since = format!("--rev={made}");
        let mut child = ask(&["watch", &since, key]).stdout(Stdio::piped()).spawn().context("run etcdctl")?;
        let mut lines = BufReader::new(child.stdout.take().context("read etcdctl's output")?).lines();
        let mut values = Vec::new();
        // Each event is three lines: PUT, the key, the value.
        while values.len() < usize::try_from(count.unwrap_or_default()).unwrap_or_default() {
            for _ in 0..2 {
                lines.next_line().await.context("read etcdctl's output")?;
            }
            values.push(lines.next_line().await.context("read etcdctl's output")?.context("etcdctl has ended")?);
        }
        Ok(values)
    }

    /// Name of the member that leads etcd. Needs etcdctl.
    pub async fn leader(&self) -> Result<String> {
        let output = etcdctl(self.members.first().and_then(|m| m.netns.as_deref()))
            .args(["--endpoints", &self.hosts().join(","), "endpoint", "status", "-w", "json"])
            .output()
            .await
            .context("run etcdctl")?;
        let statuses: serde_json::Value = serde_json::from_slice(&output.stdout).context("read etcdctl's answer")?;
        for status in statuses.as_array().context("read etcdctl's answer")? {
            let (endpoint, status) = (&status["Endpoint"], &status["Status"]);
            if status["leader"] == status["header"]["member_id"] {
                let found = self.members.iter().find(|m| *endpoint == format!("{}:2379", m.address));
                return Ok(found.context("etcd is led by an unknown member")?.name.clone());
            }
        }
        bail!("etcd has no leader")
    }
}

impl EtcdMember {
    /// What it prints.
    pub fn log(&self) -> PathBuf {
        self.root.join("logs").join(format!("etcd-{}.log", self.name))
    }

    fn pid_file(&self) -> PathBuf {
        self.root.join("pids").join(format!("etcd-{}", self.name))
    }

    /// Its process while it runs.
    pub fn process(&self) -> Option<Identity> {
        process::from_file(&self.pid_file())
    }

    fn command(&self) -> Command {
        let mut command = match &self.netns {
            None => Command::new("setsid"),
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg("setsid");
                command
            }
        };
        command.arg("etcd").env(MARK, &self.root).current_dir(&self.root);
        command
    }
}

fn etcdctl(netns: Option<&str>) -> tokio::process::Command {
    let mut command = match netns {
        None => tokio::process::Command::new("etcdctl"),
        Some(name) => {
            let mut command = tokio::process::Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{name}")).arg("etcdctl");
            command
        }
    };
    command.env("ETCDCTL_API", "3").kill_on_drop(true);
    command
}

/// With etcdctl a real read; without it, whether the port is open.
async fn health(members: &[EtcdMember], endpoints: &str, netns: Option<&str>) -> Result<bool> {
    if programs::on_path("etcdctl").is_some() {
        let arguments = ["--endpoints", endpoints, "--dial-timeout=1s", "--command-timeout=2s", "endpoint", "health"];
        return Ok(etcdctl(netns).args(arguments).output().await.context("run etcdctl")?.status.success());
    }
    let open = |m: &EtcdMember| {
        let address = SocketAddr::from((m.address, 2379));
        TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
    };
    Ok(members.iter().all(open))
}
