//! The guard's process: start, take-over from another guard, the socket and the loop. What it does when asked or when
//! time has come is in `keeper`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{SendFlags, send};
use rustix::process::{geteuid, umask};

use super::hardening;
use super::keeper::Keeper;
use super::log::Log;
use super::protocol::{MAX_LINE, Message, Reply, Report, Request};

/// Exit code when another guard serves the socket.
const BUSY: u8 = 2;
/// Exit code of wrong arguments (EX_USAGE).
const USAGE: u8 = 64;
/// Clients served at the same time; an agent needs one.
const MAX_CLIENTS: usize = 16;
/// How long the guard stays when nothing is armed and no client is there.
const LINGER: Duration = Duration::from_secs(10);
/// How long another guard may take to answer and to leave.
const TAKE_OVER: Duration = Duration::from_secs(2);

/// The arguments of `pgherd-agent guard`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// The Unix socket to serve. Its directory must be writable for its owner alone.
    pub socket: PathBuf,
    /// PostgreSQL's data directory.
    pub data_dir: PathBuf,
    /// Where to log; stderr when absent.
    pub log: Option<PathBuf>,
    /// Take the place of a guard that serves the socket already.
    pub take_over: bool,
    /// What to report as version.
    pub version: String,
}

impl Args {
    /// Parses `--socket S --data-dir D [--log F] [--take-over]`, what [`super::Client`] starts the program with after
    /// the word `guard`. The error is a sentence.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
        let (mut socket, mut data_dir, mut log, mut take_over) = (None, None, None, false);
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let place = match arg.to_str() {
                Some("--socket") => &mut socket,
                Some("--data-dir") => &mut data_dir,
                Some("--log") => &mut log,
                Some("--take-over") => {
                    take_over = true;
                    continue;
                }
                _ => return Err(format!("unknown argument {}", arg.display())),
            };
            let value = args.next().ok_or_else(|| format!("{} needs a value", arg.display()))?;
            *place = Some(PathBuf::from(value));
        }
        Ok(Args {
            socket: socket.ok_or("--socket is missing")?,
            data_dir: data_dir.ok_or("--data-dir is missing")?,
            log,
            take_over,
            version: super::VERSION.to_owned(),
        })
    }
}

/// The guard's main: serves until it isn't needed any more. Call it on the main thread of a process without other
/// threads.
pub fn run(args: &Args) -> ExitCode {
    match start(args) {
        Ok(Some(mut server)) => {
            server.serve();
            server.leave(&args.socket);
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::from(BUSY),
        Err((code, message)) => {
            if let Ok(mut log) = Log::open(args.log.as_deref()) {
                log.error(message);
                log.flush(true);
            }
            ExitCode::from(code)
        }
    }
}

/// `None` when another guard serves the socket.
fn start(args: &Args) -> Result<Option<Server>, (u8, String)> {
    let failed = |what: &str, e: &dyn std::fmt::Display| (1, format!("{what}: {e}"));
    let signals = hardening::hold_signals().map_err(|e| failed("hold signals", &e))?;
    umask(Mode::from_raw_mode(0o077));
    check_directory(&args.socket).map_err(|e| (USAGE, e))?;
    let mut log = Log::open(args.log.as_deref()).map_err(|e| failed("open log", &e))?;
    for refused in hardening::harden() {
        log.info(format_args!("not permitted: {refused}"));
    }
    let mut keeper = Keeper::new(args.version.clone(), &args.data_dir, log).map_err(|e| failed("create timer", &e))?;
    let lock = open_lock(&args.socket).map_err(|e| failed("open lock file", &e))?;
    if !try_lock(&lock).map_err(|e| failed("lock", &e))? {
        if !args.take_over {
            return Ok(None);
        }
        take_over(&mut keeper, &args.socket, &lock).map_err(|e| failed("take over from the other guard", &e))?;
    }
    // Whoever holds the lock is the only guard: a socket file that is there belongs to a dead one.
    let _ = std::fs::remove_file(&args.socket);
    let listener = UnixListener::bind(&args.socket).map_err(|e| failed("bind socket", &e))?;
    listener.set_nonblocking(true).map_err(|e| failed("bind socket", &e))?;
    keeper.log.info(format_args!("version {} guards {}", args.version, args.data_dir.display()));
    Ok(Some(Server { keeper, listener, signals, clients: Vec::new(), alone_since: Instant::now(), lock }))
}

/// Nobody else may be able to put a socket in the guard's place.
fn check_directory(socket: &Path) -> Result<(), String> {
    let dir = socket.parent().ok_or("the socket needs a directory")?;
    let meta = std::fs::metadata(dir).map_err(|e| format!("look at {}: {e}", dir.display()))?;
    let is_ours = meta.uid() == geteuid().as_raw() || meta.uid() == 0;
    if !is_ours || meta.mode() & 0o022 != 0 {
        return Err(format!("{} must be ours and writable for nobody else", dir.display()));
    }
    Ok(())
}

fn open_lock(socket: &Path) -> io::Result<File> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn try_lock(lock: &File) -> io::Result<bool> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Takes the other guard's deadline first, and only then lets it leave: at every moment one of the two holds it. If the
/// other one doesn't leave it still guards, and this one can go.
fn take_over(keeper: &mut Keeper, socket: &Path, lock: &File) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TAKE_OVER))?;
    stream.set_write_timeout(Some(TAKE_OVER))?;
    let report = ask(&mut stream, Request::Status)?;
    keeper.continue_from(&report);
    ask(&mut stream, Request::Exit { hand_over: true })?;
    let until = Instant::now() + TAKE_OVER;
    while !try_lock(lock)? {
        if Instant::now() > until {
            return Err(io::Error::new(ErrorKind::TimedOut, "it didn't leave"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    keeper.continue_watchdog(&report);
    Ok(())
}

fn ask(stream: &mut UnixStream, request: Request) -> io::Result<Report> {
    let mut line = serde_json::to_vec(&Message { id: 0, request })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE as u64)).read_line(&mut answer)?;
    let reply: Reply = serde_json::from_str(&answer)?;
    match reply.refused {
        None => Ok(reply.report),
        Some(why) => Err(io::Error::other(why)),
    }
}

struct Server {
    keeper: Keeper,
    listener: UnixListener,
    signals: SignalFd,
    clients: Vec<Client>,
    alone_since: Instant,
    lock: File,
}

struct Client {
    stream: UnixStream,
    received: Vec<u8>,
}

/// Whether the guard goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Stay,
    Leave,
}

