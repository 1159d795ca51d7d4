//! The store's tables and transactions. Blocking; no waiting for changes.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use rustix::time::{ClockId, clock_gettime};

use super::BUSY_TIMEOUT;
use crate::{Condition, Entry, Error, LeaseId, Snapshot, Write};

/// Version of the tables, in `PRAGMA user_version`.
const VERSION: i64 = 1;

/// A deleted key stays as a row without a value, so that watchers see the deletion. Moments are nanoseconds of
/// CLOCK_BOOTTIME.
const TABLES: &str = "
    CREATE TABLE store (dcs_id INTEGER NOT NULL, revision INTEGER NOT NULL);
    INSERT INTO store VALUES (random() | 1, 1);
    CREATE TABLE entry (
        key TEXT PRIMARY KEY, value BLOB, created INTEGER NOT NULL, modified INTEGER NOT NULL, lease INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, ends INTEGER NOT NULL, boot TEXT NOT NULL);
    PRAGMA user_version = 1;
";

/// One connection to the file.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    boot: String,
    path: PathBuf,
    /// Device and inode at opening.
    file: (u64, u64),
}

/// What a reader finds.
pub(super) enum Reading<T> {
    /// The answer.
    Now(T),
    /// Leases have ended whose keys are still there: a writer must delete them first.
    LeaseDue,
}

