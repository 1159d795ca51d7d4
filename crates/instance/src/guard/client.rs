//! The agent's end: starts a guard, talks to it with short time-outs, notices its death. What the guard does is in
//! `server` and `keeper`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ha::{Term, Tick};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use super::protocol::{MAX_LINE, Message, Reply, Report, Request};
use super::watchdog;

/// How long a guard may take to answer.
const ANSWER: Duration = Duration::from_millis(500);
/// The same where it kills before it answers.
const FENCE_ANSWER: Duration = Duration::from_secs(3);
/// How long a new guard may take until it answers, or a killed one until it is gone.
const START: Duration = Duration::from_secs(5);
/// Between two looks whether a new guard answers yet.
const START_POLL: Duration = Duration::from_millis(5);
/// Between two looks whether a guard that closed its socket has ended altogether.
const END_POLL: Duration = Duration::from_millis(1);

/// How to reach a guard, and how to start one.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program that has the `guard` command.
    pub program: PathBuf,
    /// Arguments before `--socket`: `guard`.
    pub command: Vec<String>,
    /// The guard's Unix socket, in a directory writable for its owner alone (it is made if it isn't there). One of its
    /// own for each data directory.
    pub socket: PathBuf,
    /// PostgreSQL's data directory.
    pub data_dir: PathBuf,
    /// The guard's log file; it shares the agent's stderr when absent.
    pub log: Option<PathBuf>,
    /// The version a guard must have; another one is replaced without a gap.
    pub version: String,
}

impl Options {
    /// Options with the defaults of `pgherd-agent`.
    pub fn new(program: PathBuf, socket: PathBuf, data_dir: PathBuf) -> Options {
        Options {
            program,
            command: vec!["guard".to_owned()],
            socket,
            data_dir,
            log: None,
            version: super::VERSION.to_owned(),
        }
    }
}

/// Why a guard could not be used. With any of them, nothing must be assumed to be armed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is there, but doesn't answer in time: stopped, or starved. [`Client::replace`] is for this.
    #[error("the guard doesn't answer")]
    NoAnswer,
    /// It answered that it won't.
    #[error("the guard refused: {why}")]
    Refused {
        /// Its reason.
        why: String,
        /// Its state, such as fenced.
        report: Box<Report>,
    },
    /// No guard is there, or the connection broke.
    #[error("reach the guard")]
    Unreachable(#[source] io::Error),
    /// A new guard could not be started.
    #[error("start the guard: {0}")]
    Start(String),
}

/// A connection to the guard of one data directory. Requests are sent one after the other; each is answered within half
/// a second or fails. Dropping a call halfway is safe.
#[derive(Debug)]
pub struct Client {
    options: Options,
    watchdog: std::sync::Mutex<Option<watchdog::Config>>,
    connection: Mutex<Option<Connection>>,
    guard: watch::Sender<Option<Process>>,
}

/// The guard's process as the kernel vouches for it.
#[derive(Debug, Clone)]
struct Process {
    pid: u32,
    fd: Arc<OwnedFd>,
    /// A connection on which nothing is ever said: it ends when the process does.
    line: Arc<UnixStream>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    last_id: u64,
}

impl Client {
    /// A client that isn't connected yet.
    pub fn new(options: Options) -> Client {
        Client {
            options,
            watchdog: std::sync::Mutex::new(None),
            connection: Mutex::new(None),
            guard: watch::Sender::new(None),
        }
    }

    /// The watchdog device that later calls of [`Client::arm`] ask for; `None` uses none.
    pub fn set_watchdog(&self, config: Option<watchdog::Config>) {
        *self.watchdog.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = config;
    }

    /// Connects to a living guard, or starts one, and returns when it answers. A guard of another version is replaced
    /// by a new one that takes its deadline over. What the guard holds, [`Client::status`] tells.
    pub async fn ensure(&self) -> Result<(), Error> {
        let report = match self.status().await {
            Ok(report) => report,
            Err(Error::Unreachable(_)) => {
                self.start(false).await?;
                self.status().await?
            }
            Err(e) => return Err(e),
        };
        if report.version != self.options.version {
            tracing::info!(old = report.version, new = self.options.version, "replacing the guard of another version");
            self.start(true).await?;
        }
        Ok(())
    }

