//! The test's world: PostgreSQL, the pooler before it, and the means to reach both.

use std::cell::RefCell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Index;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::postgres::{Postgres, owned_file};
use super::process::{self, Peer, Running};
use super::raw::Raw;
use super::setup::{Places, Setup};
use super::{log, password, tls};
use crate::address::Block;
use crate::process::Identity;
use crate::reaper::Reaper;
use crate::wait::wait_until;
use crate::{logs, node, sql};

/// The pooler's port.
const PORT: u16 = 6543;

/// Longest wait for a condition.
const SOON: Duration = Duration::from_secs(20);

/// PostgreSQL and a pooler.
#[derive(Debug)]
pub struct World {
    /// PostgreSQL.
    pub postgres: Postgres,
    /// The pooler's address; its port is 6543.
    pub address: Ipv4Addr,
    /// Which program the pooler is.
    pub peer: Peer,
    program: PathBuf,
    setup: RefCell<Setup>,
    running: RefCell<Option<Running>>,
    expected: RefCell<Vec<String>>,
    root: PathBuf,
    // Dropped in this order: processes, files.
    _reaper: Reaper,
    _block: Block,
    files: RefCell<Option<TempDir>>,
}

impl Setup {
    /// Makes the world, runs the test in it, and checks that the pooler lives and has logged nothing bad.
    pub fn run(self, test: impl AsyncFnOnce(&World) -> Result<()>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
        let result = runtime.block_on(async {
            let Some(world) = World::make(self).await? else { return Ok(()) };
            let result = async {
                world.begin().await?;
                test(&world).await?;
                world.check()
            };
            let result = result.await;
            result.map_err(|e| world.failure(&e))
        });
        runtime.shutdown_background();
        result
    }
}

impl World {
    /// Lays out files; `None` where the program is too old a pgbouncer for the test.
    async fn make(setup: Setup) -> Result<Option<World>> {
        use std::os::unix::fs::PermissionsExt;
        let (program, peer) = process::find()?;
        if let Peer::Pgbouncer(major, minor) = peer
            && (major, minor) < setup.at_least
        {
            eprintln!("skipped: pgbouncer {major}.{minor} can't do this");
            return Ok(None);
        }
        let files = tempfile::Builder::new()
            .prefix("pgherd-pooler-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .context("make a directory for the test")?;
        let root = files.path().canonicalize().context("find the test's directory")?;
        let block = Block::allocate()?;
        let places = Places { postgres: block.node(1), pooler: block.node(2), root: &root };
        let settings: Vec<(String, String)> = setup.postgres.iter().map(|(k, v)| (k.clone(), places.fill(v))).collect();
        let postgres = Postgres::prepare(block.node(1), &root, &settings, &setup.hba)?;
        if setup.tls {
            tls::make(&root.join("tls"), &[block.node(1), block.node(2)])?;
        }
        node::make_owned_directory(&root.join("pooler"), 0o755)?;
        let world = World {
            postgres,
            address: block.node(2),
            peer,
            program,
            setup: RefCell::new(setup),
            running: RefCell::default(),
            expected: RefCell::new(vec![PORT_OF_METRICS.to_owned()]),
            _reaper: Reaper::new(&root),
            root,
            _block: block,
            files: RefCell::new(Some(files)),
        };
        world.write_files()?;
        Ok(Some(world))
    }

    async fn begin(&self) -> Result<()> {
        self.postgres.start().await?;
        let wanted = self.setup.borrow().program;
        if wanted { self.start_pooler(&[]).await } else { Ok(()) }
    }

    fn places(&self) -> Places<'_> {
        Places { postgres: self.postgres.address, pooler: self.address, root: &self.root }
    }

    /// A text with `{pg}`, `{pooler}`, `{sockets}` and `{dir}` replaced.
    pub fn fill(&self, text: &str) -> String {
        self.places().fill(text)
    }

    fn write_files(&self) -> Result<()> {
        let (setup, places) = (self.setup.borrow(), self.places());
        let mut ini = places.fill(&setup.render());
        if self.peer == Peer::Pgherd && setup.ini.is_none() && !ini.contains("\nmetrics_listen =") {
            ini.push_str(OWN_SETTINGS);
        }
        owned_file(&self.ini(), &ini, 0o640)?;
        owned_file(&self.root.join("userlist.txt"), &places.fill(&setup.userlist), 0o640)?;
        setup.files.iter().try_for_each(|(name, text)| owned_file(&self.root.join(name), &places.fill(text), 0o644))
    }

    /// The pooler's ini.
    pub fn ini(&self) -> PathBuf {
        self.root.join("pooler.ini")
    }

    /// The test's directory.
    pub fn directory(&self) -> &Path {
        &self.root
    }

    /// Writes the pooler's files again, changed; it doesn't read them by itself.
    pub fn change(&self, change: impl FnOnce(Setup) -> Setup) -> Result<()> {
        let setup = self.setup.borrow().clone();
        *self.setup.borrow_mut() = change(setup);
        self.write_files()
    }

