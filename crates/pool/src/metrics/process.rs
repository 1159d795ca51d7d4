//! What Linux tells of this process.

use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Resources of the process. What can't be found out is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Process {
    /// Processor time of all threads.
    pub(super) cpu: Duration,
    /// Start, as seconds since 1970.
    pub(super) began: f64,
    /// Memory in RAM, in bytes.
    pub(super) resident: Option<u64>,
    /// Address space, in bytes.
    pub(super) virt: Option<u64>,
    /// Most address space, in bytes; `None`: no limit.
    pub(super) virt_limit: Option<u64>,
    /// File descriptors in use.
    pub(super) fds: Option<u64>,
    /// Most file descriptors; `None`: no limit.
    pub(super) fds_limit: Option<u64>,
}

impl Process {
    /// This process, now.
    pub(super) fn now(began: SystemTime) -> Process {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Process {
            cpu: spent(ClockId::ProcessCPUTime),
            began: began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            resident: kibibytes(&status, "VmRSS:"),
            virt: kibibytes(&status, "VmSize:"),
            virt_limit: getrlimit(Resource::As).current,
            // The directory's own descriptor is among them while it's read.
            fds: std::fs::read_dir("/proc/self/fd").ok().map(|open| (open.count() as u64).saturating_sub(1)),
            fds_limit: getrlimit(Resource::Nofile).current,
        }
    }
}

/// Processor time of the thread that asks.
pub(super) fn thread_time() -> Duration {
    spent(ClockId::ThreadCPUTime)
}

fn spent(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// A line of `/proc/self/status` such as `VmRSS:  1234 kB`, in bytes.
fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_line_that_has_it() {
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmSize:\t  800 kB\nVmRSS:\t    7 kB\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(7 * 1024));
        assert_eq!(kibibytes(status, "VmSize:"), Some(800 * 1024));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_has_memory_descriptors_and_a_past() {
        let process = Process::now(SystemTime::now());
        assert!(process.resident > Some(1 << 16) && process.virt >= process.resident, "{process:?}");
        assert!(process.fds >= Some(3) && process.fds <= process.fds_limit.or(Some(u64::MAX)), "{process:?}");
        assert!(process.cpu > Duration::ZERO && process.cpu >= thread_time() && process.began > 1.7e9, "{process:?}");
    }
}
