//! What makes the guard run when the machine is in trouble: memory that isn't paged out, priority, and safety from
//! signals and the OOM killer. Each is best effort; what is refused comes back as words for the log.

use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit, setsid};

/// Does all of it, and returns what could not be done.
pub(super) fn harden() -> Vec<String> {
    // A session leader already, when started by hand with setsid: then there is nothing to do.
    let _ = setsid();
    raise_descriptor_limit();
    let steps = [
        ("lock memory", lock_memory().map_err(|e| e.to_string())),
        ("become a real-time process", become_realtime()),
        ("raise priority", setpriority_process(None, -20).map_err(|e| e.to_string())),
        ("exempt from the OOM killer", std::fs::write("/proc/self/oom_score_adj", "-1000").map_err(|e| e.to_string())),
    ];
    steps.into_iter().filter_map(|(what, result)| Some(format!("{what}: {}", result.err()?))).collect()
}

/// Every signal that can be held back is, and is read from the descriptor instead: none ends or stops the guard.
pub(super) fn hold_signals() -> nix::Result<SignalFd> {
    let all = SigSet::all();
    all.thread_block()?;
    SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Future memory is locked as well only where no limit applies: under a limit, later allocations would fail.
fn lock_memory() -> io::Result<()> {
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_ok() || getrlimit(Resource::Memlock) == unlimited {
        mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)
    } else {
        mlockall(MlockAllFlags::CURRENT)
    }
}

/// A pidfd is needed for every process of the instance.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Fencing works without pidfds too, if this is refused.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Runs before every ordinary process, however busy the machine is.
#[allow(unsafe_code)]
fn become_realtime() -> Result<(), String> {
    // Of sched_param the kernel knows this field alone (sched_setscheduler(2)). The system call itself, because musl's
    // function of that name refuses.
    let priority: libc::c_int = 1;
    // SAFETY: pid 0 is the calling thread, and `priority` lives through the call, which only reads it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &raw const priority) };
    if result == 0 { Ok(()) } else { Err(nix::errno::Errno::last().desc().to_owned()) }
}
