//! Whom the local server streams from, which standbys its commits wait for, and the slots it keeps for members.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::time::{Instant as Clock, sleep};
use tokio_postgres::Client;

use crate::conf;
use crate::connection::{STATEMENT_LIMIT, literal, rows, text};
use crate::error::Error;
use crate::instance::{Inner, Instance};
use crate::options::Upstream;
use crate::postmaster::{of_kind, raw};
use crate::slot::slot_name;
use crate::start::Start;
use crate::stop::Stop;

const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A WAL receiver that is still there after this long is told so itself, and woken in case it was stopped.
const RECEIVER_PATIENCE: Duration = Duration::from_millis(300);

impl Instance {
    /// Streams from `upstream` from now on. `None` stops the WAL receiver, keeps it stopped over restarts, and returns
    /// only when its process is gone: from then on nothing that the old upstream sends is acknowledged. Whether a slot is
    /// used is as in the configuration applied last. PostgreSQL 12 is restarted for it, later ones reload.
    pub async fn follow(&self, upstream: Option<Upstream>) -> Result<(), Error> {
        let permit = self.0.work.permit();
        let aim = upstream.clone();
        let writing = self.step(permit, move |own| {
            let use_slots = own.0.lock_state().conf.use_slots;
            own.0.write_pgpass()?;
            own.0.write_managed(|managed| own.0.aim(managed, aim.as_ref(), use_slots))
        });
        let reloads = self.version().reloads_conninfo();
        let connecting = async { if reloads && self.0.alive().is_some() { Some(self.0.client().await) } else { None } };
        let (managed, client) = tokio::join!(writing, connecting);
        let managed = managed?;
        let Some(postmaster) = self.0.alive() else { return Ok(()) };
        if !reloads {
            let conf = self.0.lock_state().conf.clone();
            self.stop(Stop::default()).await?;
            self.start_with(permit, Start::Replica { upstream: upstream.clone() }, &conf).await?;
            // Whoever asks next finds a server that answers, as after a reload. One that replays for longer goes on.
            return match self.wait_ready(STATEMENT_LIMIT).await {
                Err(Error::TimedOut { .. }) => Ok(()),
                other => other,
            };
        }
        self.reload().await?;
        let client = client.unwrap_or(Err(Error::NotRunning));
        if upstream.is_some() {
            let client = client?;
            return in_force(&client, "primary_conninfo", &managed.primary_conninfo).await;
        }
        let began = Clock::now();
        while self.blocking(move |own| Ok(own.0.has_receiver(began.elapsed() > RECEIVER_PATIENCE))).await? {
            if !postmaster.alive() {
                return Err(Error::NotRunning);
            }
            if began.elapsed() > STATEMENT_LIMIT {
                return Err(Error::TimedOut { what: "the end of the WAL receiver".into(), limit: STATEMENT_LIMIT });
            }
            sleep(LOOK_EVERY).await;
        }
        // The receiver is started by the startup process, which may not have read the new setting yet.
        let client = client?;
        in_force(&client, "primary_conninfo", "").await?;
        self.settle_receiver(&client).await
    }

