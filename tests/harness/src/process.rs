//! Processes of this machine by identity, never by number alone: finding, signalling and awaiting them. Which processes
//! belong to a cluster is known elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process: its number and the moment it began, so that a number used again isn't taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Process number.
    pub pid: i32,
    /// Start in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started: u64,
}

impl Identity {
    /// The process that has this number now; zombies don't count.
    pub fn of(pid: i32) -> Option<Identity> {
        let stat = Stat::read(pid)?;
        (stat.state != 'Z' && stat.state != 'X').then_some(Identity { pid, started: stat.started })
    }

    /// Whether it still runs (a stopped process does, a zombie doesn't).
    pub fn is_alive(self) -> bool {
        Identity::of(self.pid) == Some(self)
    }

    /// Sends a signal to this very process; false when it has ended.
    pub fn signal(self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // The number may have been used again before the descriptor was opened.
        self.is_alive() && pidfd_send_signal(&fd, signal).is_ok()
    }

    /// Waits until it has ended; false after the time-out.
    pub fn wait_gone(self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// SIGTERM, then SIGKILL after `patience`. Returns whether it went by itself.
    pub fn end(self, patience: Duration) -> bool {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        if self.wait_gone(patience) {
            return true;
        }
        self.signal(Signal::KILL);
        self.wait_gone(Duration::from_secs(10));
        false
    }

    /// What is written into a pid file.
    pub fn to_text(self) -> String {
        format!("{} {}\n", self.pid, self.started)
    }

    /// Reads what `to_text` wrote.
    pub fn from_text(text: &str) -> Option<Identity> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Identity { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }
}

/// Reads a pid file; `None` when there is none or its process has ended.
pub fn from_file(path: &Path) -> Option<Identity> {
    Identity::from_text(&fs::read_to_string(path).ok()?).filter(|i| i.is_alive())
}

/// Writes the pid file of a process just started.
pub fn to_file(path: &Path, pid: u32) -> Result<Identity> {
    let pid = i32::try_from(pid).context("read a process number")?;
    let identity = Identity::of(pid).with_context(|| format!("process {pid} ended as soon as it was started"))?;
    fs::write(path, identity.to_text()).with_context(|| format!("write {}", path.display()))?;
    Ok(identity)
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// `R`, `S`, `T`, `Z`, ...
    pub state: char,
    /// Parent.
    pub parent: i32,
    /// Start in clock ticks since boot.
    pub started: u64,
}

impl Stat {
    /// Reads it; `None` when there is no such process.
    pub fn read(pid: i32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses, which may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
        Some(Stat {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            started: number(19)?,
        })
    }
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Every process but zombies.
pub fn all() -> Vec<Identity> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|e| Identity::of(e.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

/// Its arguments, the program first.
pub fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|b| *b == 0).filter(|a| !a.is_empty()).map(|a| String::from_utf8_lossy(a).into_owned()).collect()
}

/// Its working directory.
pub fn directory(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// Its name (`comm`, at most 15 characters).
pub fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// One variable of the environment it was started with.
pub fn variable(pid: i32, variable: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{variable}=");
    bytes.split(|b| *b == 0).find_map(|v| String::from_utf8_lossy(v).strip_prefix(&prefix).map(str::to_owned))
}

/// Children, their children and so on.
pub fn descendants(root: i32) -> Vec<Identity> {
    let parents: Vec<(Identity, i32)> =
        all().into_iter().filter_map(|i| Some((i, Stat::read(i.pid)?.parent))).collect();
    let mut found: Vec<Identity> = Vec::new();
    let mut frontier = vec![root];
    while let Some(parent) = frontier.pop() {
        for (child, _) in parents.iter().filter(|(_, p)| *p == parent) {
            found.push(*child);
            frontier.push(child.pid);
        }
    }
    found
}

/// A line about a process for people.
pub fn describe(pid: i32) -> String {
    let arguments = arguments(pid).join(" ");
    format!("{pid} {}", if arguments.is_empty() { name(pid) } else { arguments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id().try_into().unwrap()).unwrap();
        assert!(identity.is_alive());
        assert_eq!(Identity::from_text(&identity.to_text()), Some(identity));
        assert!(descendants(std::process::id().try_into().unwrap()).contains(&identity));
        assert!(!Identity { started: identity.started + 1, ..identity }.signal(Signal::KILL));
        assert!(identity.is_alive());
        assert!(identity.end(Duration::from_secs(5)));
        child.wait().unwrap();
        assert!(!identity.signal(Signal::KILL));
    }
}
