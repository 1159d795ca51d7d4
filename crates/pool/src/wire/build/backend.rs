//! Messages that a server sends.

use super::{count, message, string};
use crate::wire::kind::server;

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, 0, &[]);
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut Vec<u8>) {
    authentication(out, 3, &[]);
}

/// AuthenticationMD5Password.
pub fn authentication_md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    authentication(out, 5, &salt);
}

/// AuthenticationSASL, with the names of mechanisms in order of preference.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    message(out, server::AUTHENTICATION, |out| {
        out.extend_from_slice(&10_u32.to_be_bytes());
        mechanisms.iter().for_each(|name| string(out, name.as_bytes()));
        out.push(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 11, data);
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 12, data);
}

fn authentication(out: &mut Vec<u8>, request: u32, data: &[u8]) {
    message(out, server::AUTHENTICATION, |out| {
        out.extend_from_slice(&request.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// BackendKeyData. The key has 4 bytes in protocol 3.0, and 4 to 256 in 3.2.
pub fn backend_key_data(out: &mut Vec<u8>, pid: u32, key: &[u8]) {
    message(out, server::BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    message(out, server::PARAMETER_STATUS, |out| {
        string(out, name);
        string(out, value);
    });
}

/// NegotiateProtocolVersion: the newest minor version of protocol 3 spoken here, and the extensions that aren't known.
pub fn negotiate_protocol_version<'a>(out: &mut Vec<u8>, minor: u16, unknown: impl IntoIterator<Item = &'a [u8]>) {
    message(out, server::NEGOTIATE, |out| {
        out.extend_from_slice(&(3 << 16 | u32::from(minor)).to_be_bytes());
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut names = 0_u32;
        for name in unknown {
            string(out, name);
            names += 1;
        }
        out[at..at + 4].copy_from_slice(&names.to_be_bytes());
    });
}

/// ReadyForQuery with the transaction's status: `I`, `T` or `E`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    message(out, server::READY, |out| out.push(status));
}

/// What an ErrorResponse or a NoticeResponse says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report<'a> {
    /// Severity, in English: `FATAL`, `ERROR`, `NOTICE` ...
    pub severity: &'a str,
    /// SQLSTATE.
    pub code: &'a str,
    /// The message itself.
    pub message: &'a str,
    /// More about it.
    pub detail: Option<&'a str>,
    /// What to do about it.
    pub hint: Option<&'a str>,
}

impl<'a> Report<'a> {
    /// A report that ends the connection.
    #[must_use]
    pub fn fatal(code: &'a str, message: &'a str) -> Self {
        Self { severity: "FATAL", code, message, detail: None, hint: None }
    }

    /// A report that ends a query.
    #[must_use]
    pub fn error(code: &'a str, message: &'a str) -> Self {
        Self { severity: "ERROR", ..Self::fatal(code, message) }
    }

    /// A report of no consequence.
    #[must_use]
    pub fn notice(code: &'a str, message: &'a str) -> Self {
        Self { severity: "NOTICE", ..Self::fatal(code, message) }
    }

    fn append(&self, out: &mut Vec<u8>) {
        let fields = [
            (b'S', Some(self.severity)),
            (b'V', Some(self.severity)),
            (b'C', Some(self.code)),
            (b'M', Some(self.message)),
            (b'D', self.detail),
            (b'H', self.hint),
        ];
        for (kind, text) in fields {
            if let Some(text) = text {
                out.push(kind);
                string(out, text.as_bytes());
            }
        }
        out.push(0);
    }
}

/// ErrorResponse.
pub fn error_response(out: &mut Vec<u8>, report: &Report<'_>) {
    message(out, server::ERROR, |out| report.append(out));
}

/// NoticeResponse.
pub fn notice_response(out: &mut Vec<u8>, report: &Report<'_>) {
    message(out, server::NOTICE, |out| report.append(out));
}

/// RowDescription: name and type of each column, in text format.
pub fn row_description(out: &mut Vec<u8>, columns: &[(&str, u32)]) {
    message(out, server::ROW_DESCRIPTION, |out| {
        count(out, columns.len());
        for (name, oid) in columns {
            string(out, name.as_bytes());
            // Of no table, hence of no column of one.
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&oid.to_be_bytes());
            out.extend_from_slice(&type_length(*oid).to_be_bytes());
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            out.extend_from_slice(&[0; 2]);
        }
    });
}

/// `pg_type.typlen` of the types with a fixed length; -1, as for all of variable length, for the others.
fn type_length(oid: u32) -> i16 {
    match oid {
        // bool, "char"
        16 | 18 => 1,
        // int2
        21 => 2,
        // int4, oid, xid, cid, float4, date
        23 | 26 | 28 | 29 | 700 | 1082 => 4,
        // int8, float8, time, timestamp, timestamptz
        20 | 701 | 1083 | 1114 | 1184 => 8,
        // interval, uuid
        1186 | 2950 => 16,
        // name
        19 => 64,
        _ => -1,
    }
}

/// DataRow; `None` is SQL's null.
pub fn data_row<'a, C>(out: &mut Vec<u8>, columns: C)
where
    C: IntoIterator<Item = Option<&'a [u8]>, IntoIter: ExactSizeIterator>,
{
    let columns = columns.into_iter();
    message(out, server::DATA_ROW, |out| {
        count(out, columns.len());
        for column in columns {
            let Some(value) = column else {
                out.extend_from_slice(&(-1_i32).to_be_bytes());
                continue;
            };
            // A value that doesn't fit makes the message too long, which `message` refuses.
            out.extend_from_slice(&(value.len() as u32).to_be_bytes());
            out.extend_from_slice(value);
        }
    });
}

/// CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &[u8]) {
    message(out, server::COMMAND_COMPLETE, |out| string(out, tag));
}

/// EmptyQueryResponse.
pub fn empty_query(out: &mut Vec<u8>) {
    message(out, server::EMPTY_QUERY, |_| ());
}

/// ParseComplete.
pub fn parse_complete(out: &mut Vec<u8>) {
    message(out, server::PARSE_COMPLETE, |_| ());
}

/// BindComplete.
pub fn bind_complete(out: &mut Vec<u8>) {
    message(out, server::BIND_COMPLETE, |_| ());
}

/// CloseComplete.
pub fn close_complete(out: &mut Vec<u8>) {
    message(out, server::CLOSE_COMPLETE, |_| ());
}

/// NoData.
pub fn no_data(out: &mut Vec<u8>) {
    message(out, server::NO_DATA, |_| ());
}

/// ParameterDescription: the type of each parameter.
pub fn parameter_description(out: &mut Vec<u8>, types: &[u32]) {
    message(out, server::PARAMETER_DESCRIPTION, |out| {
        count(out, types.len());
        types.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
    });
}
