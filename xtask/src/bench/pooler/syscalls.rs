//! Counting a pooler's system calls, by perf where the kernel lets us (it hardly slows the pooler), else by strace.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use harness::process::Identity;
use harness::programs;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::pgbench::Window;
use super::site::Site;
use crate::packages::{self, Need};

/// The kernel's event for the beginning of any system call.
const EVENT: &str = "raw_syscalls:sys_enter";

/// Longest wait for a program beyond the time it counts.
const PATIENCE: Duration = Duration::from_secs(20);

/// What counts.
#[derive(Debug, Clone)]
pub(super) enum Counter {
    Perf(PathBuf),
    Strace(PathBuf),
}

/// System calls per second, and when they were counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) per_second: f64,
    pub(super) window: Window,
}

impl Counter {
    /// perf if it may count, else strace, installed where it is missing.
    pub(super) async fn find(site: &Site) -> Result<Counter> {
        if let Some(perf) = programs::on_path("perf") {
            let counter = Counter::Perf(perf);
            if counter.counts(site).await? {
                return Ok(counter);
            }
        }
        packages::ensure(&[Need::Strace])?;
        Ok(Counter::Strace(programs::require("strace", "strace")?))
    }

    /// Whether it counts the system calls of this very process.
    async fn counts(&self, site: &Site) -> Result<bool> {
        let me = i32::try_from(std::process::id()).context("read the own process number")?;
        let calling = async {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            rate = self.rate(site, me, Duration::from_millis(50)) => Ok(rate.is_ok_and(|r| r.per_second > 0.0)),
            () = calling => Ok(false),
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Counter::Perf(_) => "perf stat",
            Counter::Strace(_) => "strace -c",
        }
    }

    /// Counts the system calls of a process for a time.
    pub(super) async fn rate(&self, site: &Site, pid: i32, time: Duration) -> Result<Rate> {
        match self {
            Counter::Perf(perf) => perf_rate(site, perf, pid, time).await,
            Counter::Strace(strace) => strace_rate(site, strace, pid, time).await,
        }
    }
}

async fn perf_rate(site: &Site, perf: &Path, pid: i32, time: Duration) -> Result<Rate> {
    let mut command = site.command(perf);
    // Readings come with their time: perf's own event for the duration counts it once for each thread.
    command.env("LC_ALL", "C").args(["stat", "-x,", "-I", "100", "-e", EVENT, "-p", &pid.to_string()]);
    command.args(["--", "sleep", &format!("{:.3}", time.as_secs_f64())]);
    let output = tokio::time::timeout(time + PATIENCE, command.output()).await.context("perf doesn't end")?;
    let (output, end) = (output.context("run perf")?, SystemTime::now());
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "perf: {}", text.trim());
    let (calls, seconds) = parse_perf(&text).with_context(|| format!("read perf's answer: {}", text.trim()))?;
    let begin = end - Duration::from_secs_f64(seconds);
    Ok(Rate { per_second: calls / seconds, window: Window { begin, end } })
}

/// Calls, and the seconds in which they were counted. Lines are `SECONDS,COUNT,UNIT,EVENT,...`, the time since the beginning
/// and the count since the line before. A process that slept all the time has `<not counted>`.
fn parse_perf(text: &str) -> Option<(f64, f64)> {
    let (mut calls, mut seconds) = (0.0, 0.0);
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split(',').collect();
        let [time, count, _, EVENT, ..] = fields[..] else { continue };
        calls += if count == "<not counted>" { 0.0 } else { count.parse::<f64>().ok()? };
        seconds = time.parse::<f64>().ok()?;
    }
    (seconds > 0.0).then_some((calls, seconds))
}

async fn strace_rate(site: &Site, strace: &Path, pid: i32, time: Duration) -> Result<Rate> {
    let file = site.log_directory()?;
    let path = file.path().join("calls");
    let mut command = site.command(strace);
    command.args(["-c", "-f", "-p", &pid.to_string(), "-o"]).arg(&path).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start strace")?;
    let tracer = child.id().and_then(|p| Identity::of(i32::try_from(p).ok()?)).context("strace ended at once")?;
    let mut said = BufReader::new(child.stderr.take().context("read from strace")?).lines();
    let attached = tokio::time::timeout(PATIENCE, said.next_line()).await.context("strace doesn't attach")?;
    match attached.context("read from strace")? {
        Some(line) if line.contains("attached") => {}
        other => bail!("strace: {}", other.unwrap_or_default()),
    }
    let (begin, began) = (SystemTime::now(), Instant::now());
    tokio::time::sleep(time).await;
    tracer.signal(Signal::INT);
    let (end, elapsed) = (SystemTime::now(), began.elapsed());
    tokio::time::timeout(PATIENCE, child.wait()).await.context("strace doesn't end")?.context("wait for strace")?;
    let text = std::fs::read_to_string(&path).context("read strace's table")?;
    let calls = parse_strace(&text).with_context(|| format!("read strace's table: {}", text.trim()))?;
    Ok(Rate { per_second: calls / elapsed.as_secs_f64(), window: Window { begin, end } })
}

/// The row `total`: share, seconds, microseconds a call, calls, errors where there were any.
fn parse_strace(text: &str) -> Option<f64> {
    let row = text.lines().rev().find(|l| l.ends_with(" total"))?;
    row.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_counts_over_the_time_of_its_last_reading() {
        let text = "     0.100,300,,raw_syscalls:sys_enter,1,100.00,,\n     0.200,<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n";
        assert_eq!(parse_perf(text), Some((300.0, 0.2)));
        assert_eq!(parse_perf(&text.replace("300", "<not supported>")), None);
        assert_eq!(parse_perf(""), None);
    }

    #[test]
    fn strace_totals_with_and_without_errors() {
        let head = "% time     seconds  usecs/call     calls    errors syscall\n";
        let with = format!("{head}100.00    0.000041           1        29         1 total\n");
        let without = format!("{head}100.00    0.000041           1        31           total\n");
        assert_eq!((parse_strace(&with), parse_strace(&without)), (Some(29.0), Some(31.0)));
        assert_eq!(parse_strace(head), None);
    }
}