    /// Copies a file of the test's directory to one that the pooler can read.
    pub fn own_copy(&self, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(self.root.join(from)).with_context(|| format!("read {from}"))?;
        owned_file(&self.root.join(to), &text, 0o600)
    }

    /// Makes other certificates, with the same names.
    pub fn renew_certificates(&self, authority: &str) -> Result<()> {
        tls::renew(&self.root.join("tls"), authority)
    }
}

/// Settings that only pgherd's pooler knows, for tests that run beside each other.
const OWN_SETTINGS: &str = "metrics_listen =\n";

/// What a test's own ini may lead to where it leaves the port for metrics as it is: another test has it.
const PORT_OF_METRICS: &str = "metrics_listen: can't listen on 127.0.0.1:9127";

/// The pooler's process.
impl World {
    /// Starts the pooler in the foreground and waits until it accepts connections.
    pub async fn start_pooler(&self, flags: &[&str]) -> Result<()> {
        let running = self.spawn_pooler(flags)?;
        let previous = self.running.borrow_mut().replace(running);
        wait_until("the pooler accepts connections", SOON, || async {
            if let Some(status) = self.running.borrow_mut().as_mut().and_then(Running::ended) {
                bail!("it ended with {status}");
            }
            ensure!(self.log_of(self.pid()?).contains("process up"), "it is not up yet");
            Ok(Some(()))
        })
        .await?;
        drop(previous);
        Ok(())
    }

    /// Starts the pooler without waiting; for one that is expected to end, or another beside the first.
    pub fn spawn_pooler(&self, flags: &[&str]) -> Result<Running> {
        let ini = self.ini();
        let ini = ini.to_string_lossy();
        self.spawn_with(&[flags, &[&ini]].concat())
    }

    /// Starts the program with these arguments only.
    pub fn spawn_with(&self, arguments: &[&str]) -> Result<Running> {
        Running::start(&self.program, &self.root, arguments)
    }

    /// Starts a copy of the program, which is made at this path; what is there already is replaced as packages do it.
    pub fn spawn_copy(&self, path: &Path, arguments: &[&str]) -> Result<Running> {
        self.copy_program(path)?;
        Running::start(path, &self.root, arguments)
    }

    /// Puts a copy of the program in the place of a file.
    pub fn copy_program(&self, path: &Path) -> Result<()> {
        let fresh = path.with_extension("new");
        fs::copy(&self.program, &fresh).context("copy the program")?;
        fs::rename(&fresh, path).context("put the program into place")
    }

    /// Takes the running pooler out of the world's care, as before a new one takes over.
    pub fn take_pooler(&self) -> Result<Running> {
        self.running.borrow_mut().take().context("no pooler was started")
    }

    fn identity(&self) -> Result<Identity> {
        Ok(self.running.borrow().as_ref().context("no pooler was started")?.identity)
    }

    /// Its process number.
    pub fn pid(&self) -> Result<i32> {
        self.identity().map(|i| i.pid)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        ensure!(self.identity()?.signal(signal), "the pooler has ended");
        Ok(())
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.identity().is_ok_and(Identity::is_alive)
    }

    /// Waits until it ends by itself and returns its exit code.
    pub async fn exit_code(&self) -> Result<i32> {
        let status = self.take_pooler()?.exit().await?;
        status.code().with_context(|| format!("the pooler ended with {status}"))
    }

