//! The thread that writes log lines, so that no caller ever waits for a slow disk or a stuck pipe. How lines look is
//! in `format`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

/// Lines that may wait. At some hundred bytes a line this is a bound of memory, not a target.
const QUEUE: usize = 4096;

/// What the writer is told.
pub(super) enum Message {
    /// A line with its newline.
    Line(String),
    /// Write elsewhere from now on.
    Switch(Box<dyn Write + Send>),
    /// Answer once everything before this is written.
    Flush(Sender<()>),
}

/// The callers' end.
#[derive(Clone)]
pub(super) struct Queue {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Starts the writer on `out`.
    pub(super) fn start(out: Box<dyn Write + Send>) -> io::Result<Queue> {
        let (sender, receiver) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = dropped.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || write(receiver, out, &count))?;
        Ok(Queue { sender, dropped })
    }

    /// Never waits: a line that finds no room is counted and lost.
    pub(super) fn line(&self, line: String) {
        if self.sender.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn switch(&self, out: Box<dyn Write + Send>) -> bool {
        self.sender.try_send(Message::Switch(out)).is_ok()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines so far are written, at most this long.
    pub(super) fn flush(&self, timeout: Duration) -> bool {
        let (sender, receiver) = std::sync::mpsc::channel();
        let deadline = std::time::Instant::now() + timeout;
        let mut message = Message::Flush(sender);
        loop {
            match self.sender.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if std::time::Instant::now() < deadline => {
                    message = back;
                    thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return false,
            }
        }
        receiver.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())).is_ok()
    }
}

fn write(receiver: Receiver<Message>, mut out: Box<dyn Write + Send>, dropped: &AtomicU64) {
    let mut told = 0;
    while let Ok(message) = receiver.recv() {
        match message {
            Message::Line(line) => {
                // An error has nowhere to be reported; the next line may succeed.
                let written = out.write_all(line.as_bytes()).and_then(|()| out.flush());
                let lost = dropped.load(Ordering::Relaxed);
                if written.is_ok() && lost > told {
                    let note =
                        format!("({} log lines before this were lost: the log wasn't read fast enough)\n", lost - told);
                    let _ = out.write_all(note.as_bytes());
                    told = lost;
                }
            }
            Message::Switch(new) => out = new,
            Message::Flush(done) => _ = done.send(()),
        }
    }
}

/// A log file that begins anew at a size and keeps some old ones (`x.log`, `x.log.1` the newest old one, ...).
pub(super) struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    keep: u32,
}

impl Rotating {
    pub(super) fn open(path: PathBuf, limit: u64, keep: u32) -> io::Result<Rotating> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Rotating { path, file, size, limit, keep })
    }

    fn numbered(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    }

    fn rotate(&mut self) -> io::Result<()> {
        for n in (1..self.keep).rev() {
            let _ = fs::rename(self.numbered(n), self.numbered(n + 1));
        }
        if self.keep > 0 {
            fs::rename(&self.path, self.numbered(1))?;
        }
        self.file = OpenOptions::new().create(true).write(true).truncate(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

impl Write for Rotating {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.size > 0 && self.size + line.len() as u64 > self.limit {
            // A full disk must not cost lines that still fit into the present file.
            let _ = self.rotate();
        }
        let n = self.file.write(line)?;
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
