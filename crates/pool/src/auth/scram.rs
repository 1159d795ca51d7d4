//! SCRAM-SHA-256 (RFC 5802, RFC 7677; PostgreSQL documentation, "SASL Authentication") without channel binding: keys,
//! secrets, and in the modules below the two sides of the exchange.

pub mod client;
mod fault;
mod message;
pub mod server;

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};
use stringprep::saslprep;
use subtle::ConstantTimeEq;

use super::{NoRandomness, Secret, random};

pub use fault::{Character, Fault, Flaw};

/// Length of SHA-256's output, of every key, signature and proof.
const LENGTH: usize = 32;

/// Length of salts that are made here; PostgreSQL's.
const SALT: usize = 16;

/// Random bytes in a nonce that is made here; PostgreSQL's number.
const NONCE: usize = 18;

type Block = [u8; LENGTH];

/// The part of a nonce that this side contributes: printable, without commas, and never the same twice.
#[derive(Debug, Clone)]
pub struct Nonce(String);

impl Nonce {
    /// A fresh one.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn random() -> Result<Self, NoRandomness> {
        Ok(Self(BASE64.encode(random::<NONCE>()?)))
    }

    /// A given one, for tests against published vectors.
    ///
    /// # Panics
    /// The text couldn't stand in a message.
    #[must_use]
    pub fn fixed(text: &str) -> Self {
        assert!(message::is_printable(text.as_bytes()), "unprintable nonce");
        Self(text.to_owned())
    }
}

/// How a password is made into keys: a server's demand, or a secret's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Salt.
    pub salt: Box<[u8]>,
    /// Iterations of PBKDF2.
    pub iterations: NonZeroU32,
}

/// What a client must have to log in: derived from its password, or overheard from a client that logged in here.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    client: Block,
    server: Block,
}

impl Keys {
    /// Derives them from a password. This is what takes all the time of a SCRAM login, so keep the result.
    #[must_use]
    pub fn derive(password: &[u8], challenge: &Challenge) -> Self {
        let mut salted = [0; LENGTH];
        let password = prepare(password);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, challenge.iterations, &challenge.salt, &password, &mut salted);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        Self { client: sign_with(&key, b"Client Key"), server: sign_with(&key, b"Server Key") }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// The keys of one password, remembered for the challenge that was last met: a server's salt and iterations change only
/// with the password.
#[derive(Debug, Default)]
pub struct Derived(Option<(Challenge, Keys)>);

impl Derived {
    /// The keys for this challenge, if they are known.
    #[must_use]
    pub fn known(&self, challenge: &Challenge) -> Option<&Keys> {
        self.0.as_ref().filter(|(known, _)| known == challenge).map(|(_, keys)| keys)
    }

    /// Remembers keys for a challenge.
    pub fn remember(&mut self, challenge: Challenge, keys: Keys) {
        self.0 = Some((challenge, keys));
    }

    /// The keys for this challenge, derived from the password if they aren't known yet.
    pub fn keys(&mut self, password: &[u8], challenge: &Challenge) -> Keys {
        if let Some(keys) = self.known(challenge) {
            return keys.clone();
        }
        let keys = Keys::derive(password, challenge);
        self.remember(challenge.clone(), keys.clone());
        keys
    }
}

/// What verifies a client's proof: a SCRAM secret, or the like made from a password, or a mock that nothing satisfies.
/// Making one from a password takes long, so keep it for the user's next logins.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    challenge: Challenge,
    stored_key: Block,
    server_key: Block,
    /// Why the exchange fails in the end, whatever the client proves.
    doom: Option<Fault>,
}

