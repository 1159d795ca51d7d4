//! Installing the distribution's packages that clusters and tests need, or telling what to install.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use harness::pooler::clients;
use harness::programs;

use crate::checkout;

/// Where Debian's PostgreSQL packages look whether to create a cluster of their own.
const CREATECLUSTER: &str = "/etc/postgresql-common/createcluster.conf";
const CREATECLUSTER_D: &str = "/etc/postgresql-common/createcluster.d";

/// A script that tells Debian's packages whether they may start services (exit code 101: no).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// What something needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// PostgreSQL's server, psql and pgbench.
    Postgres,
    /// etcd and etcdctl.
    Etcd,
    /// HAProxy.
    Haproxy,
    /// ip.
    Iproute,
    /// ssh, and netcat to reach hosts in another network namespace.
    Ssh,
    /// debootstrap and Debian's keys.
    Debootstrap,
    /// systemd-nspawn.
    Nspawn,
    /// nft.
    Nftables,
    /// slirp4netns.
    Slirp,
    /// pgbouncer.
    Pgbouncer,
    /// strace.
    Strace,
    /// Python's drivers psycopg and asyncpg.
    PythonDrivers,
    /// Node.js and its driver node-postgres.
    NodeDriver,
}

impl Need {
    fn packages(self) -> &'static [&'static str] {
        match self {
            Need::Postgres => &["postgresql"],
            Need::Etcd => &["etcd-server", "etcd-client"],
            Need::Haproxy => &["haproxy"],
            Need::Iproute => &["iproute2"],
            Need::Ssh => &["openssh-client", "netcat-openbsd"],
            Need::Debootstrap => &["debootstrap", "debian-archive-keyring"],
            Need::Nspawn => &["systemd-container"],
            Need::Nftables => &["nftables"],
            Need::Slirp => &["slirp4netns"],
            Need::Pgbouncer => &["pgbouncer"],
            Need::Strace => &["strace"],
            Need::PythonDrivers => &["python3-psycopg", "python3-asyncpg"],
            Need::NodeDriver => &["nodejs", "node-pg"],
        }
    }

    fn is_met(self) -> bool {
        match self {
            Need::Postgres => programs::postgres_directory().is_ok() && programs::on_path("psql").is_some(),
            Need::Etcd => programs::on_path("etcd").is_some() && programs::on_path("etcdctl").is_some(),
            Need::Haproxy => programs::on_path("haproxy").is_some(),
            Need::Iproute => programs::on_path("ip").is_some(),
            Need::Ssh => programs::on_path("ssh").is_some() && programs::on_path("nc.openbsd").is_some(),
            Need::Debootstrap => programs::on_path("debootstrap").is_some(),
            Need::Nspawn => programs::on_path("systemd-nspawn").is_some(),
            Need::Nftables => programs::on_path("nft").is_some(),
            Need::Slirp => programs::on_path("slirp4netns").is_some(),
            Need::Pgbouncer => programs::on_path("pgbouncer").is_some(),
            Need::Strace => programs::on_path("strace").is_some(),
            Need::PythonDrivers => clients::python().is_ok_and(|p| has_modules(&p, "psycopg, asyncpg")),
            Need::NodeDriver => programs::on_path("node").is_some() && clients::node_postgres_is_there(),
        }
    }

    /// A service of the package that must neither start nor be enabled: ours run beside it.
    fn service(self) -> Option<&'static str> {
        match self {
            Need::Etcd => Some("etcd.service"),
            Need::Haproxy => Some("haproxy.service"),
            Need::Pgbouncer => Some("pgbouncer.service"),
            Need::Postgres | Need::Iproute | Need::Strace | Need::PythonDrivers | Need::NodeDriver => None,
            Need::Ssh | Need::Debootstrap | Need::Nspawn | Need::Nftables | Need::Slirp => None,
        }
    }
}

/// Installs what is missing, saying so. Where it may not, the error holds the line to type.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    if needs.contains(&Need::NodeDriver) && !Need::NodeDriver.is_met() {
        install_with_npm()?;
    }
    let missing: Vec<Need> = needs.iter().copied().filter(|n| !n.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|n| n.packages()).copied().collect();
    let Some(apt) = Apt::find() else { bail!("{}", by_hand(&missing, &packages)) };
    say!("installing the packages {} (missing here)", packages.join(", "));
    apt.run(&["update"])?;
    if missing.contains(&Need::Postgres) {
        // Read by the server package while it is installed, so it must be there before.
        apt.run(&["install", "-y", "--no-install-recommends", "postgresql-common"])?;
        apt.forbid_main_cluster()?;
    }
    let policy = Policy::forbid_services(&apt)?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(&packages);
    let installed = apt.run(&arguments);
    drop(policy);
    installed?;
    for service in missing.iter().filter_map(|n| n.service()) {
        apt.disable(service);
    }
    match missing.iter().find(|n| !n.is_met()) {
        Some(need) => bail!("{} was installed, yet its programs are not found", need.packages().join(" ")),
        None => Ok(()),
    }
}

