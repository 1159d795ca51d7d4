//! Real PostgreSQL servers for the tests of the controller, each ended with its last process when dropped. What is tested
//! is in the files beside.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part of it; only tests do")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant as Clock};

use ha::local::{Answer, Local, Sql};
use instance::{Configuration, Credentials, InitDb, InitOption, Instance, Options, Start, Upstream, fence};
use rustix::process::{Pid, Signal, kill_process};

#[path = "../postgres_programs/mod.rs"]
mod postgres_programs;
use postgres_programs::BIN;

/// How long anything may take that has no bound of its own.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A directory for the servers of one test, removed when dropped.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

/// One member.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) data: PathBuf,
    pub(crate) socket_dir: PathBuf,
    pub(crate) conf: Configuration,
    pub(crate) options: Options,
    pub(crate) instance: Instance,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("pgherd-instance").tempdir_in("/tmp").unwrap();
        give(dir.path());
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Place { dir }
    }

    /// A member that has no data yet.
    pub(crate) fn node(&self, name: &str) -> Node {
        let root = self.dir.path().join(name);
        let socket_dir = root.join("s");
        std::fs::create_dir_all(&socket_dir).unwrap();
        give(&root);
        give(&socket_dir);
        let port = free_port();
        let data = root.join("data");
        let mut options = Options::new("otus", name, &data, &format!("127.0.0.1:{port}"));
        options.bin_dir = Some(BIN.clone());
        options.socket_dir = Some(socket_dir.clone());
        options.superuser.password = Some("it's\\otus".into());
        options.replication.password = Some("replicator".into());
        options.rewind = Some(Credentials {
            username: "rewinder".into(),
            password: Some("rewind".into()),
            settings: BTreeMap::new(),
        });
        options.connect_check_every = Duration::from_millis(200);
        let instance = Instance::new(options.clone()).unwrap();
        Node { name: name.into(), port, data, socket_dir, conf: configuration(), options, instance }
    }

    /// A running primary with its users.
    pub(crate) async fn primary(&self, name: &str) -> Node {
        let node = self.node(name);
        node.initdb();
        node.start(Start::Primary).await;
        node.instance.create_users(&[]).await.unwrap();
        node
    }

    /// A running replica of `primary`, streaming.
    pub(crate) async fn replica(&self, name: &str, primary: &Node) -> Node {
        let node = self.node(name);
        primary.instance.sync_slots(&[name.to_owned()], true, &[]).await.unwrap();
        node.instance.clone_from(&primary.upstream(), &["no-sync".into()]).await.unwrap();
        node.start(Start::Replica { upstream: Some(primary.upstream()) }).await;
        node.wait("streaming", |a| a.receiver.as_deref() == Some("streaming")).await;
        node
    }
}

impl Node {
    pub(crate) fn upstream(&self) -> Upstream {
        Upstream { name: self.name.clone(), host: "127.0.0.1".into(), port: self.port }
    }

