//! Reading what servers send, in place, from complete bodies.

use super::kind::server;
use super::{Fault, Reader};

/// What a server demands of who logs in, or that it demands nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Logged in.
    Ok,
    /// The password itself.
    Cleartext,
    /// The password's MD5 hash with this salt.
    Md5([u8; 4]),
    /// One of these mechanisms.
    Sasl(Mechanisms<'a>),
    /// The mechanism's next data.
    SaslContinue(&'a [u8]),
    /// The mechanism's last data.
    SaslFinal(&'a [u8]),
    /// Something that isn't spoken here (Kerberos, GSSAPI, SSPI ...), by its number.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads the body of an authentication request.
    ///
    /// # Errors
    /// It isn't one.
    pub fn read(body: &'a [u8]) -> Result<Self, Fault> {
        Self::try_read(body).ok_or(Fault::BadBody(server::AUTHENTICATION))
    }

    fn try_read(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        Some(match reader.u32()? {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => Self::Md5(reader.0.try_into().ok()?),
            10 => Self::Sasl(Mechanisms(reader.0)),
            11 => Self::SaslContinue(reader.0),
            12 => Self::SaslFinal(reader.0),
            other => Self::Other(other),
        })
    }
}

/// Names of SASL mechanisms, in the server's order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mechanisms<'a>(&'a [u8]);

impl<'a> Mechanisms<'a> {
    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut reader = Reader(self.0);
        std::iter::from_fn(move || reader.string().filter(|name| !name.is_empty()))
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.iter().any(|offered| offered == name.as_bytes())
    }
}

/// Process id and key that a cancel request must carry.
///
/// # Errors
/// The body isn't BackendKeyData's.
pub fn backend_key_data(body: &[u8]) -> Result<(u32, &[u8]), Fault> {
    let mut reader = Reader(body);
    let pid = reader.u32().filter(|_| (4..=256).contains(&reader.0.len()));
    pid.map(|pid| (pid, reader.0)).ok_or(Fault::BadBody(server::BACKEND_KEY_DATA))
}

/// Name and value that a ParameterStatus reports.
///
/// # Errors
/// The body isn't ParameterStatus's.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let mut reader = Reader(body);
    let pair = reader.string().zip(reader.string());
    pair.filter(|_| reader.is_empty()).ok_or(Fault::BadBody(server::PARAMETER_STATUS))
}

/// The transaction's status in ReadyForQuery: `I` (none), `T` (in one) or `E` (in a failed one).
///
/// # Errors
/// The body isn't ReadyForQuery's.
#[inline]
pub fn ready_for_query(body: &[u8]) -> Result<u8, Fault> {
    match body {
        [status @ (b'I' | b'T' | b'E')] => Ok(*status),
        _ => Err(Fault::BadBody(server::READY)),
    }
}

/// The tag of a CommandComplete.
///
/// # Errors
/// The body isn't CommandComplete's.
pub fn command_complete(body: &[u8]) -> Result<&[u8], Fault> {
    let mut reader = Reader(body);
    reader.string().filter(|_| reader.is_empty()).ok_or(Fault::BadBody(server::COMMAND_COMPLETE))
}

/// Minor version that a NegotiateProtocolVersion offers.
///
/// # Errors
/// The body isn't NegotiateProtocolVersion's, or is about another protocol than 3.
pub fn negotiate_protocol_version(body: &[u8]) -> Result<u16, Fault> {
    let version = Reader(body).u32().filter(|version| version >> 16 == 3);
    version.map(|version| version as u16).ok_or(Fault::BadBody(server::NEGOTIATE))
}

/// The fields of an ErrorResponse or NoticeResponse. What is absent or cut off is empty: an error must be told even if
/// a part of it can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields in a body.
    #[must_use]
    pub fn of(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// A field, by its letter.
    #[must_use]
    pub fn get(&self, letter: u8) -> &'a [u8] {
        let mut reader = Reader(self.0);
        while let Some(kind) = reader.byte().filter(|kind| *kind != 0) {
            let Some(text) = reader.string() else { break };
            if kind == letter {
                return text;
            }
        }
        b""
    }

    /// Severity, in English where the server says it so.
    #[must_use]
    pub fn severity(&self) -> &'a [u8] {
        match self.get(b'V') {
            b"" => self.get(b'S'),
            severity => severity,
        }
    }

    /// SQLSTATE.
    #[must_use]
    pub fn code(&self) -> &'a [u8] {
        self.get(b'C')
    }

    /// The message itself.
    #[must_use]
    pub fn message(&self) -> &'a [u8] {
        self.get(b'M')
    }
}

/// Values of a DataRow, in order; `None` is SQL's null.
///
/// # Errors
/// The body isn't a DataRow's.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, Fault> {
    let mut reader = Reader(body);
    values(&mut reader).filter(|_| reader.is_empty()).ok_or(Fault::BadBody(server::DATA_ROW))
}

fn values<'a>(reader: &mut Reader<'a>) -> Option<Vec<Option<&'a [u8]>>> {
    let count = reader.u16()?;
    let value = |reader: &mut Reader<'a>| match reader.u32()? {
        u32::MAX => Some(None),
        length => reader.bytes(length as usize).map(Some),
    };
    (0..count).map(|_| value(reader)).collect()
}

#[cfg(test)]
mod tests;
