//! What passes between one client and the server that it holds, as pure state: where messages begin and end, what is
//! owed by the server, which prepared statements each side knows. Sockets and pools live in `session`.
//!
//! Bytes are looked at in place. A chunk that needs no change is forwarded as it is, in one write; only where a statement
//! is renamed or an answer inserted or left out is the rest of the chunk copied.

pub(crate) mod honesty;
pub(crate) mod pending;
pub(crate) mod replies;
pub(crate) mod requests;
pub(crate) mod statements;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;

pub(crate) use pending::Owed;
pub(crate) use replies::{Event, Replies};
pub(crate) use requests::Requests;
pub(crate) use statements::{ClientStatements, Registry, ServerStatements};

/// Bytes of a message's header: its kind, and a length that counts itself (PostgreSQL documentation, "Message Formats").
pub(crate) const HEADER: usize = 5;

/// Longest message that has to be in memory as a whole, where the sender is a server.
pub(crate) const LONGEST_INSPECTED: usize = 1 << 20;

/// Why a conversation can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// A length that is impossible, or above `max_packet_size`.
    #[error(transparent)]
    Header(#[from] crate::wire::Fault),
    /// A kind that clients don't send.
    #[error("unknown pkt")]
    Unknown(u8),
    /// A message whose contents break the protocol.
    #[error("failed to parse packet")]
    Broken(&'static str),
    /// The server refused what the pooler itself asked of it.
    #[error("invalid server parameter")]
    Refused,
    /// The server's prepared statements are not those that the pooler gave it.
    #[error("prepared statements on the server have changed")]
    Estranged,
}

/// The header of the message that begins at `bytes`, if it's all there: its kind and the length of its body.
#[inline]
pub(crate) fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, Fault> {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    if !(4..=i32::MAX as u32).contains(&length) {
        return Err(crate::wire::Fault::header(bytes).into());
    }
    Ok(Some((kind, length as usize - 4)))
}

/// Splits at the first zero byte, which belongs to neither half.
pub(crate) fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
