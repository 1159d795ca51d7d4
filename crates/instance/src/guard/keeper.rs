//! The guard's acts: it keeps the state, the timer, the watchdog and the instance together, answers requests and kills.
//! Which requests a state accepts is in `state`; sockets and the loop are in `server`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha::{Term, Tick};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::log::Log;
use super::now;
use super::protocol::{Report, Request, State};
use super::watchdog::{self, Watchdog};
use crate::fence::Instance;

/// How long one fencing may keep the guard from answering. What is left is tried again.
const FENCE_BUDGET: Duration = Duration::from_millis(300);
/// Between two looks for new processes of a fenced instance that the agent doesn't know to be fenced: less than
/// PostgreSQL needs to start up and take writes.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// Between two attempts at processes that SIGKILL didn't end.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct Keeper {
    version: String,
    data_dir: PathBuf,
    instance: Instance,
    /// The postmaster as the agent named it; adopted as soon as it is in the data directory.
    postmaster: Option<u32>,
    state: State,
    left: Vec<u32>,
    watchdog: Option<Watchdog>,
    trouble: Option<String>,
    timer: OwnedFd,
    pub(super) log: Log,
}

impl Keeper {
    pub(super) fn new(version: String, data_dir: &Path, log: Log) -> std::io::Result<Keeper> {
        Ok(Keeper {
            version,
            data_dir: data_dir.to_owned(),
            instance: Instance::at(data_dir),
            postmaster: None,
            state: State::Idle,
            left: Vec::new(),
            watchdog: None,
            trouble: None,
            timer: timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
            log,
        })
    }

    /// Becomes readable at the deadline.
    pub(super) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Whether there is something to guard, or to go on killing.
    pub(super) fn is_needed(&self) -> bool {
        matches!(self.state, State::Armed { .. }) || self.watch_interval().is_some()
    }

    /// Whether leaving is harmless once no client is there: an agent that is gone starts nothing.
    pub(super) fn may_leave_alone(&self) -> bool {
        !matches!(self.state, State::Armed { .. }) && self.left.is_empty()
    }

    /// How soon [`Keeper::turn`] must be called again, if no deadline calls for it.
    pub(super) fn watch_interval(&self) -> Option<Duration> {
        match (self.state.is_unsettled(), self.left.is_empty()) {
            (true, _) => Some(WATCH_INTERVAL),
            (false, false) => Some(RETRY_INTERVAL),
            (false, true) => None,
        }
    }

    /// Does what time demands.
    pub(super) fn turn(&mut self) {
        let now = now();
        if let Some(deadline) = self.state.deadline().filter(|_| self.state.is_due(now)) {
            let late = now.since(deadline);
            self.fence(&format!("the deadline passed {:.3} ms ago", late.as_secs_f64() * 1e3));
        } else if self.watch_interval().is_some() {
            self.fence_again();
        }
    }

    /// Writes the log where that can't delay a kill.
    pub(super) fn flush_log(&mut self) {
        let may_block = !self.is_needed();
        self.log.flush(may_block);
    }

    pub(super) fn report(&self) -> Report {
        Report {
            version: self.version.clone(),
            pid: std::process::id(),
            state: self.state,
            left: self.left.clone(),
            postmaster: self.postmaster,
            watchdog: self.watchdog.as_ref().map(|w| w.config().clone()),
            trouble: self.trouble.clone(),
        }
    }

    /// Continues where another guard stood.
    pub(super) fn continue_from(&mut self, other: &Report) {
        self.set(other.state);
        self.left.clone_from(&other.left);
        if let Some(pid) = other.postmaster {
            self.name_postmaster(pid);
        }
    }

    /// Opens the watchdog device that another guard has just let go.
    pub(super) fn continue_watchdog(&mut self, other: &Report) {
        if let (Some(config), Some(deadline)) = (&other.watchdog, self.state.deadline()) {
            self.trouble = self.open_watchdog(config.clone(), deadline).err();
        }
    }

    /// Answers a request: `Err` says why it was refused. [`Request::Exit`] is only judged here.
    pub(super) fn handle(&mut self, request: Request) -> Result<(), String> {
        match request {
            Request::Status => Ok(()),
            Request::Arm { term, deadline, postmaster, watchdog } => self.arm(term, deadline, postmaster, watchdog),
            Request::Extend { term, deadline } => self.extend(term, deadline),
            Request::Postmaster { pid } => {
                may_kill(pid)?;
                self.name_postmaster(pid);
                Ok(())
            }
            Request::FenceNow => {
                self.fence("it was ordered");
                Ok(())
            }
            Request::Disarm => {
                self.set(self.state.disarm());
                self.close_watchdog();
                self.log.info("disarmed");
                Ok(())
            }
            Request::Exit { hand_over } if hand_over || !self.is_needed() => Ok(()),
            Request::Exit { .. } if self.instance.processes().is_empty() => Ok(()),
            Request::Exit { .. } => Err("there is an instance to guard".to_owned()),
        }
    }

