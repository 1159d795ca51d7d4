//! The user list (`auth_file`): names and passwords or their verifiers, `"name" "secret"` on each line, two quotes for one
//! within. What follows is ignored, as are lines that begin with `;` or `#`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::quoted::unquote;
use super::{Fault, Secret};

/// Names have to be shorter than this (bytes), as in pgbouncer: a client with a longer one is turned away.
const LONGEST_NAME: usize = 128;

/// Users of `auth_file` and their secrets: plain text, `md5...` or `SCRAM-SHA-256$...`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, Secret>);

impl Credentials {
    /// Reads a user list. A line that can't be read is left out with a warning, and so is the whole file: clients whose
    /// names aren't known don't get in.
    #[must_use]
    pub fn load(path: &Path) -> (Self, Vec<Fault>) {
        match fs::read(path) {
            Ok(bytes) => Self::parse(path, &bytes),
            Err(e) => (Self::default(), vec![Fault::io(path, "could not open auth_file", &e)]),
        }
    }

    fn parse(path: &Path, bytes: &[u8]) -> (Self, Vec<Fault>) {
        let (mut users, mut warnings) = (BTreeMap::new(), Vec::new());
        for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if matches!(line.first(), None | Some(b';' | b'#')) {
                continue;
            }
            match str::from_utf8(line).ok().and_then(fields) {
                Some((name, _)) if name.len() >= LONGEST_NAME => {
                    warnings.push(Fault::at(path, number + 1, "username too long in auth file"));
                }
                Some((name, secret)) => {
                    users.insert(name, secret.into());
                }
                None => warnings.push(Fault::at(path, number + 1, "broken auth file").hint("the line is left out")),
            }
        }
        (Self(users), warnings)
    }

    /// A user's secret; empty where the file has an empty one. `None`: no such user.
    #[must_use]
    pub fn get(&self, user: &str) -> Option<&Secret> {
        self.0.get(user)
    }

    /// All users, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, secret)| (name.as_str(), secret))
    }

    /// Number of users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Secret)> for Credentials {
    fn from_iter<I: IntoIterator<Item = (String, Secret)>>(users: I) -> Self {
        Self(users.into_iter().collect())
    }
}

/// Name and secret of a line.
fn fields(line: &str) -> Option<(String, String)> {
    let (name, rest) = unquote(line.strip_prefix('"')?, '"')?;
    let (_, rest) = rest.split_once('"')?;
    Some((name, unquote(rest, '"')?.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (Vec<(String, String)>, Vec<Option<usize>>) {
        let (users, warnings) = Credentials::parse(Path::new("u.txt"), text.as_bytes());
        let users = users.iter().map(|(name, secret)| (name.to_owned(), secret.to_string())).collect();
        (users, warnings.iter().map(|warning| warning.line).collect())
    }

    fn one(line: &str) -> (String, String) {
        let (mut users, warnings) = read(line);
        assert_eq!((users.len(), warnings), (1, vec![]), "{line}");
        users.remove(0)
    }

    #[test]
    fn names_and_secrets_are_read_as_pgbouncer_reads_them() {
        let cases = [
            ("\"a\" \"b\"", "a", "b"),
            ("\"a\"\"b\" \"c\"", "a\"b", "c"),
            ("\"a\" \"b\"\"c\"", "a", "b\"c"),
            ("  \"a\"\t\"b\"   junk\r", "a", "b"),
            ("\"a\" \"b\"x", "a", "b"),
            ("\"a\",\"b\"", "a", "b"),
            ("\"a\" \"\"", "a", ""),
            ("\"\" \"x\"", "", "x"),
            ("\"a\" \"SCRAM-SHA-256$4096:c2FsdA==$a:b\"", "a", "SCRAM-SHA-256$4096:c2FsdA==$a:b"),
            ("\"\u{451}\" \"\u{451}\"", "\u{451}", "\u{451}"),
        ];
        for (line, name, secret) in cases {
            assert_eq!(one(line), (name.to_owned(), secret.to_owned()), "{line}");
        }
    }

    #[test]
    fn a_user_given_twice_has_the_last_secret() {
        assert_eq!(one("\"a\" \"1\"\n\"a\" \"2\"\n").1, "2");
    }

    #[test]
    fn broken_lines_are_left_out_with_a_warning() {
        let long = "n".repeat(LONGEST_NAME);
        let text = format!("; c\n# c\n\na b\n\"a\"\n\"a\" b\n\"a\"\"b\"\n\"a\" \"b\n\"{long}\" \"x\"\n\"c\" \"d\"\n");
        let (users, lines) = read(&text);
        assert_eq!(users, [("c".to_owned(), "d".to_owned())]);
        assert_eq!(lines, [4, 5, 6, 7, 8, 9].map(Some));
    }

    #[test]
    fn a_missing_file_is_a_warning() {
        let (users, warnings) = Credentials::load(Path::new("/nonexistent/users"));
        assert!(users.is_empty());
        assert!(warnings[0].text.starts_with("could not open auth_file /nonexistent/users: "));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            Credentials::parse(Path::new("u"), &bytes);
        }

        #[test]
        fn what_is_printed_is_read_back(name in "[^\n]{0,20}", secret in "[^\n]{0,20}") {
            let quote = |text: &str| text.replace('"', "\"\"");
            let line = format!("\"{}\" \"{}\"", quote(&name), quote(&secret));
            prop_assert_eq!(one(&line), (name, secret));
        }
    }
}
