//! What is known of a user's password (PostgreSQL documentation, `pg_authid.rolpassword`), and the checks and answers
//! that need no exchange of several messages.

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::Refusal;
use super::scram::Verifier;

/// Length of an MD5 secret and of an answer to an MD5 request: `md5` and 32 hexadecimal digits.
const MD5_LENGTH: usize = 35;

/// What is known of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself. An empty one lets nobody in.
    Plain(Box<[u8]>),
    /// `md5` and the hash of password and user name, in hexadecimal.
    Md5(Box<[u8]>),
    /// A SCRAM secret.
    Scram(Verifier),
}

impl Secret {
    /// Reads a secret as it stands in a user list or in `pg_authid`. What has neither the form of an MD5 nor of a SCRAM
    /// secret is a password.
    #[must_use]
    pub fn parse(text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        if is_md5(text) {
            return Self::Md5(text.into());
        }
        let scram = std::str::from_utf8(text).ok().and_then(Verifier::parse);
        scram.map_or_else(|| Self::Plain(text.into()), Self::Scram)
    }

    /// Whether it is an empty password.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Plain(password) if password.is_empty())
    }

    /// Checks a password that a client sent in clear text. For a SCRAM secret that takes its many iterations.
    ///
    /// # Errors
    /// The password is wrong or empty.
    pub fn check_password(&self, user: &[u8], password: &[u8]) -> Result<(), Refusal> {
        if password.is_empty() {
            return Err(Refusal::EmptyPassword);
        }
        let right = match self {
            Self::Plain(known) => equal(known, password),
            Self::Md5(known) => equal(known, &hash(&[password, user])),
            Self::Scram(verifier) => verifier.fits(password),
        };
        if right { Ok(()) } else { Err(Refusal::Password) }
    }

    /// Checks a client's answer to an MD5 request with this salt.
    ///
    /// # Errors
    /// The answer is wrong or empty, or the secret is a SCRAM one: a client of such a user is asked for SCRAM.
    pub fn check_md5(&self, user: &[u8], salt: [u8; 4], answer: &[u8]) -> Result<(), Refusal> {
        if answer.is_empty() {
            return Err(Refusal::EmptyPassword);
        }
        let expected = self.md5_answer(user, salt).filter(|_| !self.is_empty()).ok_or(Refusal::Password)?;
        if equal(&expected, answer) { Ok(()) } else { Err(Refusal::Password) }
    }

    /// The answer to a server's MD5 request with this salt. None can be made of a SCRAM secret.
    #[must_use]
    pub fn md5_answer(&self, user: &[u8], salt: [u8; 4]) -> Option<[u8; MD5_LENGTH]> {
        let digits = |secret: &[u8]| hash(&[&secret[3..], &salt]);
        match self {
            Self::Plain(password) => Some(digits(&hash(&[password, user]))),
            Self::Md5(secret) => Some(digits(secret)),
            Self::Scram(_) => None,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Md5(_) => "Md5",
            Self::Scram(_) => "Scram",
        })
    }
}

fn is_md5(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"md5");
    digits.is_some_and(|digits| {
        text.len() == MD5_LENGTH && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// `md5` and the hash of all parts, one after the other, in hexadecimal.
fn hash(parts: &[&[u8]]) -> [u8; MD5_LENGTH] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut state = Md5::new();
    parts.iter().for_each(|part| state.update(part));
    let mut text = [0; MD5_LENGTH];
    text[..3].copy_from_slice(b"md5");
    for (pair, byte) in text[3..].chunks_exact_mut(2).zip(state.finalize()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

/// Compares without telling by its duration where the difference is; lengths may be told.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests;
