//! Repairing a diverged data directory with pg_rewind. Whether it has diverged is told in `divergence`.

use std::time::Duration;

use crate::controldata;
use crate::error::Error;
use crate::files::{remove_if_exists, rewind_mark, summary, write_atomic};
use crate::instance::{Inner, Instance};
use crate::options::Upstream;
use crate::programs::{Finished, run};
use crate::upstream::Identity;

/// pg_rewind copies what differs and recovers a crashed target before; that takes as long as it takes.
const REWIND_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How long the source's checkpoint may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(300);

/// What a rewind did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewound {
    /// Files were changed; false when pg_rewind found nothing to do.
    pub changed: bool,
}

/// Why a data directory can't be rewound.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// WAL since the divergence isn't there any more.
    #[error("WAL back to the point of divergence is missing: {0}; clone again, and raise wal_keep_size")]
    MissingWal(String),
    /// A replica that has followed a timeline on which it has no restart point yet.
    #[error(
        "pg_rewind before PostgreSQL 16 can't repair a replica that has followed timeline {timeline} without a restart \
         point there ({message}); clone it again"
    )]
    NoRestartPoint {
        /// The timeline.
        timeline: u32,
        /// What pg_rewind printed.
        message: String,
    },
    /// Neither data checksums nor wal_log_hints.
    #[error("pg_rewind needs data checksums (initdb --data-checksums, pg_checksums) or wal_log_hints = on")]
    NeedsChecksums,
    /// The source is another cluster.
    #[error("the source is another cluster: {0}")]
    OtherCluster(String),
    /// The source can't be asked, or isn't ready; nothing was changed. Worth trying again.
    #[error("the source can't be used yet: {0}")]
    Source(String),
    /// It failed. `touched`: files were changed already, so the data directory must be rewound again or cloned.
    #[error("pg_rewind failed{}: {message}", if *.touched { " half way" } else { "" })]
    Failed {
        /// What it printed.
        message: String,
        /// Files may be changed.
        touched: bool,
        /// A signal ended it, which says nothing of the data.
        killed: bool,
    },
    /// It could not be run.
    #[error(transparent)]
    Other(#[from] Error),
}

impl Instance {
    /// Makes the local data a part of `from`'s history with pg_rewind. The server must be stopped; after a crash it is
    /// recovered first. Afterwards start it as a replica of `from`, which rewrites the configuration files that pg_rewind
    /// copied. `extra` are options of pg_rewind (`--restore-target-wal`). Dropping the future ends pg_rewind.
    pub async fn rewind(&self, from: &Upstream, extra: &[String]) -> Result<Rewound, RewindError> {
        let permit = self.0.work.permit();
        let output = self
            .blocking(|own| {
                own.0.refuse_while_alive()?;
                own.0.drop_stale_lock_files()?;
                own.0.programs.control_data(own.0.data_dir())
            })
            .await?;
        if !controldata::can_be_rewound(&output) {
            return Err(RewindError::NeedsChecksums);
        }
        let control = controldata::parse(&output).map_err(|message| RewindError::Failed {
            message,
            touched: false,
            killed: false,
        })?;
        let source = self.identify(from).await.map_err(|e| RewindError::Source(e.to_string()))?;
        if source.system_identifier != control.system_identifier {
            return Err(RewindError::OtherCluster(format!(
                "its system identifier is {}, the local one {}",
                source.system_identifier, control.system_identifier
            )));
        }
        self.ensure_checkpoint(from, &source).await?;
        // Before any server process of ours works in the data directory.
        let _under_way = UnderWay::begin(&self.0);
        // Crash recovery doesn't work on a data directory that is to be a standby.
        self.step(permit, |own| {
            own.0.refuse_while_alive()?;
            for signal in ["standby.signal", "recovery.signal"] {
                remove_if_exists(&own.0.data_dir().join(signal))?;
            }
            // Also makes sure that the configuration can be read by the single-user server.
            own.0.write_managed(|_| ())?;
            Ok(())
        })
        .await?;
        // pg_rewind of PostgreSQL 13 and newer would do it too. But the data directory is whole until it is done, however
        // it ends, and doesn't get the mark below.
        if !control.clean {
            self.recover_alone().await?;
        }
        self.step(permit, |own| {
            write_atomic(&rewind_mark(own.0.data_dir()), "pgherd: pg_rewind is at work in the data directory\n", None)
        })
        .await?;
        let outcome = match self.run_pg_rewind(from, extra).await {
            Ok(finished) => judge(&finished),
            Err(e) => Err(e),
        };
        let ahead = self.version().major() < 16 && controldata::is_ahead_of_restart_point(&output);
        let outcome = match outcome {
            Err(RewindError::MissingWal(message)) if ahead => {
                Err(RewindError::NoRestartPoint { timeline: control.timeline, message })
            }
            other => other,
        };
        let in_doubt = match &outcome {
            Err(RewindError::Failed { touched, .. }) => *touched,
            Err(RewindError::Other(e)) => matches!(e, Error::TimedOut { .. }),
            _ => false,
        };
        if !in_doubt {
            self.step(permit, |own| remove_if_exists(&rewind_mark(own.0.data_dir()))).await?;
        }
        outcome
    }

