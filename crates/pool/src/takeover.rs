//! Online restart: an old process hands its listening sockets to a new one over a Unix socket of their own, the door, and
//! the new one passes on requests to cancel what the old one still runs. No socket is ever closed meanwhile, so that no
//! client is refused. What either process does before and after is the program's business.
//!
//! Both ends check that the other runs as the same user, or as root. Every message is one packet of text:
//!
//! | the new process says | the old one answers |
//! |---|---|
//! | `sockets` | `socket` with a file descriptor, for each; then `end` |
//! | `stop` | `stopped`: it takes no more connections, and the pid file and the socket's file are the new one's |
//! | `cancel ID PID KEY` (the key in hexadecimal digits) | `done ID`, when the request has been acted on |

mod door;
mod link;
mod old;

use crate::config::Settings;
use crate::listen::unix::Address;

pub use door::{Door, Request, Visitor};
pub use old::{Canceller, Old, meet};

/// Why a handover fails. The old process goes on serving.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other process runs as somebody else.
    #[error("the process at the other end (pid {pid}) runs as user {uid}, not as ours")]
    Stranger {
        /// Its process number.
        pid: i32,
        /// Its user.
        uid: u32,
    },
    /// It says what isn't understood: another version, or another program.
    #[error("the other process says {0:?}, which this version doesn't understand")]
    Unknown(String),
    /// It has ended.
    #[error("the other process has gone")]
    Gone,
    /// The system refuses.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
}

/// Where the door of a pooler with these settings is: beside its Unix socket, else beside its pid file. `None` where it
/// has neither, and so can't be restarted online.
#[must_use]
pub fn address(settings: &Settings) -> Option<Address> {
    let beside = Address::of(settings).or_else(|| settings.pidfile.clone().map(Address::File))?;
    Some(beside.with(".takeover"))
}

#[cfg(test)]
mod tests;
