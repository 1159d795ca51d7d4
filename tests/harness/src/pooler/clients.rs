//! Running real clients against the pooler: psql, pgbench, and scripts in other languages.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{World, password};
use crate::reaper::MARK;
use crate::{process, programs};

/// Longest run of a client.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Where Debian keeps modules for Node.js.
const NODE_MODULES: &str = "/usr/share/nodejs";

/// What a client printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Its standard output; an error unless it ended well.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!("exit code {}: {}{}", self.code, self.out, self.err);
        }
        Ok(self.out)
    }

    /// Its standard error; an error if it ended well.
    pub fn refused(self) -> Result<String> {
        if self.code == 0 {
            bail!("it was expected to fail and printed: {}{}", self.out, self.err);
        }
        Ok(self.err)
    }
}

impl World {
    /// A command that libpq's environment variables lead to the pooler as alice in the database `app`.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env(MARK, self.directory()).current_dir("/").kill_on_drop(true);
        command.env("PGHOST", self.address.to_string()).env("PGPORT", "6543").env("PGUSER", "alice");
        command.env("PGDATABASE", "app").env("PGPASSWORD", password("alice")).env("PGCONNECT_TIMEOUT", "20");
        command.env("PSQL_HISTORY", "/dev/null").env("PGSSLMODE", "disable").env("PGGSSENCMODE", "disable");
        command
    }

    /// psql without its start-up file; output is unaligned and without headers. `target` holds libpq's settings
    /// (`user=bob dbname=second`); the password is the user's.
    pub async fn psql(&self, target: &str, arguments: &[&str]) -> Result<Output> {
        self.psql_with(target, arguments, b"").await
    }

    /// The same with something to read.
    pub async fn psql_with(&self, target: &str, arguments: &[&str], input: &[u8]) -> Result<Output> {
        let mut command = self.psql_command(target)?;
        command.args(arguments);
        run(command, input).await
    }

    /// psql, ready for its arguments.
    pub fn psql_command(&self, target: &str) -> Result<Command> {
        let mut command = self.command(programs::require("psql", "postgresql-client")?);
        if let Some(user) = target.split(' ').find_map(|w| w.strip_prefix("user=")) {
            command.env("PGPASSWORD", password(user));
        }
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d"]);
        command.arg(if target.is_empty() { "dbname=app" } else { target });
        Ok(command)
    }

    /// pgbench; returns what it printed.
    pub async fn pgbench(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(programs::postgres_directory()?.join("pgbench"));
        command.args(arguments);
        run(command, b"").await
    }

    /// One of PostgreSQL's programs that lead to the pooler: pg_basebackup and so on.
    pub async fn postgres_program(&self, name: &str, user: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(programs::postgres_directory()?.join(name));
        command.env("PGUSER", user).env("PGPASSWORD", password(user)).args(arguments);
        run(command, b"").await
    }

    /// A script for Python or Node.js, by its name's end.
    pub async fn script(&self, script: &Path, arguments: &[&str]) -> Result<Output> {
        run(self.script_command(script, arguments)?, b"").await
    }

    /// The same as the administrator of the console.
    pub async fn script_at_console(&self, script: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = self.script_command(script, arguments)?;
        command.env("PGUSER", "postgres").env("PGPASSWORD", password("postgres")).env("PGDATABASE", "pgbouncer");
        run(command, b"").await
    }

    fn script_command(&self, script: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = if script.extension().is_some_and(|e| e == "js") {
            let mut command = self.command(programs::require("node", "nodejs")?);
            command.env("NODE_PATH", node_path()?);
            command
        } else {
            let mut command = self.command(python()?);
            command.arg("-B");
            command
        };
        command.arg(script).args(arguments);
        Ok(command)
    }
}

/// Debian's Python, whose packages psycopg and asyncpg are.
pub fn python() -> Result<PathBuf> {
    let python = PathBuf::from("/usr/bin/python3");
    if python.exists() { Ok(python) } else { programs::require("python3", "python3") }
}

/// Where npm puts node-postgres: below the build directory.
pub fn node_directory() -> Result<PathBuf> {
    let target = super::template::build_directory()?;
    Ok(target.parent().unwrap_or(&target).join("node"))
}

/// Where Node.js looks for it: npm's directory, then Debian's.
fn node_path() -> Result<String> {
    Ok(format!("{}/node_modules:{NODE_MODULES}", node_directory()?.display()))
}

/// Whether Node.js would find node-postgres.
pub fn node_postgres_is_there() -> bool {
    node_path().is_ok_and(|path| path.split(':').any(|d| Path::new(d).join("pg/package.json").is_file()))
}

/// Runs a command to its end.
pub async fn run(mut command: Command, input: &[u8]) -> Result<Output> {
    let name = format!("{:?}", command.as_std().get_program());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    let pid = child.id().and_then(|p| i32::try_from(p).ok()).unwrap_or(0);
    let mut pipe = child.stdin.take().context("write to a client")?;
    let output = tokio::time::timeout(TIMEOUT, async {
        let write = async move {
            // It may end without reading it all.
            let _ = pipe.write_all(input).await;
        };
        tokio::join!(write, child.wait_with_output()).1
    });
    let output =
        output.await.map_err(|_| anyhow!("{} did not end", process::describe(pid)))?.context("run a client")?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Output { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) })
}
