//! TLS over a connection. Between calls only what is in pieces is kept: a record that hasn't come whole, plaintext that
//! the reader had no room for, ciphertext that the socket had no room for. The work is done in buffers of the thread.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use rustls_pki_types::CertificateDer;

use super::engine::{Job, RECORD, Session, invalid};
use super::{Detached, Stream};
use crate::tls::{self, Side};

/// Plaintext that one write takes, at most: it bounds what is kept for a reader that doesn't read.
const WRITE: usize = 32 * 1024;
/// Ciphertext that one read takes, at most, when nothing is left over.
const READ: usize = 2 * RECORD;

thread_local! {
    /// Lent to one call at a time, so that connections own no buffers.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { incoming: Vec::new(), outgoing: Vec::new(), plain: Vec::new() }) };
}

struct Scratch {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    plain: Vec<u8>,
}

/// TLS over `S`: a [`Stream`] in use, or one that is detached.
pub struct Encrypted<S> {
    under: S,
    session: Session,
    /// Ciphertext that isn't used up.
    incoming: Vec<u8>,
    /// Plaintext from `plain_read` on that nobody has read.
    plain: Vec<u8>,
    plain_read: usize,
    /// Ciphertext that must leave before any other.
    outgoing: Vec<u8>,
    established: bool,
    /// Nothing more comes.
    ended: bool,
    /// Nothing more may be written.
    said_goodbye: bool,
}

impl<S> Encrypted<S> {
    pub(super) fn new(under: S, session: Session, read: &[u8]) -> Encrypted<S> {
        Encrypted {
            under,
            session,
            incoming: read.to_vec(),
            plain: Vec::new(),
            plain_read: 0,
            outgoing: Vec::new(),
            established: false,
            ended: false,
            said_goodbye: false,
        }
    }

    /// The same conversation over another `S`.
    pub(super) fn map<T>(self, change: impl FnOnce(S) -> io::Result<T>) -> io::Result<Encrypted<T>> {
        Ok(Encrypted {
            under: change(self.under)?,
            session: self.session,
            incoming: self.incoming,
            plain: self.plain,
            plain_read: self.plain_read,
            outgoing: self.outgoing,
            established: self.established,
            ended: self.ended,
            said_goodbye: self.said_goodbye,
        })
    }

    pub(super) fn under(&self) -> &S {
        &self.under
    }

    /// The protocol that both sides named (ALPN).
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.session.common().alpn_protocol()
    }

    pub(super) fn description(&self) -> String {
        let side = match self.session {
            Session::Server(_) => Side::Accepted,
            Session::Client(_) => Side::Asked,
        };
        tls::describe(self.session.common(), side)
    }

    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.session.common().peer_certificates()?.first()
    }

    pub(super) fn holds_back(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Bytes that are kept between calls.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.incoming.capacity() + self.plain.capacity() + self.outgoing.capacity()
    }

    /// Whether an idle connection is all there is.
    #[cfg(test)]
    pub(super) fn keeps_nothing(&self) -> bool {
        self.kept() == 0
    }

    /// Moves plaintext that is kept.
    fn take_plain(&mut self, buffer: &mut [u8]) -> usize {
        let kept = &self.plain[self.plain_read..];
        let n = kept.len().min(buffer.len());
        buffer[..n].copy_from_slice(&kept[..n]);
        self.plain_read += n;
        if self.plain_read == self.plain.len() {
            self.plain = Vec::new();
            self.plain_read = 0;
        }
        n
    }

    /// Works on `incoming`, all the ciphertext there is, and keeps what isn't used up. Returns how much plaintext is in
    /// `buffer`.
    fn decrypt(&mut self, incoming: &mut [u8], buffer: &mut [u8]) -> io::Result<usize> {
        let mut job = Job::default();
        let mut filled = 0;
        let plain = &mut self.plain;
        let mut sink = |bytes: &[u8]| {
            let n = bytes.len().min(buffer.len() - filled);
            buffer[filled..filled + n].copy_from_slice(&bytes[..n]);
            filled += n;
            plain.extend_from_slice(&bytes[n..]);
        };
        let result = self.session.run(incoming, &mut job, &mut sink, &mut self.outgoing);
        self.ended |= job.ended || result.is_err();
        self.established |= job.established;
        // Never long: rustls refuses a record beyond 16 KiB and a message of the handshake beyond 64 KiB.
        self.incoming = if self.ended { Vec::new() } else { incoming[job.used..].to_vec() };
        result.map(|()| filled)
    }

    /// Encrypts into `outgoing`, which is sent after what is held back already.
    fn encrypt(&mut self, job: &mut Job<'_>, outgoing: &mut Vec<u8>) -> io::Result<()> {
        let plain = &mut self.plain;
        let mut sink = |bytes: &[u8]| plain.extend_from_slice(bytes);
        let mut incoming = std::mem::take(&mut self.incoming);
        let result = self.session.run(&mut incoming, job, &mut sink, outgoing);
        incoming.drain(..job.used);
        self.incoming = incoming;
        self.ended |= job.ended;
        result
    }

    /// Forgets `n` bytes of what is held back: they have left.
    fn sent(&mut self, n: usize) {
        self.outgoing.drain(..n);
        if self.outgoing.is_empty() {
            self.outgoing = Vec::new();
        }
    }
}

