//! The guard's log. It never blocks while there is something to guard: a full pipe loses lines, and lines for a regular
//! file, whose storage may hang, wait in memory until nothing is armed.

use std::collections::VecDeque;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::net::{SendFlags, send};

/// Lines kept while they can't be written.
const MAX_WAITING: usize = 256;

enum Sink {
    /// Regular: writing may block.
    Disk(File),
    /// A pipe or a terminal, not blocking.
    Stream(File),
    /// Such as systemd's journal.
    Socket(OwnedFd),
    Nowhere,
}

pub(super) struct Log {
    sink: Sink,
    waiting: VecDeque<String>,
}

impl Log {
    /// Logs to a file, or to stderr when none is given.
    pub(super) fn open(path: Option<&Path>) -> std::io::Result<Log> {
        let sink = match path {
            Some(path) => Sink::of_file(path)?,
            None => Sink::of_stderr(),
        };
        Ok(Log { sink, waiting: VecDeque::new() })
    }

    pub(super) fn info(&mut self, what: impl Display) {
        self.line("INFO", what);
    }

    pub(super) fn warn(&mut self, what: impl Display) {
        self.line("WARNING", what);
    }

    pub(super) fn error(&mut self, what: impl Display) {
        self.line("ERROR", what);
    }

    fn line(&mut self, level: &str, what: impl Display) {
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(format!("{} {level}: guard: {what}\n", timestamp()));
    }

    /// Writes what waits, as far as it can be done without blocking; where `may_block`, to a regular file too.
    pub(super) fn flush(&mut self, may_block: bool) {
        if matches!(self.sink, Sink::Disk(_)) && !may_block {
            return;
        }
        for line in self.waiting.drain(..) {
            let bytes = line.as_bytes();
            // A line that can't be written is lost: nobody could be told.
            match &mut self.sink {
                Sink::Disk(file) | Sink::Stream(file) => drop(file.write_all(bytes)),
                Sink::Socket(fd) => drop(send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)),
                Sink::Nowhere => {}
            }
        }
    }
}

impl Sink {
    fn of_file(path: &Path) -> std::io::Result<Sink> {
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(nonblock).open(path)?;
        let kind = file.metadata()?.file_type();
        let is_stream = kind.is_fifo() || kind.is_char_device();
        Ok(if is_stream { Sink::Stream(file) } else { Sink::Disk(file) })
    }

    /// Reopens stderr, because making the inherited descriptor non-blocking would change it for those who share it.
    fn of_stderr() -> Sink {
        let stderr = std::io::stderr();
        if let Ok(file) = Sink::of_file(Path::new("/proc/self/fd/2")) {
            return file;
        }
        match stderr.as_fd().try_clone_to_owned() {
            Ok(fd) => Sink::Socket(fd),
            Err(_) => Sink::Nowhere,
        }
    }
}

/// UTC, so that no time zone file is read.
fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S,%3f").to_string()
}