    async fn run_pg_rewind(&self, from: &Upstream, extra: &[String]) -> Result<Finished, RewindError> {
        let o = &self.0.options;
        let user = o.rewind.as_ref().unwrap_or(&o.superuser);
        let mut command = self.0.programs.command("pg_rewind");
        command.env("LC_ALL", "C").env("PGPASSFILE", self.0.pgpass());
        command.arg("--progress").arg("--target-pgdata").arg(self.0.data_dir());
        let conninfo = self.0.conninfo(from, user, &[("dbname", "postgres"), ("application_name", "pgherd")]);
        command.arg("--source-server").arg(conninfo);
        if self.version().rewind_takes_config_file() {
            command.arg(format!("--config-file={}", self.0.data_dir().join("postgresql.conf").display()));
        }
        command.args(extra.iter().map(|o| format!("--{}", o.trim_start_matches('-'))));
        tracing::info!("rewinding to the history of {} at {}:{}", from.name, from.host, from.port);
        let finished = run("pg_rewind", command, REWIND_LIMIT).await?;
        for line in finished.stderr.lines().chain(finished.stdout.lines()).filter(|l| !l.contains(" kB (")) {
            tracing::info!("{}", line.trim());
        }
        Ok(finished)
    }

    /// Before PostgreSQL 16 pg_rewind takes the source's timeline from its last checkpoint, which right after a promotion
    /// is still on the old one: it would find nothing to do. So the source writes a checkpoint if it hasn't.
    async fn ensure_checkpoint(&self, from: &Upstream, source: &Identity) -> Result<(), RewindError> {
        let superuser = &self.0.options.superuser;
        let ask = "SELECT timeline_id FROM pg_control_checkpoint()";
        let database = [("dbname", "postgres"), ("connect_timeout", "3"), ("application_name", "pgherd")];
        let began = tokio::time::Instant::now();
        loop {
            let answer =
                self.psql(from, superuser, &database, ask).await.map_err(|e| RewindError::Source(e.to_string()))?;
            if answer.trim().parse::<u32>().is_ok_and(|t| t >= source.timeline) {
                return Ok(());
            }
            if began.elapsed() > CHECKPOINT_LIMIT {
                return Err(RewindError::Source(format!(
                    "{} has written no checkpoint since its promotion",
                    from.name
                )));
            }
            // One that takes longer than psql may goes on at the source, and the next one joins it.
            if let Err(e) = self.psql(from, superuser, &database, "CHECKPOINT").await
                && !matches!(e, Error::TimedOut { .. })
            {
                return Err(RewindError::Source(e.to_string()));
            }
        }
    }

