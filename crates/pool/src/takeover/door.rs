//! The old process's side: a socket at which new processes ask for the listening sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Mode;
use socket2::{Domain, Socket, Type};
use tokio::net::UnixListener;

use super::Error;
use super::link::Link;
use crate::listen::Listener;
use crate::listen::unix::{self, Address, SocketFile};

/// Processes that may wait at the door.
const QUEUE: i32 = 8;

/// Where a new process asks for this one's sockets. Its file is removed in the end.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    file: Option<SocketFile>,
}

/// A process that came to the door.
#[derive(Debug)]
pub struct Visitor(Link);

/// What it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The listening sockets; see [`Visitor::give`].
    Sockets,
    /// That this process takes no more connections; see [`Visitor::stopped`].
    Stop,
    /// That a client's query is cancelled; see [`Visitor::cancelled`].
    Cancel {
        /// Number of the request.
        id: u64,
        /// The public half of the client's cancel key.
        pid: u32,
        /// The secret half.
        key: Vec<u8>,
    },
}

impl Door {
    /// Opens the door. Only this user's processes and root's can come to it. Needs a tokio runtime.
    ///
    /// # Errors
    /// When another process has its door there, or the place can't be used.
    pub fn open(address: &Address) -> io::Result<Door> {
        unix::clear(address)?;
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        // The file is born with the permissions of the socket, less the umask.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        socket.bind(&address.to_kernel()?)?;
        let file = address.path().and_then(SocketFile::of);
        socket.set_nonblocking(true)?;
        socket.listen(QUEUE)?;
        let listener = UnixListener::from_std(OwnedFd::from(socket).into())?;
        Ok(Door { listener, file })
    }

    /// Waits for the next process.
    ///
    /// # Errors
    /// When the one that came isn't this user's, or has gone already. The next may be fine.
    pub async fn visitor(&self) -> Result<Visitor, Error> {
        let (stream, _) = self.listener.accept().await.map_err(|e| Error::Io("take a connection", e))?;
        Link::new(stream).map(Visitor)
    }

    /// Leaves the place to the process that takes over.
    pub fn leave(self) {
        if let Some(file) = self.file {
            file.leave();
        }
    }
}

impl Visitor {
    /// Number of the process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Waits for what it wants next.
    ///
    /// # Errors
    /// When it has gone or can't be understood.
    pub async fn request(&self) -> Result<Request, Error> {
        let (text, _) = self.0.receive().await?;
        Request::parse(&text).ok_or(Error::Unknown(text))
    }

    /// Gives it the listening sockets, which stay open here too.
    ///
    /// # Errors
    /// When it has gone.
    pub async fn give(&self, sockets: &[Listener]) -> Result<(), Error> {
        for socket in sockets {
            self.0.send("socket", Some(socket.as_fd())).await?;
        }
        self.0.send("end", None).await
    }

    /// Says that this process takes no more connections.
    ///
    /// # Errors
    /// When it has gone.
    pub async fn stopped(&self) -> Result<(), Error> {
        self.0.send("stopped", None).await
    }

    /// Says that a request to cancel has been acted on.
    ///
    /// # Errors
    /// When it has gone.
    pub async fn cancelled(&self, id: u64) -> Result<(), Error> {
        self.0.send(&format!("done {id}"), None).await
    }
}

impl Request {
    fn parse(text: &str) -> Option<Request> {
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            ["sockets"] => Some(Request::Sockets),
            ["stop"] => Some(Request::Stop),
            ["cancel", id, pid, key] => {
                Some(Request::Cancel { id: id.parse().ok()?, pid: pid.parse().ok()?, key: bytes(key)? })
            }
            _ => None,
        }
    }
}

/// Bytes from hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if digits.len() % 2 == 1 { None } else { digits.as_bytes().chunks(2).map(byte).collect() }
}
