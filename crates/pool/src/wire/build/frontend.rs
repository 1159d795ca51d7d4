//! Messages that a client sends.

use super::{count, counted, message, string};
use crate::wire::kind::client;

/// StartupMessage of protocol 3.`minor`.
pub fn startup<'a>(out: &mut Vec<u8>, minor: u16, parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
    counted(out, |out| {
        out.extend_from_slice(&(3 << 16 | u32::from(minor)).to_be_bytes());
        // An empty name would end the list.
        for (name, value) in parameters.into_iter().filter(|(name, _)| !name.is_empty()) {
            string(out, name);
            string(out, value);
        }
        out.push(0);
    });
}

/// SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    counted(out, |out| out.extend_from_slice(&0x04d2_162f_u32.to_be_bytes()));
}

/// CancelRequest.
pub fn cancel_request(out: &mut Vec<u8>, pid: u32, key: &[u8]) {
    counted(out, |out| {
        out.extend_from_slice(&0x04d2_162e_u32.to_be_bytes());
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// PasswordMessage: a password, or the answer to a request for an MD5 hash.
pub fn password(out: &mut Vec<u8>, answer: &[u8]) {
    message(out, client::PASSWORD, |out| string(out, answer));
}

/// SASLInitialResponse.
pub fn sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    message(out, client::PASSWORD, |out| {
        string(out, mechanism.as_bytes());
        // Data that doesn't fit makes the message too long, which `message` refuses.
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, client::PASSWORD, |out| out.extend_from_slice(data));
}

/// Query.
pub fn query(out: &mut Vec<u8>, text: &[u8]) {
    message(out, client::QUERY, |out| string(out, text));
}

/// Parse.
pub fn parse(out: &mut Vec<u8>, statement: &[u8], query: &[u8], types: &[u32]) {
    message(out, client::PARSE, |out| {
        string(out, statement);
        string(out, query);
        count(out, types.len());
        types.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
    });
}

/// Describe of a statement (`S`) or a portal (`P`).
pub fn describe(out: &mut Vec<u8>, what: u8, name: &[u8]) {
    target(out, client::DESCRIBE, what, name);
}

/// Close of a statement (`S`) or a portal (`P`).
pub fn close(out: &mut Vec<u8>, what: u8, name: &[u8]) {
    target(out, client::CLOSE, what, name);
}

fn target(out: &mut Vec<u8>, kind: u8, what: u8, name: &[u8]) {
    message(out, kind, |out| {
        out.push(what);
        string(out, name);
    });
}

/// Sync.
pub fn sync(out: &mut Vec<u8>) {
    message(out, client::SYNC, |_| ());
}

/// Flush.
pub fn flush(out: &mut Vec<u8>) {
    message(out, client::FLUSH, |_| ());
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    message(out, client::TERMINATE, |_| ());
}

/// Bind of an unnamed or named portal to a statement, all parameters and results in text format.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], parameters: &[&[u8]]) {
    message(out, client::BIND, |out| {
        string(out, portal);
        string(out, statement);
        count(out, 0);
        count(out, parameters.len());
        for parameter in parameters {
            // A parameter as long as a message can't be sent anyway.
            out.extend_from_slice(&u32::try_from(parameter.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(parameter);
        }
        count(out, 0);
    });
}

/// Execute of a portal; no more than `rows`, or all where that is zero.
pub fn execute(out: &mut Vec<u8>, portal: &[u8], rows: u32) {
    message(out, client::EXECUTE, |out| {
        string(out, portal);
        out.extend_from_slice(&rows.to_be_bytes());
    });
}
