//! Noticing other work on the machine, in the pauses between runs, when ours does nothing.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long the processors are watched.
const LOOK: Duration = Duration::from_millis(150);

/// The machine is quiet while its processors are busy for less than this part of the time.
const QUIET: f64 = 0.1;

/// Waits at most this long until nothing else runs. Returns whether that came about.
pub(super) async fn wait(patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let before = ticks()?;
        tokio::time::sleep(LOOK).await;
        if busy(before, ticks()?) < QUIET {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// Ticks of all processors since boot: busy, and altogether.
fn ticks() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    parse(&text).context("read /proc/stat")
}

/// The first line (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal, and guests' time, which is in user's.
fn parse(text: &str) -> Option<(u64, u64)> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let numbers: Vec<u64> = fields.map(|f| f.parse().ok()).collect::<Option<_>>()?;
    let idle = numbers.get(3)? + numbers.get(4)?;
    let all: u64 = numbers.iter().sum();
    Some((all - idle, all))
}

fn busy(before: (u64, u64), after: (u64, u64)) -> f64 {
    let all = after.1.saturating_sub(before.1);
    if all == 0 { 0.0 } else { after.0.saturating_sub(before.0) as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_the_disk_is_not_work_and_stolen_time_is() {
        let before = parse("cpu  10 0 10 100 5 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n").unwrap();
        let after = parse("cpu  12 1 12 120 35 0 0 5 9 9\n").unwrap();
        assert_eq!((before, after), ((20, 125), (30, 185)));
        assert!((busy(before, after) - 1.0 / 6.0).abs() < 1e-9);
        assert_eq!(parse("intr 1 2 3"), None);
    }
}
