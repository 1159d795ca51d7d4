//! What a process has used so far: CPU time and memory, from /proc and its CPU clock.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// CPU time since a process began, all its threads together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    total: Duration,
    user_ticks: u64,
    system_ticks: u64,
}

/// CPU time between two readings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) total: Duration,
    /// The part spent in the program itself, 0 to 1. Sampled by the kernel's tick, so coarser than the total.
    pub(crate) user_share: f64,
}

impl Cpu {
    pub(crate) fn read(pid: i32) -> Result<Cpu> {
        let context = || format!("read the CPU time of process {pid}");
        let clock = clock_getcpuclockid(Pid::from_raw(pid)).with_context(context)?;
        let total = Duration::from(clock_gettime(clock).with_context(context)?);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(context)?;
        let (user_ticks, system_ticks) = ticks(&stat).with_context(context)?;
        Ok(Cpu { total, user_ticks, system_ticks })
    }

    /// What was used since an earlier reading of the same process.
    pub(crate) fn since(self, earlier: Cpu) -> Spent {
        let user = (self.user_ticks - earlier.user_ticks) as f64;
        let system = (self.system_ticks - earlier.system_ticks) as f64;
        let sum = user + system;
        let user_share = if sum > 0.0 { user / sum } else { 0.0 };
        Spent { total: self.total.saturating_sub(earlier.total), user_share }
    }
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc(5)). The second field is the name in parentheses, which may hold anything.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The part that no other process shares.
    pub(crate) private: u64,
}

impl Memory {
    pub(crate) fn read(pid: i32) -> Result<Memory> {
        let context = || format!("read the memory of process {pid}");
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(context)?;
        Memory::parse(&text).with_context(context)
    }

    fn parse(rollup: &str) -> Option<Memory> {
        let bytes = |name: &str| {
            let line = rollup.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
        };
        Some(Memory { resident: bytes("Rss")?, private: bytes("Private_Clean")? + bytes("Private_Dirty")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_doesnt_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 2 0 0 0 31 12 0 0 20 0 1 0 99 0 0";
        assert_eq!(ticks(stat), Some((31, 12)));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_read_from_the_rollup() {
        let text = "0-1 ---p 00000000 00:00 0 [rollup]\nRss:   100 kB\nPss:  70 kB\nPrivate_Clean:  4 kB\nPrivate_Dirty:  8 kB\n";
        assert_eq!(Memory::parse(text), Some(Memory { resident: 102_400, private: 12_288 }));
        assert_eq!(Memory::parse("Rss: 100 kB\n"), None);
    }

    #[test]
    fn the_cpu_clock_counts_work_and_not_waiting() {
        let me = i32::try_from(std::process::id()).unwrap();
        let (start, before) = (std::time::Instant::now(), Cpu::read(me).unwrap());
        let mut n = 0_u64;
        while Cpu::read(me).unwrap().since(before).total < Duration::from_millis(20) {
            assert!(start.elapsed() < Duration::from_secs(20), "the clock stands still");
            n = std::hint::black_box(n.wrapping_mul(31) + 7);
        }
    }
}
