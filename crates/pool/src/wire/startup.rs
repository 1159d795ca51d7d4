//! A connection's first packets, which have no kind byte: requests for encryption, cancel requests and the startup
//! packet (PostgreSQL documentation, "Message Formats": StartupMessage, SSLRequest, GSSENCRequest, CancelRequest).

use super::{Fault, Reader};

/// Longest first packet that is read; PostgreSQL's own limit.
pub const MAX_PACKET: usize = 10_000;

/// Longest key of a cancel request; protocol 3.2's limit.
pub const MAX_CANCEL_KEY: usize = 256;

/// Newest minor version of protocol 3 that is spoken here.
pub const NEWEST_MINOR: u16 = 2;

/// Longest user name; pgbouncer's limit.
const MAX_USER: usize = 127;

const PREFIX: usize = 8;
const CANCEL: u32 = 0x04d2_162e;
const SSL: u32 = 0x04d2_162f;
const GSS: u32 = 0x04d2_1630;
const TLS_HANDSHAKE: u8 = 0x16;

/// Parameters with this prefix of their name ask for extensions of the protocol.
const EXTENSION: &[u8] = b"_pq_.";

/// A connection's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// SSLRequest.
    SslRequest,
    /// GSSENCRequest.
    GssEncRequest,
    /// The first byte of a TLS handshake: TLS without an SSLRequest. Nothing of it is consumed.
    DirectTls,
    /// CancelRequest.
    Cancel(Cancel<'a>),
    /// StartupMessage of protocol 3.
    Startup(Startup<'a>),
}

/// What to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel<'a> {
    /// The process id that BackendKeyData gave.
    pub pid: u32,
    /// The key that BackendKeyData gave: 4 to 256 bytes.
    pub key: &'a [u8],
}

/// Reads a connection's first packet, or one that follows a refused request for encryption. Answers the packet and its
/// length in bytes, or `None` when more bytes are needed.
///
/// # Errors
/// The bytes are no such packet; said as soon as it is certain.
pub fn parse(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Fault> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some((Packet::DirectTls, 0)));
    }
    let mut reader = Reader(bytes);
    let Some(length) = reader.u32() else { return Ok(None) };
    let length = length as usize;
    if !(PREFIX..=MAX_PACKET).contains(&length) {
        return Err(Fault::header(bytes));
    }
    let Some(code) = reader.u32() else { return Ok(None) };
    // An unknown code is told at once: the rest may never come.
    let (major, minor) = ((code >> 16) as u16, code as u16);
    if !matches!((code, major), (SSL | GSS | CANCEL, _) | (_, 2 | 3)) {
        return Err(Fault::header(bytes));
    }
    let Some(body) = reader.bytes(length - PREFIX) else { return Ok(None) };
    let packet = match (code, major) {
        (SSL, _) => Packet::SslRequest,
        (GSS, _) => Packet::GssEncRequest,
        (CANCEL, _) => Packet::Cancel(cancel(body)?),
        (_, 3) => Packet::Startup(Startup { minor, body }),
        _ => return Err(Fault::OldProtocol),
    };
    Ok(Some((packet, length)))
}

fn cancel(body: &[u8]) -> Result<Cancel<'_>, Fault> {
    let mut reader = Reader(body);
    let pid = reader.u32().ok_or(Fault::BadCancel)?;
    let key = reader.0;
    if !(4..=MAX_CANCEL_KEY).contains(&key.len()) {
        return Err(Fault::BadCancel);
    }
    Ok(Cancel { pid, key })
}

/// StartupMessage of protocol 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Startup<'a> {
    /// Minor version that the client asks for.
    pub minor: u16,
    body: &'a [u8],
}

impl<'a> Startup<'a> {
    /// Names and values in order, those of protocol extensions too. As in pgbouncer the list ends at an empty name, at
    /// the end of the packet or where a name has no complete value, and nothing need be UTF-8.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut reader = Reader(self.body);
        std::iter::from_fn(move || {
            let name = reader.string().filter(|name| !name.is_empty())?;
            Some((name, reader.string()?))
        })
    }

    /// The user.
    ///
    /// # Errors
    /// There is none, or its name is too long.
    pub fn user(&self) -> Result<&'a [u8], Fault> {
        match self.last(b"user") {
            None => Err(Fault::NoUser),
            Some(user) if user.len() > MAX_USER => Err(Fault::UserTooLong),
            Some(user) => Ok(user),
        }
    }

    /// The database, which is named as the user where the client names none.
    ///
    /// # Errors
    /// As [`user`](Self::user).
    pub fn database(&self) -> Result<&'a [u8], Fault> {
        let user = self.user()?;
        Ok(self.last(b"database").unwrap_or(user))
    }

    /// Of a parameter given twice the last counts; an empty value is none.
    fn last(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        let values = self.parameters().filter(|(name, _)| *name == wanted).map(|(_, value)| value);
        values.last().filter(|value| !value.is_empty())
    }

    /// The minor version to speak with this client.
    #[must_use]
    pub fn agreed_minor(&self) -> u16 {
        match self.minor {
            // There is no 3.1.
            0 | 1 => 0,
            newer => newer.min(NEWEST_MINOR),
        }
    }

    /// The names of protocol extensions that the client asks for; none is known here.
    pub fn extensions(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.parameters().map(|(name, _)| name).filter(|name| is_extension(name))
    }

    /// Whether the client must be told by NegotiateProtocolVersion what it gets instead of what it asked for:
    /// [`agreed_minor`](Self::agreed_minor) and, as unknown, [`extensions`](Self::extensions).
    #[must_use]
    pub fn needs_negotiation(&self) -> bool {
        self.agreed_minor() != self.minor || self.extensions().next().is_some()
    }
}

/// Whether a startup parameter asks for a protocol extension.
#[must_use]
pub fn is_extension(name: &[u8]) -> bool {
    name.starts_with(EXTENSION)
}

#[cfg(test)]
mod tests;
