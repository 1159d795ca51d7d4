//! A cluster for a test or an experiment: made in a fresh directory, gone without a trace at the end.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::address::Block;
use crate::disk::Disk;
use crate::etcd::Etcd;
use crate::netns::Net;
use crate::node::Node;
use crate::programs::Programs;
use crate::reaper::{MARK, Reaper, of_directory};
use crate::yaml::{Dcs, NodeConfig};
use crate::{logs, process, rest, sql, wait};

/// Where the cluster's state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// A file.
    Embedded,
    /// A real etcd of as many members as there are nodes.
    Etcd,
}

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes.
    pub nodes: u8,
    /// Where its state is kept.
    pub store: Store,
    /// Whether etcd's data is in memory, for a test whose load of the disk isn't meant for etcd.
    pub etcd_in_memory: bool,
    /// Merged over `bootstrap.dcs`.
    pub dynamic: Value,
    /// Merged over each node's whole file.
    pub extra: Value,
    /// The programs; `None` finds them beside this one.
    pub programs: Option<Programs>,
}

impl Options {
    /// Three nodes with quick timings: a heartbeat each second and a lease of 5 s.
    pub fn quick(store: Store) -> Options {
        let dynamic = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 2});
        Options { nodes: 3, store, etcd_in_memory: false, dynamic, extra: json!({}), programs: None }
    }

    /// Three nodes with the seed's timings.
    pub fn seed(store: Store) -> Options {
        Options { dynamic: json!({}), ..Options::quick(store) }
    }
}

/// A cluster. All its processes and files are gone once it is dropped; the files stay when something
/// failed.
#[derive(Debug)]
pub struct Cluster {
    /// Its nodes in order.
    pub nodes: Vec<Node>,
    /// Its etcd.
    pub etcd: Option<Etcd>,
    /// A small disk that a node's data is on, where a test has put one.
    pub disk: Option<Disk>,
    programs: Programs,
    dcs: Dcs,
    options: Options,
    root: PathBuf,
    failed: AtomicBool,
    // Dropped in this order: processes, network, files.
    _reaper: Reaper,
    net: Option<Net>,
    _block: Option<Block>,
    files: Option<TempDir>,
    _memory: Option<TempDir>,
}

impl Cluster {
    /// Makes directories and files on loopback addresses of its own, and starts etcd. No agent is started.
    pub async fn prepare(options: Options) -> Result<Cluster> {
        let block = Block::allocate()?;
        let addresses = (1..=options.nodes).map(|n| (block.node(n), None)).collect();
        let mut cluster = Cluster::lay_out(options, addresses)?;
        cluster._block = Some(block);
        cluster.start_etcd().await?;
        Ok(cluster)
    }

    /// The same with each node in a namespace of `net`, which it takes over. The calling thread is expected in the hub.
    pub async fn prepare_in(net: Net, options: Options) -> Result<Cluster> {
        let addresses = (1..=options.nodes).map(|n| (net.address(n), Some(net.node(n)))).collect();
        let mut cluster = Cluster::lay_out(options, addresses)?;
        cluster.net = Some(net);
        cluster.start_etcd().await?;
        Ok(cluster)
    }

    /// A running cluster: every agent started, a leader there and all others streaming from it.
    pub async fn start(options: Options) -> Result<Cluster> {
        let cluster = Cluster::prepare(options).await?;
        cluster.start_agents()?;
        cluster.wait_healthy(Duration::from_secs(120)).await?;
        Ok(cluster)
    }

    fn lay_out(options: Options, addresses: Vec<(std::net::Ipv4Addr, Option<String>)>) -> Result<Cluster> {
        use std::os::unix::fs::PermissionsExt;
        let programs = options.programs.clone().map_or_else(Programs::find, Ok)?;
        let files = tempfile::Builder::new()
            .prefix("pgherd-test-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .context("make a directory for the cluster")?;
        let root = files.path().canonicalize().context("find the cluster's directory")?;
        let memory = options.etcd_in_memory.then(|| in_memory(&root.join("etcd"))).transpose()?;
        let nodes: Vec<Node> = (1..)
            .zip(addresses)
            .map(|(n, (address, netns))| Node::new(n, address, &root, &programs).in_netns(netns))
            .collect();
        let etcd = (options.store == Store::Etcd).then(|| Etcd::beside(&nodes, &root));
        let dcs = match &etcd {
            Some(etcd) => Dcs::Etcd(etcd.hosts()),
            None => Dcs::Embedded(root.join("dcs.db")),
        };
        let reaper = Reaper::new(&root);
        let files = Some(files);
        let cluster = Cluster {
            nodes,
            etcd,
            disk: None,
            programs,
            dcs,
            options,
            root,
            failed: AtomicBool::new(false),
            _reaper: reaper,
            net: None,
            _block: None,
            files,
            _memory: memory,
        };
        for node in &cluster.nodes {
            node.prepare_directories()?;
            cluster.configure(node, &json!({}))?;
        }
        Ok(cluster)
    }

    /// Writes a node's file again, with more settings merged over it.
    pub fn configure(&self, node: &Node, extra: &Value) -> Result<()> {
        let mut merged = self.options.extra.clone();
        json_merge(&mut merged, extra);
        node.write_yaml(&NodeConfig {
            name: &node.name,
            address: node.address,
            data_dir: &node.data_dir(),
            bin_dir: &self.programs.postgres,
            socket_dir: &node.socket_dir(),
            dcs: &self.dcs,
            dynamic: &self.options.dynamic,
            extra: &merged,
        })
    }

    async fn start_etcd(&self) -> Result<()> {
        let Some(etcd) = &self.etcd else { return Ok(()) };
        etcd.start()?;
        etcd.wait_healthy(Duration::from_secs(60)).await
    }

    /// Starts every agent.
    pub fn start_agents(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|n| n.start().map(drop))
    }