    /// Waits until the startup process, too, has read that there is no upstream, and no receiver was seen since.
    async fn settle_receiver(&self, client: &Client) -> Result<(), Error> {
        self.hang_up("startup").await?;
        let began = Clock::now();
        let mut quiet = 0;
        while quiet < 2 {
            // A startup process that replays without rest reads settings between two records.
            let busy = began.elapsed() > Duration::from_secs(1);
            let still = self.blocking(move |own| Ok(own.0.receives_nothing(busy))).await?;
            let listed =
                rows(client, "look for the WAL receiver", "SELECT 1 FROM pg_stat_wal_receiver", STATEMENT_LIMIT)
                    .await?;
            quiet = if still && listed.is_empty() { quiet + 1 } else { 0 };
            if began.elapsed() > STATEMENT_LIMIT {
                return Err(Error::TimedOut { what: "the end of the WAL receiver".into(), limit: STATEMENT_LIMIT });
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Makes commits wait for all of these members; `["*"]` for any one standby, none for asynchronous replication.
    /// Returns once it is in force everywhere: in new statements, in the WAL senders that count acknowledgements and in
    /// the checkpointer, which switches waiting on and off.
    pub async fn set_synchronous(&self, names: &[String]) -> Result<(), Error> {
        let wanted = conf::synchronous_standby_names(names);
        let value = wanted.clone();
        let permit = self.0.work.permit();
        self.step(permit, move |own| own.0.write_managed(|m| m.synchronous_standby_names = Some(value))).await?;
        if self.0.alive().is_none() {
            return Ok(());
        }
        let client = self.0.connect().await?;
        let before = rows(&client, "read the standby names", "SHOW synchronous_standby_names", STATEMENT_LIMIT).await?;
        let switched = before.first().is_none_or(|r| text(r, 0).is_empty()) != wanted.is_empty();
        self.reload().await?;
        in_force(&client, "synchronous_standby_names", &wanted).await?;
        wait_for_senders(&client, names).await?;
        self.wait_for_checkpointer(&client, switched).await?;
        if !wanted.is_empty() {
            release_waiting_commits(&client).await;
        }
        Ok(())
    }

    /// Sends SIGHUP to processes of this kind directly: once this returns it is pending there, or dealt with.
    async fn hang_up(&self, kind: &'static str) -> Result<(), Error> {
        self.blocking(move |own| {
            for pid in of_kind(&own.0.processes().processes(), kind).into_iter().filter_map(raw) {
                let _ = kill_process(pid, Signal::HUP);
            }
            Ok(())
        })
        .await
    }

    /// The checkpointer publishes whether commits wait at all. It has done so once it sleeps again after our signal; where
    /// that can't be seen, a checkpoint proves it.
    async fn wait_for_checkpointer(&self, client: &Client, switched: bool) -> Result<(), Error> {
        self.hang_up("checkpointer").await?;
        let began = Clock::now();
        while began.elapsed() < Duration::from_secs(1) {
            if self.blocking(|own| Ok(own.0.has_read_signals("checkpointer"))).await? {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
        if switched {
            tracing::info!("the checkpointer is busy: a checkpoint makes it read the new standby names");
            rows(client, "write a checkpoint", "CHECKPOINT", Duration::MAX).await?;
        }
        Ok(())
    }

    /// Keeps physical slots: on a primary those of `wanted` members are created where missing, with WAL kept from now on;
    /// an inactive one that holds none, as a replica's do, is made anew.
    /// On a replica they are kept too, but without holding WAL: an inactive one that holds some is made anew. Slots of
    /// `remove` members are dropped unless in use. Other slots are left alone.
    pub async fn sync_slots(&self, wanted: &[String], primary: bool, remove: &[String]) -> Result<(), Error> {
        let client = self.0.connect().await?;
        let list = "SELECT slot_name, active, restart_lsn IS NOT NULL FROM pg_replication_slots \
                    WHERE slot_type = 'physical' AND NOT temporary";
        let existing: BTreeMap<String, (bool, bool)> = rows(&client, "list slots", list, STATEMENT_LIMIT)
            .await?
            .iter()
            .map(|r| (text(r, 0), (text(r, 1) == "t", text(r, 2) == "t")))
            .collect();
        let mut failure = None;
        let mut statements = Vec::new();
        for name in remove.iter().map(|m| slot_name(m)).filter(|n| !wanted.iter().any(|w| slot_name(w) == **n)) {
            if existing.get(&name).is_some_and(|(active, _)| !active) {
                statements.push((format!("drop slot {name}"), drop_slot(&name)));
            }
        }
        for name in wanted.iter().map(|m| slot_name(m)) {
            let create = format!("SELECT pg_create_physical_replication_slot({}, {primary})", literal(&name));
            match existing.get(&name) {
                None => statements.push((format!("create slot {name}"), create)),
                Some((false, holds)) if *holds != primary => {
                    statements.push((format!("drop slot {name}"), drop_slot(&name)));
                    statements.push((format!("create slot {name}"), create));
                }
                Some(_) => {}
            }
        }
        for (context, sql) in statements {
            match rows(&client, &context, &sql, STATEMENT_LIMIT).await {
                Ok(_) => tracing::info!("{context}"),
                // Someone began to use it, or made it, in this moment.
                Err(e) if matches!(e.sqlstate(), Some("55006" | "42710" | "42704")) => {}
                Err(e) => failure = Some(e),
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

fn drop_slot(name: &str) -> String {
    format!("SELECT pg_drop_replication_slot({})", literal(name))
}

/// Waits until this session sees the value.
async fn in_force(client: &Client, name: &str, value: &str) -> Result<(), Error> {
    let began = Clock::now();
    let sql = format!("SELECT current_setting({})", literal(name));
    loop {
        let now = rows(client, &format!("read {name}"), &sql, STATEMENT_LIMIT).await?;
        if now.first().is_some_and(|r| text(r, 0) == value) {
            return Ok(());
        }
        if began.elapsed() > STATEMENT_LIMIT {
            return Err(Error::TimedOut {
                what: format!("the change of {name} (is it set elsewhere, by ALTER SYSTEM or for a role?)"),
                limit: STATEMENT_LIMIT,
            });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until every WAL sender that streams counts by the new names: each publishes its own priority.
async fn wait_for_senders(client: &Client, names: &[String]) -> Result<(), Error> {
    let began = Clock::now();
    let any = names.iter().any(|n| n == "*");
    // A server in recovery gives its own standbys no priority, whatever the setting.
    let sql = "SELECT application_name, sync_priority FROM pg_stat_replication \
               WHERE state IN ('streaming', 'catchup') AND NOT pg_is_in_recovery()";
    loop {
        let senders = rows(client, "read the standbys' priorities", sql, STATEMENT_LIMIT).await?;
        let agrees = |name: &str, priority: i32| {
            let position = names.iter().position(|n| n.eq_ignore_ascii_case(name));
            let expected = if any { Some(0) } else { position };
            match expected {
                Some(at) => usize::try_from(priority).is_ok_and(|p| p == at + 1),
                None => priority == 0,
            }
        };
        if senders.iter().all(|r| agrees(&text(r, 0), text(r, 1).parse().unwrap_or(-1))) {
            return Ok(());
        }
        if began.elapsed() > STATEMENT_LIMIT {
            return Err(Error::TimedOut {
                what: "the WAL senders' change of priorities".into(),
                limit: STATEMENT_LIMIT,
            });
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Inner {
    /// Whether a WAL receiver lives; it is told to end if `insist`. Blocking.
    fn has_receiver(&self, insist: bool) -> bool {
        let receivers = of_kind(&self.processes().processes(), "walreceiver");
        for pid in receivers.iter().copied().filter_map(raw).filter(|_| insist) {
            let _ = kill_process(pid, Signal::TERM);
            let _ = kill_process(pid, Signal::CONT);
        }
        !receivers.is_empty()
    }

    /// Whether the startup process has acted on the SIGHUPs sent before, or is known to be too `busy` to be seen doing so,
    /// and there is no WAL receiver. Blocking.
    fn receives_nothing(&self, busy: bool) -> bool {
        let processes = self.processes().processes();
        let startup = of_kind(&processes, "startup");
        let has_read = |pid| sleeps_with_nothing_pending(pid).unwrap_or(false);
        (busy || (!startup.is_empty() && startup.into_iter().all(has_read)))
            && of_kind(&processes, "walreceiver").is_empty()
    }

    /// Whether every process of this kind has acted on the SIGHUPs sent before: none is pending, and it sleeps in its
    /// main wait (epoll), which it can't enter with an unread latch. Blocking.
    fn has_read_signals(&self, kind: &str) -> bool {
        let pids = of_kind(&self.processes().processes(), kind);
        !pids.is_empty() && pids.into_iter().all(|pid| sleeps_with_nothing_pending(pid).unwrap_or(false))
    }
}

/// Reads `/proc/PID/status` (SigPnd, ShdPnd, State) and `/proc/PID/wchan`.
fn sleeps_with_nothing_pending(pid: u32) -> Option<bool> {
    const HUP: u64 = 1;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let pending = |name: &str| u64::from_str_radix(field(name)?, 16).ok().map(|mask| mask & HUP != 0);
    if pending("SigPnd:")? || pending("ShdPnd:")? || !field("State:")?.starts_with('S') {
        return Some(false);
    }
    // Read last: a sleep that began before the signal was dealt with would have shown it pending above.
    let wait = std::fs::read_to_string(format!("/proc/{pid}/wchan")).ok()?;
    Some(wait.contains("poll"))
}

/// A standby that counts from now on may hold all WAL already, and says so only when more comes (or after
/// `wal_receiver_status_interval`): commits that wait would wait until then. A replica can't write, nor does anybody wait
/// there.
async fn release_waiting_commits(client: &Client) {
    let sql = "SELECT pg_logical_emit_message(false, 'pgherd', 'synchronous_standby_names')";
    if let Err(e) = rows(client, "write a little WAL", sql, STATEMENT_LIMIT).await {
        tracing::debug!("nothing is written for commits that wait: {e}");
    }
}
