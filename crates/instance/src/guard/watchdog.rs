//! The kernel's watchdog device (Linux, Documentation/watchdog/watchdog-api.rst): it resets the machine when it isn't
//! fed. Which device, and when it is fed, is decided here; the guard holds it.
//!
//! It stands behind the guard: fed at each extension of the lease and at no other time, it resets a machine whose agent
//! and guard are both unable to end the primary, before the lease is over. After a fencing that left no process, and
//! when there is nothing to guard, it is switched off. For the guard to come first, choose kill deadlines earlier than
//! the lease's end by more than the safety margin.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use ha::Tick;
use rustix::fs::OFlags;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use serde::{Deserialize, Serialize};

/// `WDIOC_SETTIMEOUT`, linux/watchdog.h: the time-out in seconds goes in, the one in force comes out.
const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);

/// `watchdog.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// No device is used.
    Off,
    /// A device is used if there is one.
    #[default]
    Automatic,
    /// No leader without a working device.
    Required,
}

/// A device and its times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Such as `/dev/watchdog`. A FIFO is allowed, for testing: it gets the same bytes and no ioctl.
    pub device: PathBuf,
    /// How long after it was last fed the device resets the machine.
    pub timeout: Duration,
    /// How long after the guard's kill deadline the lease ends. The device must have reset the machine by then.
    pub grace: Duration,
    /// Refuse to arm when the device doesn't work.
    pub required: bool,
}

impl Config {
    /// From the settings `watchdog.mode`, `watchdog.device` and `watchdog.safety_margin` (seconds; -1 gives a time-out
    /// of half the ttl). `grace` is the lease's end minus the kill deadline. `None` when no device is wanted.
    pub fn new(mode: Mode, device: PathBuf, ttl: Duration, safety_margin: i64, grace: Duration) -> Option<Config> {
        if mode == Mode::Off {
            return None;
        }
        let timeout = match u64::try_from(safety_margin) {
            Ok(margin) => ttl.saturating_sub(Duration::from_secs(margin)),
            Err(_) => ttl / 2,
        };
        Some(Config { device, timeout, grace, required: mode == Mode::Required })
    }

    /// The time-out in whole seconds to set at `now`, so that the machine is reset before the lease ends: `now` +
    /// time-out <= `deadline` + grace. Zero when there is not a second left.
    fn seconds(&self, now: Tick, deadline: Tick) -> i32 {
        let left = (deadline + self.grace).since(now);
        i32::try_from(self.timeout.min(left).as_secs()).unwrap_or(i32::MAX)
    }
}

/// An open device, ticking.
#[derive(Debug)]
pub(super) struct Watchdog {
    config: Config,
    file: File,
    is_fifo: bool,
    seconds: i32,
}

impl Watchdog {
    /// Opens the device, which starts it, and feeds it for a lease whose kill deadline is `deadline`.
    pub(super) fn open(config: Config, now: Tick, deadline: Tick) -> Result<Watchdog, String> {
        let name = config.device.display().to_string();
        // Not blocking matters for a FIFO: without a reader it fails, and a full one takes no more.
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(nonblock)
            .open(&config.device)
            .map_err(|e| format!("open watchdog device {name}: {e}"))?;
        let kind = file.metadata().map_err(|e| format!("look at watchdog device {name}: {e}"))?.file_type();
        if !kind.is_fifo() && !kind.is_char_device() {
            return Err(format!("{name} is neither a watchdog device nor a FIFO"));
        }
        let mut watchdog = Watchdog { config, file, is_fifo: kind.is_fifo(), seconds: 0 };
        match watchdog.feed(now, deadline) {
            Ok(()) => Ok(watchdog),
            Err(e) => {
                watchdog.close();
                Err(format!("use watchdog device {name}: {e}"))
            }
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Puts the reset off, never beyond the end of the lease. When no whole second is left of the lease, the device
    /// keeps the earlier time that it has.
    pub(super) fn feed(&mut self, now: Tick, deadline: Tick) -> Result<(), String> {
        let seconds = self.config.seconds(now, deadline);
        if seconds == 0 {
            return Ok(());
        }
        if seconds != self.seconds && !self.is_fifo {
            let in_force = self.set_timeout(seconds)?;
            if in_force > seconds {
                return Err(format!("the device takes no time-out below {in_force} s, {seconds} s are needed"));
            }
        }
        self.seconds = seconds;
        self.file.write_all(b"1").map_err(|e| e.to_string())
    }

    fn set_timeout(&self, seconds: i32) -> Result<i32, String> {
        let mut value = seconds;
        // SAFETY: WDIOC_SETTIMEOUT is _IOWR('W', 6, int): it reads and writes one C int, which i32 is on Linux, and
        // `value` outlives the call. A driver that isn't a watchdog's answers ENOTTY.
        #[allow(unsafe_code)]
        unsafe { ioctl(&self.file, Updater::<SET_TIMEOUT, i32>::new(&mut value)) }.map_err(|e| e.to_string())?;
        Ok(value)
    }

    /// Switches the device off: the letter V before closing says that this is no accident. A driver built with
    /// `nowayout` goes on nevertheless.
    pub(super) fn close(mut self) {
        // If it can't be written the device stays on, the safe side.
        let _ = self.file.write_all(b"V");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn config(timeout: u64, grace: u64) -> Config {
        let seconds = Duration::from_secs;
        Config { device: "/nowhere".into(), timeout: seconds(timeout), grace: seconds(grace), required: false }
    }

    #[test]
    fn settings_give_a_timeout() {
        let ttl = Duration::from_secs(30);
        let timeout = |mode, margin| Config::new(mode, "/dev/watchdog".into(), ttl, margin, ttl).map(|c| c.timeout);
        assert_eq!(timeout(Mode::Off, 5), None);
        assert_eq!(timeout(Mode::Automatic, 5), Some(Duration::from_secs(25)));
        assert_eq!(timeout(Mode::Required, -1), Some(Duration::from_secs(15)));
    }

    #[test]
    fn the_machine_is_reset_before_the_lease_ends() {
        let (now, deadline) = (Tick::from_millis(100_000), Tick::from_millis(120_500));
        assert_eq!(config(25, 9).seconds(now, deadline), 25);
        assert_eq!(config(25, 2).seconds(now, deadline), 22, "rounded down");
        assert_eq!(config(25, 0).seconds(now, now), 0);
    }

    #[test]
    fn a_fifo_gets_food_and_the_magic_letter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dog");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (now, deadline) = (Tick::from_millis(0), Tick::from_millis(30_000));
        let config = Config { device: path, ..config(25, 0) };
        let mut dog = Watchdog::open(config, now, deadline).unwrap();
        dog.feed(now, deadline).unwrap();
        dog.feed(deadline, deadline).unwrap();
        dog.close();
        let mut bytes = [0; 3];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"11V", "not fed once the deadline has come");
    }

    #[test]
    fn a_file_is_no_watchdog() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = Config { device: file.path().into(), ..config(25, 0) };
        assert!(Watchdog::open(config, Tick(0), Tick::NEVER).is_err());
        assert_eq!(std::fs::read(file.path()).unwrap(), b"", "nothing was written to it");
    }
}
