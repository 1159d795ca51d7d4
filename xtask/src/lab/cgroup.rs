//! Control groups. What belongs to a host, or serves the laboratory's network, is whatever is in its group: that holds
//! after a crash, and nothing gets out of it. What is in them is known elsewhere.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::process::Identity;

/// The group that all of the laboratory's are in.
const TOP: &str = "pgherd-lab";

/// How long killed processes may take to be gone.
const DYING: Duration = Duration::from_secs(15);

/// A group of the laboratory and those below it.
#[derive(Debug)]
pub(super) struct Group(PathBuf);

impl Group {
    /// The group of this name, which needn't exist.
    pub(super) fn of(name: &str) -> Result<Group> {
        Ok(Group(hierarchy()?.join(TOP).join(name)))
    }

    /// Whether there is any process in it.
    pub(super) fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.0.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|l| l == "populated 1")
    }

    /// The processes of one of the groups below it.
    pub(super) fn processes(&self, below: &str) -> Vec<Identity> {
        let numbers = fs::read_to_string(self.0.join(below).join("cgroup.procs")).unwrap_or_default();
        numbers.lines().filter_map(|n| Identity::of(n.parse().ok()?)).collect()
    }

    /// A command that runs in the group `below` this one, made for it, in a session of its own.
    pub(super) fn command(&self, below: &str) -> Result<Command> {
        let group = self.0.join(below);
        fs::create_dir_all(&group).with_context(|| format!("make the control group {}", group.display()))?;
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.join("cgroup.procs"));
        Ok(command)
    }

    /// Kills everything in it.
    pub(super) fn kill(&self) -> Result<()> {
        if !self.is_populated() {
            return Ok(());
        }
        fs::write(self.0.join("cgroup.kill"), "1").with_context(|| format!("kill {}", self.0.display()))?;
        let deadline = Instant::now() + DYING;
        while self.is_populated() {
            if Instant::now() > deadline {
                bail!("processes in {} can't be killed", self.0.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Removes all of the laboratory's groups; nothing may be in them. systemd-nspawn makes some in old hierarchies too.
pub(super) fn remove_all() -> Result<()> {
    for hierarchy in hierarchies(&mounts()?, &["cgroup2", "cgroup"]) {
        let top = hierarchy.join(TOP);
        remove(&top).with_context(|| format!("remove the control group {}", top.display()))?;
    }
    Ok(())
}

fn remove(group: &Path) -> std::io::Result<()> {
    let below = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in below {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Where the unified hierarchy is mounted: /sys/fs/cgroup, or beside the old ones.
pub(super) fn hierarchy() -> Result<PathBuf> {
    let found = hierarchies(&mounts()?, &["cgroup2"]);
    found.into_iter().next().context("no unified control group hierarchy (cgroup2) is mounted")
}

fn mounts() -> Result<String> {
    fs::read_to_string("/proc/self/mounts").context("read the mounts")
}

/// Where file systems of these types are mounted.
fn hierarchies(mounts: &str, types: &[&str]) -> Vec<PathBuf> {
    let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    fields.filter(|f| f.len() > 2 && types.contains(&f[2])).map(|f| f[1].into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_by_their_types() {
        let alone = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        assert_eq!(hierarchies(alone, &["cgroup2"]), [Path::new("/sys/fs/cgroup")]);
        let beside = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\nc /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(hierarchies(beside, &["cgroup2"]), [Path::new("/sys/fs/cgroup/unified")]);
        assert_eq!(hierarchies(beside, &["cgroup2", "cgroup"]).len(), 2);
    }
}
