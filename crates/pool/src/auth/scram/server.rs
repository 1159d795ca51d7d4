//! The server's side of the exchange: a client logs in here.

use std::sync::Arc;

use base64::Engine;
use subtle::ConstantTimeEq;

use super::message::{self, Attributes};
use super::{BASE64, Character, Fault, Flaw, Keys, Nonce, Verifier, sha256, sign, xor};

/// An exchange whose first two messages have passed.
#[derive(Debug)]
pub struct Exchange {
    verifier: Arc<Verifier>,
    /// The client's first message without its header, and the answer to it, with a comma after each: the beginning of
    /// what both sides sign.
    signed: Vec<u8>,
    /// Client's and server's part.
    nonce: Vec<u8>,
    /// The header of the client's first message, as its last message must repeat it.
    header: &'static [u8],
}

/// A client that has proved that it knows the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// The message that proves the same of the server.
    pub answer: Vec<u8>,
    /// What the client used; good for logging in to a server that has the same secret.
    pub keys: Keys,
}

impl Exchange {
    /// Reads the client's first message; gives the answer to it.
    ///
    /// # Errors
    /// The message is malformed or asks for what isn't spoken here.
    pub fn begin(verifier: Arc<Verifier>, first: &[u8], nonce: &Nonce) -> Result<(Self, Vec<u8>), Fault> {
        let (header, bare) = header(first)?;
        let mut attributes = Attributes::of(bare);
        if bare.starts_with(b"m") {
            return Err(Fault::Extension);
        }
        // The name that counts is the startup packet's.
        attributes.value('n')?;
        let theirs = attributes.value('r')?;
        if !message::is_printable(theirs) {
            return Err(Fault::Nonce);
        }
        let nonce = [theirs, nonce.0.as_bytes()].concat();
        let answer = [
            b"r=",
            &nonce[..],
            b",s=",
            BASE64.encode(&verifier.challenge.salt).as_bytes(),
            b",i=",
            verifier.challenge.iterations.to_string().as_bytes(),
        ]
        .concat();
        let signed = [bare, b",", &answer, b","].concat();
        Ok((Self { verifier, signed, nonce, header }, answer))
    }

    /// Reads the client's last message and checks its proof.
    ///
    /// # Errors
    /// The message is malformed, not about this exchange, or its proof is wrong.
    pub fn finish(self, last: &[u8]) -> Result<Proved, Fault> {
        let mut attributes = Attributes::of(last);
        if attributes.value('c')? != self.header {
            return Err(Fault::ChannelBindingChanged);
        }
        if attributes.value('r')? != self.nonce {
            return Err(Fault::NonceChanged);
        }
        // Extensions may stand before the proof; they are signed like the rest.
        let (end, proof) = loop {
            let end = last.len() - attributes.rest().len();
            let (letter, value) = attributes.next()?;
            if letter == b'p' {
                break (end - 1, value);
            }
        };
        let proof = message::block(proof).ok_or(Flaw::Proof)?;
        if !attributes.rest().is_empty() || last.ends_with(b",") {
            return Err(Flaw::AfterProof.into());
        }
        self.check(&last[..end], &proof)
    }

    fn check(mut self, without_proof: &[u8], proof: &[u8; 32]) -> Result<Proved, Fault> {
        self.signed.extend_from_slice(without_proof);
        let verifier = &self.verifier;
        let client = xor(proof, &sign(&verifier.stored_key, &self.signed));
        let right = bool::from(sha256(&client).ct_eq(&verifier.stored_key));
        if let Some(doom) = &verifier.doom {
            return Err(doom.clone());
        }
        if !right {
            return Err(Fault::Proof);
        }
        let signature = sign(&verifier.server_key, &self.signed);
        let answer = [b"v=", BASE64.encode(signature).as_bytes()].concat();
        Ok(Proved { answer, keys: Keys { client, server: verifier.server_key } })
    }
}

/// Splits the first message into its header, as it will be repeated, and the rest.
fn header(first: &[u8]) -> Result<(&'static [u8], &[u8]), Fault> {
    let (repeated, rest): (&[u8], _) = match first {
        // The client could do channel binding but believes that this side can't, which is right.
        [b'y', rest @ ..] => (b"eSws", rest),
        [b'n', rest @ ..] => (b"biws", rest),
        [b'p', ..] => return Err(Fault::ChannelBinding),
        other => return Err(Flaw::Flag(Character::first(other)).into()),
    };
    let rest = rest.strip_prefix(b",").ok_or(Flaw::Comma(Character::first(rest)))?;
    match rest {
        [b',', bare @ ..] => Ok((repeated, bare)),
        [b'a', ..] => Err(Fault::AuthorizationIdentity),
        other => Err(Flaw::Attribute(Character::first(other)).into()),
    }
}

#[cfg(test)]
mod tests;
