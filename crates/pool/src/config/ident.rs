//! The ident map (`auth_ident_file`): which system user or certificate may be which database user. Lines
//! of three fields: map, system user, database user. There are neither groups nor regular expressions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Fault;
use super::words::fields;

/// Maps by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Idents(BTreeMap<String, Vec<Mapping>>);

/// One line of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Name that the system or the certificate gives.
    pub system: String,
    /// The database user it may be; `None`: every one (`all`).
    pub user: Option<String>,
}

impl Idents {
    /// Reads an ident map. What can't be read is left out with a warning: it lets nobody in.
    #[must_use]
    pub fn load(path: &Path) -> (Self, Vec<Fault>) {
        match fs::read(path) {
            Ok(bytes) => Self::parse(path, &bytes),
            Err(e) => (Self::default(), vec![Fault::io(path, "could not open ident config file", &e)]),
        }
    }

    fn parse(path: &Path, bytes: &[u8]) -> (Self, Vec<Fault>) {
        let (mut idents, mut warnings) = (Self::default(), Vec::new());
        for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            match mapping(line) {
                Ok(Some((map, mapping))) => idents.0.entry(map).or_default().push(mapping),
                Ok(None) => {}
                Err(hint) => {
                    warnings.push(Fault::at(path, number + 1, "could not parse ident config line").hint(hint));
                }
            }
        }
        (idents, warnings)
    }

    /// Whether there is a map of that name.
    #[must_use]
    pub fn has(&self, map: &str) -> bool {
        self.0.contains_key(map)
    }

    /// Whether a map lets a system user be a database user.
    #[must_use]
    pub fn allows(&self, map: &str, system: &str, user: &str) -> bool {
        self.0.get(map).is_some_and(|lines| {
            lines.iter().any(|line| line.system == system && line.user.as_deref().is_none_or(|u| u == user))
        })
    }
}

/// Map and mapping of a line; `None`: it's blank.
fn mapping(line: &[u8]) -> Result<Option<(String, Mapping)>, &'static str> {
    let line = line.trim_ascii();
    if line.starts_with(b"#") {
        return Ok(None);
    }
    let fields = fields(str::from_utf8(line).map_err(|_| "the line isn't UTF-8")?)?;
    match fields.as_slice() {
        [] => Ok(None),
        [map, system, user] => match (map.as_slice(), system.as_slice(), user.as_slice()) {
            ([map], [system], [user]) => {
                let name = (!user.is("all")).then(|| user.text.clone());
                Ok(Some((map.text.clone(), Mapping { system: system.text.clone(), user: name })))
            }
            _ => Err("lists are not supported"),
        },
        _ => Err("it needs a map, a system user and a database user"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Idents, Vec<Option<usize>>) {
        let (idents, warnings) = Idents::parse(Path::new("id"), text.as_bytes());
        (idents, warnings.iter().map(|warning| warning.line).collect())
    }

    #[test]
    fn a_map_lets_system_users_be_database_users() {
        let (idents, warnings) = read("# c\nm root postgres # c\nm \"a b\" all\nm q \"all\"\nn bob bob\n");
        assert_eq!(warnings, []);
        assert!(idents.allows("m", "root", "postgres"));
        assert!(!idents.allows("m", "root", "bob"));
        assert!(idents.allows("m", "a b", "anyone"));
        assert!(idents.allows("m", "q", "all") && !idents.allows("m", "q", "postgres"));
        assert!(idents.allows("n", "bob", "bob") && !idents.allows("m", "bob", "bob"));
        assert!(!idents.allows("none", "root", "postgres"));
        assert!(idents.has("n") && !idents.has("none"));
    }

    #[test]
    fn lines_that_say_more_or_less_are_left_out() {
        let (idents, warnings) = read("m root\nm root a,b\nm root a junk\nm \"root a\nm /^(.*)$ \\1\nm + +g\n");
        assert_eq!(warnings, [1, 2, 3, 4].map(Some));
        assert!(!idents.allows("m", "root", "a"));
        assert!(!idents.allows("m", "x", "x"));
    }

    #[test]
    fn a_missing_file_is_a_warning() {
        let (idents, warnings) = Idents::load(Path::new("/nonexistent/ident"));
        assert_eq!((idents, warnings.len()), (Idents::default(), 1));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            Idents::parse(Path::new("id"), &bytes);
        }
    }
}
