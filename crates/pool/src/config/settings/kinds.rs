//! Settings that are one of a few words, and other kinds of values that need a type of their own.

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

/// Permissions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileMode(pub u32);

/// A value that is one of a few words.
pub(super) trait Keyword: Copy + PartialEq + 'static {
    /// Words and what they mean; where several mean the same, the first is printed.
    const WORDS: &'static [(&'static str, Self)];

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
        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    )*};
}

display!(PoolMode AuthType SslMode);
