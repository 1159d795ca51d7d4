//! Copying another member's data into an empty data directory, and removing a data directory. Whether that is allowed is
//! decided by the caller.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::Instant as Clock;

use crate::error::Error;
use crate::files::{self, fresh_dir, is_empty, make_parents, remove_tree, staging_dir, summary, take_place};
use crate::instance::{Inner, Instance};
use crate::options::Upstream;
use crate::programs::Group;

/// How often progress is logged.
const REPORT_EVERY: Duration = Duration::from_secs(5);

impl Instance {
    /// Takes a base backup of `from` into the data directory, which must be missing or empty. The copy is made elsewhere
    /// and takes its place when it is complete. `extra` are options of pg_basebackup (`max-rate=100M`, `verbose`).
    /// Dropping the future ends the copy; without a bound in time.
    pub async fn clone_from(&self, from: &Upstream, extra: &[String]) -> Result<(), Error> {
        let permit = self.0.work.permit();
        let staging = self.step(permit, |own| own.0.prepare_staging()).await?;
        let outcome = self.base_backup(from, extra, &staging).await;
        let finished = outcome.is_ok();
        self.step(permit, move |own| {
            own.0.refuse_while_alive()?;
            let placed = if finished { take_place(&staging, own.0.data_dir()) } else { Ok(()) };
            remove_tree(&staging)?;
            placed?;
            own.0.lock_state().control = None;
            Ok(())
        })
        .await?;
        outcome
    }

    async fn base_backup(&self, from: &Upstream, extra: &[String], staging: &Path) -> Result<(), Error> {
        self.blocking(|own| own.0.write_pgpass()).await?;
        let mut command = self.0.programs.command("pg_basebackup");
        // Not the member's name: its stream acknowledges WAL that is no standby's yet.
        let conninfo = self.0.conninfo(from, &self.0.options.replication, &[("application_name", "pgherd_clone")]);
        command.args(["--checkpoint=fast", "-X", "stream", "--no-password", "--progress", "-d", &conninfo, "-D"]);
        command.arg(staging);
        for option in extra {
            command.arg(format!("--{}", option.trim_start_matches('-')));
        }
        let mut command = tokio::process::Command::from(command);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0).env("LC_ALL", "C");
        tracing::info!("cloning from {} at {}:{}", from.name, from.host, from.port);
        let began = Clock::now();
        let mut child = command.spawn().map_err(|e| Error::io("run pg_basebackup", e))?;
        let _group = Group(child.id());
        let mut complaints = String::new();
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr).split(b'\n');
            let mut reported = began;
            while let Ok(Some(line)) = lines.next_segment().await {
                let line = String::from_utf8_lossy(&line);
                // Progress overwrites its line on a terminal.
                let line = line.rsplit('\r').find(|l| !l.trim().is_empty()).unwrap_or_default().trim();
                if !line.contains(" kB (") {
                    complaints.push_str(line);
                    complaints.push('\n');
                } else if reported.elapsed() >= REPORT_EVERY {
                    reported = Clock::now();
                    tracing::info!("cloning from {}: {line}", from.name);
                }
            }
        }
        let status = child.wait().await.map_err(|e| Error::io("wait for pg_basebackup", e))?;
        if !status.success() {
            if complaints.contains("No space left on device") {
                return Err(Error::DiskFull(self.0.data_dir().to_owned()));
            }
            return Err(Error::Program { program: "pg_basebackup".into(), message: summary(&complaints) });
        }
        tracing::info!("cloned from {} in {:.1} s", from.name, began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Removes the data directory or, where it is a link or a mount point, what is in it, with its tablespaces and a `pg_wal` kept elsewhere. Refused while any
    /// process of the instance lives. `why` goes to the log. A half removed directory is never a valid cluster.
    pub async fn remove_data(&self, why: &str) -> Result<(), Error> {
        let why = why.to_owned();
        self.step(self.0.work.permit(), move |own| own.0.remove_data(&why)).await
    }
}

impl Inner {
    /// An empty directory in which a cluster can be made. Blocking.
    pub(crate) fn prepare_staging(&self) -> Result<PathBuf, Error> {
        self.refuse_while_alive()?;
        let dir = self.data_dir();
        if dir.is_symlink() && !dir.exists() {
            let target = self.processes().dir().to_owned();
            make_parents(&target)?;
            fresh_dir(&target, self.user())?;
        }
        let staging = staging_dir(dir);
        let inside = staging.parent() == Some(dir);
        if inside {
            // Left by unfinished work.
            remove_tree(&staging)?;
        }
        if !is_empty(dir)? {
            return Err(Error::NotEmpty(dir.to_owned()));
        }
        files::remove_if_exists(&dir.join(files::STORAGE_CHECK))?;
        if inside {
            // As PostgreSQL wants it; what a file system has at its root belongs to root and is open to all.
            files::make_private(dir, self.user())?;
        }
        make_parents(dir)?;
        fresh_dir(&staging, self.user())?;
        Ok(staging)
    }

    fn remove_data(&self, why: &str) -> Result<(), Error> {
        self.refuse_while_alive()?;
        let dir = self.data_dir();
        if is_empty(dir)? {
            return Ok(());
        }
        tracing::warn!("removing the data directory {}: {why}", dir.display());
        let mut elsewhere = linked(&dir.join("pg_tblspc"))
            .into_iter()
            .flat_map(|space| entries(&space).into_iter().filter(|p| is_tablespace(p)))
            .collect::<Vec<_>>();
        if let Ok(target) = std::fs::read_link(dir.join("pg_wal")) {
            elsewhere.extend(entries(&dir.join(target)));
        }
        let doomed = files::sibling(dir, ".pgherd-removed");
        remove_tree(&doomed)?;
        let mark = files::rewind_mark(dir);
        // pg_control goes first: from then on this is no cluster any more.
        files::remove_if_exists(&dir.join("global/pg_control"))?;
        self.lock_state().control = None;
        for path in elsewhere {
            remove_any(&path)?;
        }
        // A link is the site's; what it leads to is emptied.
        if !dir.is_symlink() && std::fs::rename(dir, &doomed).is_ok() {
            files::remove_if_exists(&mark)?;
            return remove_tree(&doomed);
        }
        for path in entries(dir) {
            if path.file_name().is_some_and(|n| n != "lost+found") {
                remove_any(&path)?;
            }
        }
        files::remove_if_exists(&mark)?;
        Ok(())
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

/// Where the links in a directory point.
fn linked(dir: &Path) -> Vec<PathBuf> {
    entries(dir).iter().filter_map(|p| std::fs::read_link(p).ok()).collect()
}

/// PostgreSQL's directory in a tablespace, `PG_15_202209061`.
fn is_tablespace(path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("PG_"))
}

fn remove_any(path: &Path) -> Result<(), Error> {
    let is_dir = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    if is_dir { remove_tree(path) } else { files::remove_if_exists(path).map(|_| ()) }
}
