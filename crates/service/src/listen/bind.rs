//! Listening sockets with errors that say what to do. Serving is not here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};

use super::Error;
use crate::config::HostPort;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 512;

/// Listens on every address that the host names. `*` means all of them, over IPv4 and IPv6.
pub(super) fn bind(listen: &HostPort) -> Result<Vec<TcpListener>, Error> {
    if matches!(listen.host.as_str(), "*" | "") {
        let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), listen.port);
        let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), listen.port);
        // A kernel without IPv6 refuses the first; a port in use is refused by both.
        let listener = open(v6).or_else(|_| open(v4)).map_err(|e| explain(listen, &e))?;
        return Ok(vec![listener]);
    }
    let mut listeners = Vec::new();
    for host in listen.host.split(',') {
        let addresses = (host.trim(), listen.port).to_socket_addrs().map_err(|e| unknown_host(listen, &e))?;
        let mut addresses: Vec<SocketAddr> = addresses.collect();
        addresses.sort();
        addresses.dedup();
        for address in addresses {
            listeners.push(open(address).map_err(|e| explain(listen, &e))?);
        }
    }
    Ok(listeners)
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn unknown_host(listen: &HostPort, error: &io::Error) -> Error {
    Error::Bind(format!("can't listen on {listen}: {error}: is the host name right?"))
}

fn explain(listen: &HostPort, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let port = listen.port;
            format!(
                ": another program has the port (\"ss -ltnp 'sport = :{port}'\" shows which): stop it or choose another port"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            ": this machine doesn't have the address: correct it, or use 0.0.0.0".to_owned()
        }
        io::ErrorKind::PermissionDenied => ": ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned(),
        _ => String::new(),
    };
    Error::Bind(format!("can't listen on {listen}: {error}{hint}"))
}