impl Store {
    pub(super) fn open(path: &Path, boot: &str) -> Result<Store, Error> {
        let fault = |e: std::io::Error| Error::Refused(format!("can't open {}: {e}", path.display()));
        // SQLite gives its own files beside it the same mode. A file that is there is never opened past SQLite: closing
        // any descriptor of it drops this process's locks (fcntl(2)), and another process that finds none, on closing,
        // deletes the WAL under everyone's feet.
        match File::options().write(true).create_new(true).mode(0o600).open(path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(fault(e)),
            _ => {}
        }
        let metadata = std::fs::metadata(path).map_err(fault)?;
        let connection = Connection::open(path).map_err(|e| not_written(path, &e))?;
        let file = (metadata.dev(), metadata.ino());
        let mut store = Store { connection, boot: boot.to_owned(), path: path.to_owned(), file };
        let version = store.prepare().map_err(|e| not_written(path, &e))?;
        if version != VERSION {
            let what = if version == 0 { "is no store of pgherd" } else { "was written by another version of pgherd" };
            return Err(Error::Refused(format!("{} {what}: name another file", path.display())));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fault)?;
        }
        Ok(store)
    }

    /// Creates the tables in an empty file. Returns the version of the tables, 0 for somebody else's.
    fn prepare(&mut self) -> rusqlite::Result<i64> {
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let (version, empty) = kind(&self.connection)?;
        if version != 0 || !empty {
            return Ok(version);
        }
        let begun = Instant::now();
        // SQLite doesn't wait for others when it changes the journal mode.
        while let Err(e) = self.connection.pragma_update(None, "journal_mode", "WAL") {
            if e.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) || begun.elapsed() > BUSY_TIMEOUT {
                return Err(e);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if kind(&transaction)? == (0, true) {
            transaction.execute_batch(TABLES)?;
        }
        transaction.commit()?;
        kind(&self.connection).map(|(version, _)| version)
    }

    /// A deleted or replaced file would split the cluster in two: some would go on with the old one.
    fn check_file(&self) -> Result<(), Error> {
        let there = std::fs::metadata(&self.path).map(|m| (m.dev(), m.ino()));
        if there.is_ok_and(|file| file == self.file) {
            return Ok(());
        }
        let path = self.path.display();
        Err(Error::Unavailable(format!("{path} was deleted or replaced while in use: restart the agents")))
    }

    /// Every key under the prefix.
    pub(super) fn snapshot(&mut self, prefix: &str) -> Result<Reading<Snapshot>, Error> {
        self.reading(|transaction| {
            let mut statement = transaction.prepare_cached("SELECT dcs_id, revision FROM store")?;
            let (id, revision) = statement.query_row([], |r| Ok((r.get::<_, i64>(0)?, r.get(1)?)))?;
            let mut snapshot = Snapshot { dcs_id: id.cast_unsigned(), revision, ..Snapshot::default() };
            let mut statement = transaction.prepare_cached(
                "SELECT key, value, created, modified, lease FROM entry
                 WHERE key >= ?1 AND key < ?2 AND value IS NOT NULL",
            )?;
            let mut rows = statement.query(params![prefix, after(prefix)])?;
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                let entry =
                    Entry { value: row.get(1)?, created: row.get(2)?, modified: row.get(3)?, lease: row.get(4)? };
                snapshot.entries.insert(key[prefix.len()..].to_owned(), entry);
            }
            Ok(snapshot)
        })
    }

    /// The revision of the last change under the prefix, and how long until a lease with keys there ends.
    pub(super) fn last_change(&mut self, prefix: &str) -> Result<Reading<(i64, Option<Duration>)>, Error> {
        self.reading(|transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT coalesce(max(modified), 0), min(ends) FROM entry LEFT JOIN lease ON lease.id = entry.lease
                 WHERE key >= ?1 AND key < ?2",
            )?;
            let read = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, Option<i64>>(1)?));
            let (last, ends) = statement.query_row(params![prefix, after(prefix)], read)?;
            let left = |ends: i64| Duration::from_nanos(u64::try_from(ends.saturating_sub(now())).unwrap_or(0));
            Ok((last, ends.map(left)))
        })
    }

    fn reading<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<Reading<T>, Error> {
        self.check_file()?;
        let boot = &self.boot;
        let answer = self.connection.transaction().and_then(|transaction| {
            if due(&transaction, boot)? { Ok(Reading::LeaseDue) } else { work(&transaction).map(Reading::Now) }
        });
        answer.map_err(|e| not_written(&self.path, &e))
    }

    /// Deletes the keys of leases that have ended; whether there were any.
    pub(super) fn expire(&mut self) -> Result<bool, Error> {
        self.writing(|_| Ok(())).map(|((), changed)| changed)
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> Result<(LeaseId, bool), Error> {
        let boot = self.boot.clone();
        self.writing(|t| {
            let ttl = i64::try_from(ttl.as_nanos()).unwrap_or(i64::MAX);
            // Positive and never zero; taken at random so that an id of a former store means nothing here.
            let id: i64 = t.query_row("SELECT (random() & 0x7ffffffffffffffe) | 1", [], |r| r.get(0))?;
            let ends = now().saturating_add(ttl);
            t.execute("INSERT INTO lease (id, ttl, ends, boot) VALUES (?1, ?2, ?3, ?4)", params![id, ttl, ends, boot])?;
            Ok(id)
        })
    }

    /// Whether the lease was there to be renewed.
    pub(super) fn keep_alive(&mut self, lease: LeaseId) -> Result<(bool, bool), Error> {
        self.writing(|t| {
            let mut statement = t.prepare_cached("UPDATE lease SET ends = ?2 + ttl WHERE id = ?1")?;
            Ok(statement.execute(params![lease, now()])? > 0)
        })
    }

    pub(super) fn revoke(&mut self, lease: LeaseId) -> Result<bool, Error> {
        self.writing(|t| end(t, lease)).map(|((), changed)| changed)
    }

    /// The inner result says what the caller is told; leases that have ended are ended in any case.
    #[allow(clippy::type_complexity)]
    pub(super) fn commit(
        &mut self,
        prefix: &str,
        conditions: &[Condition],
        writes: &[Write],
    ) -> Result<(Result<Option<i64>, Error>, bool), Error> {
        self.writing(|t| {
            for condition in conditions {
                if !holds(t, prefix, condition)? {
                    return Ok(Ok(None));
                }
            }
            let mut lease = t.prepare_cached("SELECT 1 FROM lease WHERE id = ?1")?;
            for write in writes {
                if let Write::Put { lease: id, .. } = write
                    && *id != 0
                    && !lease.exists(params![id])?
                {
                    return Ok(Err(Error::LeaseGone));
                }
            }
            let next = revision(t)? + 1;
            for write in writes {
                put(t, prefix, write, next)?;
            }
            settle(t, next)?;
            revision(t).map(|r| Ok(Some(r)))
        })
    }

    /// Runs a writing transaction after ending leases. The second part of the answer: whether keys have changed.
    fn writing<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<(T, bool), Error> {
        self.check_file()?;
        let (boot, path) = (&self.boot, &self.path);
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(|e| not_written(path, &e))?;
        let work = || {
            let before = revision(&transaction)?;
            end_due(&transaction, boot)?;
            let answer = work(&transaction)?;
            Ok((answer, revision(&transaction)? != before))
        };
        let answer = work().map_err(|e| not_written(path, &e))?;
        transaction.commit().map_err(|e| match not_written(path, &e) {
            Error::Unavailable(e) if !full_or_busy(&e) => Error::Unknown(e),
            e => e,
        })?;
        Ok(answer)
    }
}

const FULL: &str = "the disk is full: free some space";
const BUSY: &str = "another process holds the write lock";

fn full_or_busy(message: &str) -> bool {
    message.contains(FULL) || message.contains(BUSY)
}

