//! Ends every process of a test, whatever happens to the test. What is found by accident, not by parentage: a guard or a
//! PostgreSQL outlives the agent that started it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{self, Identity};

/// Environment variable that every process started by the harness carries: the directory of its cluster.
pub const MARK: &str = "CLUSTER_UNDER_TEST";

/// Kills on drop every process that belongs to a directory.
#[derive(Debug)]
pub struct Reaper {
    directory: PathBuf,
}

impl Reaper {
    /// Watches over the processes of `directory`.
    pub fn new(directory: &Path) -> Reaper {
        Reaper { directory: directory.to_owned() }
    }

    /// Ends them now.
    pub fn reap(&self) {
        kill_all(&self.directory);
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.reap();
    }
}

/// Processes of the cluster in `directory`: marked at their start, or working in it.
pub fn of_directory(directory: &Path) -> Vec<Identity> {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    process::all().into_iter().filter(|i| i.pid != me && belongs(i.pid, directory)).collect()
}

fn belongs(pid: i32, directory: &Path) -> bool {
    process::variable(pid, MARK).is_some_and(|mark| Path::new(&mark) == directory)
        || process::name(pid) == "postgres" && process::directory(pid).is_some_and(|d| d.starts_with(directory))
}

/// SIGKILLs every process of `directory` until none is left, those that could restart others first. Returns how many it
/// found.
pub fn kill_all(directory: &Path) -> usize {
    let mut count = 0;
    for _ in 0..100 {
        let mut found = of_directory(directory);
        if found.is_empty() {
            return count;
        }
        found.sort_by_cached_key(|i| process::name(i.pid) == "postgres");
        for identity in &found {
            if identity.signal(Signal::KILL) {
                count += 1;
            }
        }
        for identity in found {
            identity.wait_gone(Duration::from_secs(5));
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn marked_processes_end_with_the_reaper() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).env(MARK, directory.path()).spawn().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while of_directory(directory.path()).len() < 2 {
            assert!(std::time::Instant::now() < deadline, "the processes don't appear");
            std::thread::yield_now();
        }
        drop(Reaper::new(directory.path()));
        child.wait().unwrap();
        assert_eq!(of_directory(directory.path()), []);
    }
}
