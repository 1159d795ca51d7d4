//! Finding messages in a stream of bytes, in place: the hot path of the relay. Nothing is copied but headers that a
//! chunk's end cuts in two; bodies are skipped by count and needn't ever be in memory as a whole.

use super::kind::Kinds;
use super::{Fault, HEADER, MAX_LENGTH};

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// First byte of the message.
    pub kind: u8,
    /// Length of the body: the length field less its own four bytes.
    pub body: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// The length field is below 4 or above `i32::MAX`.
    #[inline]
    pub fn read(bytes: [u8; HEADER]) -> Result<Self, Fault> {
        let [kind, a, b, c, d] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]);
        let body = length.wrapping_sub(4);
        if body > MAX_LENGTH - 4 {
            return Err(Fault::header(&bytes));
        }
        Ok(Self { kind, body })
    }
}

/// What a [`Scanner`] found. Positions count from the beginning of the chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// A message whose header ends in this chunk.
    Message(Message),
    /// More of the body of a message whose header ended in an earlier chunk.
    More(More),
    /// The chunk ends within a header: its bytes are from `start` to the end of the chunk. The scanner remembers them,
    /// so they may be forwarded; who holds them back instead gets them again by [`Scanner::take_held`].
    Cut {
        /// Kind of the message.
        kind: u8,
        /// Where the header begins, or the rest of it if it began in an earlier chunk.
        start: usize,
    },
}

/// A message whose header ends in this chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Kind of the message.
    pub kind: u8,
    /// Where the header begins, or the rest of it if it began in an earlier chunk.
    pub start: usize,
    /// Where the body begins: `start + 5`, or less if the header began in an earlier chunk.
    pub body: usize,
    /// Where the message ends, or the end of the chunk if that comes first.
    pub end: usize,
    /// Bytes of the body that come after this chunk.
    pub left: u32,
}

impl Message {
    /// Whether the whole body is in this chunk.
    #[inline]
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Whether header and body are in this chunk from end to end.
    #[inline]
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.left == 0 && self.body - self.start == HEADER
    }

    /// Length of the body, with what is not in this chunk.
    #[inline]
    #[must_use]
    pub fn body_length(&self) -> u32 {
        // What is in a chunk of it is part of a length that came out of 31 bits.
        (self.end - self.body) as u32 + self.left
    }

    /// What is in the chunk of the body.
    #[inline]
    #[must_use]
    pub fn body_in<'a>(&self, chunk: &'a [u8]) -> &'a [u8] {
        &chunk[self.body..self.end]
    }
}

/// More of the body of a message whose header ended in an earlier chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct More {
    /// Kind of the message.
    pub kind: u8,
    /// Where this part begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Bytes of the body that come after this chunk.
    pub left: u32,
}

impl More {
    /// Whether the message ends in this chunk.
    #[inline]
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.left == 0
    }
}

/// Walks the messages of one direction of one connection, chunk by chunk.
///
/// ```
/// use pool::wire::header::{Item, Scanner};
/// use pool::wire::kind::{Kinds, server};
///
/// const WATCHED: Kinds = Kinds::of(&[server::READY]);
/// let mut scanner = Scanner::default();
/// let chunk = b"1\0\0\0\x04Z\0\0\0\x05I";
/// let mut at = 0;
/// while let Some(item) = scanner.next(chunk, &mut at, WATCHED)? {
///     let Item::Message(message) = item else { continue };
///     assert_eq!(message.body_in(chunk), b"I");
/// }
/// assert!(at == chunk.len() && scanner.is_between());
/// # Ok::<(), pool::wire::Fault>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Scanner {
    /// Bytes to come of the body that `kind` is about.
    left: u32,
    kind: u8,
    /// How much of `head` is filled: the beginning of a header that a chunk's end cut.
    held: u8,
    head: [u8; HEADER - 1],
}

