//! Booting a host as a systemd-nspawn machine, asking how it is, and powering it off. What is on its disk is elsewhere.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::process::{self, Identity, Stat};
use rustix::process::Signal;

use super::cgroup::Group;
use super::{Host, Lab, access, network};

/// The group below a host's that the keeper is in.
const SUPERVISOR: &str = "supervisor";

/// Boots a host again whenever it wants to be rebooted, which systemd-nspawn tells with this exit code.
const KEEPER: &str = "while :; do \"$@\"; [ $? = 133 ] || exit; done";

/// How long the keeper may take to end after systemd-nspawn.
const KEEPING: Duration = Duration::from_secs(2);

/// What root may do beyond systemd-nspawn's choice, as on a real host: change interfaces, raise limits, lock memory.
const CAPABILITIES: &str = "CAP_NET_ADMIN,CAP_SYS_RESOURCE,CAP_IPC_LOCK";

/// How long systemd may take to answer, in seconds.
const ANSWERING: u32 = 5;

/// A host and its processes, if any.
pub(super) struct Machine<'a> {
    pub(super) host: &'a Host,
    lab: &'a Lab,
    group: Group,
}

impl<'a> Machine<'a> {
    /// The machine of a host, which may be off.
    pub(super) fn of(lab: &'a Lab, host: &'a Host) -> Result<Machine<'a>> {
        Ok(Machine { host, lab, group: Group::of(host.name)? })
    }

    /// Whether it's on. That of another checkout is an error: there is one network for all of them.
    pub(super) fn runs(&self) -> Result<bool> {
        let ours = self.directory_argument();
        for process in self.group.processes(SUPERVISOR) {
            let arguments = process::arguments(process.pid);
            let directory = arguments.iter().find(|a| a.starts_with("--directory="));
            if let Some(theirs) = directory.filter(|d| **d != ours) {
                let theirs = theirs.trim_start_matches("--directory=");
                bail!("{} runs in {theirs}: end that checkout's laboratory first", self.host.name);
            }
        }
        Ok(self.group.is_populated())
    }

    fn directory_argument(&self) -> String {
        format!("--directory={}", self.lab.disk(self.host).display())
    }

    /// Begins to boot it.
    pub(super) fn start(&self) -> Result<()> {
        let log = self.lab.log(self.host.name);
        let console = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = self.group.command(SUPERVISOR)?;
        command.args(["sh", "-c", KEEPER, "sh", "systemd-nspawn", "--boot"]).arg(self.directory_argument());
        command.arg(format!("--machine={}", network::namespace(self.host)));
        command.arg(format!("--hostname={}", self.host.name));
        command.arg(format!("--network-namespace-path=/run/netns/{}", network::namespace(self.host)));
        // No systemd outside is asked for anything, and nothing of the outside is shared or changed.
        command.args(["--register=no", "--keep-unit", "--settings=no", "--link-journal=no"]);
        command.args(["--resolv-conf=off", "--timezone=off", "--console=read-only"]);
        command.arg(format!("--capability={CAPABILITIES}"));
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1").env("TERM", "dumb");
        command.stdin(Stdio::null()).stdout(console.try_clone().context("open a log")?).stderr(console);
        let mut child = command.spawn().context("run systemd-nspawn")?;
        while !self.group.is_populated() {
            if child.try_wait().context("wait for systemd-nspawn")?.is_some() {
                bail!("{} doesn't start: {}", self.host.name, self.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits until it has started all that it starts at boot, and returns its state in systemd's words.
    pub(super) fn wait_booted(&self, patience: Duration) -> Result<String> {
        let begun = Instant::now();
        let question = format!("timeout {} systemctl is-system-running --wait", patience.as_secs());
        loop {
            let state = self.ask(&question);
            if !state.is_empty() {
                return Ok(self.with_failures(state));
            }
            if !self.group.is_populated() {
                bail!("{} has ended: {}", self.host.name, self.last_words());
            }
            if begun.elapsed() > patience {
                bail!("{} hasn't booted within {} s: {}", self.host.name, patience.as_secs(), self.last_words());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its state in systemd's words.
    pub(super) fn state(&self) -> String {
        let state = self.ask(&format!("timeout {ANSWERING} systemctl is-system-running"));
        if state.is_empty() { "no answer over ssh".to_owned() } else { self.with_failures(state) }
    }

    fn with_failures(&self, state: String) -> String {
        if state != "degraded" {
            return state;
        }
        let units = self.ask("systemctl list-units --failed --plain --no-legend | cut -d ' ' -f 1");
        format!("{state}: {}", units.split_whitespace().collect::<Vec<_>>().join(", "))
    }

    /// What a command prints on it, the empty string where it can't be reached.
    fn ask(&self, command: &str) -> String {
        let mut ssh = access::ssh(self.lab);
        ssh.args(["-o", "BatchMode=yes", "-o", &format!("ConnectTimeout={ANSWERING}"), self.host.name, command]);
        let output = ssh.stdin(Stdio::null()).output();
        output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    }

    /// The end of what it wrote on its console.
    fn last_words(&self) -> String {
        let log = self.lab.log(self.host.name);
        let said = fs::read(&log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        format!("{}\n  {}", log.display(), lines[lines.len().saturating_sub(5)..].join("\n  "))
    }

    /// The systemd-nspawn that is to be told to power it off: the keeper's child, in whichever group it has put itself.
    fn nspawn(&self) -> Option<Identity> {
        let keepers: Vec<i32> = self.group.processes(SUPERVISOR).iter().map(|p| p.pid).collect();
        let is_child = |p: &Identity| Stat::read(p.pid).is_some_and(|s| keepers.contains(&s.parent));
        process::all().into_iter().find(|p| process::name(p.pid) == "systemd-nspawn" && is_child(p))
    }

    /// Whether nothing of it is left before this time is over.
    fn ends_within(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        while self.group.is_populated() && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(10));
        }
        !self.group.is_populated()
    }

    /// Removes what systemd-nspawn leaves when it is killed: locks of the disk, and a directory. None of it is in the way
    /// of the next one.
    fn remove_leftovers(&self) {
        let disk = self.lab.disk(self.host);
        let _ = fs::remove_file(disk.with_file_name(format!(".#{}.lck", self.host.name)));
        if let Ok(disk) = disk.metadata() {
            let _ = fs::remove_file(format!("/run/systemd/nspawn/locks/inode-{}:{}", disk.dev(), disk.ino()));
        }
        let _ = fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(network::namespace(self.host)));
    }
}

/// Powers machines off at the same time, and kills what is left of them after `patience`.
pub(super) fn power_off(machines: &[Machine<'_>], patience: Duration) -> Result<()> {
    let mut running: Vec<&Machine<'_>> = Vec::new();
    for machine in machines {
        if machine.runs()? {
            say!("powering {} off", machine.host.name);
            running.push(machine);
        }
    }
    let begun = Instant::now();
    let mut told = BTreeSet::new();
    while begun.elapsed() < patience {
        let nspawns: Vec<Identity> = running.iter().filter_map(|m| m.nspawn()).collect();
        if nspawns.is_empty() {
            break;
        }
        // One that happens to be rebooted gets a systemd-nspawn anew.
        for process in nspawns {
            if told.insert(process) {
                process.signal(Signal::TERM);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for machine in running {
        // The keeper ends after systemd-nspawn. A host that has lost both can't be told anything.
        if !machine.ends_within(KEEPING) {
            say!("{} isn't off after {:.0} s: killing it", machine.host.name, begun.elapsed().as_secs_f64());
            machine.group.kill()?;
            machine.remove_leftovers();
        }
    }
    Ok(())
}
