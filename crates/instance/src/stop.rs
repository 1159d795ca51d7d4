//! Stopping the server so that no frozen client or standby holds it up, and so that no process is left. When to stop is
//! the agent's business.

use std::collections::BTreeSet;
use std::time::Duration;

use ha::Lsn;
use rustix::process::{Signal, kill_process};
use tokio::time::{Instant as Clock, sleep, timeout};

use crate::clock::now;
use crate::connection::{rows, text};
use crate::controldata;
use crate::error::Error;
use crate::instance::{Inner, Instance};
use crate::postmaster::{of_kind, raw};

/// How long killing what is left may take before it is given up.
const FENCE_LIMIT: Duration = Duration::from_secs(10);
/// How often walsenders are looked for during a shutdown.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long asking who is connected may take.
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// How long reading the control data may take.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long a walsender may ignore SIGTERM once the shutdown checkpoint is written.
const DEAF_AFTER: Duration = Duration::from_millis(500);

/// How long a replica's WAL receiver may hold up the shutdown. PostgreSQL 17's doesn't listen while it waits for an
/// upstream that is behind.
const RECEIVER_AFTER: Duration = Duration::from_secs(5);

/// How PostgreSQL is told to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Waits for clients to leave.
    Smart,
    /// Ends clients, writes a shutdown checkpoint.
    #[default]
    Fast,
    /// Ends at once; crash recovery at the next start.
    Immediate,
}

/// How to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The mode.
    pub mode: Mode,
    /// Members whose WAL senders are worth waiting for, so that they receive everything; `None` means all.
    pub wait_for: Option<Vec<String>>,
    /// After this long, other WAL senders are ended.
    pub others_after: Duration,
    /// After this long every process is killed. `None` waits without end.
    pub give_up_after: Option<Duration>,
}

impl Default for Stop {
    /// A fast shutdown that waits for every WAL sender, but not longer than a minute.
    fn default() -> Stop {
        Stop {
            mode: Mode::Fast,
            wait_for: None,
            others_after: Duration::from_secs(1),
            give_up_after: Some(Duration::from_secs(60)),
        }
    }
}

/// What a stop left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The shutdown checkpoint was written: the next start needs no crash recovery.
    pub clean: bool,
    /// After a clean stop of a primary the end of the shutdown checkpoint, which a standby that has everything has
    /// received; else the furthest position in the control data.
    pub checkpoint: Option<Lsn>,
    /// The shutdown did not end by itself and every process was killed.
    pub killed: bool,
}

impl Instance {
    /// Stops the server. Returns when no process of the instance lives any more; fails with [`Error::Alive`] when some
    /// can't be killed. A server that isn't running is stopped already.
    pub async fn stop(&self, how: Stop) -> Result<Stopped, Error> {
        let found = self.blocking(|own| Ok(own.0.find().unwrap_or_default())).await?;
        let mut killed = false;
        if let Some(postmaster) = found {
            let keep = self.worth_waiting_for(&how).await;
            let signal = match how.mode {
                Mode::Smart => Signal::TERM,
                Mode::Fast => Signal::INT,
                Mode::Immediate => Signal::QUIT,
            };
            postmaster.signal(signal).map_err(|e| Error::io("signal PostgreSQL to stop", e))?;
            let stopping = self.watch_shutdown(&postmaster, &how, keep.as_ref());
            match how.give_up_after {
                Some(limit) => killed = timeout(limit, stopping).await.is_err(),
                None => stopping.await,
            }
            if killed {
                tracing::warn!("PostgreSQL did not shut down within {:?}: killing it", how.give_up_after);
            }
        }
        self.end_all(!killed).await?;
        // Storage may hang; the processes are gone all the same.
        let end = timeout(READ_LIMIT, self.blocking(|own| own.0.shutdown_position())).await;
        let (clean, checkpoint) = match end {
            Ok(Ok((clean, lsn))) => (clean, Some(lsn)),
            Ok(Err(e)) => {
                tracing::warn!("can't read the control data after the stop: {e}");
                (false, None)
            }
            Err(_) => {
                tracing::warn!("can't read the control data after the stop: storage doesn't answer");
                (false, None)
            }
        };
        Ok(Stopped { clean, checkpoint, killed })
    }

    /// Kills every process of the instance. Returns when none is left, or with [`Error::Alive`].
    pub async fn kill(&self) -> Result<(), Error> {
        self.end_all(false).await
    }

