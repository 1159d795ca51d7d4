//! Waiting on conditions with a deadline. No test sleeps to synchronise.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// Asks until `condition` yields a value. An error counts as "not yet"; the last one is told when `deadline` passes.
/// `what` completes the sentence "timed out waiting until ...".
pub async fn wait_until<T, F, Fut>(what: &str, deadline: Duration, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + deadline;
    let mut last = String::from("the condition did not hold");
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left.max(PERIOD), condition()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => {}
            Ok(Err(e)) => last = format!("{e:#}"),
            Err(_) => last = String::from("the condition took too long to evaluate"),
        }
        if Instant::now() >= end {
            return Err(anyhow!("timed out after {:.1} s waiting until {what}: {last}", deadline.as_secs_f64()));
        }
        tokio::time::sleep(PERIOD).await;
    }
}
