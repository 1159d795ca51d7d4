//! Where a run lives: its directory, addresses and the account that servers run under. Nothing of it stays.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use harness::Reaper;
use harness::address::Block;
use harness::programs;
use harness::reaper::MARK;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::User;
use tempfile::TempDir;
use tokio::process::Command;

/// Memory behind a path, so that pgbench's logs cost no disk.
const SHARED_MEMORY: &str = "/dev/shm";

/// Open files that a pooler, or this process, needs for the idle clients and everything else.
const OPEN_FILES: u64 = 11_000;

/// A run's place. Dropping it ends every process started here and removes the files.
#[derive(Debug)]
pub(super) struct Site {
    root: PathBuf,
    logs: PathBuf,
    account: Option<(u32, u32)>,
    block: Block,
    // Dropped in this order: processes, files.
    _reaper: Reaper,
    _files: [TempDir; 2],
}

impl Site {
    pub(super) fn make() -> Result<Site> {
        raise_open_files()?;
        let files = directory_in("/tmp")?;
        let memory = Path::new(SHARED_MEMORY);
        let logs = if memory.is_dir() { directory_in(SHARED_MEMORY)? } else { directory_in("/tmp")? };
        let root = files.path().canonicalize().context("find the run's directory")?;
        Ok(Site {
            logs: logs.path().to_owned(),
            account: account()?,
            block: Block::allocate()?,
            _reaper: Reaper::new(&root),
            _files: [files, logs],
            root,
        })
    }

    /// The address of PostgreSQL.
    pub(super) fn server_address(&self) -> Ipv4Addr {
        self.block.node(1)
    }

    /// The address of the n-th pooler, counted from 0. Each has its own, so that closed connections of one don't use up
    /// the port numbers of another.
    pub(super) fn pooler_address(&self, n: u8) -> Ipv4Addr {
        self.block.node(10 + n)
    }

    /// A fresh directory for a server, which owns it.
    pub(super) fn server_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        let context = || format!("make {}", path.display());
        if path.exists() {
            fs::remove_dir_all(&path).with_context(context)?;
        }
        fs::create_dir(&path).with_context(context)?;
        self.give(&path)?;
        Ok(path)
    }

    /// Makes a file the servers' own.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        let Some((user, group)) = self.account else { return Ok(()) };
        chown(path, Some(user), Some(group)).with_context(|| format!("give {} to PostgreSQL's user", path.display()))
    }

    /// A fresh directory for the logs of one load, in memory where there is such a place.
    pub(super) fn log_directory(&self) -> Result<TempDir> {
        tempfile::tempdir_in(&self.logs).context("make a directory for pgbench's logs")
    }

    /// A program that doesn't outlive the run.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env(MARK, &self.root).current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// The same as PostgreSQL's user where this process is root's: neither PostgreSQL nor pgbouncer runs as root.
    pub(super) fn server_command(&self, program: &Path) -> Command {
        let mut command = self.command(program);
        if let Some((user, group)) = self.account {
            command.uid(user).gid(group);
        }
        command
    }
}

fn directory_in(parent: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("pgherd-bench-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .with_context(|| format!("make a directory in {parent}"))
}

fn account() -> Result<Option<(u32, u32)>> {
    if !programs::is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").context("look up the user postgres")?;
    let user = user.context("there is no user postgres: install the package postgresql")?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

/// For this process and all it starts.
fn raise_open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    let wanted = hard.max(OPEN_FILES);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_err() {
        bail!(
            "at most {hard} files may be open, and {OPEN_FILES} are needed: run 'ulimit -Hn {OPEN_FILES}' as root first"
        );
    }
    Ok(())
}