/// Reads with `read` into the thread's buffer, behind what is left over, and gives all of it to `work`.
fn with_incoming<T>(
    tls: &mut Encrypted<Stream>,
    read: impl FnOnce(&mut Stream, &mut [u8]) -> Poll<io::Result<usize>>,
    work: impl FnOnce(&mut Encrypted<Stream>, &mut [u8]) -> io::Result<T>,
) -> Poll<io::Result<Option<T>>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let before = tls.incoming.len();
        let room = before + READ;
        if scratch.incoming.len() < room {
            scratch.incoming.resize(room, 0);
        }
        let n = ready!(read(&mut tls.under, &mut scratch.incoming[before..room]))?;
        if n == 0 {
            tls.ended = true;
            return Poll::Ready(Ok(None));
        }
        scratch.incoming[..before].copy_from_slice(&tls.incoming);
        Poll::Ready(work(tls, &mut scratch.incoming[..before + n]).map(Some))
    })
}

impl Encrypted<Stream> {
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.established {
            // Our first word, or what came before this connection was known to be TLS.
            let mut incoming = std::mem::take(&mut self.incoming);
            let worked = self.decrypt(&mut incoming, &mut []);
            self.send_alert_of(worked)?;
        }
        loop {
            ready!(self.poll_flush(cx))?;
            if self.established {
                return Poll::Ready(Ok(()));
            }
            let read = |under: &mut Stream, room: &mut [u8]| under.poll_read(cx, room);
            let worked = ready!(with_incoming(self, read, |tls, incoming| tls.decrypt(incoming, &mut [])));
            if self.send_alert_of(worked)?.is_none() {
                let why = "the connection was closed during the TLS handshake";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
            }
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read(buffer, |under, room| under.poll_read(cx, room))
    }

