//! The extended query protocol's messages that name prepared statements: read in place, and written with another
//! statement's name.

use super::build::frontend;
use super::kind::client;
use super::{Fault, HEADER, MAX_LENGTH, Reader};

/// Body of a Parse message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Name of the statement; the unnamed one's is empty.
    pub statement: &'a [u8],
    /// The query.
    pub query: &'a [u8],
    /// All that follows the name, as it stands in the message: query and types. Two statements with the same content
    /// are the same.
    pub content: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a complete body. What may follow the types is left for the server to refuse.
    ///
    /// # Errors
    /// It isn't one.
    pub fn read(body: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader(body);
        let statement = reader.string().ok_or(Fault::BadBody(client::PARSE))?;
        let content = reader.0;
        let query = Self::query(&mut reader).ok_or(Fault::BrokenParse)?;
        Ok(Self { statement, query, content })
    }

    /// The query, if it and as many types as there should be can be read.
    fn query(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
        let query = reader.string()?;
        let types = usize::from(reader.u16()?);
        reader.bytes(4 * types).map(|_| query)
    }

    /// The parameters' types as they stand in the message: their number (16 bits) and their oids.
    #[must_use]
    pub fn types(&self) -> &'a [u8] {
        &self.content[self.query.len() + 1..]
    }

    /// Appends the message with another name of the statement.
    ///
    /// # Errors
    /// It would be too long.
    pub fn write(&self, statement: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let body = statement.len() + 1 + self.content.len();
        header(client::PARSE, body as u64, out)?;
        string(statement, out);
        out.extend_from_slice(self.content);
        Ok(())
    }
}

/// The beginning of the body of a Bind message; values of parameters follow, which nobody here looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Name of the portal.
    pub portal: &'a [u8],
    /// Name of the statement.
    pub statement: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the names from a body or the beginning of one. `None` when they aren't there yet.
    #[must_use]
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        Some(Self { portal: reader.string()?, statement: reader.string()? })
    }

    /// Where in the body the names end, and the part begins that stays as it is.
    #[must_use]
    pub fn rest(&self) -> usize {
        self.portal.len() + 1 + self.statement.len() + 1
    }

    /// Appends header and names with another name of the statement, for a body that is `body` bytes long with the name
    /// that the client gave. What stands in the body from [`rest`](Self::rest) on must follow.
    ///
    /// # Errors
    /// The message would be too long, or its body is shorter than its names.
    pub fn write_head(&self, statement: &[u8], body: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
        let rest = u64::from(body).checked_sub(self.rest() as u64).ok_or(Fault::BadBody(client::BIND))?;
        let names = self.portal.len() + 1 + statement.len() + 1;
        header(client::BIND, names as u64 + rest, out)?;
        string(self.portal, out);
        string(statement, out);
        Ok(())
    }
}

/// What a Describe or Close is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The prepared statement of this name.
    Statement(&'a [u8]),
    /// The portal of this name.
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    /// Reads the complete body of a Describe.
    ///
    /// # Errors
    /// It isn't one.
    pub fn read_describe(body: &'a [u8]) -> Result<Self, Fault> {
        Self::read(body).ok_or(Fault::BadBody(client::DESCRIBE))
    }

    /// Reads the complete body of a Close.
    ///
    /// # Errors
    /// It isn't one.
    pub fn read_close(body: &'a [u8]) -> Result<Self, Fault> {
        Self::read(body).ok_or(Fault::BadBody(client::CLOSE))
    }

    fn read(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let (what, name) = (reader.byte()?, reader.string()?);
        if !reader.is_empty() {
            return None;
        }
        match what {
            b'S' => Some(Self::Statement(name)),
            b'P' => Some(Self::Portal(name)),
            _ => None,
        }
    }

    /// Appends a Describe of this.
    pub fn write_describe(self, out: &mut Vec<u8>) {
        let (what, name) = self.parts();
        frontend::describe(out, what, name);
    }

    /// Appends a Close of this.
    pub fn write_close(self, out: &mut Vec<u8>) {
        let (what, name) = self.parts();
        frontend::close(out, what, name);
    }

    fn parts(self) -> (u8, &'a [u8]) {
        match self {
            Self::Statement(name) => (b'S', name),
            Self::Portal(name) => (b'P', name),
        }
    }
}

/// Body of an Execute message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Name of the portal.
    pub portal: &'a [u8],
    /// Rows to return at most; 0 for all.
    pub rows: u32,
}

impl<'a> Execute<'a> {
    /// Reads a complete body.
    ///
    /// # Errors
    /// It isn't one.
    pub fn read(body: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader(body);
        let read = |reader: &mut Reader<'a>| Some(Self { portal: reader.string()?, rows: reader.u32()? });
        read(&mut reader).filter(|_| reader.is_empty()).ok_or(Fault::BadBody(client::EXECUTE))
    }
}

fn header(kind: u8, body: u64, out: &mut Vec<u8>) -> Result<(), Fault> {
    let length = u32::try_from(body + 4).ok().filter(|length| *length <= MAX_LENGTH).ok_or(Fault::BadBody(kind))?;
    out.reserve(HEADER);
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Appends a name or query that is known to have no zero byte inside, as one that was read from a message.
fn string(text: &[u8], out: &mut Vec<u8>) {
    debug_assert!(!text.contains(&0), "a zero byte within a string");
    out.extend_from_slice(text);
    out.push(0);
}

#[cfg(test)]
mod tests;
