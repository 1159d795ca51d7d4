//! The sockets that clients connect to. One thread accepts and spreads connections over all.

pub mod open;
pub mod unix;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use tokio::net::{TcpListener, UnixListener};

use crate::client::Origin;
use crate::shared::Message;
use crate::stream::{Detached, Stream, Tuning};
use crate::worker::Worker;

/// A connection that was accepted, on its way to its thread.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The connection.
    pub(crate) stream: Detached,
    /// Where it comes from.
    pub(crate) origin: Origin,
}

/// A socket that takes connections.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix domain socket.
    Unix(std::os::unix::net::UnixListener),
}

/// Errors that concern one connection only (`man 2 accept`): the next may be fine.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied)
}

/// How long accepting rests when descriptors or memory have run out.
const REST: std::time::Duration = std::time::Duration::from_millis(100);

/// Clients that a thread gets in a row. Few clients share a thread: it serves them all with each wake-up, where several
/// threads would wake for one at a time.
const RUN: u32 = 8;

/// Accepts connections until the task is ended.
pub(crate) async fn accept(worker: Rc<Worker>, listener: Listener) {
    let mut ears = match Ears::new(listener) {
        Ok(ears) => ears,
        Err(e) => return tracing::error!("use a listening socket: {e}"),
    };
    loop {
        match ears.hear(&worker).await {
            Ok((stream, origin)) => place(&worker, stream, origin),
            Err(e) if is_passing(&e) => {}
            Err(e) => {
                tracing::warn!("accept() failed: {e}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// A listening socket on this thread's runtime.
enum Ears {
    Tcp {
        listener: TcpListener,
        /// The switches among these are set, and inherited by its connections.
        tuning: Option<Tuning>,
        /// Our end of its connections, where it's the same for all.
        address: Option<SocketAddr>,
    },
    Unix(UnixListener),
}

impl Ears {
    fn new(listener: Listener) -> io::Result<Ears> {
        match listener {
            Listener::Tcp(l) => {
                let address = l.local_addr().ok().filter(|a| !a.ip().is_unspecified());
                Ok(Ears::Tcp { listener: TcpListener::from_std(l)?, tuning: None, address })
            }
            Listener::Unix(l) => UnixListener::from_std(l).map(Ears::Unix),
        }
    }

    async fn hear(&mut self, worker: &Worker) -> io::Result<(Stream, Origin)> {
        match self {
            Ears::Tcp { listener, tuning, address } => {
                let (stream, peer) = listener.accept().await?;
                let wanted = Tuning::of(&worker.config().settings);
                if *tuning != Some(wanted) {
                    wanted.apply_switches(listener)?;
                    wanted.apply_switches(&stream)?;
                    *tuning = Some(wanted);
                }
                wanted.apply_amounts(&stream)?;
                let local = address.map_or_else(|| stream.local_addr(), Ok)?;
                Ok((Stream::Tcp(stream), Origin::Tcp(peer, local)))
            }
            Ears::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|c| c.pid());
                Ok((Stream::Unix(stream), Origin::Unix(pid)))
            }
        }
    }
}

/// Gives a connection to the thread with the fewest runs of clients.
fn place(worker: &Rc<Worker>, stream: Stream, origin: Origin) {
    let shared = &worker.shared;
    let runs = |thread: &usize| shared.clients[*thread].load(Ordering::Relaxed) / RUN;
    let thread = (0..shared.threads()).min_by_key(runs).unwrap_or(worker.index);
    // Counted here, so that a shutdown that waits for clients waits for those on their way to a thread too.
    shared.clients[thread].fetch_add(1, Ordering::Relaxed);
    if thread == worker.index {
        return worker.admit(stream, origin);
    }
    match stream.detach() {
        Ok(stream) => shared.send(thread, Message::Client(Accepted { stream, origin })),
        Err(e) => {
            shared.clients[thread].fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("move a client's connection to another thread: {e}");
        }
    }
}