fn has_modules(python: &Path, modules: &str) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", &format!("import {modules}")]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

/// Debian's package of node-postgres wants Debian's Node.js. Where another one is, npm brings the driver, into the build
/// directory.
fn install_with_npm() -> Result<()> {
    let (Some(_), Some(npm)) = (programs::on_path("node"), programs::on_path("npm")) else { return Ok(()) };
    let directory = clients::node_directory()?;
    say!("installing node-postgres into {} (missing here)", directory.display());
    fs::create_dir_all(&directory).context("make a directory for npm")?;
    let mut command = Command::new(npm);
    command.args(["install", "--no-audit", "--no-fund", "--prefix", ".", "pg@8"]).current_dir(&directory);
    checkout::run(command.stdin(Stdio::null()).stdout(Stdio::null()))
}

fn by_hand(missing: &[Need], packages: &[&str]) -> String {
    let mut lines = vec!["packages are missing, and only root can install them. As root, run:".to_owned()];
    if missing.contains(&Need::Postgres) {
        lines.push(format!(
            "  apt-get update && apt-get install -y postgresql-common && \
             echo 'create_main_cluster = false' >> {CREATECLUSTER}"
        ));
    }
    lines.push(format!("  apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" ")));
    lines.join("\n")
}

/// apt-get as root or through sudo without a password.
struct Apt {
    sudo: bool,
}

impl Apt {
    fn find() -> Option<Apt> {
        programs::on_path("apt-get")?;
        if programs::is_root() {
            return Some(Apt { sudo: false });
        }
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sudo.status().is_ok_and(|s| s.success()).then_some(Apt { sudo: true })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(if self.sudo { "sudo" } else { "env" });
        if self.sudo {
            command.args(["-n", "env"]);
        }
        command.arg("DEBIAN_FRONTEND=noninteractive").arg(program).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        say!("  apt-get {}", arguments.join(" "));
        checkout::run(self.command("apt-get", &[&["-q"], arguments].concat()).stdout(Stdio::null()))
    }

    /// Runs a shell line with the rights to change the system.
    fn shell(&self, line: &str) -> Result<()> {
        checkout::run(&mut self.command("sh", &["-c", line]))
    }

    fn forbid_main_cluster(&self) -> Result<()> {
        say!("  create_main_cluster = false, so that the package starts no cluster of its own on port 5432");
        let includes = fs::read_to_string(CREATECLUSTER).unwrap_or_default().contains("include_dir");
        let file = if includes { format!("{CREATECLUSTER_D}/pgherd.conf") } else { CREATECLUSTER.to_owned() };
        self.shell(&format!(
            "mkdir -p {CREATECLUSTER_D} && grep -qs '^create_main_cluster *= *false' {file} || \
             echo 'create_main_cluster = false' >> {file}"
        ))
    }

    /// Best effort: without systemd there is nothing to disable.
    fn disable(&self, service: &str) {
        let mut command = self.command("systemctl", &["disable", "--now", service]);
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Keeps packages from starting services while it lives.
struct Policy<'a>(Option<&'a Apt>);

impl Policy<'_> {
    fn forbid_services(apt: &Apt) -> Result<Policy<'_>> {
        if Path::new(POLICY).exists() {
            return Ok(Policy(None));
        }
        let script = std::env::temp_dir().join(format!("pgherd-policy-{}", std::process::id()));
        fs::write(&script, "#!/bin/sh\nexit 101\n").context("write a policy for services")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("write a policy for services")?;
        let installed = apt.shell(&format!("install -m 755 {} {POLICY}", script.display()));
        fs::remove_file(&script).context("remove a temporary file")?;
        installed.map(|()| Policy(Some(apt)))
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        if let Some(apt) = self.0
            && let Err(e) = apt.shell(&format!("rm -f {POLICY}"))
        {
            eprintln!("{POLICY} could not be removed, remove it by hand: {e:#}");
        }
    }
}
