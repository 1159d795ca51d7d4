//! Messages to systemd (sd_notify(3)): ready, reloading, stopping, status and the service watchdog. Own code because
//! the protocol is one datagram. When to send what is the program's business.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where systemd listens; without systemd all messages go nowhere.
#[derive(Debug, Default)]
pub struct Notifier {
    target: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Takes `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` from the environment.
    pub fn from_env() -> Notifier {
        let usec = std::env::var("WATCHDOG_USEC").ok();
        let pid = std::env::var("WATCHDOG_PID").ok();
        Notifier {
            target: std::env::var_os("NOTIFY_SOCKET").and_then(|name| target(&name)),
            watchdog: watchdog_interval(usec.as_deref(), pid.as_deref(), std::process::id()),
        }
    }

    /// How often [`Notifier::watchdog`] must be called: half of what systemd allows. `None` when it doesn't watch.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The program is up.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The configuration is being read again; [`Notifier::ready`] must follow.
    pub fn reloading(&self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// The program is leaving.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// Another process is the service's main one from now on.
    pub fn main_process(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    /// The program is alive.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    /// Never waits: a message that finds no room is lost, and the next one says the same or more.
    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.target
            && let Err(e) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::debug!("can't notify systemd: {e}");
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// A path, or with a leading `@` a name in the abstract namespace.
fn target(name: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}

fn watchdog_interval(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok().filter(|n| *n > 0)?;
    Some(Duration::from_micros(usec) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 256];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    fn notifier(name: &OsStr) -> Notifier {
        Notifier { target: target(name), watchdog: None }
    }

    #[test]
    fn messages_reach_a_socket_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = notifier(path.as_os_str());
        notifier.ready("leader\nof otus");
        assert_eq!(receive(&socket), "READY=1\nSTATUS=leader of otus");
        notifier.reloading();
        assert!(receive(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notifier.watchdog();
        assert_eq!(receive(&socket), "WATCHDOG=1");
        notifier.main_process(7);
        assert_eq!(receive(&socket), "MAINPID=7");
        notifier.stopping("asked to");
        assert_eq!(receive(&socket), "STOPPING=1\nSTATUS=asked to");
    }

    #[test]
    fn messages_reach_an_abstract_socket() {
        let name = format!("pgherd-notify-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        notifier(OsStr::new(&format!("@{name}"))).status("x");
        assert_eq!(receive(&socket), "STATUS=x");
    }

    #[test]
    fn a_reader_that_is_stuck_or_gone_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = notifier(path.as_os_str());
        (0..10_000).for_each(|_| notifier.watchdog());
        drop(socket);
        notifier.watchdog();
        Notifier::default().ready("nobody listens");
    }

    #[test]
    fn watchdog_is_fed_twice_as_often_as_needed() {
        assert_eq!(watchdog_interval(Some("10000000"), None, 7), Some(Duration::from_secs(5)));
        assert_eq!(watchdog_interval(Some("10000000"), Some("7"), 7), Some(Duration::from_secs(5)));
        assert_eq!(watchdog_interval(Some("10000000"), Some("8"), 7), None);
        assert_eq!(watchdog_interval(None, None, 7), None);
    }
}