/// What an error means when nothing was committed.
fn not_written(path: &Path, e: &rusqlite::Error) -> Error {
    let path = path.display();
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Unavailable(format!("{path}: {FULL}")),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Unavailable(format!("{path}: {BUSY}")),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            Error::Refused(format!("{path} can't be opened for writing, nor its directory: {e}"))
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            Error::Protocol(format!("{path} is damaged or no store of pgherd: {e}"))
        }
        _ => Error::Unavailable(format!("{path}: {e}")),
    }
}

/// Version of the tables and whether there are none, at one moment.
fn kind(connection: &Connection) -> rusqlite::Result<(i64, bool)> {
    let sql = "SELECT user_version, NOT EXISTS (SELECT 1 FROM sqlite_master) FROM pragma_user_version";
    connection.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?)))
}

fn now() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// The end of the range of keys that begin with the prefix, which ends with a slash.
fn after(prefix: &str) -> String {
    format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix))
}

const DUE: &str = "SELECT id FROM lease WHERE ends <= ?1 OR boot <> ?2 LIMIT 1";

fn due(t: &Transaction<'_>, boot: &str) -> rusqlite::Result<bool> {
    t.prepare_cached(DUE)?.exists(params![now(), boot])
}

fn end_due(t: &Transaction<'_>, boot: &str) -> rusqlite::Result<()> {
    let mut statement = t.prepare_cached(DUE)?;
    while let Some(id) = statement.query_row(params![now(), boot], |r| r.get(0)).optional()? {
        end(t, id)?;
    }
    Ok(())
}

/// Deletes a lease and its keys.
fn end(t: &Transaction<'_>, lease: LeaseId) -> rusqlite::Result<()> {
    let next = revision(t)? + 1;
    t.execute("DELETE FROM lease WHERE id = ?1", params![lease])?;
    t.execute(
        "UPDATE entry SET value = NULL, created = 0, modified = ?2, lease = 0 WHERE lease = ?1 AND value IS NOT NULL",
        params![lease, next],
    )?;
    settle(t, next)
}

fn revision(t: &Transaction<'_>) -> rusqlite::Result<i64> {
    t.prepare_cached("SELECT revision FROM store")?.query_row([], |r| r.get(0))
}

/// Moves the store to this revision if anything was written at it.
fn settle(t: &Transaction<'_>, next: i64) -> rusqlite::Result<()> {
    t.execute("UPDATE store SET revision = ?1 WHERE EXISTS (SELECT 1 FROM entry WHERE modified = ?1)", params![next])?;
    Ok(())
}

fn holds(t: &Transaction<'_>, prefix: &str, condition: &Condition) -> rusqlite::Result<bool> {
    let (Condition::Absent(key)
    | Condition::ValueIs(key, _)
    | Condition::ModifiedAt(key, _)
    | Condition::OnLease(key, _)
    | Condition::CreatedAt(key, _)) = condition;
    let mut statement =
        t.prepare_cached("SELECT value, created, modified, lease FROM entry WHERE key = ?1 AND value IS NOT NULL")?;
    let read = |r: &rusqlite::Row<'_>| Ok((r.get::<_, Vec<u8>>(0)?, [r.get::<_, i64>(1)?, r.get(2)?, r.get(3)?]));
    let found = statement.query_row(params![format!("{prefix}{key}")], read).optional()?;
    Ok(match (condition, found) {
        (Condition::Absent(_), found) => found.is_none(),
        (_, None) => false,
        (Condition::ValueIs(_, wanted), Some((value, _))) => value == *wanted,
        (Condition::CreatedAt(_, wanted), Some((_, [created, _, _]))) => created == *wanted,
        (Condition::ModifiedAt(_, wanted), Some((_, [_, modified, _]))) => modified == *wanted,
        (Condition::OnLease(_, wanted), Some((_, [_, _, lease]))) => lease == *wanted,
    })
}

fn put(t: &Transaction<'_>, prefix: &str, write: &Write, revision: i64) -> rusqlite::Result<()> {
    match write {
        Write::Put { key, value, lease } => t
            .prepare_cached(
                "INSERT INTO entry VALUES (?1, ?2, ?3, ?3, ?4) ON CONFLICT (key) DO UPDATE SET value = ?2,
                 created = CASE WHEN value IS NULL THEN ?3 ELSE created END, modified = ?3, lease = ?4",
            )?
            .execute(params![format!("{prefix}{key}"), value, revision, lease])?,
        Write::Delete(key) => t
            .prepare_cached(
                "UPDATE entry SET value = NULL, created = 0, modified = ?2, lease = 0
                 WHERE key = ?1 AND value IS NOT NULL",
            )?
            .execute(params![format!("{prefix}{key}"), revision])?,
    };
    Ok(())
}
