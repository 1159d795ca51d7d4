//! One PostgreSQL that nobody manages: started, stopped and killed by the test itself. Its roles and databases come from
//! `template`.

use std::fs::{self, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio_postgres::{Client, Config, NoTls};

use super::template;
use crate::process::Identity;
use crate::reaper::MARK;
use crate::sql;
use crate::wait::wait_until;
use crate::{node, programs};

/// Where it listens.
pub const PORT: u16 = 5432;

/// Settings of every instance: quick, and small enough to run several at a time.
const SETTINGS: &[(&str, &str)] = &[
    ("port", "5432"),
    ("fsync", "off"),
    ("shared_buffers", "32MB"),
    ("max_wal_size", "2GB"),
    ("wal_level", "replica"),
    ("log_line_prefix", "'%m [%p] %u@%d %a '"),
    ("log_min_duration_statement", "-1"),
];

/// Who may log in how, unless the test says otherwise.
pub const HBA: &str = "\
local all postgres trust
local all all md5
host all,replication bob 127.0.0.0/8 scram-sha-256
host all,replication all 127.0.0.0/8 md5
";

/// How to stop it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Disconnects everybody and shuts down.
    Fast,
    /// Ends at once, as in a crash.
    Immediate,
}

/// The instance.
#[derive(Debug)]
pub struct Postgres {
    /// Its address; the port is [`PORT`].
    pub address: Ipv4Addr,
    root: PathBuf,
    programs: PathBuf,
}

impl Postgres {
    /// Makes its data directory below `root`. `settings` are added to postgresql.conf.
    pub fn prepare(address: Ipv4Addr, root: &Path, settings: &[(String, String)], hba: &str) -> Result<Postgres> {
        let postgres = Postgres { address, root: root.to_owned(), programs: programs::postgres_directory()? };
        template::copy(&postgres.programs, &postgres.data())?;
        node::make_owned_directory(&postgres.sockets(), 0o755)?;
        let mut text = format!(
            "listen_addresses = '{address}'\nunix_socket_directories = '{}'\n",
            postgres.sockets().to_string_lossy()
        );
        for (name, value) in SETTINGS {
            text.push_str(&format!("{name} = {value}\n"));
        }
        for (name, value) in settings {
            text.push_str(&format!("{name} = {value}\n"));
        }
        owned_file(&postgres.data().join("postgresql.conf"), &text, 0o600)?;
        owned_file(&postgres.data().join("pg_hba.conf"), hba, 0o600)?;
        Ok(postgres)
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Directory of its Unix socket.
    pub fn sockets(&self) -> PathBuf {
        self.root.join("postgres")
    }

    /// What it wrote.
    pub fn log(&self) -> PathBuf {
        self.root.join("postgres.log")
    }

    /// Starts it and waits until it answers.
    pub async fn start(&self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log()).context("open PostgreSQL's log")?;
        let mut command = as_postgres(&self.programs.join("postgres"))?;
        command.arg("-D").arg(self.data()).env(MARK, &self.root).current_dir(self.data());
        command.stdin(Stdio::null()).stdout(log.try_clone().context("share the log")?).stderr(log);
        let mut child = command.spawn().context("start PostgreSQL")?;
        // Somebody must read its exit status, or a zombie stays.
        std::thread::spawn(move || child.wait());
        wait_until("PostgreSQL answers", Duration::from_secs(30), || async {
            self.connect("postgres").await.map(|_| Some(()))
        })
        .await
    }

    /// Stops it and waits until it has gone.
    pub fn stop(&self, how: Stop) -> Result<()> {
        let Some(postmaster) = self.postmaster() else { bail!("PostgreSQL does not run") };
        postmaster.signal(if how == Stop::Fast { Signal::INT } else { Signal::QUIT });
        if !postmaster.wait_gone(Duration::from_secs(30)) {
            bail!("PostgreSQL did not stop within 30 s");
        }
        Ok(())
    }

    fn postmaster(&self) -> Option<Identity> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        Identity::of(text.lines().next()?.trim().parse().ok()?)
    }

    /// A connection of the superuser, past the pooler.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config.host_path(self.sockets()).port(PORT).user("postgres").dbname(database).application_name("test");
        let (client, connection) = config.connect(NoTls).await.context("connect to PostgreSQL")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs a query in the database `app` as the superuser, past the pooler.
    pub async fn sql(&self, query: &str) -> Result<Vec<Vec<String>>> {
        let mut config = Config::new();
        config.host_path(self.sockets()).port(PORT).user("postgres").dbname("app").application_name("test");
        sql::query_with(&config, query).await
    }

    /// The first value of a query's answer.
    pub async fn value(&self, query: &str) -> Result<String> {
        let rows = self.sql(query).await?;
        let value = rows.into_iter().next().and_then(|r| r.into_iter().next());
        value.with_context(|| format!("{query:?} has no rows"))
    }
}

/// A command that runs as PostgreSQL's user where this process is root's.
pub(super) fn as_postgres(program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    if programs::is_root() {
        let user = node::postgres_user()?;
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

/// Writes a file that PostgreSQL's user can read.
pub(super) fn owned_file(path: &Path, text: &str, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let context = || format!("write {}", path.display());
    fs::write(path, text).with_context(context)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(context)?;
    if programs::is_root() { node::own_by_postgres(path) } else { Ok(()) }
}
