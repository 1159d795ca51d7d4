//! Whether requests can commit the transaction block that they're sent into. What can't be told may.
//!
//! It's asked when a server is lost: a client whose open block could not have been committed by what was under way may be
//! told that everything has come to nothing; others have to look.

use super::requests::Requests;
use super::statements::ClientStatements;
use super::{HEADER, cstr, header};

/// First words of statements that neither end a transaction block nor run anything that might. Functions can't.
const HARMLESS: [&str; 29] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "WITH",
    "VALUES",
    "TABLE",
    "FETCH",
    "MOVE",
    "DECLARE",
    "CLOSE",
    "SAVEPOINT",
    "RELEASE",
    "LOCK",
    "SET",
    "RESET",
    "SHOW",
    "COPY",
    "EXPLAIN",
    "CREATE",
    "ALTER",
    "DROP",
    "TRUNCATE",
    "COMMENT",
    "GRANT",
    "REVOKE",
    "NOTIFY",
    "LISTEN",
];

/// Whether a query's text may end the block.
pub(crate) fn may_commit(sql: &[u8]) -> bool {
    let Some(start) = skip(sql) else { return true };
    let word = start.iter().position(|b| !b.is_ascii_alphabetic()).map_or(start, |end| &start[..end]);
    let is_harmless = HARMLESS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(word));
    // A semicolon within a literal counts too: what is behind it might be another statement.
    let rest = start.iter().position(|b| *b == b';').map_or(&[][..], |end| &start[end..]);
    !is_harmless || skip(rest).is_none_or(|more| !more.is_empty())
}

/// A text behind blanks, semicolons, parentheses and comments; `None` where a comment doesn't end.
fn skip(mut sql: &[u8]) -> Option<&[u8]> {
    loop {
        sql = sql.trim_ascii_start();
        sql = match sql {
            [b'(' | b';' | 0x0b, rest @ ..] => rest,
            [b'-', b'-', rest @ ..] => {
                rest.iter().position(|b| matches!(b, b'\n' | b'\r')).map_or(&[], |end| &rest[end..])
            }
            [b'/', b'*', rest @ ..] => comment(rest)?,
            _ => return Some(sql),
        };
    }
}

/// What is behind the end of a comment, within which others may be.
fn comment(mut sql: &[u8]) -> Option<&[u8]> {
    let mut depth = 1;
    while depth > 0 {
        (depth, sql) = match sql {
            [b'*', b'/', rest @ ..] => (depth - 1, rest),
            [b'/', b'*', rest @ ..] => (depth + 1, rest),
            [_, rest @ ..] => (depth, rest),
            [] => return None,
        };
    }
    Some(sql)
}

/// What is known of the requests that a server is at: since it had last answered everything.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    harmless: bool,
    /// The unnamed statement was given since then, and what is bound to the unnamed portal is known.
    parsed: bool,
    bound: bool,
}

impl Judge {
    /// Whether all of them can do nothing but within the open block.
    pub(crate) fn is_harmless(&self) -> bool {
        self.harmless
    }

    /// Requests follow. `settled`: everything before them has been answered, and left the transaction in this status.
    #[inline]
    pub(crate) fn begin(&mut self, settled: bool, status: u8) -> bool {
        if settled {
            *self = Judge { harmless: status != b'I', ..Judge::default() };
        }
        self.harmless
    }

    /// Judges a chunk as it came from the client, before it's looked at by `requests`.
    pub(crate) fn hear(&mut self, data: &[u8], requests: &Requests, statements: Option<&ClientStatements>) {
        let mut at = requests.rest().min(data.len());
        while let Ok(Some((kind, length))) = header(&data[at..]) {
            let body = &data[at + HEADER..];
            let body = &body[..length.min(body.len())];
            if !self.is_fine(kind, body, body.len() == length, statements) {
                self.harmless = false;
                return;
            }
            at = (at + HEADER).saturating_add(length).min(data.len());
        }
    }

