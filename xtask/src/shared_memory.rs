//! Shared memory that killed PostgreSQL servers leave on the machine. A server that starts in the same data directory
//! takes its predecessor's away; tests have deleted the directory, and after some thousand kills System V's table is full
//! and no PostgreSQL starts any more.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use harness::process;

/// Bytes of the segment by which a server knows whether a predecessor's processes live (PostgreSQL's `PGShmemHeader`).
const INTERLOCK: u64 = 56;

/// Where POSIX shared memory is on Linux, and how PostgreSQL's segments begin.
const DIRECTORY: &str = "/dev/shm";
const NAME: &str = "PostgreSQL.";

/// Removes segments that were made since `begun`. Touches nothing while any PostgreSQL runs on the machine: one can't tell
/// whose they are.
pub(crate) fn remove_left(begun: SystemTime) -> Result<()> {
    if process::all().iter().any(|i| process::name(i.pid) == "postgres") {
        return Ok(());
    }
    // What the table calls a time is in whole seconds.
    let begun = begun - Duration::from_secs(1);
    let table = std::fs::read_to_string("/proc/sysvipc/shm").context("read the table of shared memory")?;
    for segment in abandoned(&table, begun) {
        // Another task may have been faster.
        let _ = Command::new("ipcrm").args(["-m", &segment.to_string()]).output();
    }
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let made = entry.metadata().and_then(|m| m.modified()).unwrap_or(UNIX_EPOCH);
        if name.to_str().is_some_and(|n| n.starts_with(NAME)) && made >= begun {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Numbers of the interlocks in the table (proc(5), `/proc/sysvipc/shm`) that no process is attached to.
fn abandoned(table: &str, begun: SystemTime) -> Vec<u64> {
    let begun = begun.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let number = |line: &[&str], column: usize| line.get(column).and_then(|n| n.parse::<u64>().ok());
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|l| number(l, 3) == Some(INTERLOCK) && number(l, 6) == Some(0))
        .filter(|l| number(l, 13).is_some_and(|made| made >= begun))
        .filter_map(|l| number(&l, 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_is_attached_to_and_is_new_is_abandoned() {
        let table = "key shmid perms size cpid lpid nattch uid gid cuid cgid atime dtime ctime rss swap\n\
                     1 10 600 56 16976 16976 0 101 104 101 104 1795713175 1795713175 1795713174 4096 0\n\
                     2 11 600 56 16976 16976 6 101 104 101 104 1795713175 0 1795713174 4096 0\n\
                     3 12 600 56 16976 16976 0 101 104 101 104 1795713175 1795713175 1795713100 4096 0\n\
                     4 13 600 9999 16976 16976 0 101 104 101 104 1795713175 1795713175 1795713174 4096 0\n";
        assert_eq!(abandoned(table, UNIX_EPOCH + Duration::from_secs(1_795_713_174)), [10]);
    }
}
