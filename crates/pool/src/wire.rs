//! The PostgreSQL wire protocol (PostgreSQL documentation, chapter "Frontend/Backend Protocol"): reading and building
//! messages. No I/O.

pub mod build;
pub mod header;
pub mod kind;
pub mod reply;
pub mod request;
pub mod startup;
pub mod statement;

use std::fmt;

/// Length of the header of every message but a connection's first: kind (1 byte) and length (4 bytes).
pub const HEADER: usize = 5;

/// Largest value of a message's length field; the field counts itself but not the kind byte.
pub const MAX_LENGTH: u32 = i32::MAX as u32;

/// What the other side sent and must not. The texts are pgbouncer's: clients see them and they end up in logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A header that can't be one: an impossible length, or a first packet with an unknown request code.
    #[error("bad packet header: '{0}'")]
    BadHeader(Excerpt),
    /// A startup packet of protocol 2.0.
    #[error("old V2 protocol not supported")]
    OldProtocol,
    /// A cancel request whose key has an impossible length. Gets no answer, as every cancel request.
    #[error("bad cancel request")]
    BadCancel,
    /// A startup packet without a user.
    #[error("no username supplied")]
    NoUser,
    /// A startup packet with a user of 128 bytes or more.
    #[error("username too long")]
    UserTooLong,
    /// Bytes that came along with an SSLRequest: a man in the middle could have put them there.
    #[error("received unencrypted data after SSL request")]
    DataAfterSslRequest,
    /// Bytes that came along with a GSSENCRequest.
    #[error("received unencrypted data after GSSAPI encryption request")]
    DataAfterGssRequest,
    /// A message of a kind that doesn't exist or doesn't belong here.
    #[error("unknown pkt")]
    UnknownKind(u8),
    /// A message, of this kind, whose body isn't what its kind demands.
    #[error("failed to parse packet")]
    BadBody(u8),
    /// A Parse message whose name can be read and whose rest can't.
    #[error("broken Parse packet")]
    BrokenParse,
}

impl Fault {
    /// Whether the connection is closed without an ErrorResponse.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::BadCancel)
    }

    /// A bad header, with what is there of its first eight bytes.
    #[must_use]
    pub fn header(bytes: &[u8]) -> Self {
        Self::BadHeader(Excerpt::of(bytes))
    }
}

/// The first bytes (at most eight) of something bad, shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Excerpt {
    bytes: [u8; 8],
    length: u8,
}

impl Excerpt {
    fn of(source: &[u8]) -> Self {
        let mut bytes = [0; 8];
        let mut length = 0;
        for (to, from) in bytes.iter_mut().zip(source) {
            *to = *from;
            length += 1;
        }
        Self { bytes, length }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.iter().take(usize::from(self.length)).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A body being read from front to back. Every reader answers `None` when the body ends too early.
#[derive(Debug, Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*taken))
    }

    fn u32(&mut self) -> Option<u32> {
        let (taken, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*taken))
    }

    /// A string that a zero byte ends; the zero byte is taken but not given.
    fn string(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let taken = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(taken)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
