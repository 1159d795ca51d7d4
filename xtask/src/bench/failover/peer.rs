//! Patroni with pgbouncer and HAProxy, set up as the seed's site has them. Patroni takes the place of the agent: a script
//! starts it with the same file.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::programs::{self as installed, Programs};
use harness::reaper::MARK;
use harness::sql::{self, Config};
use harness::{Cluster, logs, node};
use tokio::net::TcpStream;

use crate::checkout;
use crate::packages::{self, Need};

/// Where pgbouncer listens on each node, and HAProxy's doors to the leader and to replicas.
const PGBOUNCER: u16 = 6543;
const WRITES: u16 = 5000;
const READS: u16 = 5001;

/// Patroni's programs.
#[derive(Debug)]
pub(super) struct Patroni {
    program: PathBuf,
    /// Its version line.
    pub(super) version: String,
}

/// Patroni, pgbouncer and HAProxy, installed where they're missing; `None`, and why, where they can't be had.
pub(super) fn find() -> Option<Patroni> {
    install().inspect_err(|e| say!("measuring without Patroni: {e:#}")).ok()
}

fn install() -> Result<Patroni> {
    packages::ensure(&[Need::Pgbouncer, Need::Haproxy])?;
    let directory = checkout::root()?.join("target/patroni");
    let program = directory.join("bin/patroni");
    if !program.is_file() {
        // The system's own Python: others may not be readable for the user that Patroni runs as.
        let python = Path::new("/usr/bin/python3");
        say!("installing Patroni into {}", directory.display());
        run(Command::new(python).args(["-m", "venv"]).arg(&directory)).context("is the package python3-venv there?")?;
        run(Command::new(directory.join("bin/pip")).args(["install", "-q", "patroni[etcd3,psycopg3]"]))?;
    }
    let output = Command::new(&program).arg("--version").output().context("ask Patroni for its version")?;
    Ok(Patroni { program, version: String::from_utf8_lossy(&output.stdout).trim().to_owned() })
}

/// Lets every user read a directory.
pub(super) fn open_to_all(directory: &Path) -> Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).context("open a directory")
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?}: {status}") }
}

impl Patroni {
    /// pgherd's programs with Patroni in the agent's place. `scratch` is a directory that lives as long as the cluster.
    pub(super) fn programs(&self, pgherd: &Programs, scratch: &Path) -> Result<Programs> {
        let script = scratch.join("patroni-as-agent");
        let become_user =
            if installed::is_root() { "setpriv --reuid=postgres --regid=postgres --init-groups" } else { "env" };
        // What pgherd takes for etcd's v3 API is called etcd3 there.
        let text = format!(
            "#!/bin/sh\n# It keeps a file of passwords at home.\n\
             export HOME=\"$(dirname \"$1\")/run/$(basename \"$1\" .yml)\"\nsed 's/^etcd:/etcd3:/' \"$1\" > \"$1.patroni\" && chmod 644 \"$1.patroni\"\n\
             exec {become_user} {} \"$1.patroni\"\n",
            self.program.display()
        );
        fs::write(&script, text).with_context(|| format!("write {}", script.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("make a script executable")?;
        Ok(Programs { agent: script, ..pgherd.clone() })
    }
}

/// pgbouncer on each node and HAProxy in front of them.
pub(super) struct Door {
    address: Ipv4Addr,
}

impl Door {
    /// Starts them. Their processes are the cluster's.
    pub(super) async fn open(cluster: &Cluster) -> Result<Door> {
        let directory = cluster.directory().join("door");
        node::make_owned_directory(&directory, 0o755)?;
        let users = directory.join("userlist.txt");
        write(&users, "\"postgres\" \"otus\"\n")?;
        for node in &cluster.nodes {
            let ini = directory.join(format!("{}.ini", node.name));
            write(
                &ini,
                &format!(
                    "[databases]\n* = host={} port=5432\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {PGBOUNCER}\n\
                     unix_socket_dir =\nauth_type = md5\nauth_file = {}\npool_mode = transaction\n\
                     default_pool_size = 20\nmax_client_conn = 500\n",
                    node.address,
                    node.address,
                    users.display()
                ),
            )?;
            let program = installed::require("pgbouncer", "pgbouncer")?;
            start(cluster, &directory, &node.name, &program, &[&ini.display().to_string()], true)?;
            let listens = || async { Ok(TcpStream::connect((node.address, PGBOUNCER)).await.ok().map(drop)) };
            let listens = cluster.wait("pgbouncer takes connections", Duration::from_secs(10), listens).await;
            listens.with_context(|| logs::tail(&directory.join(format!("{}.out", node.name)), 5))?;
        }
        let mut octets = cluster.nodes.first().context("the cluster has no nodes")?.address.octets();
        octets[3] = 104;
        let address = Ipv4Addr::from(octets);
        let config = directory.join("haproxy.cfg");
        write(&config, &haproxy(cluster, address))?;
        let program = installed::require("haproxy", "haproxy")?;
        start(cluster, &directory, "haproxy", &program, &["-db", "-f", &config.display().to_string()], false)?;
        let door = Door { address };
        let open = || async {
            let rows = sql::query_with(&door.writes(), "SELECT pg_is_in_recovery()").await?;
            Ok((rows == [["f"]]).then_some(()))
        };
        cluster.wait("HAProxy leads to the leader", Duration::from_secs(60), open).await?;
        Ok(door)
    }

    /// Where writers connect. Debian's older pgbouncer knows no prepared statements, so each connection is as it likes.
    pub(super) fn writes(&self) -> Config {
        sql::config_at(self.address, WRITES, "postgres")
    }

    /// Where readers connect.
    pub(super) fn reads(&self) -> Config {
        sql::config_at(self.address, READS, "postgres")
    }
}

/// The seed's file, with a door to the replicas as well.
fn haproxy(cluster: &Cluster, address: Ipv4Addr) -> String {
    let servers = |check: &str| {
        let server = |n: &harness::Node| {
            format!("    server {} {}:{PGBOUNCER} maxconn 500 check port 8008\n", n.name, n.address)
        };
        let servers: String = cluster.nodes.iter().map(server).collect();
        format!(
            "    option httpchk OPTIONS {check}\n    http-check expect status 200\n    \
             default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions\n{servers}"
        )
    };
    format!(
        "global\n    maxconn 1000\ndefaults\n    mode tcp\n    retries 2\n    timeout client 30m\n    timeout connect 4s\n    \
         timeout server 30m\n    timeout check 5s\nlisten writes\n    bind {address}:{WRITES}\n{}listen reads\n    \
         bind {address}:{READS}\n    balance leastconn\n{}",
        servers("/"),
        servers("/replica"),
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    if installed::is_root() { node::own_by_postgres(path) } else { Ok(()) }
}

fn start(
    cluster: &Cluster,
    directory: &Path,
    name: &str,
    program: &Path,
    arguments: &[&str],
    as_postgres: bool,
) -> Result<()> {
    let log = fs::File::create(directory.join(format!("{name}.out"))).context("create a log")?;
    let mut command = Command::new("setsid");
    if as_postgres && installed::is_root() {
        command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command.arg(program).args(arguments).env(MARK, cluster.directory()).current_dir(directory).stdin(Stdio::null());
    command.stdout(log.try_clone().context("share a log")?).stderr(log);
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    // It ends with the cluster; somebody must read its exit status.
    std::thread::spawn(move || child.wait());
    Ok(())
}
