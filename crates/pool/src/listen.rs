//! The sockets that clients connect to. One thread accepts and spreads connections over all.

pub mod open;
pub mod unix;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use rustix::net::{SocketFlags, accept_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::client::Origin;
use crate::config::Settings;
use crate::shared::Message;
use crate::stream::Detached;
use crate::worker::Worker;

/// A connection that was accepted and belongs to no thread yet.
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
fn is_passing(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(error, Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO)
}

/// How long accepting rests when descriptors or memory have run out.
const REST: std::time::Duration = std::time::Duration::from_millis(100);

/// Accepts connections until the task is ended.
pub(crate) async fn accept(worker: Rc<Worker>, listener: Rc<Listener>) {
    let fd = match listener.fd() {
        Ok(fd) => fd,
        Err(e) => return tracing::error!("use a listening socket: {e}"),
    };
    let ready = match AsyncFd::with_interest(fd, Interest::READABLE) {
        Ok(ready) => ready,
        Err(e) => return tracing::error!("watch a listening socket: {e}"),
    };
    loop {
        let Ok(mut guard) = ready.readable().await else { return };
        match accept_with(ready.get_ref(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(fd) => match accepted(&listener, fd, &worker) {
                Ok(accepted) => place(&worker, accepted),
                Err(e) => tracing::warn!("set up a client's connection: {e}"),
            },
            Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
            Err(e) if is_passing(e) => {}
            Err(e) => {
                tracing::warn!("accept() failed: {e}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

impl Listener {
    fn fd(&self) -> io::Result<OwnedFd> {
        match self {
            Listener::Tcp(l) => l.as_fd().try_clone_to_owned(),
            Listener::Unix(l) => l.as_fd().try_clone_to_owned(),
        }
    }
}

fn accepted(listener: &Listener, fd: OwnedFd, worker: &Worker) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(_) => {
            let stream = std::net::TcpStream::from(fd);
            tune(&stream, &worker.config().settings)?;
            let origin = Origin::Tcp(stream.peer_addr()?, stream.local_addr()?);
            Ok(Accepted { stream: Detached::Tcp(stream), origin })
        }
        Listener::Unix(_) => {
            let stream = std::os::unix::net::UnixStream::from(fd);
            let pid = rustix::net::sockopt::socket_peercred(&stream).ok().map(|c| c.pid.as_raw_nonzero().get());
            Ok(Accepted { stream: Detached::Unix(stream), origin: Origin::Unix(pid) })
        }
    }
}

/// Sets a TCP connection's options from the settings.
pub(crate) fn tune(stream: &std::net::TcpStream, settings: &Settings) -> io::Result<()> {
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

/// Gives a connection to the thread with the fewest clients.
fn place(worker: &Rc<Worker>, accepted: Accepted) {
    let shared = &worker.shared;
    let count = |thread: &usize| shared.clients[*thread].load(Ordering::Relaxed);
    let thread = (0..shared.threads()).min_by_key(count).unwrap_or(worker.index);
    // Counted here, so that a shutdown that waits for clients waits for those on their way to a thread too.
    shared.clients[thread].fetch_add(1, Ordering::Relaxed);
    if thread == worker.index {
        worker.admit(accepted);
    } else {
        shared.send(thread, Message::Client(accepted));
    }
}
