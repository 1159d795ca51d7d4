//! Parameters that follow a client from server to server (client_encoding, application_name and so on). Values are shared,
//! so that telling whether a server has a client's settings is mostly comparing a few pointers.

use std::sync::Arc;

/// Parameters that every pooler tracks, as PostgreSQL reports them (PostgreSQL documentation, "Asynchronous Operations").
const ALWAYS: [&str; 5] =
    ["client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name"];

/// Which parameters are tracked.
#[derive(Debug)]
pub(crate) struct Tracked {
    names: Vec<Box<str>>,
}

/// A parameter's value; `None` where nobody has set or reported it.
type Value = Option<Arc<[u8]>>;

/// One side's tracked parameters.
#[derive(Debug, Clone)]
pub(crate) struct Vars(Box<[Value]>);

impl Tracked {
    /// With more names than the usual (`track_extra_parameters`).
    pub(crate) fn new(extra: &[String]) -> Tracked {
        let mut names: Vec<Box<str>> = ALWAYS.iter().map(|n| Box::from(*n)).collect();
        for name in extra {
            if !names.iter().any(|n| n.eq_ignore_ascii_case(name)) {
                names.push(name.as_str().into());
            }
        }
        Tracked { names }
    }

    /// Nothing set.
    pub(crate) fn none(&self) -> Vars {
        Vars(vec![None; self.names.len()].into())
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.names.iter().position(|n| n.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Sets a parameter, if it's a tracked one.
    pub(crate) fn set(&self, vars: &mut Vars, name: &[u8], value: &[u8]) -> bool {
        let Some(i) = self.position(name) else { return false };
        if vars.0[i].as_deref() != Some(value) {
            vars.0[i] = Some(value.into());
        }
        true
    }

    /// Value of a parameter.
    pub(crate) fn get<'a>(&self, vars: &'a Vars, name: &str) -> Option<&'a [u8]> {
        vars.0[self.position(name.as_bytes())?].as_deref()
    }

    /// The SQL that gives a server the client's values; empty when it has them. What the server doesn't report can't be
    /// compared, and may not exist there.
    pub(crate) fn difference(&self, server: &Vars, client: &Vars) -> Vec<u8> {
        let mut sql = Vec::new();
        for ((name, s), c) in self.names.iter().zip(&server.0).zip(&client.0) {
            if is_same(s, c) {
                continue;
            }
            let Some(value) = c else { continue };
            sql.extend_from_slice(b"SET ");
            sql.extend_from_slice(name.as_bytes());
            sql.push(b'=');
            sql.extend_from_slice(&quoted(value));
            sql.push(b';');
        }
        sql
    }
}

impl Vars {
    /// Fills what isn't set from `other`, and shares its memory where values are equal.
    pub(crate) fn fill(&mut self, other: &Vars) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            if mine.is_none() || *mine == *theirs {
                mine.clone_from(theirs);
            }
        }
    }

    /// Whether a server with these suits a client with those as it is.
    #[inline]
    pub(crate) fn suits(&self, client: &Vars) -> bool {
        self.0.iter().zip(&client.0).all(|(s, c)| is_same(s, c))
    }
}

/// Whether two values are the same, or can't be compared.
#[inline]
fn is_same(server: &Value, client: &Value) -> bool {
    match (server, client) {
        (Some(s), Some(c)) => Arc::ptr_eq(s, c) || s == c,
        _ => true,
    }
}

/// A literal that means the same whatever standard_conforming_strings says.
pub(crate) fn quoted(value: &[u8]) -> Vec<u8> {
    let mut literal = Vec::with_capacity(value.len() + 3);
    if value.contains(&b'\\') {
        literal.push(b'E');
    }
    literal.push(b'\'');
    for byte in value {
        if matches!(byte, b'\'' | b'\\') {
            literal.push(*byte);
        }
        literal.push(*byte);
    }
    literal.push(b'\'');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_only_what_differs_and_what_the_server_reports() {
        let tracked = Tracked::new(&["IntervalStyle".into(), "search_path".into()]);
        let (mut server, mut client) = (tracked.none(), tracked.none());
        for (name, value) in [("timezone", "UTC"), ("application_name", "a"), ("intervalstyle", "postgres")] {
            assert!(tracked.set(&mut server, name.as_bytes(), value.as_bytes()));
        }
        assert!(tracked.set(&mut client, b"application_name", b"it's \\ b"));
        assert!(tracked.set(&mut client, b"TimeZone", b"UTC"));
        assert!(tracked.set(&mut client, b"search_path", b"x"));
        assert!(!tracked.set(&mut client, b"geqo", b"on"));
        assert!(!server.suits(&client));
        assert_eq!(tracked.difference(&server, &client), b"SET application_name=E'it''s \\\\ b';");
        client.fill(&server);
        assert_eq!(tracked.get(&client, "IntervalStyle"), Some(&b"postgres"[..]));
    }
}
