//! The new process's side: asking the old one for its sockets, taking its place, and passing on requests to cancel.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::Error;
use super::link::Link;
use crate::listen::Listener;
use crate::listen::unix::Address;

/// The process that this one takes the place of. It serves until [`Old::stop`].
#[derive(Debug)]
pub struct Old(Link);

/// Passes requests to cancel on to the old process while it lives. Clones share it.
#[derive(Debug, Clone)]
pub struct Canceller(mpsc::UnboundedSender<Cancel>);

#[derive(Debug)]
struct Cancel {
    pid: u32,
    key: Vec<u8>,
    done: oneshot::Sender<()>,
}

/// Goes to the door of an old process; `None` when nobody is there. Needs a tokio runtime.
///
/// # Errors
/// When the process there isn't this user's, or the place can't be used.
pub fn meet(address: &Address) -> Result<Option<Old>, Error> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).map_err(|e| Error::Io("make a socket", e))?;
    let to = address.to_kernel().map_err(|e| Error::Io("name the old process's socket", e))?;
    match socket.connect(&to) {
        Ok(()) => {}
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(Error::Io("connect to the old process", e)),
    }
    socket.set_nonblocking(true).map_err(|e| Error::Io("set up a socket", e))?;
    let stream = UnixStream::from_std(OwnedFd::from(socket).into()).map_err(|e| Error::Io("watch a socket", e))?;
    Link::new(stream).map(|link| Some(Old(link)))
}

impl Old {
    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Takes its listening sockets. It goes on using them too.
    ///
    /// # Errors
    /// When it has gone or can't be understood.
    pub async fn sockets(&self) -> Result<Vec<Listener>, Error> {
        self.0.send("sockets", None).await?;
        let mut sockets = Vec::new();
        loop {
            match self.0.receive().await? {
                (text, Some(fd)) if text == "socket" => sockets.push(listener(fd)?),
                (text, None) if text == "end" => return Ok(sockets),
                (text, _) => return Err(Error::Unknown(text)),
            }
        }
    }

    /// Tells it to take no more connections, and waits until it doesn't. From then on this process is the pooler, and
    /// requests to cancel what the old one runs go by what is returned.
    ///
    /// # Errors
    /// When it has gone or can't be understood.
    pub async fn stop(self) -> Result<(Canceller, impl Future<Output = ()>), Error> {
        self.0.send("stop", None).await?;
        match self.0.receive().await? {
            (text, _) if text == "stopped" => {}
            (text, _) => return Err(Error::Unknown(text)),
        }
        let (sender, requests) = mpsc::unbounded_channel();
        Ok((Canceller(sender), pass_on(self.0, requests)))
    }
}

/// A listening socket from its descriptor.
fn listener(fd: OwnedFd) -> Result<Listener, Error> {
    let domain = SockRef::from(&fd).domain().map_err(|e| Error::Io("look at a socket", e))?;
    Ok(if domain == Domain::UNIX { Listener::Unix(fd.into()) } else { Listener::Tcp(fd.into()) })
}

impl Canceller {
    /// Passes a request on; returns when it has been acted on, or the old process has ended.
    pub async fn cancel(&self, pid: u32, key: &[u8]) {
        let (done, end) = oneshot::channel();
        if self.0.send(Cancel { pid, key: key.to_owned(), done }).is_ok() {
            // An error means that the old process has ended, and its clients with it.
            let _ = end.await;
        }
    }
}

/// Carries requests and answers until the old process ends.
async fn pass_on(link: Link, mut requests: mpsc::UnboundedReceiver<Cancel>) {
    let mut open: HashMap<u64, oneshot::Sender<()>> = HashMap::new();
    let mut next = 0;
    loop {
        tokio::select! {
            Some(Cancel { pid, key, done }) = requests.recv() => {
                let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
                if link.send(&format!("cancel {next} {pid} {digits}"), None).await.is_err() {
                    return;
                }
                open.insert(next, done);
                next += 1;
            }
            received = link.receive() => {
                let Ok((text, _)) = received else { return };
                let id = text.strip_prefix("done ").and_then(|id| id.parse().ok());
                if let Some(done) = id.and_then(|id: u64| open.remove(&id)) {
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
            }
        }
    }
}
