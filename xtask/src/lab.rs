//! `cargo xtask lab`: a laboratory of four real hosts on this machine. They are systemd-nspawn machines on a network of
//! their own; nothing of them is seen outside but their processes, and `target/lab`. This file brings them up and down;
//! what a host is made of (`image`), boots in (`machine`) and is reached by (`network`, `access`) is in files of their own.

mod access;
mod cgroup;
mod image;
mod kernel;
mod machine;
mod network;
mod site;
mod walk;

use std::fs::{self, File, TryLockError};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use harness::programs;

use self::image::Release;
use self::machine::Machine;
use crate::checkout;
use crate::packages::{self, Need};

/// A host of the laboratory.
#[derive(Debug, Clone, Copy)]
struct Host {
    name: &'static str,
    address: Ipv4Addr,
}

const HOSTS: [Host; 4] = [
    Host { name: "pg1", address: Ipv4Addr::new(192, 168, 11, 101) },
    Host { name: "pg2", address: Ipv4Addr::new(192, 168, 11, 102) },
    Host { name: "pg3", address: Ipv4Addr::new(192, 168, 11, 103) },
    Host { name: "haproxy", address: Ipv4Addr::new(192, 168, 11, 104) },
];

const NEEDS: [Need; 6] = [Need::Debootstrap, Need::Nspawn, Need::Iproute, Need::Nftables, Need::Slirp, Need::Ssh];

/// How long a host may take to boot.
const BOOTING: Duration = Duration::from_secs(120);

/// How long hosts may take to power off: longer than systemd lets one service take.
const POWERING_OFF: Duration = Duration::from_secs(100);

/// What to do with the laboratory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Make the hosts pg1, pg2, pg3 and haproxy, or boot those that are off
    Up {
        /// Debian's release [default: that of the hosts' image, or bookworm]
        #[arg(long)]
        release: Option<Release>,
    },
    /// Power the hosts off and remove their network
    Down {
        /// Delete their disks and the image too
        #[arg(long)]
        wipe: bool,
    },
    /// Log in on a host, or run a command there
    Ssh {
        /// The host's name, or USER@NAME; the user is root unless given
        host: String,
        /// What to run in place of a login shell
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Show which hosts run, and how they are
    Status,
    /// Deploy the system of the walk-through on the hosts
    Deploy(site::Deploy),
    /// Type the walk-through on the hosts, then upgrade pgherd and replace a host while clients work
    Test(site::Test),
}

/// Does it.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !programs::is_root() {
        bail!("the laboratory boots systemd in namespaces, which needs root: run it with sudo");
    }
    let lab = Lab::of_checkout()?;
    match &args.order {
        Order::Up { release } => lab.up(Release::of(&lab, *release)),
        Order::Down { wipe } => lab.down(*wipe),
        Order::Ssh { host, command } => lab.ssh(host, command),
        Order::Status => lab.status(),
        Order::Deploy(args) => site::deploy(&lab, args),
        Order::Test(args) => site::test(&lab, args),
    }
}

/// Where the laboratory of this checkout is.
#[derive(Debug)]
struct Lab {
    directory: PathBuf,
}

impl Lab {
    fn of_checkout() -> Result<Lab> {
        Ok(Lab { directory: checkout::root()?.join("target/lab") })
    }

    /// The directory that is a host's root.
    fn disk(&self, host: &Host) -> PathBuf {
        self.directory.join("hosts").join(host.name)
    }

    /// What something said, a host's console for one.
    fn log(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{name}.log"))
    }

    /// Makes its directories. Disks have programs that run as root for whoever calls them: nobody else may get there.
    fn prepare(&self) -> Result<()> {
        for name in ["hosts", "logs", "ssh"] {
            let directory = self.directory.join(name);
            fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        }
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))
            .context("close the laboratory's directory")
    }

    /// Keeps a second `up` or `down` out while it lives.
    fn lock(&self) -> Result<File> {
        let file = File::create(self.directory.join("lock")).context("open the laboratory's lock")?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => bail!("another 'cargo xtask lab' is at work: wait for it"),
            Err(TryLockError::Error(e)) => Err(e).context("take the laboratory's lock"),
        }
    }

    fn up(&self, release: Release) -> Result<()> {
        let begun = Instant::now();
        packages::ensure(&NEEDS)?;
        kernel::check()?;
        self.prepare()?;
        let _lock = self.lock()?;
        image::ensure(self, release)?;
        access::ensure_key(self)?;
        network::up(self)?;
        let machines = HOSTS.iter().map(|host| Machine::of(self, host)).collect::<Result<Vec<_>>>()?;
        for machine in &machines {
            self.boot(machine)?;
        }
        access::write_configuration(self)?;
        for machine in &machines {
            let state = machine.wait_booted(BOOTING)?;
            say!("{:8} {}  {state}", machine.host.name, machine.host.address);
        }
        say!("the laboratory is up ({:.0} s); 'cargo xtask lab ssh pg1' logs in", begun.elapsed().as_secs_f64());
        say!("other programs get there with 'ssh -F {} pg1'", access::configuration(self).display());
        Ok(())
    }

    fn boot(&self, machine: &Machine<'_>) -> Result<()> {
        let host = machine.host;
        if machine.runs()? {
            return Ok(());
        }
        if image::ensure_disk(self, host)? {
            say!("made {}'s disk", host.name);
        }
        access::authorise(self, host)?;
        machine.start()?;
        say!("booting {}", host.name);
        Ok(())
    }

    fn down(&self, wipe: bool) -> Result<()> {
        // Without it there's nothing to lock, but there may be hosts whose disks were deleted under them.
        let _lock = if self.directory.is_dir() { Some(self.lock()?) } else { None };
        let machines = HOSTS.iter().map(|host| Machine::of(self, host)).collect::<Result<Vec<_>>>()?;
        machine::power_off(&machines, POWERING_OFF)?;
        network::down()?;
        cgroup::remove_all()?;
        if wipe && self.directory.is_dir() {
            fs::remove_dir_all(&self.directory).with_context(|| format!("delete {}", self.directory.display()))?;
            say!("deleted {}", self.directory.display());
        }
        say!("the laboratory is down");
        Ok(())
    }

    fn ssh(&self, destination: &str, command: &[String]) -> Result<()> {
        let name = destination.rsplit('@').next().unwrap_or(destination);
        let Some(host) = HOSTS.iter().find(|h| h.name == name) else {
            bail!("{name} is no host of the laboratory: {} are", HOSTS.map(|h| h.name).join(", "));
        };
        if !Machine::of(self, host)?.runs()? {
            bail!("{name} is off: 'cargo xtask lab up' boots it");
        }
        let mut ssh = access::ssh(self);
        Err(ssh.arg(destination).args(command).exec()).context("run ssh")
    }

    fn status(&self) -> Result<()> {
        say!("{:8} {:15} {:4} STATE", "HOST", "ADDRESS", "ON");
        for host in &HOSTS {
            let machine = Machine::of(self, host)?;
            let on = machine.runs()?;
            let state = if on { machine.state() } else { "-".to_owned() };
            say!("{:8} {:15} {:4} {state}", host.name, host.address.to_string(), if on { "yes" } else { "no" });
        }
        Ok(())
    }
}