    /// Pids of the WAL senders to wait for; `None` means all of them.
    async fn worth_waiting_for(&self, how: &Stop) -> Option<BTreeSet<u32>> {
        let names = how.wait_for.as_ref()?;
        let ask = async {
            let client = self.0.client().await?;
            rows(&client, "list standbys", "SELECT pid, application_name FROM pg_stat_replication", ASK_LIMIT).await
        };
        let mut keep = BTreeSet::new();
        if names.is_empty() {
            return Some(keep);
        }
        match timeout(ASK_LIMIT, ask).await {
            Ok(Ok(rows)) => {
                let known = rows.iter().filter(|r| names.contains(&text(r, 1)));
                keep.extend(known.filter_map(|r| text(r, 0).parse::<u32>().ok()));
            }
            Ok(Err(e)) => tracing::warn!("can't tell which WAL senders to wait for: {e}"),
            Err(_) => tracing::warn!("can't tell which WAL senders to wait for: PostgreSQL doesn't answer"),
        }
        Some(keep)
    }

    /// Returns when the postmaster has ended; ends unwanted WAL senders meanwhile.
    async fn watch_shutdown(
        &self,
        postmaster: &crate::postmaster::Postmaster,
        how: &Stop,
        keep: Option<&BTreeSet<u32>>,
    ) {
        let began = Clock::now();
        let mut asked_at: Option<Clock> = None;
        while postmaster.alive() {
            let others_time = how.others_after.saturating_sub(began.elapsed());
            let pause = if keep.is_none() { Duration::from_secs(1) } else { others_time.max(LOOK_EVERY) };
            if timeout(pause, postmaster.ended()).await.is_ok_and(|ended| ended.is_ok()) {
                return;
            }
            if began.elapsed() >= RECEIVER_AFTER {
                self.end_receiver().await;
            }
            let Some(keep) = keep.filter(|_| began.elapsed() >= how.others_after) else { continue };
            let deaf = asked_at.is_some_and(|t| t.elapsed() >= DEAF_AFTER);
            let keep = keep.clone();
            match self.blocking(move |own| Ok(own.0.end_walsenders(&keep, deaf))).await {
                Ok(0) => {}
                Ok(n) => {
                    if asked_at.is_none() {
                        tracing::info!("ended {n} WAL sender(s) that hold up the shutdown");
                    }
                    asked_at.get_or_insert(Clock::now());
                }
                Err(e) => tracing::warn!("can't end WAL senders: {e}"),
            }
        }
    }

    /// Kills the WAL receiver. The shutdown isn't clean then, which costs a replica nothing but some replaying again.
    async fn end_receiver(&self) {
        let kill = |own: &Instance| {
            let receivers = of_kind(&own.0.processes().processes(), "walreceiver");
            for pid in receivers.iter().copied().filter_map(raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            Ok(receivers.len())
        };
        if self.blocking(kill).await.is_ok_and(|n| n > 0) {
            tracing::info!("killed the WAL receiver, which holds up the shutdown");
        }
    }

    /// Makes sure that nothing of the instance lives. What the postmaster left behind gets a moment first if `gently`.
    async fn end_all(&self, gently: bool) -> Result<(), Error> {
        let until = Clock::now() + Duration::from_millis(500);
        while gently && Clock::now() < until {
            if self.blocking(|own| Ok(own.0.still_alive().is_ok())).await? {
                return Ok(());
            }
            sleep(Duration::from_millis(5)).await;
        }
        self.blocking(|own| {
            let outcome = own.0.fencing().fence(FENCE_LIMIT);
            if outcome.left.is_empty() {
                return Ok(());
            }
            Err(Error::Alive { dir: own.0.data_dir().to_owned(), pids: outcome.left })
        })
        .await
    }
}

impl Inner {
    /// Sends SIGTERM to WAL senders that nobody waits for; how many there were. One that is stopped is woken for it. One
    /// that is deaf is killed once the shutdown checkpoint is on disk, when that can't spoil it any more. Blocking.
    fn end_walsenders(&self, keep: &BTreeSet<u32>, deaf: bool) -> usize {
        let mut senders = of_kind(&self.processes().processes(), "walsender");
        senders.retain(|p| !keep.contains(p));
        let kill = deaf && !senders.is_empty() && self.control_data().is_ok_and(|c| c.clean);
        for pid in senders.iter().copied().filter_map(raw) {
            let _ = kill_process(pid, Signal::TERM);
            let _ = kill_process(pid, Signal::CONT);
            if kill {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        senders.len()
    }

    /// Whether the last shutdown was clean, and the position that it left. Blocking.
    fn shutdown_position(&self) -> Result<(bool, Lsn), Error> {
        let began = now();
        let output = self.programs.control_data(self.data_dir())?;
        let control = controldata::parse(&output)
            .map_err(|message| Error::Program { program: "pg_controldata".into(), message })?;
        let mut position = control.position();
        if control.clean
            && !control.in_recovery
            && let Some((page, segment)) = controldata::wal_sizes(&output)
        {
            position = controldata::checkpoint_end(control.checkpoint, page, segment);
        }
        let clean = control.clean;
        self.remember(control, began);
        Ok((clean, position))
    }
}
