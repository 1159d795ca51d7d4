//! Opens the listening sockets that the settings name, or keeps those that were passed on by systemd or by an older
//! process. Taking connections from them is elsewhere.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::SetSockOpt;
use nix::sys::socket::sockopt::SetStruct;
use socket2::{Domain, Protocol, Socket, Type};

use super::Listener;
use super::unix::{self, SocketFile};
use crate::config::Settings;

nix::setsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, i32, SetStruct<i32>);

/// Wait for a connection's first data in the kernel (`man 7 tcp`).
#[derive(Clone)]
struct DeferAccept;

/// Sockets that are open, and what has to be tidied up after them.
#[derive(Debug, Default)]
pub struct Opened {
    /// The sockets.
    pub listeners: Vec<Listener>,
    /// The file of the Unix socket, if it has one.
    pub file: Option<SocketFile>,
}

/// Why the pooler can't listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of the addresses can be had. A warning has told of each.
    #[error("failed to listen on any address in listen_addr list: {0}")]
    NoAddress(String),
    /// Somebody else answers at the Unix socket.
    #[error("unix socket is in use, cannot continue")]
    SocketInUse,
    /// A name in `listen_addr` means nothing.
    #[error("listen_addr: {0}: {1}")]
    Unknown(String, io::Error),
    /// Nothing is left to listen on.
    #[error("nowhere to listen on")]
    Nowhere,
}

/// Opens everything that `listen_addr` and `unix_socket_dir` name. A socket among `passed` that has one of these
/// addresses is kept; the others are closed. An address that can't be had is only warned of while others can, unless
/// it's that of `*` and another program has it.
///
/// # Errors
/// See [`Error`].
pub fn open(settings: &Settings, mut passed: Vec<Listener>) -> Result<Opened, Error> {
    let mut opened = Opened::default();
    for (address, optional) in addresses(settings)? {
        let known = passed.iter().position(|l| l.is_at(address));
        let listener = match known {
            Some(index) => Ok(passed.swap_remove(index)),
            None => tcp(address, settings).map(Listener::Tcp),
        };
        match listener {
            Ok(listener) => opened.add(listener, settings),
            Err(e) if optional => tracing::debug!(target: "pooler", "not listening on {address}: {e}"),
            Err(e) => {
                warn(&address, &e);
                // IPv6 alone is not what `*` means where another program has the port.
                if address.ip().is_unspecified() && e.kind() == io::ErrorKind::AddrInUse {
                    return Err(Error::NoAddress(settings.listen_addr.join(", ")));
                }
            }
        }
    }
    if opened.listeners.is_empty() && !settings.listen_addr.is_empty() {
        return Err(Error::NoAddress(settings.listen_addr.join(", ")));
    }
    if let Some(address) = unix::Address::of(settings) {
        let known = passed.iter().position(|l| l.is_unix(&address));
        let listener = match known {
            Some(index) => Ok(passed.swap_remove(index)),
            None => unix::open(&address, settings).map(Listener::Unix),
        };
        match listener {
            Ok(listener) => {
                opened.add(listener, settings);
                opened.file = address.path().and_then(SocketFile::of);
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(Error::SocketInUse),
            Err(e) => warn(&address, &e),
        }
    }
    if opened.listeners.is_empty() { Err(Error::Nowhere) } else { Ok(opened) }
}

/// Uses the sockets that a service manager has opened, in the place of those that the settings name.
#[must_use]
pub fn adopt(settings: &Settings, passed: Vec<Listener>) -> Opened {
    if !settings.listen_addr.is_empty() {
        tracing::warn!(target: "pooler", "sockets passed from service manager, listen_addr ignored");
    }
    if settings.unix_socket_dir.is_some() {
        tracing::warn!(target: "pooler", "sockets passed from service manager, unix_socket_dir ignored");
    }
    let mut opened = Opened::default();
    for listener in passed {
        tracing::info!(target: "pooler", "socket passed from service manager");
        opened.add(listener, settings);
    }
    opened
}

/// Whether the kernel should wait for a connection's first data before it shows the connection.
///
/// # Errors
/// When the kernel refuses.
pub fn defer_accept(listener: &Listener, wait: bool) -> io::Result<()> {
    match listener {
        Listener::Tcp(tcp) => Ok(DeferAccept.set(tcp, &i32::from(wait))?),
        Listener::Unix(_) => Ok(()),
    }
}

impl Opened {
    fn add(&mut self, listener: Listener, settings: &Settings) {
        let ready = listener.set_nonblocking().and_then(|()| defer_accept(&listener, settings.tcp_defer_accept));
        if let Err(e) = ready {
            tracing::warn!(target: "pooler", "set up the listening socket {listener}: {e}");
        }
        tracing::info!(target: "pooler", "listening on {listener}");
        self.listeners.push(listener);
    }
}

impl Listener {
    /// Another handle for the same socket.
    ///
    /// # Errors
    /// When the process has too many files open.
    pub fn try_clone(&self) -> io::Result<Listener> {
        match self {
            Listener::Tcp(l) => l.try_clone().map(Listener::Tcp),
            Listener::Unix(l) => l.try_clone().map(Listener::Unix),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Listener::Tcp(l) => l.set_nonblocking(true),
            Listener::Unix(l) => l.set_nonblocking(true),
        }
    }

    fn is_at(&self, address: SocketAddr) -> bool {
        matches!(self, Listener::Tcp(l) if l.local_addr().is_ok_and(|own| own == address))
    }

    fn is_unix(&self, address: &unix::Address) -> bool {
        matches!(self, Listener::Unix(l) if l.local_addr().is_ok_and(|own| address.is(&own)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(l) => l.as_fd(),
            Listener::Unix(l) => l.as_fd(),
        }
    }
}

/// As pgbouncer names them: `127.0.0.1:6432`, `[::1]:6432`, `unix:/tmp/.s.PGSQL.6432`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Tcp(l) => match l.local_addr() {
                Ok(address) => address.fmt(f),
                Err(e) => write!(f, "tcp ({e})"),
            },
            Listener::Unix(l) => match l.local_addr() {
                Ok(address) => unix::Address::from(&address).fmt(f),
                Err(e) => write!(f, "unix ({e})"),
            },
        }
    }
}

fn warn(address: &dyn fmt::Display, error: &io::Error) {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(errno) => tracing::warn!(target: "pooler", "cannot listen on {address}: bind(): {}", errno.desc()),
        None => tracing::warn!(target: "pooler", "cannot listen on {address}: {error}"),
    }
}

/// The addresses of `listen_addr`, each once, and whether it doesn't matter when the machine lacks it.
fn addresses(settings: &Settings) -> Result<Vec<(SocketAddr, bool)>, Error> {
    let port = settings.listen_port;
    let mut addresses = Vec::new();
    for host in &settings.listen_addr {
        if host == "*" {
            addresses.push((SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false));
            addresses.push((SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), true));
            continue;
        }
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let found = (bare, port).to_socket_addrs().map_err(|e| Error::Unknown(host.clone(), e))?;
        addresses.extend(found.map(|address| (address, false)));
    }
    let mut seen = HashSet::new();
    addresses.retain(|(address, _)| seen.insert(*address));
    Ok(addresses)
}

fn tcp(address: SocketAddr, settings: &Settings) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if settings.so_reuseport {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // 0.0.0.0 has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog(settings))?;
    Ok(socket.into())
}

/// `listen_backlog` as the kernel takes it, which cuts it to its own limit.
pub(super) fn backlog(settings: &Settings) -> i32 {
    i32::try_from(settings.listen_backlog).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