impl Verifier {
    /// The verifier for a user with this secret. For no user, and for one whose secret can't serve, it is a mock that
    /// looks the same to the client. Salts come from the seed and the user's name, so that a user looks the same each
    /// time, whether it exists or not.
    #[must_use]
    pub fn of(secret: Option<&Secret>, user: &[u8], iterations: NonZeroU32, seed: &Seed) -> Self {
        let challenge = || Challenge { salt: seed.salt(user), iterations };
        match secret {
            Some(Secret::Scram(verifier)) => verifier.clone(),
            Some(Secret::Plain(password)) if !password.is_empty() => Self::derive(password, challenge()),
            Some(Secret::Md5(_)) => Self::mock(challenge(), Fault::Md5Secret),
            Some(Secret::Plain(_)) | None => Self::mock(challenge(), Fault::Proof),
        }
    }

    fn mock(challenge: Challenge, doom: Fault) -> Self {
        Self { challenge, stored_key: [0; LENGTH], server_key: [0; LENGTH], doom: Some(doom) }
    }

    /// Makes a verifier from a password.
    #[must_use]
    pub fn derive(password: &[u8], challenge: Challenge) -> Self {
        let keys = Keys::derive(password, &challenge);
        Self { challenge, stored_key: sha256(&keys.client), server_key: keys.server, doom: None }
    }

    /// Reads a secret in PostgreSQL's form: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('$');
        let (mechanism, challenge, keys) = (parts.next()?, parts.next()?, parts.next()?);
        if mechanism != super::MECHANISM || parts.next().is_some() {
            return None;
        }
        let (iterations, salt) = challenge.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let salt = BASE64.decode(salt).ok()?.into();
        let challenge = Challenge { salt, iterations: message::iterations(iterations.as_bytes())? };
        let (stored_key, server_key) = (message::block(stored_key)?, message::block(server_key)?);
        Some(Self { challenge, stored_key, server_key, doom: None })
    }

    /// Whether a password is the one that this was made from. Takes as long as deriving its keys.
    #[must_use]
    pub fn fits(&self, password: &[u8]) -> bool {
        let keys = Keys::derive(password, &self.challenge);
        self.doom.is_none() && bool::from(keys.server.ct_eq(&self.server_key))
    }

    /// How the password is made into keys.
    #[must_use]
    pub fn challenge(&self) -> &Challenge {
        &self.challenge
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("challenge", &self.challenge).finish_non_exhaustive()
    }
}

/// What salts are made from, for users that have none: one for the whole process, the same on all threads, or a client
/// could tell who is made up by asking twice.
#[derive(Clone)]
pub struct Seed(hmac::Key);

impl Seed {
    /// A fresh one.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn random() -> Result<Self, NoRandomness> {
        Ok(Self::fixed(random()?))
    }

    /// A given one.
    #[must_use]
    pub fn fixed(bytes: [u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    }

    fn salt(&self, user: &[u8]) -> Box<[u8]> {
        sign_with(&self.0, user)[..SALT].into()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

/// Prepares a password as PostgreSQL does: by SASLprep (RFC 4013), or not at all where that is impossible.
fn prepare(password: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    let prepared = std::str::from_utf8(password).ok().and_then(|text| saslprep(text).ok());
    match prepared {
        Some(text) if !text.is_empty() => match text {
            std::borrow::Cow::Borrowed(text) => text.as_bytes().into(),
            std::borrow::Cow::Owned(text) => text.into_bytes().into(),
        },
        _ => password.into(),
    }
}

fn sign(key: &Block, text: &[u8]) -> Block {
    sign_with(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

fn sign_with(key: &hmac::Key, text: &[u8]) -> Block {
    block_of(hmac::sign(key, text).as_ref())
}

fn sha256(bytes: &[u8]) -> Block {
    block_of(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// SHA-256 gives 32 bytes, whatever it stands in.
fn block_of(bytes: &[u8]) -> Block {
    let mut block = [0; LENGTH];
    block.copy_from_slice(bytes);
    block
}

fn xor(a: &Block, b: &Block) -> Block {
    std::array::from_fn(|at| a[at] ^ b[at])
}

#[cfg(test)]
mod tests;
