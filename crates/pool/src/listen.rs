//! The sockets that clients connect to. One thread accepts and spreads connections over all.

pub mod open;
pub mod unix;

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use crate::client::Origin;
use crate::config::Settings;
use crate::shared::Message;
use crate::stream::{Detached, Stream};
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

/// A listening socket on this thread's runtime.
enum Ears {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// Accepts connections until the task is ended.
pub(crate) async fn accept(worker: Rc<Worker>, listener: Listener) {
    let ears = match listener {
        Listener::Tcp(l) => tokio::net::TcpListener::from_std(l).map(Ears::Tcp),
        Listener::Unix(l) => tokio::net::UnixListener::from_std(l).map(Ears::Unix),
    };
    let ears = match ears {
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

impl Ears {
    async fn hear(&self, worker: &Worker) -> io::Result<(Stream, Origin)> {
        match self {
            Ears::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                tune(&stream, &worker.config().settings)?;
                let origin = Origin::Tcp(peer, stream.local_addr()?);
                Ok((Stream::Tcp(stream), origin))
            }
            Ears::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|c| c.pid());
                Ok((Stream::Unix(stream), Origin::Unix(pid)))
            }
        }
    }
}

/// Sets a TCP connection's options from the settings.
pub(crate) fn tune(stream: &impl AsFd, settings: &Settings) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    if settings.tcp_keepalive {
        let mut keepalive = socket2::TcpKeepalive::new();
        if !settings.tcp_keepidle.is_zero() {
            keepalive = keepalive.with_time(settings.tcp_keepidle);
        }
        if !settings.tcp_keepintvl.is_zero() {
            keepalive = keepalive.with_interval(settings.tcp_keepintvl);
        }
        if settings.tcp_keepcnt > 0 {
            keepalive = keepalive.with_retries(settings.tcp_keepcnt);
        }
        socket.set_keepalive(true)?;
        if settings.tcp_keepcnt > 0 || !settings.tcp_keepidle.is_zero() || !settings.tcp_keepintvl.is_zero() {
            socket.set_tcp_keepalive(&keepalive)?;
        }
    }
    if !settings.tcp_user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(settings.tcp_user_timeout))?;
    }
    if settings.tcp_socket_buffer > 0 {
        socket.set_recv_buffer_size(settings.tcp_socket_buffer)?;
        socket.set_send_buffer_size(settings.tcp_socket_buffer)?;
    }
    Ok(())
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
