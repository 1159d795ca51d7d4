//! What can be wrong in an exchange, in pgbouncer's words. They are for the log: clients are told only that it failed.

use std::fmt;

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message that isn't what it should be.
    #[error("malformed SCRAM message ({0})")]
    Malformed(Flaw),
    /// The client insists on channel binding, which wasn't offered.
    #[error("client requires SCRAM channel binding, but it is not supported")]
    ChannelBinding,
    /// The client wants to be somebody else than it logs in as.
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// The client insists on an extension.
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    /// The client's nonce has bytes that mustn't be there.
    #[error("non-printable characters in SCRAM nonce")]
    Nonce,
    /// The client's last message repeats another header than its first one had.
    #[error("unexpected SCRAM channel-binding attribute in client-final-message")]
    ChannelBindingChanged,
    /// The client's last message has another nonce.
    #[error("invalid SCRAM response (nonce does not match)")]
    NonceChanged,
    /// The proof is wrong: another password, or no such user.
    #[error("password authentication failed")]
    Proof,
    /// The user has an MD5 secret, which no proof can be checked against.
    #[error("SCRAM authentication failed: user has MD5 secret")]
    Md5Secret,
    /// The server's nonce doesn't begin with the one it was sent.
    #[error("invalid SCRAM response (nonce mismatch)")]
    NonceMismatch,
    /// The server's signature is wrong: it doesn't know the password.
    #[error("invalid server signature")]
    Signature,
    /// The server reports an error in the exchange's own way.
    #[error("error received from server in SCRAM exchange: {0}")]
    Server(String),
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The first byte is none of `n`, `y` and `p`.
    #[error("unexpected channel-binding flag \"{0}\"")]
    Flag(Character),
    /// Something else stands where a comma must.
    #[error("comma expected, but found character \"{0}\"")]
    Comma(Character),
    /// Neither nothing nor an authorization identity stands in its place.
    #[error("unexpected attribute \"{0}\" in client-first-message")]
    Attribute(Character),
    /// This attribute isn't where it should be.
    #[error("attribute \"{0}\" expected")]
    Expected(char),
    /// The attribute's letter isn't followed by `=`.
    #[error("expected \"=\" after attribute \"{0}\"")]
    Equals(char),
    /// No attribute begins like this.
    #[error("attribute expected, but found invalid character \"{0}\"")]
    Letter(Character),
    /// The proof isn't 32 bytes in base64.
    #[error("malformed proof in client-final-message")]
    Proof,
    /// Something follows the proof.
    #[error("garbage at the end of client-final-message")]
    AfterProof,
    /// The salt isn't base64.
    #[error("invalid salt")]
    Salt,
    /// The number of iterations isn't a number above 0.
    #[error("invalid iteration count")]
    Iterations,
    /// Something follows the number of iterations.
    #[error("garbage at end of server-first-message")]
    AfterIterations,
    /// The server's signature isn't 32 bytes in base64.
    #[error("malformed server signature")]
    Signature,
    /// Something follows the server's signature.
    #[error("garbage at end of server-final-message")]
    AfterSignature,
}

impl From<Flaw> for Fault {
    fn from(flaw: Flaw) -> Self {
        Self::Malformed(flaw)
    }
}

/// A byte in a message of the log: in quotes, or by its number where it couldn't be seen. 0 stands for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Character(u8);

impl Character {
    /// The first of these bytes.
    pub(super) fn first(bytes: &[u8]) -> Self {
        Self(bytes.first().copied().unwrap_or(0))
    }
}

impl fmt::Display for Character {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            visible @ 0x21..=0x7e => write!(f, "'{}'", char::from(visible)),
            other => write!(f, "0x{other:02x}"),
        }
    }
}
