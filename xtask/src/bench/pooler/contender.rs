//! A pooler that is measured: its program, its configuration file, starting and stopping it.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::process::Identity;
use harness::wait_until;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::process::Child;

use super::scenario::{Auth, Mode, Protocol, Scenario};
use super::server::{Secrets, Server};
use super::site::Site;

/// The port in pgherd's and the seed's layout.
const PORT: u16 = 6543;

/// Longest wait for a pooler to start or to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// Lines of a failed pooler's log that are shown.
const LAST_WORDS: usize = 5;

/// The first pgbouncer that carries prepared statements over in transaction mode.
const PREPARES: (u32, u32) = (1, 21);

/// A pooler to measure.
#[derive(Debug)]
pub(super) struct Contender {
    /// `pgbouncer`, `pgherd` or the name given on the command line.
    pub(super) name: String,
    /// Worker threads; only pgherd can be told.
    pub(super) workers: Option<u32>,
    /// First line of what `-V` prints.
    pub(super) version: String,
    binary: PathBuf,
    address: Ipv4Addr,
}

/// The names on the command line and of the programs behind them.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) binary: PathBuf,
}

impl Named {
    /// Reads `NAME=BINARY`.
    pub(super) fn parse(text: &str) -> Result<Named> {
        let (name, binary) = text.split_once('=').context("expected NAME=BINARY")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            bail!("a name has letters, digits, '.', '_' and '-' only");
        }
        if matches!(name, "pgbouncer" | "pgherd") {
            bail!("{name} is measured anyway: choose another name");
        }
        Ok(Named { name: name.to_owned(), binary: PathBuf::from(binary) })
    }
}

impl Contender {
    /// The n-th contender, counted from 0. Asks the program for its version.
    pub(super) async fn find(site: &Site, n: usize, named: &Named, workers: Option<u32>) -> Result<Contender> {
        let Named { name, binary } = named;
        let binary = binary.canonicalize().with_context(|| {
            format!("find {}: give the path of {name}'s program with --pgherd or --against", binary.display())
        })?;
        let output = site.server_command(&binary).arg("-V").stdout(Stdio::piped()).output().await;
        let output = output.with_context(|| {
            format!(
                "run {}: PostgreSQL's user must be able to read and run it, and enter its directory",
                binary.display()
            )
        })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next().unwrap_or_default().trim().to_owned();
        if !output.status.success() || version.is_empty() {
            let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("{} -V tells no version ({}) {complaint}", binary.display(), output.status);
        }
        let address = site.pooler_address(u8::try_from(n).context("too many poolers")?);
        Ok(Contender { name: name.clone(), workers, version, binary, address })
    }

    /// For people: the name and, where it is set, the number of workers.
    pub(super) fn label(&self) -> String {
        match self.workers {
            None => self.name.clone(),
            Some(1) => format!("{}, 1 worker", self.name),
            Some(n) => format!("{}, {n} workers", self.name),
        }
    }

    /// Why it can't take part in a scenario.
    pub(super) fn excuse(&self, scenario: &Scenario) -> Option<String> {
        let asked = scenario.mode == Mode::Transaction && scenario.protocol == Protocol::Prepared;
        (asked && !self.prepares()).then(|| format!("{} has no prepared statements in transaction mode", self.version))
    }

    fn prepares(&self) -> bool {
        pgbouncer_version(&self.version).is_none_or(|v| v >= PREPARES)
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, PORT)
    }

    /// Starts it for a scenario and waits until it listens.
    pub(super) async fn start(
        &self,
        site: &Site,
        server: &Server,
        secrets: &Secrets,
        scenario: &Scenario,
    ) -> Result<Running> {
        let directory = site.server_directory("pooler")?;
        let file = directory.join("pgbouncer.ini");
        fs::write(&file, self.configuration(&directory, server.address, scenario)).context("write a pooler's file")?;
        let secret = match scenario.auth {
            Auth::Md5 => &secrets.md5,
            Auth::Scram => &secrets.scram,
        };
        fs::write(directory.join("userlist.txt"), format!("\"postgres\" \"{secret}\"\n"))
            .context("write a user list")?;
        let output = fs::File::create(directory.join("output")).context("create a pooler's log")?;
        // Quiet, else each log line would be written twice: to the log file and to standard error.
        let mut command = site.server_command(&self.binary);
        command.arg("-q").arg(&file).stdout(output.try_clone().context("use a pooler's log")?).stderr(output);
        let child = command.spawn().with_context(|| format!("start {}", self.name))?;
        let pid = child.id().and_then(|p| i32::try_from(p).ok()).context("read a pooler's process number")?;
        let mut running = Running { pid, directory, child };
        let address = self.address();
        let listening = || {
            let ended = running.child.try_wait();
            async move {
                if let Some(status) = ended.context("look at a pooler")? {
                    return Ok(Some(Err(status)));
                }
                TcpStream::connect(address).await.context("connect")?;
                Ok(Some(Ok(())))
            }
        };
        match wait_until("the pooler listens", PATIENCE, listening).await {
            Ok(Ok(())) => Ok(running),
            Ok(Err(status)) => bail!("{} ended as soon as it was started: {status}{}", self.name, running.last_words()),
            Err(e) => Err(e.context(format!("start {}{}", self.name, running.last_words()))),
        }
    }

    /// The seed's file with other paths, and the sizes that the scenario needs.
    fn configuration(&self, directory: &Path, server: Ipv4Addr, scenario: &Scenario) -> String {
        let directory = directory.display();
        let mut text = format!(
            "[databases]\n* = host={server} port=5432\n\n[users]\n\n[pgbouncer]\nlogfile = {directory}/log\n\
             pidfile = {directory}/pid\nlisten_addr = {}\nlisten_port = {PORT}\nunix_socket_dir = {directory}\n\
             auth_type = {}\nauth_file = {directory}/userlist.txt\nadmin_users = postgres\nstats_users = stats, postgres\n\
             pool_mode = {}\ndefault_pool_size = {}\nmax_client_conn = 10500\n",
            self.address,
            scenario.auth.setting(),
            scenario.mode.name(),
            scenario.pool(),
        );
        if self.prepares() {
            text.push_str("max_prepared_statements = 200\n");
        }
        if let Some(workers) = self.workers {
            let _ = writeln!(text, "workers = {workers}");
        }
        text
    }
}

