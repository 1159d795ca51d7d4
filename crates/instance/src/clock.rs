//! The one place that reads the clock for timing: CLOCK_BOOTTIME. What is done with the time is not here.

use ha::Tick;
use rustix::time::{ClockId, clock_gettime};

/// The present moment on CLOCK_BOOTTIME.
pub fn now() -> Tick {
    let t = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Tick(seconds * 1_000_000_000 + nanos)
}
