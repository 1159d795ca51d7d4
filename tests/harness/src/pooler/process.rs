//! The pooler's process: which program it is, starting it, its exit code.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::process::{Child, Command};

use crate::process::Identity;
use crate::reaper::MARK;

/// The program under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// pgherd's.
    Pgherd,
    /// A pgbouncer of this version.
    Pgbouncer(u32, u32),
}

/// The program's path and what it is.
pub(super) fn find() -> Result<(PathBuf, Peer)> {
    let Some(program) = std::env::var_os(super::PROGRAM) else { return Ok((built()?, Peer::Pgherd)) };
    let output = std::process::Command::new(&program).arg("-V").output().context("ask the pooler for its version")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    Ok((PathBuf::from(program), of_version(line)))
}

/// pgherd's program, where cargo put it.
fn built() -> Result<PathBuf> {
    let directory = match std::env::var_os(crate::programs::BIN_DIR) {
        Some(directory) => PathBuf::from(directory),
        None => super::template::build_directory()?,
    };
    let path = directory.join("pgherd-pooler");
    if !path.is_file() {
        bail!("{} is missing: run 'cargo build -p pooler' first", path.display());
    }
    Ok(path)
}

/// `PgBouncer 1.24.1` is one; whatever else is pgherd's.
fn of_version(line: &str) -> Peer {
    let version = line.strip_prefix("PgBouncer ").unwrap_or_default();
    let mut numbers = version.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Peer::Pgbouncer(major, minor),
        _ => Peer::Pgherd,
    }
}

/// A pooler that was started.
#[derive(Debug)]
pub struct Running {
    /// Its identity; with `-d` that of the process that was started, not of the one that stays.
    pub identity: Identity,
    child: Child,
}

impl Running {
    /// Starts the program in the foreground; what it prints is added to a file.
    pub(super) fn start(program: &Path, root: &Path, arguments: &[&str]) -> Result<Running> {
        let output = std::fs::OpenOptions::new().create(true).append(true).open(root.join("output.log"));
        let output = output.context("open a file for the pooler's output")?;
        let mut command = Command::new(program);
        command.args(arguments).env(MARK, root).current_dir(root).stdin(Stdio::null());
        command.stdout(output.try_clone().context("share a file")?).stderr(output);
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let pid = child.id().and_then(|p| i32::try_from(p).ok()).context("read a process number")?;
        // A zombie until it is waited for, so this finds it however early it ended.
        let started = crate::process::Stat::read(pid).context("find the pooler")?.started;
        Ok(Running { identity: Identity { pid, started }, child })
    }

    /// Waits until it ends by itself.
    pub async fn exit(&mut self) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        ended.map_err(|_| anyhow!("the pooler did not end within 30 s"))?.context("wait for the pooler")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_apart_by_version() {
        assert_eq!(of_version("PgBouncer 1.24.1"), Peer::Pgbouncer(1, 24));
        assert_eq!(of_version("pgherd-pooler 0.1.0"), Peer::Pgherd);
        assert_eq!(of_version(""), Peer::Pgherd);
    }
}
