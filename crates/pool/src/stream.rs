//! A connection on this thread's runtime: TCP or Unix socket, bare or under TLS. Reads and writes try the system call
//! first and leave the poller alone where it has nothing to say.
//!
//! Nothing is kept per connection but what the socket needs; under TLS, ciphertext and plaintext are kept only while
//! they are in pieces (see `encrypted`).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

mod encrypted;
mod engine;
#[cfg(test)]
mod tests;
mod tuning;
mod upgrade;

pub use encrypted::Encrypted;
pub use tuning::Tuning;
pub use upgrade::{Start, accept_tls, connect_tls};

/// A connection, registered with the runtime of the thread that made it.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
    /// TLS over one of the others.
    Tls(Box<Encrypted<Stream>>),
}

/// A connection that belongs to no runtime and may change threads.
#[derive(Debug)]
pub enum Detached {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix domain socket.
    Unix(std::os::unix::net::UnixStream),
    /// TLS over one of the others.
    Tls(Box<Encrypted<Detached>>),
}

impl Stream {
    /// Reads what is there. A read that doesn't fill `buffer` tells the runtime that nothing is left, so that the next
    /// call waits without a system call. Zero means the end.
    ///
    /// Under TLS, what was decrypted and didn't fit comes first, whether the socket is readable or not.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let polled = match self {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, &mut buffer),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, &mut buffer),
            Stream::Tls(s) => return s.poll_read(cx, buffer.initialize_unfilled()),
        };
        polled.map_ok(|()| buffer.filled().len())
    }

    /// Waits until [`Stream::poll_read`] has something to do, without a buffer. There may turn out to be nothing for the
    /// reader: after a read that just filled its buffer, or under TLS where only TLS's own messages came.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => s.poll_read_ready(cx),
            Stream::Unix(s) => s.poll_read_ready(cx),
            Stream::Tls(s) => s.poll_readable(cx),
        }
    }

    /// Reads if the runtime has heard of something to read; `WouldBlock` otherwise, and nobody is woken.
    ///
    /// # Errors
    /// The connection is broken, or `WouldBlock`.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.try_read(buffer),
            Stream::Unix(s) => s.try_read(buffer),
            Stream::Tls(s) => s.try_read(buffer),
        }
    }

    /// Writes what fits. Under TLS part of what was taken may be held back: see [`Stream::poll_flush`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Stream::Unix(s) => Pin::new(s).poll_write(cx, bytes),
            Stream::Tls(s) => s.poll_write(cx, &[IoSlice::new(bytes)]),
        }
    }

    /// Writes what fits of several buffers with one system call; under TLS also with as few records as can be.
    pub fn poll_write_vectored(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bytes),
            Stream::Unix(s) => Pin::new(s).poll_write_vectored(cx, bytes),
            Stream::Tls(s) => s.poll_write(cx, bytes),
        }
    }

    /// Writes what fits if the runtime knows the socket to be writable; `WouldBlock` otherwise, and nobody is woken.
    ///
    /// # Errors
    /// The connection is broken, or `WouldBlock`.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.try_write(bytes),
            Stream::Unix(s) => s.try_write(bytes),
            Stream::Tls(s) => s.try_write(&[IoSlice::new(bytes)], Stream::try_write),
        }
    }

    /// Writes what fits without asking the runtime, for a connection that it has only just been given: before its
    /// poller's first word it takes every socket for full.
    ///
    /// # Errors
    /// The connection is broken, or `WouldBlock`.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => Ok(rustix::net::send(&*s, bytes, SendFlags::NOSIGNAL)?),
            Stream::Unix(s) => Ok(rustix::net::send(&*s, bytes, SendFlags::NOSIGNAL)?),
            Stream::Tls(s) => s.try_write(&[IoSlice::new(bytes)], Stream::write_now),
        }
    }

    /// Sends what TLS holds back: after writes, what was written has left only when this is done. It is done at once
    /// where nothing is held back.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::Tls(s) => s.poll_flush(cx),
        }
    }

    /// Whether [`Stream::poll_flush`] would have something to do.
    pub fn holds_back(&self) -> bool {
        matches!(self, Stream::Tls(s) if s.holds_back())
    }

    /// Sends what is held back and says that nothing more follows. The other direction stays open.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Tls(s) => s.poll_shutdown(cx),
        }
    }

    /// Closes the connection without waiting, but under TLS with the word that says so, if there is room for it.
    pub fn close(mut self) {
        if let Stream::Tls(s) = &mut self {
            s.say_goodbye();
        }
        let _ = rustix::net::shutdown(&self, Shutdown::Write);
    }

    /// Whether nothing has come that wasn't read, and the other side hasn't closed: what an idle connection must be.
    /// No system call where the runtime has heard nothing.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [MaybeUninit::<u8>::uninit()];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match self {
            Stream::Tcp(s) => s.try_io(Interest::READABLE, || Ok(rustix::net::recv(&*s, &mut byte, flags)?.1)),
            Stream::Unix(s) => s.try_io(Interest::READABLE, || Ok(rustix::net::recv(&*s, &mut byte, flags)?.1)),
            Stream::Tls(s) => return s.is_quiet(),
        };
        matches!(peeked, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// The other end of TCP.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn peer_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Stream::Tcp(s) => s.peer_addr().map(Some),
            Stream::Unix(_) => Ok(None),
            Stream::Tls(s) => s.under().peer_addr(),
        }
    }

    /// This end of TCP.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Stream::Tcp(s) => s.local_addr().map(Some),
            Stream::Unix(_) => Ok(None),
            Stream::Tls(s) => s.under().local_addr(),
        }
    }

    /// Who is at the other end of a Unix socket; `None` over TCP.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn peer_credentials(&self) -> io::Result<Option<Credentials>> {
        match self {
            Stream::Tcp(_) => Ok(None),
            Stream::Unix(s) => {
                let found = s.peer_cred()?;
                Ok(Some(Credentials { user: found.uid(), process: found.pid() }))
            }
            Stream::Tls(s) => s.under().peer_credentials(),
        }
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Its TLS as pgbouncer's console shows it; `None` without.
    pub fn tls_description(&self) -> Option<String> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => None,
            Stream::Tls(s) => Some(s.description()),
        }
    }

    /// The certificate that the other side showed and that was found good, or under a server's `sslmode` without
    /// verification not looked at.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => None,
            Stream::Tls(s) => s.peer_certificate(),
        }
    }

    /// Takes the connection off this thread's runtime. What TLS holds goes with it.
    ///
    /// # Errors
    /// The poller refuses.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Stream::Tcp(s) => s.into_std().map(Detached::Tcp),
            Stream::Unix(s) => s.into_std().map(Detached::Unix),
            Stream::Tls(s) => Ok(Detached::Tls(Box::new(s.map(Stream::detach)?))),
        }
    }
}

impl Detached {
    /// Registers the connection, which must not block, with this thread's runtime.
    ///
    /// # Errors
    /// The poller refuses, or there is no runtime.
    pub fn attach(self) -> io::Result<Stream> {
        match self {
            Detached::Tcp(s) => TcpStream::from_std(s).map(Stream::Tcp),
            Detached::Unix(s) => UnixStream::from_std(s).map(Stream::Unix),
            Detached::Tls(s) => Ok(Stream::Tls(Box::new(s.map(Detached::attach)?))),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(s) => s.as_fd(),
            Stream::Unix(s) => s.as_fd(),
            Stream::Tls(s) => s.under().as_fd(),
        }
    }
}

/// Who is at the other end of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub user: u32,
    /// Process id, where the system tells.
    pub process: Option<i32>,
}
