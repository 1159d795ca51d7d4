//! The postmaster as a process: found, held by pidfd, signalled, seen to end. Its children are found by their titles.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ha::Tick;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::clock::now;

/// A postmaster that lives or lived.
#[derive(Debug)]
pub(crate) struct Postmaster {
    pub(crate) pid: u32,
    pub(crate) since: Tick,
    pidfd: OwnedFd,
    standby: AtomicBool,
    /// Whether it runs as a standby was told by standby.signal or by whoever started it.
    role_known: AtomicBool,
    /// How it ended, known for children only.
    status: Mutex<Option<String>>,
    /// Its end was reported by `exited`.
    pub(crate) reported: AtomicBool,
    /// Directory of its socket, from postmaster.pid.
    pub(crate) socket_dir: Mutex<Option<PathBuf>>,
    /// Where its output begins in the log file.
    pub(crate) log_offset: u64,
}

impl Postmaster {
    /// Holds a process; `None` when it is gone. Until it is known, it is no standby: one that may take writes.
    pub(crate) fn hold(pid: u32, standby: Option<bool>, log_offset: u64) -> Option<Postmaster> {
        let pidfd = pidfd_open(raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Postmaster {
            pid,
            since: now(),
            pidfd,
            standby: AtomicBool::new(standby.unwrap_or(false)),
            role_known: AtomicBool::new(standby.is_some()),
            status: Mutex::new(None),
            reported: AtomicBool::new(false),
            socket_dir: Mutex::new(None),
            log_offset,
        })
    }

    /// Whether it hasn't ended.
    pub(crate) fn alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&at_once)), Ok(0))
    }

    /// Sends a signal; one that has ended is fine.
    pub(crate) fn signal(&self, signal: Signal) -> std::io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Returns once it has ended.
    #[expect(deprecated, reason = "what replaces it is unsafe; an OwnedFd always returns the same descriptor")]
    pub(crate) async fn ended(&self) -> std::io::Result<()> {
        let fd = self.pidfd.as_fd().try_clone_to_owned()?;
        let fd = tokio::io::unix::AsyncFd::with_interest(fd, tokio::io::Interest::READABLE)?;
        let _ready = fd.readable().await?;
        Ok(())
    }

    pub(crate) fn is_standby(&self) -> bool {
        self.standby.load(Ordering::Relaxed)
    }

    pub(crate) fn set_standby(&self, standby: bool) {
        self.standby.store(standby, Ordering::Relaxed);
        self.role_known.store(true, Ordering::Relaxed);
    }

    /// Reads in the data directory what the process table doesn't tell. Blocking.
    pub(crate) fn read_files(&self, data_dir: &Path) {
        if !self.role_known.load(Ordering::Relaxed) {
            self.set_standby(data_dir.join("standby.signal").exists());
        }
        let found = read_pid_file(data_dir);
        if found.pid == Some(self.pid) {
            *self.socket_dir.lock().unwrap_or_else(PoisonError::into_inner) = found.socket_dir;
        }
    }

    pub(crate) fn status(&self) -> Option<String> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_status(&self, status: String) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }
}

/// A pid as rustix wants it.
pub(crate) fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// The postmaster among the processes of an instance: the one whose parent isn't among them and which doesn't call itself
/// a backend (`postgres: ...`) or a single-user server.
pub(crate) fn among(pids: &[u32]) -> Option<u32> {
    pids.iter().copied().find(|pid| {
        let outside = parent(*pid).is_some_and(|p| !pids.contains(&p));
        let title = title(*pid);
        outside && !title.is_empty() && !is_child_title(&title) && !title.contains(" --single")
    })
}

/// A process's command line in one line; a child of the postmaster has its title there.
pub(crate) fn title(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

/// Whether this is the title of a postmaster's child.
fn is_child_title(title: &str) -> bool {
    title.starts_with("postgres: ")
}

/// Whether a title is that of this kind of process (`walsender`, `walreceiver`, `checkpointer`), with or without a
/// cluster name before it.
pub(crate) fn is_kind(title: &str, kind: &str) -> bool {
    is_child_title(title) && title.split_whitespace().skip(1).take(2).any(|w| w == kind)
}

/// Processes of this kind among `pids`.
pub(crate) fn of_kind(pids: &[u32], kind: &str) -> Vec<u32> {
    pids.iter().copied().filter(|p| is_kind(&title(*p), kind)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Lines of postmaster.pid that are of use (PostgreSQL's `src/include/utils/pidfile.h`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PidFile {
    pub(crate) pid: Option<u32>,
    pub(crate) socket_dir: Option<PathBuf>,
}

/// Reads postmaster.pid.
pub(crate) fn read_pid_file(data_dir: &Path) -> PidFile {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
    let line = |n: usize| text.lines().nth(n).map(str::trim).filter(|l| !l.is_empty());
    PidFile { pid: line(0).and_then(|l| l.parse().ok()), socket_dir: line(4).map(PathBuf::from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_told_apart() {
        assert!(is_kind("postgres: otus: walsender replicator 127.0.0.1(53454) streaming 0/3000148", "walsender"));
        assert!(is_kind("postgres: walreceiver streaming 0/3000148", "walreceiver"));
        assert!(!is_kind("postgres: otus: postgres postgres [local] idle in walsender", "walsender"));
        assert!(!is_kind("/usr/lib/postgresql/15/bin/postgres -D /walsender", "walsender"));
    }

    #[test]
    fn the_pid_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_pid_file(dir.path()), PidFile::default());
        std::fs::write(dir.path().join("postmaster.pid"), "123\n/data\n1700000000\n5432\n/tmp\n*\n 1 2\nready\n")
            .unwrap();
        assert_eq!(read_pid_file(dir.path()), PidFile { pid: Some(123), socket_dir: Some("/tmp".into()) });
    }

    #[test]
    fn a_child_is_seen_to_end() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let held = Postmaster::hold(child.id(), Some(false), 0).unwrap();
        assert!(held.alive());
        held.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!held.alive());
        held.signal(Signal::KILL).unwrap();
    }
}
