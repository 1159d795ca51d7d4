//! One connection to a PostgreSQL server, and what is known of its state. Which client has it, and when it's made and
//! closed, is known elsewhere.

pub(crate) mod authenticate;
pub(crate) mod exchange;
pub(crate) mod login;
mod refusal;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};

use crate::flow::Replies;
use crate::route::choice::Spot;
use crate::shared::Slot;
use crate::stream::{Detached, Stream};
use crate::vars::Vars;

/// Where a server is, and how it is asked to cancel: copied for each cancel request.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// Host name, address or socket directory as configured.
    pub(crate) host: Arc<str>,
    /// Port.
    pub(crate) port: u16,
    /// Where it was found.
    pub(crate) peer: Peer,
    /// TLS is used.
    pub(crate) tls: bool,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.peer {
            Peer::Ip(address) => address.fmt(f),
            Peer::Unix(_) => write!(f, "unix:{}", self.port),
        }
    }
}

/// The address that a connection was made to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// TCP.
    Ip(std::net::SocketAddr),
    /// A Unix socket's path; `@` begins an abstract name.
    Unix(Arc<str>),
}

/// What SHOW SERVERS and cancel requests want to know of a server while a client holds it.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Number, unique in the process.
    pub(crate) id: u64,
    /// Where it is.
    pub(crate) address: Address,
    /// Process number and key, as the server gave them.
    pub(crate) pid: u32,
    /// Secret with which a running query can be cancelled.
    pub(crate) key: Box<[u8]>,
    /// When it was connected, for people.
    pub(crate) connected: SystemTime,
    /// When it was connected.
    pub(crate) since: Instant,
    /// Local address.
    pub(crate) local: Option<std::net::SocketAddr>,
    /// TLS version and cipher; empty without TLS.
    pub(crate) tls: Box<str>,
    /// The member of a cluster that it is, where the database is at one.
    pub(crate) spot: Option<Spot>,
}

/// A server's state that others than its holder look at, on this thread.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// It must not be used again (RECONNECT, a changed configuration).
    pub(crate) outdated: Cell<bool>,
    /// Cancel requests under way to it: while there are any, no other client may get it.
    pub(crate) cancels: Cell<u32>,
    /// Told when one of them is over.
    pub(crate) cancelled: tokio::sync::Notify,
    /// When a client last asked something of it.
    pub(crate) requested: Cell<Option<Instant>>,
    /// The client that holds it.
    pub(crate) client: Cell<Option<u64>>,
    /// Prepared statements that it knows.
    pub(crate) statements: Cell<u32>,
    /// A session has it, and begins nothing on it because its member drains.
    pub(crate) parked: Cell<bool>,
    /// Its client was told that the transaction is cut.
    pub(crate) cut: Cell<bool>,
    /// It's one client's alone (replication).
    pub(crate) dedicated: Cell<bool>,
    /// What it does beyond being idle or held.
    pub(crate) state: Cell<State>,
}

/// What a server is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Waits for a client.
    #[default]
    Idle,
    /// A client holds it.
    Active,
    /// Idle for so long that it's asked whether it is alive before it's used.
    Used,
    /// Being cleaned, or asked whether it is alive.
    Tested,
    /// Waits for cancel requests that are under way to it.
    BeingCanceled,
}

/// A server connection on this thread.
#[derive(Debug)]
pub(crate) struct Server {
    /// The connection.
    pub(crate) stream: Stream,
    /// What has come from it but couldn't be used yet.
    pub(crate) input: Vec<u8>,
    /// What it hasn't taken yet.
    pub(crate) output: Output,
    /// State of the conversation.
    pub(crate) replies: Replies,
    /// Its tracked parameters.
    pub(crate) vars: Vars,
    /// What others see of it.
    pub(crate) facts: Arc<Facts>,
    /// What others change in it.
    pub(crate) marks: Rc<Marks>,
    /// When it was last given back.
    pub(crate) released: Instant,
    /// Room that it takes.
    pub(crate) slot: Slot,
}

/// A server connection on its way to another thread.
#[derive(Debug)]
pub(crate) struct Moved {
    stream: Detached,
    vars: Vars,
    statements: crate::flow::ServerStatements,
    facts: Arc<Facts>,
    outdated: bool,
    released: Instant,
    slot: Slot,
}

