//! The statements by which the probe learns the server's state, and the reading of their rows. When they are asked is in
//! `probe`.

use ha::Lsn;
use ha::local::Answer;
use ha::status::Standby;
use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryRow};

use crate::conf;
use crate::connection::{STATEMENT_LIMIT, optional, rows, text};
use crate::error::Error;

/// What doesn't change while a postmaster lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) system_identifier: String,
    pub(crate) server_version: u32,
    pub(crate) postmaster_start_time: String,
    /// Bytes of a WAL segment.
    pub(crate) segment: u64,
}

/// An answer, and what the probe remembers beside it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    /// Timeline that the WAL receiver is on, 0 for none.
    pub(crate) receiver_timeline: u32,
    /// Parameters that wait for a restart, where that was asked.
    pub(crate) pending_restart: Option<Vec<(String, String, String)>>,
}

const FACTS: &str = r#"SELECT system_identifier::text, current_setting('server_version_num'),
  to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US"+00:00"'),
  pg_size_bytes(current_setting('wal_segment_size'))
  FROM pg_control_system()"#;

/// `pg_control_checkpoint` and `pg_control_recovery` tell the timeline of a replica that no WAL receiver feeds.
const STATE: &str = r#"WITH r AS MATERIALIZED (SELECT pg_is_in_recovery() AS r),
  c AS MATERIALIZED (SELECT timeline_id, redo_lsn FROM pg_control_checkpoint())
SELECT r.r,
  CASE WHEN r.r THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END,
  CASE WHEN r.r THEN NULL ELSE pg_current_wal_lsn() END,
  CASE WHEN r.r THEN NULL ELSE pg_current_wal_flush_lsn() END,
  pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(),
  to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US"+00:00"'),
  CASE WHEN r.r THEN pg_is_wal_replay_paused() ELSE false END,
  greatest(c.timeline_id, (SELECT min_recovery_end_timeline FROM pg_control_recovery())),
  (SELECT json_build_object('status', status, 'host', sender_host, 'port', sender_port, 'timeline', received_tli)
     FROM pg_stat_wal_receiver),
  current_setting('primary_conninfo'),
  current_setting('synchronous_standby_names'),
  (SELECT json_agg(json_build_object('usename', usename, 'application_name', application_name,
     'client_addr', host(client_addr), 'state', state, 'sync_state', sync_state, 'sync_priority', sync_priority,
     'flush_lsn', flush_lsn) ORDER BY application_name, pid) FROM pg_stat_replication),
  c.redo_lsn, c.timeline_id
FROM r, c"#;

const PENDING_RESTART: &str = "SELECT s.name, current_setting(s.name),
  coalesce((SELECT f.setting FROM pg_file_settings f WHERE lower(f.name) = lower(s.name) ORDER BY f.seqno DESC LIMIT 1), s.boot_val)
  FROM pg_settings s WHERE s.pending_restart ORDER BY s.name";

/// Asks what doesn't change.
pub(crate) async fn facts(client: &Client) -> Result<Facts, Error> {
    let rows = rows(client, "ask PostgreSQL who it is", FACTS, STATEMENT_LIMIT).await?;
    let row = rows.first().ok_or_else(|| no_row("ask PostgreSQL who it is"))?;
    Ok(Facts {
        system_identifier: text(row, 0),
        server_version: text(row, 1).parse().unwrap_or(0),
        postmaster_start_time: text(row, 2),
        segment: text(row, 3).parse().unwrap_or(0),
    })
}

/// Asks for the state. Without a bound in time: the probe has its own.
pub(crate) async fn ask(client: &Client, settings: bool) -> Result<Reply, Error> {
    let forever = std::time::Duration::MAX;
    let state = rows(client, "ask PostgreSQL for its state", STATE, forever).await?;
    let row = state.first().ok_or_else(|| no_row("ask PostgreSQL for its state"))?;
    let mut reply = read(row);
    if settings {
        let pending = rows(client, "ask for pending restarts", PENDING_RESTART, forever).await?;
        reply.pending_restart = Some(pending.iter().map(|r| (text(r, 0), text(r, 1), text(r, 2))).collect());
    }
    Ok(reply)
}

