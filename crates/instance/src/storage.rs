//! Watches the storage under the data directory: a small synced write in a thread of its own, which may hang as long as
//! the storage does without anything else hanging.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ha::Tick;

use crate::clock::now;
use crate::error::Error;
use crate::files::{STORAGE_CHECK, write_atomic};
use crate::programs::User;

/// A write that takes longer than this counts as stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// Less than this is trouble: PostgreSQL ends when it can't make its next WAL file, of 16 MB by default.
const LOW: u64 = 32 << 20;

#[derive(Debug, Default, Clone)]
struct State {
    /// When the write under way began.
    began: Option<Tick>,
    /// When the last write ended.
    ended: Option<Tick>,
    /// Why the last one failed.
    failure: Option<String>,
}

/// Handle of the checking thread, which ends with it.
#[derive(Debug)]
pub(crate) struct Storage {
    ask: SyncSender<()>,
    state: Arc<Mutex<State>>,
    every: Duration,
}

impl Storage {
    pub(crate) fn new(data_dir: &Path, user: Option<User>, every: Duration) -> std::io::Result<Storage> {
        let (ask, asked) = sync_channel(1);
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, dir) = (state.clone(), data_dir.to_owned());
        std::thread::Builder::new().name("storage-check".into()).spawn(move || check(&asked, &shared, &dir, user))?;
        Ok(Storage { ask, state, every })
    }

    /// Begins a write unless one is under way or the last one is recent. Never blocks.
    pub(crate) fn ask(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state.ended.is_none_or(|t| now().since(t) >= self.every);
        if state.began.is_none() && due {
            match self.ask.try_send(()) {
                Ok(()) => state.began = Some(now()),
                Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }

    /// Since when a write hasn't come back.
    pub(crate) fn stuck_since(&self) -> Option<Tick> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.began.filter(|t| now().since(*t) >= PATIENCE)
    }

    /// Why the last write failed, for people.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
    }
}

fn check(asked: &Receiver<()>, state: &Mutex<State>, dir: &Path, user: Option<User>) {
    while asked.recv().is_ok() {
        let outcome = write_once(dir, user.as_ref());
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.began = None;
        state.ended = Some(now());
        state.failure = outcome.err().map(|e| explain(&e, dir)).or_else(|| shortage(available(dir)?, dir));
    }
}

/// One small synced write; nothing where no server has been started: such data may be another cluster's.
fn write_once(dir: &Path, user: Option<&User>) -> std::io::Result<()> {
    if !dir.join("postmaster.pid").exists() {
        return Ok(());
    }
    let path: PathBuf = dir.join(STORAGE_CHECK);
    if !path.exists() {
        let made = write_atomic(&path, "pgherd checks here that the storage answers.\n", user);
        made.map_err(|e| match e {
            Error::DiskFull(_) => ErrorKind::StorageFull.into(),
            e => std::io::Error::other(e),
        })?;
    }
    let mut file: File = OpenOptions::new().write(true).open(&path)?;
    file.seek(SeekFrom::Start(64))?;
    file.write_all(format!("{:>24}\n", now().0).as_bytes())?;
    file.sync_data()
}

/// Bytes that an ordinary user can still fill; `None` when that can't be told.
fn available(dir: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(dir).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// The write above takes no new space, so it doesn't notice that there is none.
fn shortage(available: u64, dir: &Path) -> Option<String> {
    match available >> 20 {
        0 => Some(full(dir)),
        _ if available >= LOW => None,
        megabytes => Some(format!("only {megabytes} MB left on the storage of {}: free some", dir.display())),
    }
}

fn full(dir: &Path) -> String {
    format!("no space left on the storage of {}: free some", dir.display())
}

fn explain(e: &std::io::Error, dir: &Path) -> String {
    if matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        return full(dir);
    }
    let dir = dir.display();
    match e.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => format!("the storage of {dir} has become read-only: check the disk"),
        _ => format!("the storage of {dir} refuses a small write: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_until(what: impl Fn() -> bool) {
        let began = now();
        while !what() {
            assert!(now().since(began) < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_working_disk_is_neither_stuck_nor_in_trouble() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("postmaster.pid"), "15").unwrap();
        let storage = Storage::new(dir.path(), None, Duration::ZERO).unwrap();
        storage.ask();
        wait_until(|| dir.path().join(STORAGE_CHECK).exists() && storage.state.lock().unwrap().ended.is_some());
        assert_eq!((storage.stuck_since(), storage.failure()), (None, None));
    }

    #[test]
    fn a_write_that_hangs_is_seen_and_one_that_fails_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("postmaster.pid"), "15").unwrap();
        let fifo = dir.path().join(STORAGE_CHECK);
        // Opening a FIFO for writing blocks until someone reads it, as hung storage does.
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let storage = Storage::new(dir.path(), None, Duration::ZERO).unwrap();
        storage.ask();
        wait_until(|| storage.stuck_since().is_some());
        let reader = File::open(&fifo).unwrap();
        wait_until(|| storage.stuck_since().is_none());
        drop(reader);
        assert!(storage.failure().is_some(), "a FIFO can't be positioned");
        assert!(explain(&std::io::Error::from_raw_os_error(28), dir.path()).contains("no space left"));
    }

    #[test]
    fn storage_is_told_of_before_postgresql_needs_a_wal_file_that_it_can_not_hold() {
        let told = |bytes| shortage(bytes, Path::new("/d"));
        assert_eq!(told(LOW), None);
        assert_eq!(told(5 << 20).unwrap(), "only 5 MB left on the storage of /d: free some");
        assert_eq!(told(100).unwrap(), "no space left on the storage of /d: free some");
        assert!(available(Path::new("/")).unwrap() > 0);
        assert_eq!(available(Path::new("/nowhere")), None);
    }
}
