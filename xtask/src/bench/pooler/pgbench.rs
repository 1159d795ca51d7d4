//! pgbench as the load: running it, and reading what happened within a window of time from its log.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use harness::sql;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader as AsyncBufReader};
use tokio::process::{Child, ChildStderr, Command};

use super::scenario::Scenario;
use super::server::DATABASE;
use super::site::Site;

/// pgbench's threads.
const THREADS: u32 = 2;

/// Longest time for connecting, and for ending, on top of the load's own.
const PATIENCE: Duration = Duration::from_secs(60);

/// The window ends so much before the load does.
const MARGIN: Duration = Duration::from_millis(150);

/// pgbench and whom it loads.
#[derive(Debug)]
pub(super) struct Pgbench<'a> {
    pub(super) site: &'a Site,
    pub(super) program: PathBuf,
}

impl Pgbench<'_> {
    fn command(&self, target: SocketAddrV4, scenario: &Scenario) -> Command {
        let mut command = self.site.command(&self.program);
        command.env("PGPASSWORD", sql::PASSWORD).args(["-n", "-S", "-M", scenario.protocol.name()]);
        command.args(["-c", &scenario.clients.to_string(), "-j", &THREADS.to_string()]);
        command.args(["-h", &target.ip().to_string(), "-p", &target.port().to_string(), "-U", "postgres"]);
        if scenario.reconnect {
            command.arg("-C");
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// A short load, so that whatever is done once has been done.
    pub(super) async fn warm(&self, target: SocketAddrV4, scenario: &Scenario) -> Result<()> {
        let mut command = self.command(target, scenario);
        let output = tokio::time::timeout(PATIENCE, command.args(["-t", "20", DATABASE]).output())
            .await
            .context("pgbench doesn't end")?
            .context("run pgbench")?;
        ensure!(output.status.success(), "pgbench: {}", last_line(&String::from_utf8_lossy(&output.stderr)));
        Ok(())
    }

    /// Starts a load that can be watched for so many seconds.
    pub(super) fn start(&self, target: SocketAddrV4, scenario: &Scenario, seconds: u64) -> Result<Load> {
        let logs = self.site.log_directory()?;
        let lasts = Duration::from_secs(seconds + 1);
        let mut command = self.command(target, scenario);
        command
            .args(["-T", &lasts.as_secs().to_string(), "-P", "1", "-l", "--log-prefix"])
            .arg(logs.path().join("log"));
        let mut child = command.arg(DATABASE).spawn().context("start pgbench")?;
        let stderr = child.stderr.take().context("read from pgbench")?;
        Ok(Load { child, stderr: AsyncBufReader::new(stderr), logs, lasts })
    }
}

/// A load under way.
#[derive(Debug)]
pub(super) struct Load {
    child: Child,
    stderr: AsyncBufReader<ChildStderr>,
    logs: TempDir,
    lasts: Duration,
}

/// A part of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) begin: SystemTime,
    pub(super) end: SystemTime,
}

/// What happened in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Traffic {
    pub(super) transactions: usize,
    pub(super) per_second: f64,
    pub(super) mean: Duration,
    pub(super) p99: Duration,
}

impl Load {
    /// Waits for the first second to pass after all clients have connected. Returns when the window should end.
    pub(super) async fn steady(&mut self) -> Result<Instant> {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let read = tokio::time::timeout(PATIENCE, self.stderr.read_line(&mut line));
            let bytes = read.await.context("pgbench gives no sign")?.context("read from pgbench")?;
            ensure!(bytes > 0, "pgbench: {}", last_line(&said));
            if let Some(passed) = progress(&line) {
                let left = self.lasts.saturating_sub(passed + MARGIN);
                ensure!(left > MARGIN, "pgbench reported its first second after {:.1} s", passed.as_secs_f64());
                return Ok(Instant::now() + left);
            }
            said.push_str(&line);
        }
    }

    /// Waits for its end and reads what happened in `window`.
    pub(super) async fn finish(mut self, window: Window) -> Result<Traffic> {
        let mut said = String::new();
        let limit = self.lasts + PATIENCE;
        let end = async {
            self.stderr.read_to_string(&mut said).await?;
            self.child.wait().await
        };
        let status = tokio::time::timeout(limit, end).await.context("pgbench doesn't end")?.context("run pgbench")?;
        ensure!(status.success(), "pgbench: {}", last_line(&said));
        let transactions = read_logs(self.logs.path())?;
        traffic(&transactions, window)
    }
}

/// The time since all clients have connected, of a line `progress: 1.0 s, ...`.
fn progress(line: &str) -> Option<Duration> {
    let (seconds, _) = line.strip_prefix("progress: ")?.split_once(" s,")?;
    Duration::try_from_secs_f64(seconds.parse().ok()?).ok()
}

