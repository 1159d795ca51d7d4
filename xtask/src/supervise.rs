//! Running work that starts processes so that none of them outlives it, whatever happens to it.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::process::{self, Identity};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// Environment variable that every process started during the work inherits: this process's number and start.
const MARK: &str = "XTASK_RUN";

/// How long processes may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(15);

/// Does the work; SIGINT, SIGTERM and SIGHUP end it early. Then ends every process it left. Returns the work's result and
/// a line for each such process.
pub(crate) fn run<T>(work: impl Future<Output = Result<T>>) -> Result<(Result<T>, Vec<String>)> {
    nix::sys::prctl::set_child_subreaper(true).context("adopt orphans")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = work => result,
            name = interruption() => Err(anyhow::anyhow!("interrupted by {}", name?)),
        }
    });
    runtime.shutdown_background();
    Ok((result, end_leftovers()))
}

/// The variable for commands that are started in the work.
pub(crate) fn mark() -> (&'static str, String) {
    (MARK, std::process::id().to_string())
}

async fn interruption() -> Result<&'static str> {
    let mut signals =
        [(SignalKind::interrupt(), "SIGINT"), (SignalKind::terminate(), "SIGTERM"), (SignalKind::hangup(), "SIGHUP")]
            .map(|(kind, name)| (signal(kind), name));
    let [int, term, hup] = &mut signals;
    let (Ok(i), Ok(t), Ok(h)) = (&mut int.0, &mut term.0, &mut hup.0) else { bail!("can't wait for signals") };
    Ok(tokio::select! {
        _ = i.recv() => int.1,
        _ = t.recv() => term.1,
        _ = h.recv() => hup.1,
    })
}

fn end_leftovers() -> Vec<String> {
    let found = leftovers();
    let lines: Vec<String> = found.iter().map(|i| process::describe(i.pid)).collect();
    for identity in &found {
        identity.signal(Signal::TERM);
        identity.signal(Signal::CONT);
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    for identity in found {
        identity.wait_gone(deadline.saturating_duration_since(std::time::Instant::now()));
    }
    // Killing one may bring up another that it had started.
    for _ in 0..20 {
        let left = leftovers();
        if left.is_empty() {
            break;
        }
        for identity in left {
            identity.signal(Signal::KILL);
            identity.wait_gone(Duration::from_secs(5));
        }
    }
    lines
}

fn leftovers() -> Vec<Identity> {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let mut found = process::descendants(me);
    let (name, value) = mark();
    let marked = |i: &Identity| i.pid != me && process::variable(i.pid, name).as_deref() == Some(&value);
    found.extend(process::all().into_iter().filter(marked));
    found.sort_by_key(|i| i.pid);
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_hides_is_ended_and_told() {
        let (result, left) = run(async {
            let (name, value) = mark();
            let mut command = tokio::process::Command::new("sh");
            command.args(["-c", "setsid sleep 77 & exit 3"]).env(name, value);
            Ok(command.status().await?.code())
        })
        .unwrap();
        assert_eq!(result.unwrap(), Some(3));
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(left[0].ends_with("sleep 77"));
        assert!(leftovers().is_empty());
    }
}
