//! Fencing: finding every process of one PostgreSQL instance and making all of them go away. Blocking, without tokio,
//! and without touching the data directory's storage. *When* to fence is decided in `crate::guard` and by the agent.
//!
//! What belongs to an instance. The postmaster and all its children change into the data directory and stay there, also
//! as orphans after a kill -9 of the postmaster. So:
//! 1. a process whose `/proc/PID/cwd` is the data directory *and* whose executable is PostgreSQL's is a **server
//!    process** (a shell or a pager in that directory is a person's: it isn't);
//! 2. whatever descends from a server process, or is in the process group or session of one, belongs to it:
//!    `archive_command`, `restore_command`, `COPY ... PROGRAM` (every child of the postmaster leads a session of its
//!    own, so this never reaches beyond the instance).
//!
//! A helper command that lost its server process *before* the fencing began belongs to nobody recognisable and is left
//! alone: it speaks to no client and holds no shared memory, so it can neither acknowledge nor write anything of the
//! database. Those that become orphans *during* the fencing are followed.
//!
//! Links under `/proc` are answered from the kernel's memory: hung storage doesn't hang the fencing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// How long to wait for exits before looking for processes that came into being meanwhile.
const RESCAN: Duration = Duration::from_millis(50);

/// How many links that lead nowhere are followed, as the kernel does.
const MOST_LINKS: usize = 40;

/// What a fencing achieved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Processes that are gone.
    pub killed: usize,
    /// Processes still there when the budget was used up, with SIGKILL pending: in uninterruptible sleep on hung
    /// storage, or not ours to kill. 0 stands for one that is just being started and has no pid yet. While there is
    /// one, the instance is not fenced.
    pub left: Vec<u32>,
    /// Time from the first look to the last.
    pub took: Duration,
}

/// Every process of the instance in `data_dir`; see [`Instance::processes`].
pub fn processes(data_dir: &Path) -> Vec<u32> {
    Instance::at(data_dir).processes()
}

/// Ends every process of the instance in `data_dir`; see [`Instance::fence`]. It looks at the data directory's path
/// first, which hangs when its storage does: whoever must not hang makes an [`Instance`] beforehand.
pub fn fence(data_dir: &Path, postmaster: Option<u32>, budget: Duration) -> Outcome {
    let mut instance = Instance::at(data_dir);
    if let Some(pid) = postmaster {
        instance.adopt(pid);
    }
    instance.fence(budget)
}

/// The instance of one data directory, ready to be looked for without touching its storage.
#[derive(Debug, Clone)]
pub struct Instance {
    dir: PathBuf,
    postmaster: Option<(u32, u64)>,
}

impl Instance {
    /// Resolves the path once: where it leads is where server processes are found. Of a path that doesn't exist yet, the
    /// part that does is resolved.
    pub fn at(data_dir: &Path) -> Instance {
        let path = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        Instance { dir: resolve(&path, MOST_LINKS), postmaster: None }
    }

    /// The resolved path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Remembers the postmaster, by pid and start time. It is stopped first, and is recognised later even when someone
    /// renames the data directory under it. False, and nothing is remembered, when that process is not a server process
    /// of this instance.
    pub fn adopt(&mut self, pid: u32) -> bool {
        match look_at(pid) {
            Some(p) if self.is_server(&p) => {
                self.postmaster = Some((p.pid, p.start));
                true
            }
            _ => false,
        }
    }

    /// Remembers a process that is, or is just about to become, this instance's postmaster, as the one who started it
    /// knows: before it has changed into the data directory nothing tells so.
    pub fn adopt_own(&mut self, pid: u32) {
        if let Some(p) = look_at(pid) {
            self.postmaster = Some((p.pid, p.start));
        }
    }

    /// The postmaster remembered by [`Instance::adopt`], as pid.
    pub fn postmaster(&self) -> Option<u32> {
        self.postmaster.map(|(pid, _)| pid)
    }

    /// Every living process of the instance; zombies don't count.
    pub fn processes(&self) -> Vec<u32> {
        self.members(&BTreeMap::new()).into_iter().map(|p| p.pid).collect()
    }