    /// What `initialize` does, without waiting for the disk.
    fn initdb(&self) {
        let root = self.data.parent().unwrap();
        let password = root.join("password");
        std::fs::write(&password, format!("{}\n", self.options.superuser.password.as_ref().unwrap())).unwrap();
        give(&password);
        let bin = BIN.join("initdb");
        let mut command = if nix::unistd::Uid::effective().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(bin);
            command
        } else {
            Command::new(bin)
        };
        command
            .args(["-N", "-k", "-E", "UTF8", "--no-locale", "-U", "postgres", "-A", "scram-sha-256"])
            .arg("--pwfile");
        let output = command.arg(password).arg("-D").arg(&self.data).current_dir("/").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) async fn start(&self, how: Start) {
        self.instance.start(how, &self.conf).await.unwrap();
        self.instance.wait_ready(LONG).await.unwrap();
    }

    /// Puts a shell script in the place of one of PostgreSQL's programs; `$BIN` is where the real ones are.
    pub(crate) fn wrap(&mut self, program: &str, script: &str) {
        let path = self.data.parent().unwrap().join(format!("wrapped-{program}"));
        std::fs::write(&path, format!("#!/bin/sh\nBIN={}\n{script}\n", BIN.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.options.bin_names.insert(program.to_owned(), path.display().to_string());
        self.instance = Instance::new(self.options.clone()).unwrap();
        self.instance.adopt();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.instance.pid().expect("the postmaster lives")
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        fence::processes(&self.data)
    }

    /// Pids of the server's processes whose title contains all words.
    pub(crate) fn titled(&self, words: &[&str]) -> Vec<u32> {
        let title = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        self.processes().into_iter().filter(|p| words.iter().all(|w| title(p).contains(w))).collect()
    }

    /// A client's own connection, apart from the controller's.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket_dir).port(self.port).user("postgres").dbname("postgres");
        config.password(self.options.superuser.password.as_ref().unwrap());
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// First column of the first row.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        let messages = self.client().await.simple_query(sql).await.unwrap();
        messages
            .iter()
            .find_map(|m| match m {
                tokio_postgres::SimpleQueryMessage::Row(r) => Some(r.get(0).unwrap_or_default().to_owned()),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Probes until the server's answer fits.
    pub(crate) async fn wait(&self, what: &str, fits: impl Fn(&Answer) -> bool) -> Answer {
        let local = self.wait_local(what, |l| matches!(&l.sql, Sql::Up(a) if fits(a))).await;
        match local.sql {
            Sql::Up(answer) => *answer,
            other => panic!("{other:?}"),
        }
    }

    /// Probes until the whole look fits; every probe must be bounded.
    pub(crate) async fn wait_local(&self, what: &str, fits: impl Fn(&Local) -> bool) -> Local {
        let began = Clock::now();
        loop {
            let probed = Clock::now();
            let local = self.instance.probe().await;
            assert!(probed.elapsed() < Duration::from_secs(4), "a probe took {:?}", probed.elapsed());
            if fits(&local) {
                return local;
            }
            assert!(began.elapsed() < LONG, "{}: never {what}: {local:?}", self.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let outcome = fence::fence(&self.data, self.instance.pid(), Duration::from_secs(20));
        if !std::thread::panicking() {
            assert_eq!(outcome.left, Vec::<u32>::new());
        }
    }
}

/// Where a script waits until the test lets it go on.
pub(crate) struct Gate {
    reached: PathBuf,
    open: PathBuf,
}

impl Gate {
    pub(crate) fn new(dir: &Path) -> Gate {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let name = format!("gate{}", NEXT.fetch_add(1, Ordering::SeqCst));
        Gate { reached: dir.join(format!("{name}.reached")), open: dir.join(format!("{name}.open")) }
    }

    /// The script's lines that wait here.
    pub(crate) fn wait(&self) -> String {
        format!("touch {}; while [ ! -e {} ]; do sleep 0.01; done", self.reached.display(), self.open.display())
    }

    /// Returns once a script waits.
    pub(crate) async fn reached(&self) {
        let began = Clock::now();
        while !self.reached.exists() {
            assert!(began.elapsed() < LONG, "nobody came to the gate");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn open(&self) {
        std::fs::write(&self.open, "").unwrap();
    }
}

/// The parameters of the seed's file, and some that make a small server.
pub(crate) fn configuration() -> Configuration {
    let parameters = [
        ("wal_keep_segments", "100"),
        ("shared_buffers", "16MB"),
        ("max_connections", "20"),
        ("fsync", "off"),
        ("wal_sender_timeout", "60s"),
    ];
    Configuration {
        parameters: parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        pg_hba: Some(vec!["host replication replicator 0.0.0.0/0 md5".into(), "host all all 0.0.0.0/0 md5".into()]),
        pg_ident: None,
        use_slots: true,
    }
}

/// The seed's initdb options.
pub(crate) fn seed_initdb() -> InitDb {
    InitDb {
        options: vec![InitOption::Value("encoding".into(), "UTF8".into()), InitOption::Flag("data-checksums".into())],
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Gives a path to the user that runs PostgreSQL, when root.
pub(crate) fn give(path: &Path) {
    if let Ok(Some(user)) = nix::unistd::User::from_name("postgres")
        && nix::unistd::Uid::effective().is_root()
    {
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

/// A port below the range that the kernel gives out by itself, apart from those of other test processes.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 1_000).unwrap() * 16;
    loop {
        let port = 15_000 + (start + NEXT.fetch_add(1, Ordering::SeqCst)) % 16_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
