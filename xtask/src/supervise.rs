//! Running work that starts processes so that none of them outlives it, whatever happens to it. A task that does such work
//! runs as a child of itself: the parent adopts orphans, reads their exit status at once (PostgreSQL takes a zombie for a
//! living postmaster), and ends what is left when the child has gone in whatever way.

use std::future::Future;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use harness::process::{self, Identity};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// Environment variable that the work and every process it starts inherit: the number of the supervising process.
const MARK: &str = "XTASK_SUPERVISOR";

/// How long processes may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the work may take to clean up after SIGTERM.
const CLEANING: Duration = Duration::from_secs(60);

/// Runs this very command again as a supervised child and returns its exit code; `None` in that child, which has to do
/// the work. A task called by a supervised one isn't supervised once more.
pub(crate) fn parent() -> Result<Option<ExitCode>> {
    if supervisor().is_some() {
        return Ok(None);
    }
    nix::sys::prctl::set_child_subreaper(true).context("adopt orphans")?;
    let me = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(me);
    command.args(std::env::args_os().skip(1)).env(MARK, std::process::id().to_string());
    // In a group of its own: a Ctrl-C reaches it through this process, once.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let begun = SystemTime::now();
    let code = runtime.block_on(watch(command))?;
    end(|| process::descendants(me_pid()));
    reap();
    // What the work has found counts, not this.
    if let Err(e) = crate::shared_memory::remove_left(begun) {
        say!("shared memory of ended servers may be left: {e:#}");
    }
    Ok(Some(ExitCode::from(u8::try_from(code).unwrap_or(1))))
}

/// Starts the child and waits for it; passes on what tells this process to end.
async fn watch(mut command: Command) -> Result<i32> {
    let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(int), Ok(term), Ok(hup)] = &mut ends else { bail!("can't wait for signals") };
    let mut children = signal(SignalKind::child()).context("wait for children")?;
    let child = command.spawn().context("start the work")?;
    let pid = i32::try_from(child.id()).context("read a process number")?;
    let identity = Identity { pid, started: process::Stat::read(pid).map_or(0, |s| s.started) };
    let mut deadline = None;
    loop {
        tokio::select! {
            _ = children.recv() => {}
            () = any(int, term, hup) => {
                identity.signal(Signal::TERM);
                deadline.get_or_insert(Instant::now() + CLEANING);
            }
            // A signal for several children may come once.
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        if deadline.is_some_and(|d| Instant::now() > d) {
            identity.signal(Signal::KILL);
        }
        if let Some((_, code)) = reap().into_iter().find(|(p, _)| *p == pid) {
            return Ok(code);
        }
    }
}

async fn any(a: &mut Stream, b: &mut Stream, c: &mut Stream) {
    tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {} }
}

/// Reads the exit codes of all children that have ended.
fn reap() -> Vec<(i32, i32)> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended.push((pid.as_raw(), code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended.push((pid.as_raw(), 128 + signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return ended,
        }
    }
}

/// Does the work; SIGINT, SIGTERM and SIGHUP end it early, so that what it made is dropped. Then ends every process that
/// it left. Returns the work's result and a line for each such process.
pub(crate) fn run<T>(work: impl Future<Output = Result<T>>) -> Result<(Result<T>, Vec<String>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let result = runtime.block_on(async {
        let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        let [Ok(int), Ok(term), Ok(hup)] = &mut ends else { bail!("can't wait for signals") };
        tokio::select! {
            result = work => result,
            () = any(int, term, hup) => Err(anyhow::anyhow!("interrupted")),
        }
    });
    runtime.shutdown_background();
    Ok((result, end(leftovers)))
}

/// Process number of the supervisor, in supervised work.
fn supervisor() -> Option<i32> {
    std::env::var(MARK).ok()?.parse().ok()
}

fn me_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// Asks processes to end, then kills them. Returns a line for each.
fn end(find: impl Fn() -> Vec<Identity>) -> Vec<String> {
    let found = find();
    let lines: Vec<String> = found.iter().map(|i| process::describe(i.pid)).collect();
    for identity in &found {
        identity.signal(Signal::TERM);
        identity.signal(Signal::CONT);
    }
    let deadline = Instant::now() + PATIENCE;
    for identity in found {
        identity.wait_gone(deadline.saturating_duration_since(Instant::now()));
    }
    // Killing one may bring up another that it had started.
    for _ in 0..20 {
        let left = find();
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

/// Descendants of this process, orphans among them that the supervisor adopted: those carry its mark. A task called by a
/// supervised one can't tell the orphans from its caller's processes, and leaves them to its caller.
fn leftovers() -> Vec<Identity> {
    let me = me_pid();
    let mut found = process::descendants(me);
    if let Some(parent) = supervisor().filter(|p| process::Stat::read(me).is_some_and(|s| s.parent == *p)) {
        found.extend(process::descendants(parent).into_iter().filter(|i| i.pid != me));
    }
    found.sort_by_key(|i| i.pid);
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_the_work_leaves_are_ended_and_told() {
        let (result, left) = run(async {
            let mut child = tokio::process::Command::new("sh").args(["-c", "sleep 77 & wait"]).spawn()?;
            while process::descendants(me_pid()).len() < 2 {
                ensure_running(&mut child)?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Neither awaited nor dropped, which would kill it.
            std::mem::forget(child);
            Ok(())
        })
        .unwrap();
        result.unwrap();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left.iter().any(|l| l.ends_with("sleep 77")), "{left:?}");
        assert!(leftovers().is_empty());
    }

    fn ensure_running(child: &mut tokio::process::Child) -> Result<()> {
        anyhow::ensure!(child.try_wait()?.is_none(), "the child has ended");
        Ok(())
    }
}
