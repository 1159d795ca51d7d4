//! Options of TCP sockets, from pgbouncer's `tcp_*` settings.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::config::Settings;

/// What to set on a TCP socket.
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
    /// What the settings say.
    #[must_use]
    pub fn of(settings: &Settings) -> Tuning {
        Tuning {
            keepalive: settings.tcp_keepalive,
            keepalive_count: settings.tcp_keepcnt,
            keepalive_idle: settings.tcp_keepidle,
            keepalive_interval: settings.tcp_keepintvl,
            user_timeout: settings.tcp_user_timeout,
            buffer: settings.tcp_socket_buffer,
        }
    }

    /// Sets all options.
    ///
    /// # Errors
    /// The system refuses one, for example because it isn't a TCP socket.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        self.apply_switches(socket)?;
        self.apply_amounts(socket)
    }

    /// Sets what is on or off: that small messages leave at once, and `tcp_keepalive`. Connections inherit it from the
    /// socket that they were accepted from (Linux).
    ///
    /// # Errors
    /// See [`Tuning::apply`].
    pub fn apply_switches(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(self.keepalive)
    }

    /// Sets the others, which have no value that means the system's: a connection inherits what can't be taken back.
    ///
    /// # Errors
    /// See [`Tuning::apply`].
    pub fn apply_amounts(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        if self.buffer > 0 {
            socket.set_send_buffer_size(self.buffer)?;
            socket.set_recv_buffer_size(self.buffer)?;
        }
        if self.keepalive && !self.keepalive_idle.is_zero() {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(self.keepalive_idle))?;
        }
        if self.keepalive && !self.keepalive_interval.is_zero() {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_interval(self.keepalive_interval))?;
        }
        if self.keepalive && self.keepalive_count > 0 {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_retries(self.keepalive_count))?;
        }
        if !self.user_timeout.is_zero() {
            socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        }
        Ok(())
    }
}