    pub(super) fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |under: &mut Stream, room: &mut [u8]| match under.try_read(room) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            read => Poll::Ready(read),
        };
        match self.read(buffer, read) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn read(
        &mut self,
        buffer: &mut [u8],
        mut read: impl FnMut(&mut Stream, &mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let n = self.take_plain(buffer);
            if n > 0 || self.ended || buffer.is_empty() {
                return Poll::Ready(Ok(n));
            }
            let worked = ready!(with_incoming(self, &mut read, |tls, incoming| tls.decrypt(incoming, buffer)));
            let n = self.send_alert_of(worked)?.unwrap_or(0);
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
        }
    }

    /// Passes a result on, and with it the answer that TLS may have to it: an alert, or new keys.
    fn send_alert_of<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if self.holds_back() {
            self.send_held_back(Stream::try_write).or_else(|e| match e.kind() {
                io::ErrorKind::WouldBlock => Ok(()),
                _ if result.is_err() => Ok(()),
                _ => Err(e),
            })?;
        }
        result
    }

    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended || !self.plain.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.under.poll_readable(cx)
    }

    pub(super) fn is_quiet(&mut self) -> bool {
        loop {
            if self.ended || !self.plain.is_empty() || !self.incoming.is_empty() {
                return false;
            }
            let read = |under: &mut Stream, room: &mut [u8]| match under.try_read(room) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                read => Poll::Ready(read),
            };
            match with_incoming(self, read, |tls, incoming| tls.decrypt(incoming, &mut [])) {
                Poll::Pending => return true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return false,
            }
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.holds_back() {
            let n = ready!(self.under.poll_write(cx, &self.outgoing))?;
            self.sent(n);
        }
        Poll::Ready(Ok(()))
    }

    fn send_held_back(&mut self, send: fn(&mut Stream, &[u8]) -> io::Result<usize>) -> io::Result<()> {
        while self.holds_back() {
            let n = send(&mut self.under, &self.outgoing)?;
            self.sent(n);
        }
        Ok(())
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        // Where the socket is full the waker is registered by the flush that must follow.
        Poll::Ready(self.write(bytes, |under, bytes| match under.poll_write(cx, bytes) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }))
    }

    pub(super) fn try_write(
        &mut self,
        bytes: &[IoSlice<'_>],
        send: fn(&mut Stream, &[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.send_held_back(send)?;
        self.write(bytes, send)
    }

    /// Encrypts as much as one write takes and sends it, or keeps what the socket has no room for. Nothing is held back
    /// before.
    fn write(
        &mut self,
        bytes: &[IoSlice<'_>],
        mut send: impl FnMut(&mut Stream, &[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.said_goodbye {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { outgoing, plain, .. } = scratch;
            let text = gather(bytes, plain);
            if text.is_empty() {
                return Ok(0);
            }
            outgoing.clear();
            let mut job = Job { write: Some(text), ..Job::default() };
            self.encrypt(&mut job, outgoing)?;
            if job.write.is_some() {
                return Err(invalid("TLS isn't ready for data"));
            }
            let mut sent = 0;
            while sent < outgoing.len() {
                match send(&mut self.under, &outgoing[sent..]) {
                    Ok(n) => sent += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
            }
            if sent < outgoing.len() {
                self.outgoing.extend_from_slice(&outgoing[sent..]);
            }
            Ok(text.len())
        })
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue_goodbye()?;
        ready!(self.poll_flush(cx))?;
        self.under.poll_shutdown(cx)
    }

    pub(super) fn say_goodbye(&mut self) {
        if self.queue_goodbye().is_ok() {
            let _ = self.send_held_back(Stream::write_now);
        }
    }

    fn queue_goodbye(&mut self) -> io::Result<()> {
        if self.said_goodbye || !self.established {
            return Ok(());
        }
        self.said_goodbye = true;
        let mut outgoing = std::mem::take(&mut self.outgoing);
        let result = self.encrypt(&mut Job { goodbye: true, ..Job::default() }, &mut outgoing);
        self.outgoing = outgoing;
        result
    }
}

/// The first bytes of several buffers in one piece, as many as one write takes.
fn gather<'a>(parts: &'a [IoSlice<'_>], piece: &'a mut Vec<u8>) -> &'a [u8] {
    let mut filled = parts.iter().filter(|part| !part.is_empty());
    match (filled.next(), filled.next()) {
        (None, _) => &[],
        (Some(only), None) => &only[..only.len().min(WRITE)],
        _ => {
            piece.clear();
            for part in parts {
                piece.extend_from_slice(&part[..part.len().min(WRITE - piece.len())]);
            }
            piece
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Encrypted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypted").field("under", &self.under).finish_non_exhaustive()
    }
}

// A connection changes threads while it is detached.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Detached>();
};