    /// Crash recovery by a single-user server.
    async fn recover_alone(&self) -> Result<(), RewindError> {
        let mut command = self.0.programs.command("postgres");
        command.arg("--single").arg("-D").arg(self.0.data_dir());
        command.args(["-c", "archive_mode=on", "-c", "archive_command=false", "template1"]);
        let done = run("postgres --single", command, REWIND_LIMIT).await?;
        if done.success {
            return Ok(());
        }
        if done.stderr.contains("No space left on device") {
            return Err(Error::DiskFull(self.0.data_dir().to_owned()).into());
        }
        let message = format!("crash recovery before it ended with {}: {}", done.status, summary(&done.stderr));
        Err(RewindError::Failed { message, touched: false, killed: done.is_killed() })
    }
}

/// While it lives the probe takes the data directory for what it was.
struct UnderWay<'a>(&'a Inner);

impl UnderWay<'_> {
    fn begin(inner: &Inner) -> UnderWay<'_> {
        inner.lock_state().rewinding = true;
        UnderWay(inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock_state();
        state.rewinding = false;
        state.control = None;
    }
}

/// What pg_rewind's output means.
fn judge(finished: &Finished) -> Result<Rewound, RewindError> {
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    if finished.success {
        return Ok(Rewound { changed: !said.contains("no rewind required") });
    }
    let (message, killed) = (summary(&said), finished.is_killed());
    let message = if killed { format!("{}: {message}", finished.status) } else { message };
    // pg_rewind prints this (with --progress) once it has decided on everything, before its first change.
    if said.contains("need to copy") {
        return Err(RewindError::Failed { message, touched: true, killed });
    }
    let has = |words: &[&str]| words.iter().any(|w| said.contains(w));
    if has(&["could not find previous WAL record", "could not find common ancestor"])
        || (said.contains("requested WAL segment") && said.contains("has already been removed"))
        || (said.contains("could not open file") && said.contains("pg_wal"))
    {
        return Err(RewindError::MissingWal(message));
    }
    if has(&["needs to use either data checksums"]) {
        return Err(RewindError::NeedsChecksums);
    }
    if has(&["from different systems"]) {
        return Err(RewindError::OtherCluster(message));
    }
    if has(&["could not connect", "connection to server", "source server must not be in recovery"]) {
        return Err(RewindError::Source(message));
    }
    Err(RewindError::Failed { message, touched: false, killed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(success: bool, stderr: &str) -> Result<Rewound, RewindError> {
        judge(&Finished { success, status: String::new(), stdout: String::new(), stderr: stderr.into() })
    }

    #[test]
    fn outcomes_are_told_apart() {
        assert!(said(true, "pg_rewind: servers diverged at WAL location 0/3000148\npg_rewind: Done!").unwrap().changed);
        assert!(!said(true, "pg_rewind: no rewind required").unwrap().changed);
        let lost = "pg_rewind: error: could not find previous WAL record at 0/3000148";
        assert!(matches!(said(false, lost), Err(RewindError::MissingWal(_))));
        let lost = "pg_rewind: error: could not open file \"/d/pg_wal/000000010000000000000003\": No such file";
        assert!(matches!(said(false, lost), Err(RewindError::MissingWal(_))));
        let hints = "pg_rewind: error: target server needs to use either data checksums or \"wal_log_hints = on\"";
        assert!(matches!(said(false, hints), Err(RewindError::NeedsChecksums)));
        let other = "pg_rewind: error: source and target clusters are from different systems";
        assert!(matches!(said(false, other), Err(RewindError::OtherCluster(_))));
        let down = "pg_rewind: error: connection to server at \"10.0.0.2\", port 5432 failed: Connection refused";
        assert!(matches!(said(false, down), Err(RewindError::Source(_))));
        let before = "pg_rewind: rewinding from last common checkpoint at 0/2 on timeline 1\npg_rewind: error: disk";
        assert!(matches!(said(false, before), Err(RewindError::Failed { touched: false, .. })));
        let half =
            "pg_rewind: need to copy 53 MB (total source directory size is 75 MB)\nconnection to server was lost";
        assert!(matches!(said(false, half), Err(RewindError::Failed { touched: true, killed: false, .. })));
        let status = "signal: 9 (SIGKILL)".to_owned();
        let killed = judge(&Finished { success: false, status, stdout: String::new(), stderr: half.into() });
        assert!(matches!(killed, Err(RewindError::Failed { touched: true, killed: true, .. })));
    }
}
