//! What a dead server leaves behind that keeps the next one from starting: postmaster.pid, and the lock file beside its
//! socket (PostgreSQL's `CreateLockFile`).

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::error::Error;
use crate::files::{read_if_exists, remove_if_exists};
use crate::instance::Inner;
use crate::postmaster::read_pid_file;

/// An empty lock file of a socket is as old as this when it's nobody's: a server writes its pid at once.
const ABANDONED: Duration = Duration::from_secs(2);

impl Inner {
    /// PostgreSQL refuses to start while the pid in a lock file is some process or thread of its user: after a reboot that
    /// may be any, one that is about to begin as well, and after a kill it is a zombie until its parent has taken notice.
    /// It refuses too, for ever, while a lock file is empty: a server that was killed, or whose machine crashed, between
    /// its two steps of writing one leaves it so. Called only when no process of the instance lives.
    pub(crate) fn drop_stale_lock_files(&self) -> Result<(), Error> {
        let pid_file = self.data_dir().join("postmaster.pid");
        let left = read_pid_file(self.data_dir());
        match left.pid {
            Some(pid) if Path::new(&format!("/proc/{pid}")).exists() => tracing::info!(
                "postmaster.pid names process {pid}, which isn't PostgreSQL of this data directory: removed"
            ),
            None if pid_file.exists() => {
                tracing::info!("postmaster.pid names no process, as after a crash while it was written: removed");
            }
            _ => {}
        }
        remove_if_exists(&pid_file)?;
        for dir in self.socket_dirs().iter().chain(&left.socket_dir) {
            let lock = dir.join(format!(".s.PGSQL.{}.lock", self.listen.port));
            let holder = read_if_exists(&lock)?.and_then(|text| text.lines().next()?.trim().parse::<u32>().ok());
            if holder.is_some() && holder == left.pid || holder.is_none() && is_abandoned(&lock) {
                remove_if_exists(&lock)?;
            }
        }
        Ok(())
    }
}

/// Whether a file has no content, and for longer than a server leaves it so. No file isn't abandoned.
fn is_abandoned(file: &Path) -> bool {
    let Ok(about) = file.metadata() else { return false };
    let age = about.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    about.len() == 0 && age.is_some_and(|age| age >= ABANDONED)
}
