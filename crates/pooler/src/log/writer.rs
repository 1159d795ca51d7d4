//! Where lines go. A thread of its own writes them, several at once, so that no worker waits for a slow disk or a stuck
//! pipe; before it is started they're written at once.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::line::{Severity, Stamp};

/// Lines that wait, in bytes. What comes when there is no more room is counted and lost.
const ROOM: usize = 8 << 20;

/// How long lines are gathered. Under load this saves a system call and a change of threads for most lines.
const GATHER: Duration = Duration::from_millis(5);

/// A buffer that has grown is kept up to this size.
const KEEP: usize = 64 << 10;

/// Takes lines from all threads.
#[derive(Clone, Default)]
pub(super) struct Writer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    queue: Mutex<Queue>,
    /// There is something to write.
    filled: Condvar,
    /// Something was written.
    emptied: Condvar,
    /// Held while writing, so that lines stay in order.
    outputs: Mutex<Outputs>,
}

#[derive(Default)]
struct Queue {
    lines: String,
    stamp: Stamp,
    lost: u64,
    running: bool,
    /// Somebody waits for the lines to be written.
    urgent: bool,
    /// Lines were taken out, and are being written.
    writing: bool,
    /// Where to write from the next lines on.
    change: Change,
}

#[derive(Default)]
struct Change {
    file: Option<Option<File>>,
    quiet: bool,
}

#[derive(Default)]
struct Outputs {
    file: Option<File>,
    quiet: bool,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(&self) -> io::Result<()> {
        let writer = self.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
        self.queue().running = true;
        Ok(())
    }

    /// Writes to this file from now on, or to none.
    pub(super) fn switch(&self, file: Option<File>) {
        self.change(|change| change.file = Some(file));
    }

    /// Writes no more to standard error.
    pub(super) fn quiet(&self) {
        self.change(|change| change.quiet = true);
    }

    /// The thread makes the change, as it may be stuck in writing.
    fn change(&self, change: impl FnOnce(&mut Change)) {
        let mut queue = self.queue();
        change(&mut queue.change);
        if queue.running {
            self.0.filled.notify_one();
        } else {
            let change = std::mem::take(&mut queue.change);
            drop(queue);
            self.outputs().apply(change);
        }
    }

    /// Adds a line.
    pub(super) fn line(&self, severity: Severity, text: &str) {
        let mut queue = self.queue();
        if queue.lines.len() + text.len() > ROOM {
            queue.lost += 1;
            return;
        }
        let first = queue.lines.is_empty();
        let Queue { lines, stamp, .. } = &mut *queue;
        stamp.line(lines, SystemTime::now(), severity, text);
        if !queue.running {
            let lines = std::mem::take(&mut queue.lines);
            drop(queue);
            self.outputs().write(&lines);
        } else if first {
            self.0.filled.notify_one();
        }
    }

    /// Waits until all lines so far are written, at most this long.
    pub(super) fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut queue = self.queue();
        while queue.running && (queue.writing || !queue.is_idle()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue.urgent = true;
            self.0.filled.notify_one();
            queue = self.0.emptied.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn run(&self) {
        let mut spare = String::new();
        loop {
            let (lines, change) = self.take(spare);
            let mut outputs = self.outputs();
            outputs.apply(change);
            outputs.write(&lines);
            drop(outputs);
            spare = lines;
            spare.clear();
            spare.shrink_to(KEEP);
            self.queue().writing = false;
            self.0.emptied.notify_all();
        }
    }

    /// Waits for something to do and takes it, leaving an empty buffer.
    fn take(&self, spare: String) -> (String, Change) {
        let wait = |queue| self.0.filled.wait_while(queue, |q: &mut Queue| q.is_idle());
        let queue = wait(self.queue()).unwrap_or_else(PoisonError::into_inner);
        let gather = |queue| self.0.filled.wait_timeout_while(queue, GATHER, |q: &mut Queue| !q.urgent);
        let mut queue = gather(queue).unwrap_or_else(PoisonError::into_inner).0;
        queue.urgent = false;
        queue.writing = true;
        let mut lines = std::mem::replace(&mut queue.lines, spare);
        let lost = std::mem::take(&mut queue.lost);
        if lost > 0 {
            let text = format!("{lost} lines before this were lost: the log couldn't be written fast enough");
            queue.stamp.line(&mut lines, SystemTime::now(), Severity::Warning, &text);
        }
        (lines, std::mem::take(&mut queue.change))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outputs(&self) -> MutexGuard<'_, Outputs> {
        self.0.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.lines.is_empty() && self.change.file.is_none() && !self.change.quiet
    }
}

impl Outputs {
    fn apply(&mut self, change: Change) {
        if let Some(file) = change.file {
            self.file = file;
        }
        self.quiet |= change.quiet;
    }

    /// An error has nowhere to be reported; the next lines may succeed.
    fn write(&mut self, lines: &str) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(lines.as_bytes());
        }
        if !self.quiet {
            let _ = io::stderr().write_all(lines.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn quiet(path: &Path) -> Writer {
        let writer = Writer::default();
        writer.quiet();
        writer.switch(Some(File::create(path).unwrap()));
        writer
    }

    fn texts(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split_once(" LOG ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_of_all_threads_are_written_each_once_and_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writer = quiet(&path);
        writer.line(Severity::Log, "at once");
        assert_eq!(texts(&path), ["at once"]);
        writer.start().unwrap();
        thread::scope(|scope| {
            for name in ["a", "b"] {
                let writer = &writer;
                scope.spawn(move || (0..2000).for_each(|n| writer.line(Severity::Log, &format!("{name} {n}"))));
            }
        });
        writer.flush(Duration::from_secs(20));
        let texts = texts(&path);
        assert_eq!(texts.len(), 4001);
        for name in ["a", "b"] {
            let of: Vec<&str> = texts.iter().filter_map(|t| t.strip_prefix(&format!("{name} "))).collect();
            assert!(of.iter().enumerate().all(|(n, text)| *text == n.to_string()), "{of:?}");
        }
    }

    #[test]
    fn a_file_that_was_moved_away_gets_no_more_lines_after_the_switch() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let writer = quiet(&path);
        writer.start().unwrap();
        writer.line(Severity::Log, "before");
        writer.flush(Duration::from_secs(20));
        fs::rename(&path, &moved).unwrap();
        writer.switch(Some(File::create(&path).unwrap()));
        writer.line(Severity::Log, "after");
        writer.flush(Duration::from_secs(20));
        assert_eq!((texts(&moved), texts(&path)), (vec!["before".to_owned()], vec!["after".to_owned()]));
    }

    #[test]
    fn a_reader_that_is_stuck_costs_lines_and_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Opened for both, so that it neither waits for a reader nor breaks; nobody reads.
        let file = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let writer = Writer::default();
        writer.quiet();
        writer.switch(Some(file.try_clone().unwrap()));
        writer.start().unwrap();
        let long = "x".repeat(1 << 20);
        writer.line(Severity::Log, &long);
        writer.flush(Duration::from_millis(10));
        (0..9).for_each(|_| writer.line(Severity::Log, &long));
        assert!(writer.queue().lost > 0);
    }
}