    /// Ends every process of the instance: stops the postmaster, so that it neither starts another one nor reacts to
    /// dying children, then SIGKILLs all until a look at the whole process table finds none. Returns after `budget` at
    /// the latest (plus one scan), whether or not it succeeded.
    pub fn fence(&self, budget: Duration) -> Outcome {
        let began = Instant::now();
        let mut held = BTreeMap::new();
        let members = self.members(&held);
        for root in self.roots(&members) {
            if let Some(target) = Target::open(root) {
                target.signal(Signal::STOP);
                held.insert(root.pid, target);
            }
        }
        let left = loop {
            let members = self.members(&held);
            for p in &members {
                if held.get(&p.pid).is_none_or(|t| t.start != p.start)
                    && let Some(target) = Target::open(p)
                {
                    held.insert(p.pid, target);
                }
            }
            let living: Vec<&Target> = held.values().filter(|t| !t.has_exited()).collect();
            for target in &living {
                target.signal(Signal::KILL);
            }
            if living.is_empty() && members.is_empty() {
                break Vec::new();
            }
            if began.elapsed() >= budget {
                let mut left: Vec<u32> = living.iter().map(|t| t.pid).collect();
                left.extend(members.iter().map(|p| p.pid).filter(|pid| !held.contains_key(pid)));
                break left;
            }
            wait(&living, RESCAN.min(budget.saturating_sub(began.elapsed())));
        };
        let killed = held.len() - held.keys().filter(|pid| left.contains(pid)).count();
        Outcome { killed, left, took: began.elapsed() }
    }

    /// The processes nothing else of the instance started: the postmaster, and orphans.
    fn roots<'a>(&self, members: &'a [Process]) -> Vec<&'a Process> {
        let mut roots: Vec<&Process> =
            members.iter().filter(|p| !members.iter().any(|other| other.pid == p.parent)).collect();
        roots.sort_by_key(|p| self.postmaster != Some((p.pid, p.start)));
        roots
    }

    fn is_server(&self, p: &Process) -> bool {
        if self.postmaster == Some((p.pid, p.start)) {
            return true;
        }
        let Some(cwd) = p.link("cwd") else { return false };
        is_path(&cwd, &self.dir) && p.link("exe").map_or_else(|| is_postgres(&p.comm), |exe| is_postgres_file(&exe))
    }

    /// Living server processes and all that belongs to them. `known` are those found before, whose own children may
    /// have lost them.
    fn members(&self, known: &BTreeMap<u32, Target>) -> Vec<Process> {
        let mut rest = all_processes();
        let mut found: Vec<Process> = rest.extract_if(.., |p| self.is_server(p)).collect();
        let mut pids: Vec<u32> = found.iter().map(|p| p.pid).chain(known.keys().copied()).collect();
        loop {
            let kin: Vec<Process> = rest
                .extract_if(.., |p| [p.parent, p.group, p.session].iter().any(|relative| pids.contains(relative)))
                .collect();
            if kin.is_empty() {
                return found;
            }
            pids.extend(kin.iter().map(|p| p.pid));
            found.extend(kin);
        }
    }
}

/// Follows all links of a path of which the end may not exist.
fn resolve(path: &Path, links: usize) -> PathBuf {
    if let Ok(resolved) = std::fs::canonicalize(path) {
        return resolved;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    let parent = resolve(parent, links);
    let here = parent.join(name);
    match std::fs::read_link(&here) {
        Ok(target) if links > 0 => resolve(&parent.join(target), links - 1),
        _ => here,
    }
}

/// One living process as the process table shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    group: u32,
    session: u32,
    /// Clock ticks since boot. With the pid, it identifies a process.
    start: u64,
    comm: String,
}

impl Process {
    /// Parses `/proc/PID/stat` (proc(5)); `None` for a zombie.
    fn parse(stat: &str) -> Option<Process> {
        let (head, tail) = stat.rsplit_once(')')?;
        let (pid, comm) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        if matches!(*fields.first()?, "Z" | "X" | "x") {
            return None;
        }
        let id = |n: usize| fields.get(n)?.parse::<u32>().ok();
        Some(Process {
            pid: pid.trim().parse().ok()?,
            parent: id(1)?,
            group: id(2)?,
            session: id(3)?,
            start: fields.get(19)?.parse().ok()?,
            comm: comm.to_owned(),
        })
    }

    /// Reads a link of `/proc/PID`. `None` when the process is gone or may not be looked at.
    fn link(&self, name: &str) -> Option<PathBuf> {
        let path = format!("/proc/{}/{name}", self.pid);
        match std::fs::read_link(&path) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => as_owner(self.pid, || std::fs::read_link(&path).ok()),
            other => other.ok(),
        }
    }
}