    /// Starts every agent but that of `node`.
    pub fn start_agents_but(&self, node: &Node) -> Result<()> {
        self.nodes.iter().filter(|n| n.name != node.name).try_for_each(|n| n.start().map(drop))
    }

    /// The network it lives in, if not the machine's loopback.
    pub fn net(&self) -> Option<&Net> {
        self.net.as_ref()
    }

    /// Leaves the files in place when this is dropped, for somebody to look at.
    pub fn keep_files(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// What it is made of.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The directory of its files.
    pub fn directory(&self) -> &Path {
        &self.root
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// Waits until a leader is there and every other member streams from it on the same timeline.
    pub async fn wait_healthy(&self, deadline: Duration) -> Result<Value> {
        self.wait("the cluster is healthy", deadline, || async {
            let view = self.view().await?;
            let members = members(&view);
            let timeline = members.first().map(|m| m["timeline"].clone());
            let good = members.iter().all(|m| {
                let state = if m["role"] == "leader" { "running" } else { "streaming" };
                m["state"] == state && Some(&m["timeline"]) == timeline.as_ref()
            });
            let leaders = members.iter().filter(|m| m["role"] == "leader").count();
            if good && leaders == 1 && members.len() == self.nodes.len() {
                return Ok(Some(view));
            }
            bail!("the cluster is {}", summary(&view))
        })
        .await
    }

    /// What the first member that answers says about the cluster (GET /cluster).
    pub async fn view(&self) -> Result<Value> {
        let mut last = None;
        for node in &self.nodes {
            match rest::get(node.address, "/cluster").await.and_then(|a| a.json()) {
                Ok(view) => return Ok(view),
                Err(e) => last = Some(e),
            }
        }
        Err(last.context("the cluster has no nodes")?)
    }

    /// The node that answers GET /primary with 200.
    pub async fn find_leader(&self) -> Result<Option<&Node>> {
        for node in &self.nodes {
            if rest::get(node.address, "/primary").await.is_ok_and(|a| a.code == 200) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Waits for a leader.
    pub async fn leader(&self, deadline: Duration) -> Result<&Node> {
        self.wait("a leader answers", deadline, || self.find_leader()).await
    }

    /// Waits for a leader other than `old` that accepts writes.
    pub async fn leader_other_than(&self, old: &str, deadline: Duration) -> Result<&Node> {
        self.wait("another node leads", deadline, || async {
            let Some(leader) = self.find_leader().await?.filter(|l| l.name != old) else { return Ok(None) };
            let rows = self.sql(leader, "SELECT pg_is_in_recovery()").await?;
            Ok((rows == [["f"]]).then_some(leader))
        })
        .await
    }

    /// Waits on a condition; a failure shows the end of every log.
    pub async fn wait<T, F, Fut>(&self, what: &str, deadline: Duration, condition: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Option<T>>>,
    {
        wait::wait_until(what, deadline, condition).await.map_err(|e| self.failed(&format!("{e:#}")))
    }

    /// An error that shows the end of every log. The files stay.
    pub fn failed(&self, what: &str) -> anyhow::Error {
        self.failure(anyhow::anyhow!("{what}\n{}", self.log_tails()))
    }

    /// Marks that something failed, so that the files stay.
    fn failure(&self, error: anyhow::Error) -> anyhow::Error {
        self.keep_files();
        anyhow::anyhow!("{error:#}\nthe cluster's files stay in {}", self.root.display())
    }

    /// The last lines of every agent's log.
    pub fn log_tails(&self) -> String {
        self.nodes.iter().map(|n| logs::tail(&n.log(), 25)).collect::<Vec<_>>().join("\n")
    }

    /// Runs a query on a node and returns its rows as text.
    pub async fn sql(&self, node: &Node, query: &str) -> Result<Vec<Vec<String>>> {
        sql::query(node.address, "postgres", query).await
    }

    /// Runs `pgherdctl -c <the first node's file> ...` and returns what it printed, whatever its exit code.
    pub async fn ctl(&self, arguments: &[&str], stdin: &str) -> Result<Output> {
        self.ctl_with(arguments, stdin, &[]).await
    }

    /// The same with more environment variables.
    pub async fn ctl_with(&self, arguments: &[&str], stdin: &str, variables: &[(&str, &str)]) -> Result<Output> {
        let first = self.nodes.first().context("the cluster has no nodes")?;
        let mut command = tokio::process::Command::new(&self.programs.ctl);
        command.arg("-c").arg(first.yaml()).args(arguments).env(MARK, &self.root).env_remove("EDITOR");
        command.envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("start pgherdctl")?;
        if let Some(mut pipe) = child.stdin.take() {
            // pgherdctl may end without reading it all.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
        tokio::time::timeout(Duration::from_secs(180), child.wait_with_output())
            .await
            .map_err(|_| anyhow::anyhow!("pgherdctl {} did not end within 180 s", arguments.join(" ")))?
            .context("run pgherdctl")
    }

    /// The same; an error unless it exits with 0. Returns its standard output.
    pub async fn ctl_ok(&self, arguments: &[&str], stdin: &str) -> Result<String> {
        self.ctl_ok_with(arguments, stdin, &[]).await
    }

    /// The same with more environment variables.
    pub async fn ctl_ok_with(&self, arguments: &[&str], stdin: &str, variables: &[(&str, &str)]) -> Result<String> {
        let output = self.ctl_with(arguments, stdin, variables).await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            let tails = self.log_tails();
            bail!("pgherdctl {}: {}\n{out}\n{err}\n{tails}", arguments.join(" "), output.status);
        }
        Ok(out.into_owned())
    }

    /// Stops every agent and checks what is left: no process, and in the logs no ERROR or WARNING but the expected.
    pub async fn finish(self, expected: &[&str]) -> Result<()> {
        for node in &self.nodes {
            if let Some(agent) = node.agent() {
                agent.signal(rustix::process::Signal::TERM);
            }
        }
        self.wait("every agent and PostgreSQL has ended", Duration::from_secs(60), || async {
            let left = of_directory(&self.root).into_iter();
            let left = left.filter(|i| !matches!(process::name(i.pid).as_str(), "etcd" | "haproxy"));
            let left: Vec<String> = left.map(|i| process::describe(i.pid)).collect();
            if left.is_empty() { Ok(Some(())) } else { bail!("still running: {}", left.join("; ")) }
        })
        .await?;
        self.check_logs(expected)
    }

    /// Fails on each ERROR or WARNING in the agents' logs that holds none of the expected texts.
    pub fn check_logs(&self, expected: &[&str]) -> Result<()> {
        for node in &self.nodes {
            let lines = logs::unexpected(&node.log_text(), expected);
            if !lines.is_empty() {
                let error = anyhow::anyhow!("unexpected in the log of {}:\n{}", node.name, lines.join("\n"));
                return Err(self.failure(error));
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The directory below it can be removed only then.
        if let Some(disk) = self.disk.take() {
            self._reaper.reap();
            drop(disk);
        }
        if (std::thread::panicking() || self.failed.load(Ordering::Relaxed))
            && let Some(files) = self.files.take()
        {
            let _ = files.keep();
        }
    }
}

/// A directory in memory that `link` leads to.
fn in_memory(link: &Path) -> Result<TempDir> {
    let memory = tempfile::Builder::new().prefix("pgherd-test-").tempdir_in("/dev/shm").context("use /dev/shm")?;
    std::os::unix::fs::symlink(memory.path(), link).context("link to a directory in memory")?;
    Ok(memory)
}

/// The members of a GET /cluster answer.
pub fn members(view: &Value) -> &[Value] {
    view["members"].as_array().map_or(&[], Vec::as_slice)
}

/// A GET /cluster answer in one line: `pg1 leader running 1, pg2 replica streaming 1`.
pub fn summary(view: &Value) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let line = |m: &Value| ["name", "role", "state", "timeline"].map(|k| text(&m[k])).join(" ");
    let lines: Vec<String> = members(view).iter().map(line).collect();
    if lines.is_empty() { "without members".to_owned() } else { lines.join(", ") }
}

/// JSON merge patch without deletion: the deletion of a setting is left to the file's own merge.
fn json_merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                json_merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}