/// The last line that isn't about progress.
fn last_line(text: &str) -> &str {
    text.lines().rev().find(|l| !l.starts_with("progress:") && !l.trim().is_empty()).unwrap_or("it ended early")
}

/// A transaction of the log, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Transaction {
    /// Since 1970.
    ended: u64,
    lasted: u64,
}

fn read_logs(directory: &Path) -> Result<Vec<Transaction>> {
    let mut transactions = Vec::new();
    for entry in std::fs::read_dir(directory).context("look for pgbench's logs")? {
        let file = File::open(entry.context("look for pgbench's logs")?.path()).context("open pgbench's log")?;
        for line in BufReader::new(file).lines() {
            let line = line.context("read pgbench's log")?;
            transactions.push(parse(&line).with_context(|| format!("read pgbench's log: {line}"))?);
        }
    }
    Ok(transactions)
}

/// A line: client, transaction, time, script, seconds and microseconds since 1970 (pgbench's page in PostgreSQL's manual,
/// "Per-Transaction Logging").
fn parse(line: &str) -> Option<Transaction> {
    let mut fields = line.split(' ').skip(2);
    let lasted = fields.next()?.parse().ok()?;
    let seconds: u64 = fields.nth(1)?.parse().ok()?;
    let micros: u64 = fields.next()?.parse().ok()?;
    Some(Transaction { ended: seconds * 1_000_000 + micros, lasted })
}

fn traffic(transactions: &[Transaction], window: Window) -> Result<Traffic> {
    let micros = |t: SystemTime| t.duration_since(UNIX_EPOCH).map(|d| d.as_micros());
    let (Ok(begin), Ok(end)) = (micros(window.begin), micros(window.end)) else { bail!("the clock is wrong") };
    let within = |t: &&Transaction| (begin..end).contains(&u128::from(t.ended));
    let mut lasted: Vec<u64> = transactions.iter().filter(within).map(|t| t.lasted).collect();
    ensure!(!lasted.is_empty(), "no transaction ended in the window that was measured");
    let last = transactions.iter().map(|t| u128::from(t.ended)).max().unwrap_or_default();
    ensure!(last + 100_000 >= end, "the load ended {:.1} s before the measurement", (end - last) as f64 / 1e6);
    lasted.sort_unstable();
    let count = lasted.len();
    let p99 = lasted[(count * 99).div_ceil(100) - 1];
    Ok(Traffic {
        transactions: count,
        per_second: count as f64 * 1e6 / (end - begin) as f64,
        mean: Duration::from_micros(lasted.iter().sum()) / u32::try_from(count).context("too many transactions")?,
        p99: Duration::from_micros(p99),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(begin: u64, end: u64) -> Window {
        let at = |s: u64| UNIX_EPOCH + Duration::from_secs(s);
        Window { begin: at(begin), end: at(end) }
    }

    #[test]
    fn log_lines_tell_when_a_transaction_ended_and_how_long_it_took() {
        assert_eq!(parse("3 17 250 0 1700000000 5"), Some(Transaction { ended: 1_700_000_000_000_005, lasted: 250 }));
        assert_eq!(parse("3 17 250 0 1700000000 5 40 0"), parse("3 17 250 0 1700000000 5"));
        assert_eq!(parse("3 17 failed 0 1700000000 5"), None);
    }

    #[test]
    fn only_what_ended_within_the_window_counts() {
        let at = |ended_ms: u64, lasted: u64| Transaction { ended: ended_ms * 1000, lasted };
        let mut all: Vec<Transaction> = (1..=200).map(|n| at(1000 + n, n)).collect();
        all.push(at(999, 1_000_000));
        all.push(at(3000, 1_000_000));
        let traffic = traffic(&all, window(1, 3)).unwrap();
        assert_eq!((traffic.transactions, traffic.per_second), (200, 100.0));
        assert_eq!(traffic.p99, Duration::from_micros(198));
        assert_eq!(traffic.mean.as_nanos(), 100_500);
    }

    #[test]
    fn a_load_that_ended_early_is_no_measurement() {
        let one = [Transaction { ended: 1_500_000, lasted: 1 }];
        assert!(traffic(&one, window(1, 3)).unwrap_err().to_string().contains("ended 1.5 s before"));
        assert!(traffic(&[], window(1, 3)).is_err());
    }

    #[test]
    fn progress_lines_tell_the_time() {
        assert_eq!(
            progress("progress: 1.5 s, 10.0 tps, lat 0.2 ms stddev 0.1, 0 failed\n"),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(progress("pgbench: error: x\n"), None);
    }

    #[test]
    fn complaints_are_found_among_progress_lines() {
        assert_eq!(last_line("pgbench: error: x\nprogress: 1.0 s\n"), "pgbench: error: x");
    }
}