impl Server {
    fn serve(&mut self) {
        loop {
            // Log lines are written when all work is done, just before waiting.
            self.keeper.flush_log();
            self.wait();
            self.accept();
            let next = self.read_clients();
            self.keeper.turn();
            if next == Next::Leave || self.is_told_to_leave() || self.is_forsaken() {
                return;
            }
        }
    }

    fn wait(&self) {
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.keeper.timer(), PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        fds.extend(self.clients.iter().map(|c| PollFd::new(&c.stream, PollFlags::IN)));
        let linger = (self.clients.is_empty() && self.keeper.may_leave_alone())
            .then(|| LINGER.saturating_sub(self.alone_since.elapsed()) + Duration::from_millis(1));
        let timeout = [self.keeper.watch_interval(), linger].into_iter().flatten().min();
        let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs().cast_signed(), tv_nsec: t.subsec_nanos().into() });
        // An error (EINTR, ENOMEM) is like a wake-up: everything is looked at anyway.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let ours = |fd: BorrowedFd<'_>| socket_peercred(fd).is_ok_and(|c| c.uid == geteuid() || c.uid.is_root());
            if ours(stream.as_fd()) && self.clients.len() < MAX_CLIENTS && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, received: Vec::new() });
            } else {
                self.keeper.log.warn("refused a connection: another user's, or too many");
            }
        }
    }

    fn read_clients(&mut self) -> Next {
        let mut next = Next::Stay;
        let keeper = &mut self.keeper;
        let before = self.clients.len();
        self.clients.retain_mut(|client| match client.serve(keeper) {
            Ok(n) => {
                if n == Next::Leave {
                    next = n;
                }
                true
            }
            Err(_) => false,
        });
        if self.clients.is_empty() && before > 0 {
            self.alone_since = Instant::now();
        }
        next
    }

    /// SIGTERM, SIGINT and SIGQUIT count when there is nothing to guard; other signals never do.
    fn is_told_to_leave(&mut self) -> bool {
        let mut told = false;
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
            if matches!(signal, Some(Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)) {
                if self.keeper.is_needed() {
                    self.keeper.log.warn("a signal to end was ignored: there is an instance to guard");
                } else {
                    told = true;
                }
            }
        }
        told
    }

    fn is_forsaken(&self) -> bool {
        self.clients.is_empty() && self.keeper.may_leave_alone() && self.alone_since.elapsed() >= LINGER
    }

    fn leave(mut self, socket: &Path) {
        self.keeper.log.info("leaves");
        // The lock is still held: this can't be another guard's socket.
        let _ = std::fs::remove_file(socket);
        // The log comes last, because a successor waits for the lock.
        drop(self.lock);
        self.keeper.log.flush(true);
    }
}

impl Client {
    /// Reads what has come, at most one buffer, and answers it. An error ends the connection.
    fn serve(&mut self, keeper: &mut Keeper) -> io::Result<Next> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.received.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(Next::Stay),
            Err(e) => return Err(e),
        }
        let mut next = Next::Stay;
        while let Some(end) = self.received.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            if self.answer(&line, keeper)? == Next::Leave {
                next = Next::Leave;
            }
        }
        if self.received.len() > MAX_LINE {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(next)
    }

    fn answer(&self, line: &[u8], keeper: &mut Keeper) -> io::Result<Next> {
        let message: Message = serde_json::from_slice(line)?;
        let leaves = matches!(message.request, Request::Exit { .. });
        let refused = keeper.handle(message.request).err();
        let next = if leaves && refused.is_none() { Next::Leave } else { Next::Stay };
        let mut reply = serde_json::to_vec(&Reply { id: message.id, refused, report: keeper.report() })?;
        reply.push(b'\n');
        let sent = send(&self.stream, &reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        // Once it has agreed to leave it must leave, whether or not the answer arrived.
        match sent {
            Ok(n) if n == reply.len() => Ok(next),
            _ if next == Next::Leave => Ok(next),
            _ => Err(ErrorKind::BrokenPipe.into()),
        }
    }
}