    /// Arms the guard: it kills PostgreSQL at `deadline` unless that is extended. To be called before PostgreSQL is
    /// promoted or started as a primary, and with the pid when it runs already. A deadline that has passed kills at
    /// once; look at the report's state.
    pub async fn arm(&self, term: Term, deadline: Tick, postmaster: Option<u32>) -> Result<Report, Error> {
        let watchdog = self.watchdog.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        self.ask(Request::Arm { term, deadline, postmaster, watchdog }, ANSWER).await
    }

    /// Moves the deadline of the armed term to a later moment; an earlier one changes nothing.
    pub async fn extend(&self, term: Term, deadline: Tick) -> Result<Report, Error> {
        self.ask(Request::Extend { term, deadline }, ANSWER).await
    }

    /// Names the postmaster once PostgreSQL was started.
    pub async fn postmaster(&self, pid: u32) -> Result<Report, Error> {
        self.ask(Request::Postmaster { pid }, ANSWER).await
    }

    /// There is nothing to guard: maintenance mode, or PostgreSQL has stopped. After a fencing it says that it was
    /// noticed; only then may PostgreSQL be started again, as a replica.
    pub async fn disarm(&self) -> Result<Report, Error> {
        self.ask(Request::Disarm, ANSWER).await
    }

    /// Kills PostgreSQL now. The report's `left` tells what survived.
    pub async fn fence_now(&self) -> Result<Report, Error> {
        self.ask(Request::FenceNow, FENCE_ANSWER).await
    }

    /// What the guard does.
    pub async fn status(&self) -> Result<Report, Error> {
        self.ask(Request::Status, ANSWER).await
    }

    /// Ends the guard, which refuses while there is an instance to guard.
    pub async fn exit(&self) -> Result<(), Error> {
        self.ask(Request::Exit { hand_over: false }, ANSWER).await?;
        self.lost().await;
        *self.connection.lock().await = None;
        Ok(())
    }

    /// Returns when the guard's process has ended; at once when none was ever reached.
    pub async fn lost(&self) {
        let guard = self.guard.borrow().clone();
        if let Some(process) = guard {
            process.ended().await;
        }
    }

    /// Returns once a living guard has been reached by any other call.
    pub async fn found(&self) {
        let mut guard = self.guard.subscribe();
        // The sender lives as long as this client.
        let _ = guard.wait_for(|g| g.as_ref().is_some_and(|process| !process.has_ended())).await;
    }

    /// Kills a guard that doesn't answer, and starts a new one. It holds nothing: arm it.
    pub async fn replace(&self) -> Result<(), Error> {
        *self.connection.lock().await = None;
        if let Some(process) = self.serving_process().await {
            tracing::warn!(pid = process.pid, "killing the guard, which doesn't answer");
            // It may have ended meanwhile.
            let _ = pidfd_send_signal(&*process.fd, Signal::KILL);
            timeout(START, process.ended()).await.map_err(|_| Error::NoAnswer)?;
        }
        self.start(false).await
    }

    /// Sends a request and waits for its answer.
    async fn ask(&self, request: Request, at_most: Duration) -> Result<Report, Error> {
        let exchange = async {
            let mut guard = self.connection.lock().await;
            // While the exchange is under way the connection is not in its place: when the caller gives up, a half-sent
            // request goes away with it.
            let mut connection = match guard.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let reply = connection.exchange(request).await?;
            *guard = Some(connection);
            Ok::<Reply, io::Error>(reply)
        };
        let reply = timeout(at_most, exchange).await.map_err(|_| Error::NoAnswer)?.map_err(Error::Unreachable)?;
        match reply.refused {
            None => Ok(reply.report),
            Some(why) => Err(Error::Refused { why, report: Box::new(reply.report) }),
        }
    }

