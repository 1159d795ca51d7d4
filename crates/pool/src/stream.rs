//! A connection on this thread's runtime: TCP or Unix socket. Reads and writes try the system call first and leave the
//! poller alone where it has nothing to say.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection, registered with the runtime of the thread that made it.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
}

/// A connection that belongs to no runtime and may change threads.
#[derive(Debug)]
pub enum Detached {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix domain socket.
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    /// Reads what is there. A read that doesn't fill `buffer` tells the runtime that nothing is left, so that the next
    /// call waits without a system call. Zero means the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let polled = match self {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, &mut buffer),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, &mut buffer),
        };
        polled.map_ok(|()| buffer.filled().len())
    }

    /// Writes what fits.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Stream::Unix(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    /// Sends what an encrypting layer holds back.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => Pin::new(s).poll_flush(cx),
            Stream::Unix(s) => Pin::new(s).poll_flush(cx),
        }
    }

    /// Takes the connection off this thread's runtime.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Stream::Tcp(s) => s.into_std().map(Detached::Tcp),
            Stream::Unix(s) => s.into_std().map(Detached::Unix),
        }
    }
}

impl Detached {
    /// Registers the connection with this thread's runtime.
    pub fn attach(self) -> io::Result<Stream> {
        match self {
            Detached::Tcp(s) => TcpStream::from_std(s).map(Stream::Tcp),
            Detached::Unix(s) => UnixStream::from_std(s).map(Stream::Unix),
        }
    }
}