fn no_row(context: &str) -> Error {
    Error::Sql { context: context.into(), message: "no row".into(), sqlstate: None }
}

fn read(row: &SimpleQueryRow) -> Reply {
    let lsn = |column| text(row, column).parse::<Lsn>().unwrap_or_default();
    let in_recovery = text(row, 0) == "t";
    let receiver: Value = serde_json::from_str(&text(row, 9)).unwrap_or_default();
    let conninfo = text(row, 10);
    let timeline = if in_recovery {
        text(row, 8).parse().unwrap_or(0)
    } else {
        text(row, 1).get(..8).and_then(|t| u32::from_str_radix(t, 16).ok()).unwrap_or(0)
    };
    let from =
        receiver["host"].as_str().map(str::to_owned).zip(receiver["port"].as_u64().and_then(|p| u16::try_from(p).ok()));
    let answer = Answer {
        in_recovery,
        timeline,
        written: lsn(2),
        flushed: lsn(3),
        redo: lsn(13),
        checkpoint_timeline: text(row, 14).parse().unwrap_or(0),
        received: lsn(4),
        replayed: lsn(5),
        replayed_timestamp: optional(row, 6),
        replay_paused: text(row, 7) == "t",
        receiver: receiver["status"].as_str().map(str::to_owned),
        receiver_from: from.or_else(|| receiver.is_object().then(|| conf::conninfo_target(&conninfo)).flatten()),
        // Another program's conninfo may name no host: it is an upstream all the same.
        upstream: (!conninfo.is_empty()).then(|| conf::conninfo_target(&conninfo).unwrap_or_default()),
        synchronous_standby_names: text(row, 11),
        replication: serde_json::from_str::<Vec<Value>>(&text(row, 12))
            .unwrap_or_default()
            .iter()
            .map(standby)
            .collect(),
        ..Answer::default()
    };
    let receiver_timeline = receiver["timeline"].as_u64().and_then(|t| u32::try_from(t).ok()).unwrap_or(0);
    Reply { answer, receiver_timeline, pending_restart: None }
}

/// What PostgreSQL says of a replica's WAL receiver is where it was asked to begin until it has received something, and
/// that is the beginning of a segment. Recovery asks for one ahead of what it has replayed when it holds only a part of the
/// record before it.
pub(crate) fn take_back_unreceived(answer: &mut Answer, segment: u64) {
    if answer.in_recovery
        && answer.received > answer.replayed
        && segment > 0
        && answer.received.0.is_multiple_of(segment)
    {
        answer.waits_at = Some(answer.received);
        answer.received = answer.replayed;
    }
}

fn standby(row: &Value) -> Standby {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    Standby {
        usename: text("usename"),
        application_name: text("application_name"),
        client_addr: row["client_addr"].as_str().map(str::to_owned),
        state: text("state"),
        sync_state: text("sync_state"),
        sync_priority: row["sync_priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
        flush_lsn: row["flush_lsn"].as_str().and_then(|l| l.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_was_only_asked_for_is_not_received() {
        let answer = |received, replayed| {
            let mut a =
                Answer { in_recovery: true, received: Lsn(received), replayed: Lsn(replayed), ..Answer::default() };
            take_back_unreceived(&mut a, 100);
            (a.position(), a.waits_at)
        };
        assert_eq!(answer(300, 290), (Lsn(290), Some(Lsn(300))));
        assert_eq!(answer(301, 290), (Lsn(301), None));
        assert_eq!(answer(200, 290), (Lsn(290), None), "the segment that holds what is replayed");
        assert_eq!(answer(300, 300), (Lsn(300), None));
    }
}
