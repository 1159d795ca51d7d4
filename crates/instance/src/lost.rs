//! A replica that waits for WAL which its upstream has removed says so in its log alone, every few seconds, and waits for
//! ever. Here it is found out, so that somebody hears of it. What is done about it is a person's decision.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use ha::Tick;
use ha::local::Sql;

use crate::clock::now;
use crate::instance::Instance;
use crate::look::Look;
use crate::postmaster::Postmaster;

/// How often the log is read while a replica isn't streaming.
const EVERY: Duration = Duration::from_secs(1);
/// How long reading it may take.
const LIMIT: Duration = Duration::from_millis(200);
/// More than this of a log is never read at once.
const MOST: u64 = 1 << 20;
/// What PostgreSQL says (`src/backend/replication/walsender.c`, in English).
const REMOVED: &str = "has already been removed";

/// What is known of the log of one postmaster.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    postmaster: u32,
    /// Read up to here; `None` before the first look, which takes what is there for old.
    read_to: Option<u64>,
    read_at: Tick,
    look: Look<(u64, Option<String>)>,
}

impl Instance {
    /// Reads what a replica that isn't streaming has logged since the last look.
    pub(crate) async fn look_for_lost_wal(&self, postmaster: &Postmaster, sql: &Sql) {
        let mut lost = self.0.probes.lost.lock().await;
        let streams = matches!(sql, Sql::Up(a) if a.receiver.as_deref() == Some("streaming") || !a.in_recovery);
        if streams || lost.postmaster != postmaster.pid {
            *lost = Lost { postmaster: postmaster.pid, ..Lost::default() };
            self.set_lost_wal(None);
        }
        if streams || !postmaster.is_standby() || now().since(lost.read_at) < EVERY {
            return;
        }
        lost.read_at = now();
        let (log, from) = (self.0.log_file(), lost.read_to);
        lost.look.take(now(), LIMIT, move || read(&log, from)).await;
        let Some((_, (length, segment))) = lost.look.last.take() else { return };
        lost.read_to = Some(length);
        if let Some(segment) = segment {
            self.set_lost_wal(Some(format!(
                "this replica waits for WAL that its leader has removed (segment {segment}): run pgherdctl reinit to \
                 clone it again; replication slots or a larger wal_keep_size prevent it"
            )));
        }
    }

    /// The server is gone.
    pub(crate) fn forget_lost_wal(&self) {
        self.set_lost_wal(None);
    }

    fn set_lost_wal(&self, what: Option<String>) {
        *self.0.probes.lost_wal.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

/// The log's length, and the segment that what lies past `from` says is gone.
fn read(log: &Path, from: Option<u64>) -> (u64, Option<String>) {
    let look = || -> std::io::Result<(u64, Option<String>)> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        // A log that has become shorter was begun anew.
        let begin = from.filter(|from| *from <= length).unwrap_or(length).max(length.saturating_sub(MOST));
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok((begin + bytes.len() as u64, removed(&String::from_utf8_lossy(&bytes))))
    };
    look().unwrap_or((from.unwrap_or(0), None))
}

/// The segment in the last line of its kind: `requested WAL segment 000000010000000000000003 has already been removed`.
fn removed(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|l| l.contains(REMOVED))?;
    let before = line.split(REMOVED).next()?;
    Some(before.split_whitespace().last()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026-11-23 [7] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment \
                        000000010000000000000003 has already been removed\n";

    #[test]
    fn only_what_was_logged_since_the_last_look_counts() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(read(&log, None), (0, None));
        std::fs::write(&log, LINE).unwrap();
        let (length, old) = read(&log, None);
        assert_eq!((length, old), (LINE.len() as u64, None));
        std::fs::write(&log, [LINE, LINE].concat()).unwrap();
        let (longer, found) = read(&log, Some(length));
        assert_eq!((longer, found.as_deref()), (2 * length, Some("000000010000000000000003")));
        assert_eq!(read(&log, Some(longer)), (longer, None));
        std::fs::write(&log, "new\n").unwrap();
        assert_eq!(read(&log, Some(longer)), (4, None));
    }
}
