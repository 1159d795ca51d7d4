//! Commits that no synchronous standby has confirmed. PostgreSQL reports one as done, with a warning, when the wait was
//! cancelled; `sync_commit_cancelled = error` makes an error of it. A client that has warnings suppressed would learn
//! nothing, and is found here by what it asks for.

use super::requests::Requests;
use super::{HEADER, header};
use crate::wire::build::backend::{Report, error_response};
use crate::wire::reply::Fields;

/// transaction_resolution_unknown: it's committed here, and may be lost with this server.
pub(crate) const UNCONFIRMED: &str = "08007";

/// The parameter that suppresses warnings.
pub(crate) const PARAMETER: &str = "client_min_messages";

/// The error in the place of a notice, where the notice is the one. Its text is translated, its place in the source isn't
/// (PostgreSQL, src/backend/replication/syncrep.c).
pub(super) fn error_of(notice: &[u8]) -> Option<Vec<u8>> {
    let fields = Fields::of(notice);
    if fields.get(b'C') != b"01000" || fields.get(b'R') != b"SyncRepWaitForLSN" {
        return None;
    }
    let text = "the transaction has committed on this server, but no synchronous standby has confirmed it";
    let mut out = Vec::new();
    error_response(&mut out, &Report::error(UNCONFIRMED, text));
    Some(out)
}

/// Whether a value of `client_min_messages` suppresses warnings.
pub(crate) fn suppresses(value: &[u8]) -> bool {
    ["error", "fatal", "panic"].iter().any(|level| level.as_bytes().eq_ignore_ascii_case(value.trim_ascii()))
}

/// Whether requests ask for that by SQL. Of a text that hasn't come as a whole, what is there is looked at.
pub(crate) fn asks_for_silence(data: &[u8], requests: &Requests) -> bool {
    let mut at = requests.rest().min(data.len());
    while let Ok(Some((kind, length))) = header(&data[at..]) {
        let body = &data[at + HEADER..];
        let body = &body[..length.min(body.len())];
        if matches!(kind, b'Q' | b'P') && silences(body) {
            return true;
        }
        at = (at + HEADER).saturating_add(length).min(data.len());
    }
    false
}

/// Whether a text sets the parameter so: `SET x = error`, `SET x TO 'error'`, `set_config('x', 'error', ...)`.
fn silences(text: &[u8]) -> bool {
    let name = PARAMETER.as_bytes();
    let after = (0..text.len()).filter(|i| text[*i..].get(..name.len()).is_some_and(|t| t.eq_ignore_ascii_case(name)));
    after.map(|i| &text[i + name.len()..]).any(|rest| {
        let is_between = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'=' | b'\'' | b'"' | b',' | b'$');
        let mut words = rest.split(is_between).filter(|word| !word.is_empty());
        let value = words.next().filter(|word| !word.eq_ignore_ascii_case(b"to")).or_else(|| words.next());
        let end = |word: &[u8]| word.iter().position(|b| !b.is_ascii_alphabetic()).unwrap_or(word.len());
        value.is_some_and(|word| suppresses(&word[..end(word)]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_suppress_warnings_by_sql_is_found() {
        let cases = [
            "SET client_min_messages = error",
            "set CLIENT_MIN_MESSAGES to 'FATAL'; select 1",
            "SET LOCAL client_min_messages TO panic;",
            "SELECT set_config('client_min_messages', 'error', false)",
            "SELECT 1; SET SESSION client_min_messages='error'",
            "SET client_min_messages = warning; SET client_min_messages = error",
        ];
        for sql in cases {
            assert!(silences(sql.as_bytes()), "{sql}");
        }
        for sql in [
            "SET client_min_messages = warning",
            "SHOW client_min_messages",
            "SELECT 'error'",
            "RESET client_min_messages; SELECT 1 AS error",
        ] {
            assert!(!silences(sql.as_bytes()), "{sql}");
        }
    }
}
