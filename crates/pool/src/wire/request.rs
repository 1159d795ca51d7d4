//! Reading what clients send outside the extended query protocol: queries and answers to authentication requests.

use super::kind::client;
use super::{Fault, Reader};

/// The text of a Query.
///
/// # Errors
/// The body isn't one string.
pub fn query(body: &[u8]) -> Result<&[u8], Fault> {
    whole_string(body).ok_or(Fault::BadBody(client::QUERY))
}

/// The answer in a PasswordMessage: a password, or `md5` and a hash.
///
/// # Errors
/// The body isn't one string.
pub fn password(body: &[u8]) -> Result<&[u8], Fault> {
    whole_string(body).ok_or(Fault::BadBody(client::PASSWORD))
}

fn whole_string(body: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(body);
    reader.string().filter(|_| reader.is_empty())
}

/// A SASLInitialResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    /// The mechanism that the client chose.
    pub mechanism: &'a [u8],
    /// The mechanism's first data; absent is not the same as empty.
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitial<'a> {
    /// Reads a complete body. (A SASLResponse's body is the data and needs no reading.)
    ///
    /// # Errors
    /// It isn't one.
    pub fn read(body: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader(body);
        let read = |reader: &mut Reader<'a>| {
            let mechanism = reader.string()?;
            let data = match reader.u32()? {
                u32::MAX => None,
                length => Some(reader.bytes(length as usize)?),
            };
            Some(Self { mechanism, data })
        };
        read(&mut reader).filter(|_| reader.is_empty()).ok_or(Fault::BadBody(client::PASSWORD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::HEADER;
    use crate::wire::build::frontend;

    #[test]
    fn reads_back_what_is_built() {
        let mut out = Vec::new();
        frontend::query(&mut out, b"select 1");
        assert_eq!(query(&out[HEADER..]), Ok(b"select 1".as_slice()));
        out.clear();
        frontend::password(&mut out, b"secret");
        assert_eq!(password(&out[HEADER..]), Ok(b"secret".as_slice()));
        out.clear();
        frontend::sasl_initial(&mut out, "SCRAM-SHA-256", b"n,,n=,r=x");
        let expected = SaslInitial { mechanism: b"SCRAM-SHA-256", data: Some(b"n,,n=,r=x") };
        assert_eq!(SaslInitial::read(&out[HEADER..]), Ok(expected));
    }

    #[test]
    fn refuses_strings_that_do_not_end_or_end_early() {
        for body in [b"".as_slice(), b"x", b"x\0y", b"x\0y\0"] {
            assert_eq!(query(body), Err(Fault::BadBody(b'Q')), "{body:?}");
            assert_eq!(password(body), Err(Fault::BadBody(b'p')), "{body:?}");
        }
    }

    #[test]
    fn tells_absent_sasl_data_from_empty_and_refuses_wrong_lengths() {
        let absent = SaslInitial::read(b"X\0\xff\xff\xff\xff").map(|initial| initial.data);
        assert_eq!(absent, Ok(None));
        let empty = SaslInitial::read(b"X\0\0\0\0\0").map(|initial| initial.data);
        assert_eq!(empty, Ok(Some(b"".as_slice())));
        for body in [b"X\0\0\0\0\x02a".as_slice(), b"X\0\0\0\0\x01ab", b"X\0\0\0", b"X", b"X\0\xff\xff\xff\xfea"] {
            assert_eq!(SaslInitial::read(body), Err(Fault::BadBody(b'p')), "{body:?}");
        }
    }
}
