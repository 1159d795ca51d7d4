//! WAL that a replica has received past the point where its leader's history left that timeline, and has not replayed:
//! the rest of the former leader's last record. Recovery waits for its end, which never comes, as long as the leader
//! hasn't filled the segment, and pg_rewind finds nothing to repair. So it is removed.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ha::Lsn;
use ha::local::ControlData;

use crate::controldata;
use crate::error::Error;
use crate::instance::Instance;

impl Instance {
    /// Removes what was received on `timeline` past `end` unless some of it has been replayed; then false. The server
    /// must be stopped.
    pub async fn forget_unreplayed(&self, timeline: u32, end: Lsn) -> Result<bool, Error> {
        self.step(self.0.work.permit(), move |own| {
            own.0.refuse_while_alive()?;
            let output = own.0.programs.control_data(own.0.data_dir())?;
            let control = controldata::parse(&output).map_err(Error::Setup)?;
            let Some((_, segment)) = controldata::wal_sizes(&output).filter(|_| is_behind(&control, timeline, end))
            else {
                return Ok(false);
            };
            cut(&own.0.data_dir().join("pg_wal"), timeline, end, segment)?;
            own.0.lock_state().control = None;
            Ok(true)
        })
        .await
    }
}

/// Whether the data directory is a replica's, and no page of it may hold anything past `end`.
fn is_behind(control: &ControlData, timeline: u32, end: Lsn) -> bool {
    control.in_recovery && control.timeline <= timeline && control.checkpoint < end && control.minimum_recovery <= end
}

/// Removes the timeline's segments past `end`, and blanks the rest of the one that holds it.
fn cut(pg_wal: &Path, timeline: u32, end: Lsn, segment: u64) -> Result<(), Error> {
    let io = |path: &Path, e| Error::io(format!("cut WAL off in {}", path.display()), e);
    let mut first = None;
    let mut past: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(pg_wal).map_err(|e| io(pg_wal, e))? {
        let path = entry.map_err(|e| io(pg_wal, e))?.path();
        match path.file_name().and_then(|n| n.to_str()).and_then(|n| begin(n, timeline, segment)) {
            Some(begin) if begin >= end.0 => past.push(path),
            Some(begin) if end.0 - begin < segment => first = Some((path, end.0 - begin)),
            _ => {}
        }
    }
    // The last one first: however far this gets, what is left has no gap.
    past.sort();
    for path in past.iter().rev() {
        std::fs::remove_file(path).map_err(|e| io(path, e))?;
    }
    if let Some((path, from)) = first {
        blank(&path, from).map_err(|e| io(&path, e))?;
    }
    File::open(pg_wal).and_then(|d| d.sync_all()).map_err(|e| io(pg_wal, e))
}

/// Where the segment in a file of pg_wal begins, if it is one of this timeline. The name is the timeline, the upper half
/// of the position and the segment's number below that, 8 hexadecimal digits each (`src/include/access/xlog_internal.h`).
fn begin(name: &str, timeline: u32, segment: u64) -> Option<u64> {
    let hex = |from: usize| name.get(from..from + 8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    if name.len() != 24 || hex(0)? != timeline {
        return None;
    }
    Some((u64::from(hex(8)?) << 32) + u64::from(hex(16)?) * segment)
}

/// Overwrites a file with zeros from there on, as unused WAL is.
fn blank(path: &Path, from: u64) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from))?;
    let zeros = [0; 1 << 16];
    let mut left = length.saturating_sub(from);
    while left > 0 {
        let n = left.min(zeros.len() as u64);
        file.write_all(&zeros[..usize::try_from(n).unwrap_or_default()])?;
        left -= n;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_past_the_end_on_that_timeline_goes() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "000000010000000000000003",
            "000000010000000000000004",
            "000000010000000000000005",
            "000000010000000100000000",
            "000000020000000000000005",
            "00000002.history",
            "000000010000000000000005.partial",
        ];
        for name in names {
            std::fs::write(dir.path().join(name), [7; 1024]).unwrap();
        }
        let segment = 16 << 20;
        cut(dir.path(), 1, Lsn(4 * segment + 100), segment).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut wanted = [names[0], names[1], names[4], names[5], names[6]];
        wanted.sort();
        assert_eq!(left, wanted);
        let held = std::fs::read(dir.path().join(names[1])).unwrap();
        assert!(held.len() == 1024 && held[..100] == [7; 100] && held[100..].iter().all(|b| *b == 0));
        assert_eq!(std::fs::read(dir.path().join(names[0])).unwrap(), [7; 1024]);
    }

    #[test]
    fn data_that_has_gone_past_the_end_is_not_behind() {
        let replica = ControlData {
            in_recovery: true,
            timeline: 1,
            checkpoint: Lsn(50),
            minimum_recovery: Lsn(100),
            ..ControlData::default()
        };
        assert!(is_behind(&replica, 1, Lsn(100)));
        assert!(!is_behind(&replica, 1, Lsn(99)));
        assert!(!is_behind(&ControlData { checkpoint: Lsn(100), ..replica.clone() }, 1, Lsn(100)));
        assert!(!is_behind(&ControlData { in_recovery: false, ..replica.clone() }, 1, Lsn(100)));
        assert!(!is_behind(&ControlData { timeline: 2, ..replica }, 1, Lsn(100)));
    }
}