    fn is_fine(&mut self, kind: u8, body: &[u8], whole: bool, statements: Option<&ClientStatements>) -> bool {
        match kind {
            b'Q' => whole && !may_commit(body.strip_suffix(b"\0").unwrap_or(body)),
            b'P' => {
                let Some((name, rest)) = cstr(body) else { return false };
                self.parsed |= name.is_empty();
                whole && cstr(rest).is_some_and(|(sql, _)| !may_commit(sql))
            }
            b'B' => {
                let names = cstr(body).and_then(|(portal, rest)| Some((portal, cstr(rest)?.0)));
                let Some((portal, name)) = names else { return false };
                self.bound |= portal.is_empty();
                let known = |known: &ClientStatements| known.get(name).is_some_and(|statement| !statement.may_commit);
                // A name that was given in this very chunk isn't known yet, or means another statement until then.
                if name.is_empty() { self.parsed } else { statements.is_some_and(known) }
            }
            b'E' => self.bound && body.first() == Some(&0),
            b'D' | b'C' | b'S' | b'H' | b'd' | b'c' | b'f' => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn only_single_statements_that_are_known_to_be_harmless_are() {
        let harmless = [
            "SELECT 1",
            "select 1;",
            " ( SELECT 1) ;; ",
            "/* COMMIT; */ insert into t values (1)",
            "-- x\nUPDATE t SET a = 1",
            "WITH x AS (SELECT 1) SELECT * FROM x; -- done",
            "/* a /* b */ c */ FETCH ALL FROM c",
            "set x = 1",
            "SHOW all",
            "SAVEPOINT a",
            "copy t from stdin",
        ];
        for sql in harmless {
            assert!(!may_commit(sql.as_bytes()), "{sql}");
        }
        let others = [
            "COMMIT",
            "end",
            "ROLLBACK",
            "ABORT",
            "BEGIN",
            "CALL p()",
            "DO $$ BEGIN COMMIT; END $$",
            "PREPARE TRANSACTION 'x'",
            "EXECUTE x",
            "SELECT 1; COMMIT",
            "SELECT ';a'",
            "SELECT 1 /* ; */ + 1",
            "",
            ";",
            "SELECTX 1",
            "/* SELECT 1",
            "SELECT 1; /* x",
            "VACUUM",
            "START TRANSACTION",
        ];
        for sql in others {
            assert!(may_commit(sql.as_bytes()), "{sql}");
        }
    }

    fn judged(settled: u8, chunks: &[Vec<u8>]) -> bool {
        let mut judge = Judge::default();
        for chunk in chunks {
            if judge.begin(std::ptr::eq(chunk, &chunks[0]), settled) {
                judge.hear(chunk, &Requests::default(), None);
            }
        }
        judge.is_harmless()
    }

    #[test]
    fn everything_since_the_last_answer_counts() {
        let query = |sql: &str| message(b'Q', format!("{sql}\0").as_bytes());
        assert!(judged(b'T', &[query("SELECT 1")]));
        assert!(judged(b'E', &[query("SELECT 1"), query("INSERT INTO t VALUES (1)")]));
        assert!(!judged(b'I', &[query("SELECT 1")]));
        assert!(!judged(b'T', &[query("SELECT 1"), query("COMMIT")]));
        assert!(!judged(b'T', &[query("COMMIT"), query("SELECT 1")]));
        let half = query("SELECT 'a long one'");
        assert!(!judged(b'T', &[half[..12].to_vec()]));
        let copy = [message(b'd', b"x;COMMIT"), message(b'c', b"")].concat();
        assert!(judged(b'T', &[query("COPY t FROM STDIN"), copy]));
    }

    #[test]
    fn extended_queries_are_judged_by_what_they_prepare() {
        let parse = |name: &str, sql: &str| message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes());
        let bind = |portal: &str, name: &str| message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes());
        let execute = |portal: &str| message(b'E', format!("{portal}\0\0\0\0\0").as_bytes());
        let sync = message(b'S', b"");
        let batch = |sql: &str| [parse("", sql), bind("", ""), execute(""), sync.clone()].concat();
        assert!(judged(b'T', &[batch("SELECT 1")]));
        assert!(!judged(b'T', &[batch("COMMIT")]));
        assert!(!judged(b'T', &[[bind("", ""), execute("")].concat()]), "what it prepared before isn't known");
        assert!(!judged(b'T', &[execute("")]));
        assert!(!judged(b'T', &[[parse("", "SELECT 1"), bind("p", ""), execute("p")].concat()]));
        assert!(!judged(b'T', &[[bind("", "s"), execute("")].concat()]), "an unknown name");
    }
}
