//! The client's side of the exchange: the pooler logs in to a server.

use base64::Engine;
use subtle::ConstantTimeEq;

use super::message::{self, Attributes};
use super::{BASE64, Challenge, Fault, Flaw, Keys, Nonce, sha256, sign, xor};

/// The header of the first message: no channel binding, no authorization identity.
const HEADER: &[u8] = b"n,,";

/// An exchange that has been opened.
#[derive(Debug)]
pub struct Exchange {
    nonce: Nonce,
    /// The first message without its header.
    bare: Vec<u8>,
}

impl Exchange {
    /// Opens an exchange; gives the first message. The user is left out of it, as the startup packet's counts.
    #[must_use]
    pub fn begin(nonce: Nonce) -> (Self, Vec<u8>) {
        Self::begin_as("", nonce)
    }

    fn begin_as(user: &str, nonce: Nonce) -> (Self, Vec<u8>) {
        let bare = format!("n={user},r={}", nonce.0).into_bytes();
        let message = [HEADER, &bare].concat();
        (Self { nonce, bare }, message)
    }

    /// Reads the server's first message.
    ///
    /// # Errors
    /// The message is malformed or not about this exchange.
    pub fn challenged(self, answer: &[u8]) -> Result<Challenged, Fault> {
        let mut attributes = Attributes::of(answer);
        let nonce = attributes.value('r')?;
        if !nonce.starts_with(self.nonce.0.as_bytes()) {
            return Err(Fault::NonceMismatch);
        }
        let salt = BASE64.decode(attributes.value('s')?).map_err(|_| Flaw::Salt)?;
        let iterations = message::iterations(attributes.value('i')?).ok_or(Flaw::Iterations)?;
        if !attributes.rest().is_empty() || answer.ends_with(b",") {
            return Err(Flaw::AfterIterations.into());
        }
        let last = [b"c=", BASE64.encode(HEADER).as_bytes(), b",r=", nonce].concat();
        let signed = [&self.bare, &b","[..], answer, b",", &last].concat();
        Ok(Challenged { challenge: Challenge { salt: salt.into(), iterations }, last, signed })
    }
}

/// An exchange in which the server has said how to make keys from the password.
#[derive(Debug)]
pub struct Challenged {
    challenge: Challenge,
    /// The last message without its proof.
    last: Vec<u8>,
    /// What both sides sign.
    signed: Vec<u8>,
}

impl Challenged {
    /// How to make keys from the password.
    #[must_use]
    pub fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// Proves that the keys are known; gives the last message.
    #[must_use]
    pub fn prove(self, keys: &Keys) -> (Proved, Vec<u8>) {
        let proof = xor(&keys.client, &sign(&sha256(&keys.client), &self.signed));
        let message = [&self.last, &b",p="[..], BASE64.encode(proof).as_bytes()].concat();
        (Proved { signature: sign(&keys.server, &self.signed) }, message)
    }
}

/// An exchange that lacks only the server's signature.
#[derive(Debug)]
pub struct Proved {
    signature: [u8; 32],
}

impl Proved {
    /// Checks that the server knows the password too.
    ///
    /// # Errors
    /// It doesn't, or says that the exchange failed.
    pub fn finish(self, answer: &[u8]) -> Result<(), Fault> {
        let mut attributes = Attributes::of(answer);
        if answer.starts_with(b"e") {
            let error = attributes.value('e')?;
            return Err(Fault::Server(String::from_utf8_lossy(error).into_owned()));
        }
        let signature = message::block(attributes.value('v')?).ok_or(Flaw::Signature)?;
        if !attributes.rest().is_empty() || answer.ends_with(b",") {
            return Err(Flaw::AfterSignature.into());
        }
        if bool::from(signature.ct_eq(&self.signature)) { Ok(()) } else { Err(Fault::Signature) }
    }
}

#[cfg(test)]
mod tests;