/// Version of a pgbouncer, `None` for any other program.
fn pgbouncer_version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.strip_prefix("PgBouncer ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A pooler that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: i32,
    directory: PathBuf,
    child: Child,
}

impl Running {
    /// Ends it. A pooler that has ended by itself, or doesn't end, is an error.
    pub(super) async fn stop(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("look at a pooler")? {
            bail!("the pooler has ended by itself: {status}{}", self.last_words());
        }
        if let Some(identity) = Identity::of(self.pid) {
            identity.signal(Signal::TERM);
        }
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.context("wait for a pooler").map(drop),
            Err(_) => {
                self.child.kill().await.context("kill a pooler")?;
                bail!("the pooler didn't end within {} s of SIGTERM{}", PATIENCE.as_secs(), self.last_words())
            }
        }
    }

    /// What it complained of last, as the end of a sentence.
    pub(super) fn last_words(&self) -> String {
        let read = |file: &str| {
            let bytes = fs::read(self.directory.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (output, log) = (read("output"), read("log"));
        let complaint = |l: &&str| ["ERROR", "FATAL", "WARNING"].iter().any(|level| l.contains(level));
        let lines: Vec<&str> = output.lines().chain(log.lines().filter(complaint)).collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].iter().map(|l| format!("\n    {l}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contender(version: &str, workers: Option<u32>) -> Contender {
        let (binary, address) = (PathBuf::from("/x"), Ipv4Addr::LOCALHOST);
        Contender { name: "x".to_owned(), workers, version: version.to_owned(), binary, address }
    }

    fn file(contender: &Contender) -> String {
        let scenario = super::super::scenario::all()[0];
        contender.configuration(Path::new("/d"), Ipv4Addr::LOCALHOST, &scenario)
    }

    #[test]
    fn the_files_differ_in_what_a_program_does_not_know_only() {
        let new = file(&contender("PgBouncer 1.25.1", None));
        assert!(new.contains("pool_mode = session\ndefault_pool_size = 8\n"), "{new}");
        assert_eq!(file(&contender("other 0.1", None)), new);
        assert_eq!(file(&contender("other 0.1", Some(2))), format!("{new}workers = 2\n"));
        let old = file(&contender("PgBouncer 1.18.0", None));
        assert_eq!(format!("{old}max_prepared_statements = 200\n"), new);
    }

    #[test]
    fn an_old_pgbouncer_is_excused_from_prepared_statements_in_transactions_only() {
        let all = super::super::scenario::all();
        let excused = |version: &str| -> Vec<String> {
            all.iter().filter(|s| contender(version, None).excuse(s).is_some()).map(Scenario::name).collect()
        };
        assert_eq!(excused("PgBouncer 1.20.1").len(), 3);
        assert!(excused("PgBouncer 1.18.0").iter().all(|n| n.starts_with("transaction-prepared-")));
        assert!(excused("PgBouncer 1.21.0").is_empty() && excused("pgherd 0.1.0").is_empty());
    }

    #[test]
    fn names_on_the_command_line_are_plain_and_new() {
        assert_eq!(Named::parse("a-1.2=/x=y").unwrap().binary, PathBuf::from("/x=y"));
        for wrong in ["a", "=x", "a b=x", "pgherd=x"] {
            assert!(Named::parse(wrong).is_err(), "{wrong}");
        }
    }
}
