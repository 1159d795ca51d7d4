//! Real etcd servers for tests: own data, own free ports, killed with the test whatever happens.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const START: Duration = Duration::from_secs(30);

/// A running member, killed when dropped.
pub(crate) struct Server {
    /// Address for clients.
    pub(crate) client: String,
    child: Child,
    arguments: Vec<String>,
    dir: TempDir,
}

/// Files of a server's TLS.
pub(crate) struct Tls {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Server {
    /// A cluster of one member.
    pub(crate) fn single() -> Server {
        Server::started(|| vec![Server::spawn(1, &[free_port()], &[free_port()], 0, None)]).remove(0)
    }

    /// A cluster of one member that wants client certificates.
    pub(crate) fn with_tls(tls: &Tls) -> Server {
        Server::started(|| vec![Server::spawn(1, &[free_port()], &[free_port()], 0, Some(tls))]).remove(0)
    }

    /// A cluster of three members.
    pub(crate) fn three() -> Vec<Server> {
        Server::started(|| {
            let clients = [free_port(), free_port(), free_port()];
            let peers = [free_port(), free_port(), free_port()];
            (0..3).map(|i| Server::spawn(3, &clients, &peers, i, None)).collect()
        })
    }

    /// Another process may take a port between its choice and its use: then all is tried anew with other ports.
    fn started(spawn: impl Fn() -> Vec<Server>) -> Vec<Server> {
        for _ in 0..5 {
            let mut servers = spawn();
            if servers.iter_mut().all(Server::is_up) {
                return servers;
            }
        }
        panic!("etcd does not start: {}", program("etcd").display());
    }

    fn spawn(size: usize, clients: &[u16], peers: &[u16], index: usize, tls: Option<&Tls>) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", clients[index]);
        let peer = |i: usize| format!("http://127.0.0.1:{}", peers[i]);
        let all: Vec<String> = (0..size).map(|i| format!("n{i}={}", peer(i))).collect();
        let mut arguments = vec![
            format!("--name=n{index}"),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={}", peer(index)),
            format!("--initial-advertise-peer-urls={}", peer(index)),
            format!("--initial-cluster={}", all.join(",")),
            format!("--initial-cluster-token=t{}", peers[0]),
            // The shortest lease is one and a half elections.
            "--heartbeat-interval=50".to_owned(),
            "--election-timeout=500".to_owned(),
        ];
        if let Some(tls) = tls {
            arguments.push(format!("--trusted-ca-file={}", tls.ca.display()));
            arguments.push(format!("--cert-file={}", tls.cert.display()));
            arguments.push(format!("--key-file={}", tls.key.display()));
            arguments.push("--client-cert-auth".to_owned());
        }
        let child = run(&arguments, dir.path());
        Server { client, child, arguments, dir }
    }

    /// Waits until the member answers, or has exited.
    fn is_up(&mut self) -> bool {
        let begun = Instant::now();
        let address = self.client.split("://").nth(1).unwrap().to_owned();
        while begun.elapsed() < START {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            // Its log says when it serves clients; it listens before.
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if log.contains("client requests") && TcpStream::connect(&address).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after a kill, with the same data and addresses.
    pub(crate) fn restart(&mut self) {
        std::fs::remove_file(self.dir.path().join("log")).unwrap();
        self.child = run(&self.arguments, self.dir.path());
        assert!(self.is_up(), "etcd does not start again");
    }

    /// SIGSTOP: it accepts connections and never answers. Returns when all its threads stand still.
    pub(crate) fn stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
        let begun = Instant::now();
        while !self.stands_still() {
            assert!(begun.elapsed() < START, "etcd does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let state = |stat: &str| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('T'));
        threads
            .filter_map(|t| std::fs::read_to_string(t.unwrap().path().join("stat")).ok())
            .all(|stat| state(&stat) == Some(true))
    }

    /// etcdctl with this member.
    pub(crate) fn ctl(&self, arguments: &[&str]) {
        let mut command = Command::new(program("etcdctl"));
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.client)).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Whether this member leads.
    pub(crate) async fn leads(&self) -> bool {
        let mut client = etcd_client::Client::connect([&self.client], None).await.unwrap();
        let status = client.status().await.unwrap();
        status.leader() == status.header().unwrap().member_id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[String], dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    // setpriv makes the server die with the test's thread even when the test is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program("etcd")).args(arguments);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().expect("setpriv (util-linux) and etcd can be run")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A program of etcd, installed where that is missing and possible.
fn program(name: &str) -> PathBuf {
    const INSTALL: [&str; 4] = ["install", "-y", "etcd-server", "etcd-client"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = || {
        let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")]);
        dirs.map(|d| d.join(name)).find(|p| p.is_file())
    };
    if let Some(found) = find() {
        return found;
    }
    if rustix::process::geteuid().is_root() {
        // Several tests may find it missing at once: dpkg's lock is waited for.
        let mut install = Command::new("apt-get");
        install.args(["-o", "DPkg::Lock::Timeout=300"]).args(INSTALL).env("DEBIAN_FRONTEND", "noninteractive");
        let _ = install.status();
    }
    find().unwrap_or_else(|| panic!("{name} is missing; run: sudo apt-get {}", INSTALL.join(" ")))
}