impl Scanner {
    /// The next item at or after `at`, which moves behind it: everything before `at` has been accounted for. Messages
    /// of kinds that aren't watched are skipped. `None` means that the chunk is used up; a following chunk continues
    /// where this one ended, with `at` at 0.
    ///
    /// # Errors
    /// A header with an impossible length; the stream can't be followed any further.
    #[inline]
    pub fn next(&mut self, chunk: &[u8], at: &mut usize, watched: Kinds) -> Result<Option<Item>, Fault> {
        if !self.is_between() {
            let item = self.resume(chunk, at, watched)?;
            if item.is_some() || !self.is_between() {
                return Ok(item);
            }
        }
        loop {
            let start = *at;
            let Some(bytes) = chunk.get(start..).and_then(<[u8]>::first_chunk::<HEADER>) else {
                return Ok(self.cut(chunk, at, watched));
            };
            let Ok(header) = Header::read(*bytes) else {
                return Err(Fault::header(&chunk[start..]));
            };
            let message = self.message(header, start, start + HEADER, chunk.len());
            *at = message.end;
            if watched.has(header.kind) {
                return Ok(Some(Item::Message(message)));
            }
            if message.left != 0 {
                return Ok(None);
            }
        }
    }

    /// Whether the stream stands between two messages.
    #[inline]
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.left == 0 && self.held == 0
    }

    /// Bytes to come of the body of the message that the stream stands in.
    #[inline]
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left
    }

    /// How many bytes of a cut header are remembered: at most 4.
    #[inline]
    #[must_use]
    pub fn held(&self) -> usize {
        usize::from(self.held)
    }

    /// Puts the bytes of a cut header at the beginning of `into` and forgets them; answers how many they are. For a
    /// relay that didn't forward them: it reads the next chunk behind them and scans both as one.
    ///
    /// # Panics
    /// When `into` has no room for [`held`](Self::held) bytes.
    pub fn take_held(&mut self, into: &mut [u8]) -> usize {
        let held = usize::from(std::mem::take(&mut self.held));
        into[..held].copy_from_slice(&self.head[..held]);
        held
    }

    #[inline]
    fn message(&mut self, header: Header, start: usize, body: usize, chunk: usize) -> Message {
        let available = chunk - body;
        let length = header.body as usize;
        if length <= available {
            return Message { kind: header.kind, start, body, end: body + length, left: 0 };
        }
        self.kind = header.kind;
        self.left = (length - available) as u32;
        Message { kind: header.kind, start, body, end: chunk, left: self.left }
    }

    /// Goes on in the middle of a message.
    fn resume(&mut self, chunk: &[u8], at: &mut usize, watched: Kinds) -> Result<Option<Item>, Fault> {
        if self.left == 0 {
            return self.complete_header(chunk, at, watched);
        }
        let start = *at;
        let available = chunk.len() - start;
        if available == 0 {
            return Ok(None);
        }
        let taken = available.min(self.left as usize);
        self.left -= taken as u32;
        *at = start + taken;
        let more = More { kind: self.kind, start, end: *at, left: self.left };
        Ok(watched.has(self.kind).then_some(Item::More(more)))
    }

    fn complete_header(&mut self, chunk: &[u8], at: &mut usize, watched: Kinds) -> Result<Option<Item>, Fault> {
        let (held, start) = (usize::from(self.held), *at);
        let Some(missing) = chunk[start..].get(..HEADER - held) else {
            return Ok(self.cut(chunk, at, watched));
        };
        let mut bytes = [0; HEADER];
        bytes[..held].copy_from_slice(&self.head[..held]);
        bytes[held..].copy_from_slice(missing);
        self.held = 0;
        let header = Header::read(bytes)?;
        let message = self.message(header, start, start + missing.len(), chunk.len());
        *at = message.end;
        Ok(watched.has(header.kind).then_some(Item::Message(message)))
    }

    /// Remembers the beginning of a header that the chunk's end cuts.
    fn cut(&mut self, chunk: &[u8], at: &mut usize, watched: Kinds) -> Option<Item> {
        let (held, start) = (usize::from(self.held), *at);
        let bytes = &chunk[start..];
        if bytes.is_empty() {
            return None;
        }
        self.head[held..held + bytes.len()].copy_from_slice(bytes);
        self.held += bytes.len() as u8;
        *at = chunk.len();
        let kind = self.head[0];
        watched.has(kind).then_some(Item::Cut { kind, start })
    }
}

#[cfg(test)]
mod tests;
