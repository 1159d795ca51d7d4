//! Time as the decision core sees it: a reading of CLOCK_BOOTTIME passed in by the caller. Reads no clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on CLOCK_BOOTTIME, in nanoseconds since boot. It goes on counting while the machine is suspended, and no
/// administrator can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// A moment later than any other.
    pub const NEVER: Tick = Tick(u64::MAX);

    /// The moment this many milliseconds after boot.
    pub fn from_millis(ms: u64) -> Tick {
        Tick(ms * 1_000_000)
    }

    /// Time from `earlier` to this moment, zero when `earlier` is later.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved back by `d`, not before boot.
    pub fn before(self, d: Duration) -> Tick {
        Tick(self.0.saturating_sub(nanos(d)))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;
    fn add(self, d: Duration) -> Tick {
        Tick(self.0.saturating_add(nanos(d)))
    }
}

impl Sub<Tick> for Tick {
    type Output = Duration;
    fn sub(self, other: Tick) -> Duration {
        self.since(other)
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 / 1_000_000 % 1000)
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
