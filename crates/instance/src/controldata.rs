//! Reads the output of `pg_controldata` (LC_ALL=C). Running the program is not here.

use std::collections::BTreeMap;

use ha::Lsn;
use ha::local::ControlData;

/// pg_controldata's output as label and value.
fn fields(output: &str) -> BTreeMap<&str, &str> {
    output.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.trim(), v.trim())).collect()
}

/// Reads `pg_controldata`'s output. The error says what is missing.
///
/// The labels are those of PostgreSQL's `src/bin/pg_controldata/pg_controldata.c`.
pub(crate) fn parse(output: &str) -> Result<ControlData, String> {
    let fields = fields(output);
    let text = |name: &str| fields.get(name).copied().ok_or(format!("pg_controldata printed no {name:?}"));
    let lsn = |name: &str| text(name)?.parse::<Lsn>().map_err(|e| format!("{name}: {e}"));
    let number = |name: &str| text(name)?.parse::<u32>().map_err(|e| format!("{name}: {e}"));
    let state = text("Database cluster state")?;
    let checkpoint = lsn("Latest checkpoint location")?;
    let minimum_recovery = lsn("Minimum recovery ending location")?;
    let mut timeline = number("Latest checkpoint's TimeLineID")?;
    if minimum_recovery > checkpoint {
        timeline = number("Min recovery ending loc's timeline")?.max(timeline);
    }
    let required = [
        ("max_connections", "max_connections setting"),
        ("max_worker_processes", "max_worker_processes setting"),
        ("max_wal_senders", "max_wal_senders setting"),
        ("max_prepared_transactions", "max_prepared_xacts setting"),
        ("max_locks_per_transaction", "max_locks_per_xact setting"),
    ];
    Ok(ControlData {
        system_identifier: text("Database system identifier")?.to_owned(),
        clean: matches!(state, "shut down" | "shut down in recovery"),
        in_recovery: matches!(state, "in archive recovery" | "shut down in recovery"),
        timeline,
        checkpoint,
        redo: lsn("Latest checkpoint's REDO location")?,
        minimum_recovery,
        required_parameters: required
            .iter()
            .filter_map(|(name, label)| Some(((*name).to_owned(), fields.get(label)?.parse().ok()?)))
            .collect(),
    })
}

/// Whether pg_rewind can repair this cluster: data checksums or wal_log_hints are on.
pub(crate) fn can_be_rewound(output: &str) -> bool {
    let fields = fields(output);
    let is = |name: &str, off: &str| fields.get(name).is_some_and(|v| *v != off);
    is("Data page checksum version", "0") || is("wal_log_hints setting", "off")
}

/// Whether recovery has gone to a later timeline than that of the last checkpoint.
pub(crate) fn is_ahead_of_restart_point(output: &str) -> bool {
    let fields = fields(output);
    let number = |name: &str| fields.get(name).and_then(|v| v.parse::<u32>().ok()).unwrap_or(0);
    number("Min recovery ending loc's timeline") > number("Latest checkpoint's TimeLineID")
}

/// Sizes of a WAL page and a WAL segment in bytes.
pub(crate) fn wal_sizes(output: &str) -> Option<(u64, u64)> {
    let fields = fields(output);
    let number = |name: &str| fields.get(name)?.parse::<u64>().ok().filter(|n| *n > 0);
    Some((number("WAL block size")?, number("Bytes per WAL segment")?))
}

/// Where a shutdown checkpoint that starts at `start` ends, which is what a standby that has all of it reports.
///
/// A record of PostgreSQL 12 to 18 with nothing but a `CheckPoint` takes 24 (header) + 2 (data header) + 88 bytes,
/// padded to a multiple of 8; a page that it runs over begins with a header of 24 bytes, in a segment's first page 40
/// (`src/include/access/xlogrecord.h`, `xlog_internal.h`).
pub(crate) fn checkpoint_end(start: Lsn, page: u64, segment: u64) -> Lsn {
    const RECORD: u64 = (24u64 + 2 + 88).next_multiple_of(8);
    let left = page - start.0 % page;
    if RECORD <= left {
        return Lsn(start.0 + RECORD);
    }
    let next = start.0 + left;
    let header = if next.is_multiple_of(segment) { 40 } else { 24 };
    Lsn(next + header + (RECORD - left))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLICA: &str = "\
pg_control version number:            1300
Database system identifier:           7575744935268143871
Database cluster state:               shut down in recovery
pg_control last modified:             Mon Nov 23 09:00:00 2026
Latest checkpoint location:           0/3000060
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/3000108
Min recovery ending loc's timeline:   2
wal_level setting:                    replica
wal_log_hints setting:                off
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
WAL block size:                       8192
Bytes per WAL segment:                16777216
Data page checksum version:           1
";

    #[test]
    fn a_replica_is_read() {
        let c = parse(REPLICA).unwrap();
        assert_eq!(c.system_identifier, "7575744935268143871");
        assert!(c.clean && c.in_recovery);
        assert_eq!(c.timeline, 2);
        assert_eq!(c.position(), Lsn(0x3000108));
        assert_eq!(c.redo, Lsn(0x3000028));
        assert_eq!(c.required_parameters["max_prepared_transactions"], 0);
        assert_eq!(c.required_parameters.len(), 5);
        assert!(can_be_rewound(REPLICA));
        assert!(is_ahead_of_restart_point(REPLICA));
        assert!(!is_ahead_of_restart_point(&REPLICA.replace("timeline:   2", "timeline:   1")));
        assert_eq!(wal_sizes(REPLICA), Some((8192, 16 << 20)));
    }

    #[test]
    fn a_crashed_primary_is_not_clean() {
        let text = REPLICA
            .replace("shut down in recovery", "in production")
            .replace("0/3000108", "0/0")
            .replace("loc's timeline:   2", "loc's timeline:   0")
            .replace("checksum version:           1", "checksum version:           0");
        let c = parse(&text).unwrap();
        assert!(!c.clean && !c.in_recovery);
        assert_eq!((c.timeline, c.position()), (1, Lsn(0x3000060)));
        assert!(!can_be_rewound(&text));
        assert!(can_be_rewound(&text.replace("hints setting:                off", "hints setting: on")));
    }

    #[test]
    fn other_text_is_refused_with_what_is_missing() {
        assert!(parse("pg_controldata: fatal: could not open file").unwrap_err().contains("Database cluster state"));
    }

    #[test]
    fn the_end_of_a_checkpoint_skips_page_headers() {
        assert_eq!(checkpoint_end(Lsn(0x3000028), 8192, 16 << 20), Lsn(0x3000028 + 120));
        assert_eq!(checkpoint_end(Lsn(8192 - 120), 8192, 16 << 20), Lsn(8192));
        assert_eq!(checkpoint_end(Lsn(8192 - 40), 8192, 16 << 20), Lsn(8192 + 24 + 80));
        assert_eq!(checkpoint_end(Lsn((16 << 20) - 40), 8192, 16 << 20), Lsn((16 << 20) + 40 + 80));
    }
}