    fn arm(
        &mut self,
        term: Term,
        deadline: Tick,
        postmaster: Option<u32>,
        watchdog: Option<watchdog::Config>,
    ) -> Result<(), String> {
        let next = self.state.arm(term, deadline)?;
        if !self.left.is_empty() {
            return Err(format!("processes of the fenced instance are still there: {:?}", self.left));
        }
        if let Some(pid) = postmaster {
            may_kill(pid)?;
        }
        if !matches!(self.state, State::Armed { .. }) {
            // The directory may have come into being since. While armed, its storage is not touched.
            self.instance = Instance::at(&self.data_dir);
            self.postmaster = None;
        }
        if let Some(pid) = postmaster {
            self.name_postmaster(pid);
        }
        if self.watchdog.as_ref().map(Watchdog::config) != watchdog.as_ref() {
            self.close_watchdog();
        }
        self.trouble = None;
        if let Some(config) = watchdog.filter(|_| self.watchdog.is_none()) {
            let required = config.required;
            if !required && !config.device.exists() {
                self.log.info(format_args!("there is no watchdog device {}", config.device.display()));
            } else if let Err(e) = self.open_watchdog(config, deadline) {
                if required {
                    return Err(e);
                }
                self.log.warn(&e);
                self.trouble = Some(e);
            }
        } else {
            self.feed_watchdog(deadline);
        }
        self.set(next);
        self.log.info(format_args!("armed for term {} until {deadline}", term.revision));
        self.turn();
        Ok(())
    }

    fn extend(&mut self, term: Term, deadline: Tick) -> Result<(), String> {
        self.set(self.state.extend(term, deadline)?);
        if let Some(deadline) = self.state.deadline() {
            self.feed_watchdog(deadline);
        }
        self.adopt_postmaster();
        self.turn();
        Ok(())
    }

    /// The state and the timer always go together.
    fn set(&mut self, state: State) {
        self.state = state;
        // Zero would switch the timer off.
        let nanos = state.deadline().map_or(0, |tick| tick.0.max(1));
        let value = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: (nanos / 1_000_000_000).cast_signed(),
                tv_nsec: (nanos % 1_000_000_000).cast_signed(),
            },
        };
        if let Err(e) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value) {
            self.log.error(format_args!("set timer: {e}"));
        }
    }

    fn fence(&mut self, why: &str) {
        self.set(self.state.fence());
        self.adopt_postmaster();
        let outcome = self.instance.fence(FENCE_BUDGET);
        let took = outcome.took.as_secs_f64() * 1e3;
        self.log.warn(format_args!("fenced, because {why}: {} processes gone in {took:.1} ms", outcome.killed));
        self.after_fencing(outcome.left);
    }

    /// Ends what came into being after the fencing, and what survived it.
    fn fence_again(&mut self) {
        self.adopt_postmaster();
        let outcome = self.instance.fence(FENCE_BUDGET);
        if outcome.killed > 0 {
            self.log.warn(format_args!("fenced {} more processes", outcome.killed));
        }
        self.after_fencing(outcome.left);
    }

    fn after_fencing(&mut self, left: Vec<u32>) {
        if left.is_empty() {
            self.close_watchdog();
        } else if left != self.left {
            self.log.error(format_args!("processes that SIGKILL doesn't end: {left:?}"));
        }
        self.left = left;
    }

    fn name_postmaster(&mut self, pid: u32) {
        self.postmaster = Some(pid);
        self.adopt_postmaster();
    }

    fn adopt_postmaster(&mut self) {
        if let Some(pid) = self.postmaster.filter(|pid| self.instance.postmaster() != Some(*pid)) {
            self.instance.adopt(pid);
        }
    }

    fn open_watchdog(&mut self, config: watchdog::Config, deadline: Tick) -> Result<(), String> {
        self.watchdog = Some(Watchdog::open(config, now(), deadline)?);
        Ok(())
    }

    fn feed_watchdog(&mut self, deadline: Tick) {
        if let Some(Err(e)) = self.watchdog.as_mut().map(|w| w.feed(now(), deadline)) {
            self.log.error(format_args!("feed the watchdog: {e}"));
            self.trouble = Some(e);
        }
    }

    fn close_watchdog(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.close();
        }
    }
}

/// Refuses to guard what this process has no right to kill.
fn may_kill(pid: u32) -> Result<(), String> {
    let Some(raw) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Err(format!("{pid} is no process id"));
    };
    match rustix::process::test_kill_process(raw) {
        Err(Errno::PERM) => Err(format!("the guard may not kill process {pid}: it runs as another user")),
        _ => Ok(()),
    }
}