/// Bytes that wait for a socket to take them.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    at: usize,
    /// An encrypting layer holds something back.
    held_back: bool,
}

impl Server {
    /// Takes it off this thread. Only while it is free and nobody cancels anything on it.
    pub(crate) fn detach(self: Box<Self>) -> io::Result<Moved> {
        debug_assert!(self.replies.is_free() && self.marks.cancels.get() == 0);
        let server = *self;
        Ok(Moved {
            stream: server.stream.detach()?,
            vars: server.vars,
            statements: server.replies.statements,
            facts: server.facts,
            outdated: server.marks.outdated.get(),
            released: server.released,
            slot: server.slot,
        })
    }

    /// Whether nothing has come from an idle server: no end, no message. Parameters that it reports are taken note of.
    pub(crate) fn is_quiet(&mut self, tracked: &crate::vars::Tracked) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut buffer = [0; 1024];
        loop {
            match self.stream.poll_read(&mut cx, &mut buffer) {
                Poll::Pending => return self.input.is_empty(),
                Poll::Ready(Ok(n)) if n > 0 => {
                    if self.idle_bytes(&buffer[..n], tracked).is_err() {
                        return false;
                    }
                }
                Poll::Ready(_) => return false,
            }
        }
    }

    /// Messages that a server sends unasked: notices and parameters are fine, errors announce its end.
    fn idle_bytes(&mut self, bytes: &[u8], tracked: &crate::vars::Tracked) -> Result<(), crate::flow::Fault> {
        self.input.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((kind, length)) = crate::flow::header(&self.input[at..])? {
            let Some(body) = self.input.get(at + crate::flow::HEADER..at + crate::flow::HEADER + length) else { break };
            match kind {
                b'N' | b'A' => {}
                b'S' => exchange::note_parameter(body, tracked, &mut self.vars),
                other => return Err(crate::flow::Fault::Unknown(other)),
            }
            at += crate::flow::HEADER + length;
        }
        self.input.drain(..at);
        Ok(())
    }

    /// Says goodbye as far as the socket takes it at once.
    pub(crate) fn terminate(mut self: Box<Self>) {
        let mut cx = Context::from_waker(Waker::noop());
        // It closes either way.
        let _ = self.stream.poll_write(&mut cx, &[b'X', 0, 0, 0, 4]);
        let _ = self.stream.poll_flush(&mut cx);
    }
}

impl Moved {
    /// Registers it with this thread.
    pub(crate) fn attach(self) -> io::Result<Box<Server>> {
        let mut replies = Replies::default();
        replies.statements = self.statements;
        let marks = Marks { outdated: Cell::new(self.outdated), ..Marks::default() };
        Ok(Box::new(Server {
            stream: self.stream.attach()?,
            input: Vec::new(),
            output: Output::default(),
            replies,
            vars: self.vars,
            facts: self.facts,
            marks: Rc::new(marks),
            released: self.released,
            slot: self.slot,
        }))
    }
}

impl Output {
    /// Whether nothing waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len() && !self.held_back
    }

    /// Sends bytes behind those that wait already, and keeps what the socket doesn't take. Ready when nothing is left.
    #[inline]
    pub(crate) fn send(&mut self, stream: &mut Stream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        if !self.is_empty() {
            self.bytes.extend_from_slice(bytes);
            return self.flush(stream, cx);
        }
        let mut sent = 0;
        while sent < bytes.len() {
            match stream.poll_write(cx, &bytes[sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => match stream.write_now(&bytes[sent..]) {
                    Ok(n) if n > 0 => sent += n,
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(e)),
                    _ => {
                        self.bytes.extend_from_slice(&bytes[sent..]);
                        return Poll::Pending;
                    }
                },
            }
        }
        self.settle(stream, cx)
    }

    /// Sends what waits. Ready when nothing is left.
    pub(crate) fn flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.bytes.len() {
            match stream.poll_write(cx, &self.bytes[self.at..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.at += n,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
        // Memory is for those who need it.
        *self = Output::default();
        self.settle(stream, cx)
    }

    /// Has an encrypting layer send what it holds back.
    #[inline]
    fn settle(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let settled = stream.poll_flush(cx);
        self.held_back = settled.is_pending();
        settled
    }

    /// Sends all of it, waiting as long as it takes.
    pub(crate) async fn drain(&mut self, stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        poll_fn(|cx| self.flush(stream, cx)).await
    }
}