/// Does something with the file system identity of a process's owner. Root without CAP_SYS_PTRACE, as in most
/// containers, may not read the links of another user's processes; the user may. The identity belongs to the calling
/// thread alone and is restored.
fn as_owner<T>(pid: u32, read: impl FnOnce() -> Option<T>) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let owner = std::fs::metadata(format!("/proc/{pid}")).ok()?;
    let gid = setfsgid(Gid::from_raw(owner.gid()));
    let uid = setfsuid(Uid::from_raw(owner.uid()));
    let answer = read();
    setfsuid(uid);
    setfsgid(gid);
    answer
}

fn all_processes() -> Vec<Process> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(look_at)
        .collect()
}

fn look_at(pid: u32) -> Option<Process> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    Process::parse(&String::from_utf8_lossy(&stat))
}

/// Whether a link of `/proc` names this path, also when the directory was deleted since.
fn is_path(link: &Path, dir: &Path) -> bool {
    link == dir || link.as_os_str().as_bytes().strip_suffix(b" (deleted)") == Some(dir.as_os_str().as_bytes())
}

/// Whether an executable's path is PostgreSQL's server, also after an upgrade replaced the file.
fn is_postgres_file(exe: &Path) -> bool {
    let name = exe.file_name().unwrap_or(OsStr::new("")).to_string_lossy();
    is_postgres(name.strip_suffix(" (deleted)").unwrap_or(&name))
}

/// Whether a program's name is PostgreSQL's server: `postgres`, `postmaster`, and packagers' variants such as
/// `postgres15`, `edb-postgres` and `.postgres-wrapped`; not `postgres_exporter`.
fn is_postgres(name: &str) -> bool {
    name.split(['-', '.'])
        .map(|part| part.trim_end_matches(|c: char| c.is_ascii_digit()))
        .any(|part| matches!(part, "postgres" | "postmaster"))
}

/// A process to end, held so that its pid can't come to mean another one.
struct Target {
    pid: u32,
    start: u64,
    /// Absent where the kernel has no pidfd (before 5.3) or no descriptor was to be had; then start times tell.
    fd: Option<OwnedFd>,
}

impl Target {
    /// Takes hold of the process that was seen. `None` when it is gone, its pid perhaps another's by now.
    fn open(seen: &Process) -> Option<Target> {
        let fd = match pidfd_open(raw_pid(seen.pid)?, PidfdFlags::empty()) {
            Ok(fd) => Some(fd),
            Err(Errno::SRCH) => return None,
            Err(_) => None,
        };
        let target = Target { pid: seen.pid, start: seen.start, fd };
        // The pid is looked at after the descriptor was opened: if it still is the process seen, and the descriptor's
        // process lives, then both are one.
        (target.is_in_table() && !target.has_exited()).then_some(target)
    }

    fn is_in_table(&self) -> bool {
        look_at(self.pid).is_some_and(|p| p.start == self.start)
    }

    fn has_exited(&self) -> bool {
        match &self.fd {
            Some(fd) => {
                let mut fds = [PollFd::new(fd, PollFlags::IN)];
                matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
            }
            None => !self.is_in_table(),
        }
    }

    /// Sends a signal. A failure shows later, as a process that is still there.
    fn signal(&self, signal: Signal) {
        let sent = match (&self.fd, raw_pid(self.pid)) {
            (Some(fd), _) => pidfd_send_signal(fd, signal),
            (None, Some(pid)) if self.is_in_table() => kill_process(pid, signal),
            (None, _) => Ok(()),
        };
        if let Err(e) = sent
            && e != Errno::SRCH
        {
            tracing::debug!(pid = self.pid, error = %e, "send signal");
        }
    }
}

fn raw_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Waits until all of them have exited, at most this long.
fn wait(living: &[&Target], at_most: Duration) {
    let until = Instant::now() + at_most;
    let mut fds: Vec<PollFd<'_>> =
        living.iter().filter_map(|t| t.fd.as_ref()).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let without_fd = fds.len() < living.len();
    loop {
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() || (fds.is_empty() && !without_fd) {
            return;
        }
        let timeout = Timespec { tv_sec: rest.as_secs().cast_signed(), tv_nsec: rest.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => fds.retain(|fd| fd.revents().is_empty()),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