    /// Its resident memory in bytes.
    pub fn memory(&self) -> Result<u64> {
        crate::process::resident_bytes(self.pid()?).context("read the pooler's memory")
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.root.join("pooler/pooler.log")).unwrap_or_default()
    }

    fn log_of(&self, pid: i32) -> String {
        let mark = format!("[{pid}] ");
        self.log().lines().filter(|l| l.contains(&mark)).collect::<Vec<_>>().join("\n")
    }

    /// What it printed, other than its log.
    pub fn output(&self) -> String {
        fs::read_to_string(self.root.join("output.log")).unwrap_or_default()
    }

    /// Allows WARNING and ERROR lines that hold this text.
    pub fn allow(&self, text: &str) {
        self.expected.borrow_mut().push(text.to_owned());
    }

    /// Waits until a line with this text is logged, which is fine at any severity.
    pub async fn logged(&self, text: &str) -> Result<()> {
        self.allow(text);
        self.until(&format!("{text:?} is logged"), async || Ok(self.log().contains(text).then_some(()))).await
    }

    /// Fails unless the pooler lives (where it should) and has logged only what is allowed.
    fn check(&self) -> Result<()> {
        let ended = self.running.borrow_mut().as_mut().and_then(Running::ended);
        if let Some(status) = ended {
            bail!("the pooler ended with {status}");
        }
        let lines = log::unexpected(&format!("{}{}", self.log(), self.output()), &self.expected.borrow());
        if !lines.is_empty() {
            bail!("unexpected in the pooler's log:\n{}", lines.join("\n"));
        }
        Ok(())
    }

    fn failure(&self, error: &anyhow::Error) -> anyhow::Error {
        if let Some(files) = self.files.take() {
            let _ = files.keep();
        }
        let log = self.log();
        // The test's own questions to the console are many.
        let lines: Vec<&str> = log.lines().filter(|l| !l.contains(" pgbouncer/postgres@")).collect();
        let told = lines[lines.len().saturating_sub(30)..].join("\n");
        // In the foreground it may print its log as well.
        let output = self.output();
        let printed: Vec<&str> = output.lines().filter(|l| !log.contains(l)).collect();
        let printed = printed[printed.len().saturating_sub(15)..].join("\n");
        let postgres = logs::tail(&self.postgres.log(), 15);
        let root = self.root.display();
        anyhow!("{error:#}\n--- log\n{told}\n--- output\n{printed}\n{postgres}the test's files stay in {root}")
    }

    /// Waits on a condition for some seconds.
    pub async fn until<T>(&self, what: &str, mut condition: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = std::time::Instant::now() + SOON;
        loop {
            let last = match tokio::time::timeout(SOON, condition()).await {
                Ok(Ok(Some(value))) => return Ok(value),
                Ok(Ok(None)) => "the condition did not hold".to_owned(),
                Ok(Err(e)) => format!("{e:#}"),
                Err(_) => "the condition took too long to evaluate".to_owned(),
            };
            if std::time::Instant::now() >= deadline {
                bail!("timed out waiting until {what}: {last}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Connections through the pooler.
impl World {
    /// Where the pooler listens.
    pub fn tcp(&self) -> SocketAddr {
        (self.address, PORT).into()
    }

    /// Directory of the pooler's Unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.root.join("pooler")
    }

    /// How tokio-postgres connects.
    pub fn config(&self, user: &str, database: &str) -> Config {
        let mut config = Config::new();
        config.host(self.address.to_string()).port(PORT).user(user).password(password(user)).dbname(database);
        config
    }

    /// A session of alice in `app` over tokio-postgres.
    pub async fn client(&self) -> Result<Client> {
        self.client_as("alice", "app").await
    }

    /// A session over tokio-postgres. An error holds the server's text.
    pub async fn client_as(&self, user: &str, database: &str) -> Result<Client> {
        let connected = tokio::time::timeout(SOON, self.config(user, database).connect(NoTls)).await;
        let connected = connected.map_err(|_| anyhow!("no answer to a login within {} s", SOON.as_secs()))?;
        let (client, connection) = connected.map_err(|e| anyhow!(sql::message(&e)))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A connection for messages made by hand, not logged in yet.
    pub async fn raw(&self) -> Result<Raw> {
        Ok(Raw::over(TcpStream::connect(self.tcp()).await.context("connect to the pooler")?))
    }

    /// The same over the Unix socket.
    pub async fn raw_unix(&self) -> Result<Raw> {
        let path = self.socket_dir().join(format!(".s.PGSQL.{PORT}"));
        Ok(Raw::over(UnixStream::connect(path).await.context("connect to the pooler's socket")?))
    }

    /// One that alice logged in to `app`.
    pub async fn session(&self) -> Result<Raw> {
        self.session_as("alice", "app").await
    }

    /// One that a user logged in to a database.
    pub async fn session_as(&self, user: &str, database: &str) -> Result<Raw> {
        let mut raw = self.raw().await?;
        raw.log_in(&[("user", user), ("database", database)], &password(user)).await?;
        Ok(raw)
    }

    /// Runs a command of the admin console as its administrator and returns the rows.
    pub async fn console(&self, command: &str) -> Result<Vec<Row>> {
        self.console_as("postgres", command).await
    }

    /// The same as another user.
    pub async fn console_as(&self, user: &str, command: &str) -> Result<Vec<Row>> {
        let client = self.client_as(user, "pgbouncer").await?;
        let messages = client.simple_query(command).await.map_err(|e| anyhow!(sql::message(&e)))?;
        let rows = messages.iter().filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let pairs = |row: &tokio_postgres::SimpleQueryRow| {
            let value = |i: usize| row.get(i).unwrap_or_default().to_owned();
            Row(row.columns().iter().enumerate().map(|(i, c)| (c.name().to_owned(), value(i))).collect())
        };
        Ok(rows.map(pairs).collect())
    }

    /// The pool of a user and a database in SHOW POOLS.
    pub async fn pool(&self, user: &str, database: &str) -> Result<Row> {
        let rows = self.console("SHOW POOLS").await?;
        let found = rows.into_iter().find(|r| &r["user"] == user && &r["database"] == database);
        found.with_context(|| format!("there is no pool of {user} in {database}"))
    }
}

/// A row of the admin console: names and values of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(pub Vec<(String, String)>);

impl Row {
    /// The names of its columns, with commas between.
    pub fn names(&self) -> String {
        self.0.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(",")
    }

    /// A value that is a number.
    pub fn number(&self, name: &str) -> u64 {
        self[name].parse().unwrap_or_else(|e| panic!("{name} is {:?}: {e}", &self[name]))
    }
}

impl Index<&str> for Row {
    type Output = str;

    fn index(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map_or_else(|| panic!("there is no column {name}: {}", self.names()), |(_, v)| v)
    }
}
