//! Settings that are one of a few words, and other kinds of values that need a type of their own.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// When a server connection goes back to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PoolMode {
    /// When the client disconnects.
    #[default]
    Session,
    /// When a transaction ends.
    Transaction,
    /// When a query ends.
    Statement,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthType {
    /// Not at all; even the name is ignored.
    Any,
    /// Not at all, but the name has to be a known one.
    Trust,
    /// The password in clear text.
    Plain,
    /// An MD5 challenge, or SCRAM where the secret is a SCRAM verifier.
    Md5,
    /// SCRAM-SHA-256.
    Scram,
    /// A certificate for the name.
    Cert,
    /// As `auth_hba_file` says.
    Hba,
}

/// When TLS is used, and what is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the other side wants it.
    Allow,
    /// If the other side can.
    Prefer,
    /// Always.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// Always, and the certificate has to be for that host.
    VerifyFull,
}

/// What becomes of PostgreSQL's warning that a commit wasn't confirmed by a synchronous standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnCancelled {
    /// The client gets it behind its success.
    Ignore,
    /// The client gets an error.
    Error,
}

/// Permissions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileMode(pub u32);

/// Names with commas or blanks between them, in the words of the file. Quotes have no meaning.
#[derive(Debug, Clone, Default)]
pub struct List {
    names: Vec<String>,
    text: String,
}

impl List {
    pub(super) fn read(text: &str) -> Self {
        Self { names: split(text).map(str::to_owned).collect(), text: text.to_owned() }
    }
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_ascii_whitespace()).filter(|name| !name.is_empty())
}

impl Deref for List {
    type Target = Vec<String>;

    fn deref(&self) -> &Vec<String> {
        &self.names
    }
}

impl DerefMut for List {
    fn deref_mut(&mut self) -> &mut Vec<String> {
        &mut self.names
    }
}

impl From<Vec<String>> for List {
    fn from(names: Vec<String>) -> Self {
        Self { text: names.join(","), names }
    }
}

impl<const N: usize> From<[String; N]> for List {
    fn from(names: [String; N]) -> Self {
        Vec::from(names).into()
    }
}

impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl<'a> IntoIterator for &'a List {
    type Item = &'a String;
    type IntoIter = std::slice::Iter<'a, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.names.iter()
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if split(&self.text).eq(self.names.iter().map(String::as_str)) {
            f.write_str(&self.text)
        } else {
            f.write_str(&self.names.join(","))
        }
    }
}

/// A value that is one of a few words.
pub(in crate::config) trait Keyword: Copy + PartialEq + 'static {
    /// Words and what they mean; where several mean the same, the first is printed.
    const WORDS: &'static [(&'static str, Self)];

    /// The value for a word, in either case.
    fn find(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, value)| *value)
    }

    /// The word for the value.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

impl Keyword for PoolMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("session", Self::Session), ("transaction", Self::Transaction), ("statement", Self::Statement)];
}

impl Keyword for AuthType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("any", Self::Any),
        ("trust", Self::Trust),
        ("plain", Self::Plain),
        ("md5", Self::Md5),
        ("scram-sha-256", Self::Scram),
        ("cert", Self::Cert),
        ("hba", Self::Hba),
    ];
}

impl Keyword for OnCancelled {
    const WORDS: &'static [(&'static str, Self)] = &[("ignore", Self::Ignore), ("error", Self::Error)];
}

impl Keyword for SslMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

macro_rules! display {
    ($($kind:ident)*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    )*};
}

display!(PoolMode AuthType SslMode);
