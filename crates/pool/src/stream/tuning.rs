//! Options of TCP sockets, from pgbouncer's `tcp_*` settings.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// What to set on a TCP socket. On Linux a connection inherits all of it from the listening socket that accepted it, so
/// that clients' connections need no call of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// `tcp_keepalive`: whether to probe idle connections at all.
    pub keepalive: bool,
    /// `tcp_keepcnt`: unanswered probes after which the connection is dead; zero leaves the system's.
    pub keepalive_count: u32,
    /// `tcp_keepidle`: before the first probe; zero leaves the system's.
    pub keepalive_idle: Duration,
    /// `tcp_keepintvl`: between probes; zero leaves the system's.
    pub keepalive_interval: Duration,
    /// `tcp_user_timeout`: how long sent data may go unacknowledged; zero leaves the system's.
    pub user_timeout: Duration,
    /// `tcp_socket_buffer`, in bytes; zero leaves the system's.
    pub buffer: usize,
}

impl Tuning {
    /// Sets the options, and that small messages leave at once.
    ///
    /// # Errors
    /// The system refuses one, for example because it isn't a TCP socket.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        if self.buffer > 0 {
            socket.set_send_buffer_size(self.buffer)?;
            socket.set_recv_buffer_size(self.buffer)?;
        }
        if self.keepalive {
            let mut keepalive = TcpKeepalive::new();
            if !self.keepalive_idle.is_zero() {
                keepalive = keepalive.with_time(self.keepalive_idle);
            }
            if !self.keepalive_interval.is_zero() {
                keepalive = keepalive.with_interval(self.keepalive_interval);
            }
            if self.keepalive_count > 0 {
                keepalive = keepalive.with_retries(self.keepalive_count);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if !self.user_timeout.is_zero() {
            socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        }
        Ok(())
    }
}