    /// Connects, and takes hold of the process at the other end: it answers after its descriptor was opened, so that
    /// the pid can't have been another's.
    async fn connect(&self) -> io::Result<Connection> {
        let process = Process::behind(UnixStream::connect(&self.options.socket).await?)?;
        let stream = UnixStream::connect(&self.options.socket).await?;
        if peer_pid(&stream)? != process.pid {
            return Err(io::Error::other("the guard was replaced while connecting to it"));
        }
        let mut connection = Connection { stream, received: Vec::new(), last_id: 0 };
        connection.exchange(Request::Status).await?;
        self.guard.send_replace(Some(process));
        Ok(connection)
    }

    /// The process that serves the socket, found without its help: it was there both before and after its descriptor
    /// was opened.
    async fn serving_process(&self) -> Option<Process> {
        let first = UnixStream::connect(&self.options.socket).await.ok()?;
        let process = Process::behind(first).ok()?;
        let second = UnixStream::connect(&self.options.socket).await.ok()?;
        (peer_pid(&second).ok()? == process.pid).then_some(process)
    }

    /// Starts a guard that survives this process, and waits until it answers.
    async fn start(&self, take_over: bool) -> Result<(), Error> {
        let mut child = self.spawn(take_over).map_err(|e| Error::Start(e.to_string()))?;
        let pid = child.id();
        let until = Instant::now() + START;
        loop {
            if take_over {
                // The connection to the predecessor breaks when that leaves.
                *self.connection.lock().await = None;
            }
            match self.status().await {
                Ok(report) if Some(report.pid) == pid => return Ok(()),
                // Another agent's start was faster; its guard is as good.
                Ok(report) if report.version == self.options.version => return Ok(()),
                Ok(_) | Err(Error::Unreachable(_) | Error::NoAnswer) => {}
                Err(e) => return Err(e),
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Error::Start(format!("it ended with {status}; its log tells why")));
            }
            if Instant::now() > until {
                return Err(Error::Start("it doesn't answer".to_owned()));
            }
            sleep(START_POLL).await;
        }
    }

    fn spawn(&self, take_over: bool) -> io::Result<Child> {
        let absolute = |path: &PathBuf| std::path::absolute(path);
        let socket = absolute(&self.options.socket)?;
        if let Some(dir) = socket.parent().filter(|dir| !dir.exists()) {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut command = Command::new(&self.options.program);
        command.args(&self.options.command);
        command.arg("--socket").arg(&socket).arg("--data-dir").arg(absolute(&self.options.data_dir)?);
        if let Some(log) = &self.options.log {
            command.arg("--log").arg(absolute(log)?);
        }
        if take_over {
            command.arg("--take-over");
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(false);
        if self.options.log.is_some() {
            command.stderr(Stdio::null());
        }
        command.spawn()
    }
}

impl Process {
    /// Takes hold of the process that listens at the other end. The caller proves afterwards that it still listens.
    fn behind(line: UnixStream) -> io::Result<Process> {
        let pid = peer_pid(&line)?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        if raw == getpid() {
            return Err(io::Error::other("the guard's socket is served by this process"));
        }
        Ok(Process { pid, fd: Arc::new(pidfd_open(raw, PidfdFlags::empty())?), line: Arc::new(line) })
    }

    async fn ended(&self) {
        // Readable without data means that the other end was closed.
        while self.line.readable().await.is_ok() {
            match self.line.try_read(&mut [0; 64]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(n) if n > 0 => {}
                _ => break,
            }
        }
        while !self.has_ended() {
            sleep(END_POLL).await;
        }
    }

    fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }
}

/// The listening process, if it is run by us or by root.
fn peer_pid(stream: &UnixStream) -> io::Result<u32> {
    let peer = stream.peer_cred()?;
    if peer.uid() != 0 && peer.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the guard's socket is served by another user"));
    }
    peer.pid().and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl Connection {
    async fn exchange(&mut self, request: Request) -> io::Result<Reply> {
        self.last_id += 1;
        let mut line = serde_json::to_vec(&Message { id: self.last_id, request })?;
        line.push(b'\n');
        self.stream.write_all(&line).await?;
        loop {
            if let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let reply: Reply = serde_json::from_slice(&line)?;
                if reply.id == self.last_id {
                    return Ok(reply);
                }
            } else if self.received.len() > MAX_LINE || self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
