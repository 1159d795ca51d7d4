//! The pooler proves to a server who it is.

use std::sync::Arc;

use super::scram::client::{Exchange, Proved};
use super::scram::{self, Challenge, Keys, Nonce};
use super::{MECHANISM, Secret};
use crate::wire::build::frontend;
use crate::wire::reply::Authentication;

/// Why the pooler can't log in. The text is what pgbouncer writes to the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The server asks for something that isn't spoken here.
    #[error("unknown/unsupported auth method: {0}")]
    Method(u32),
    /// The server offers no mechanism that is spoken here.
    #[error("none of the server's SASL authentication mechanisms are supported")]
    Mechanism,
    /// What is known of the password doesn't serve for what the server asks for.
    #[error("cannot do {0} authentication: wrong password type")]
    SecretType(&'static str),
    /// There is a SCRAM secret, which serves only with the keys of a client that logged in by SCRAM.
    #[error(
        "cannot do SCRAM authentication: password is SCRAM secret but client authentication did not provide SCRAM keys"
    )]
    NoKeys,
    /// The exchange failed.
    #[error("{0}")]
    Scram(#[from] scram::Fault),
    /// The server asks for things in an order that makes no sense, or lets the pooler in without having shown that it
    /// knows the password, which it began to.
    #[error("server broke off the authentication exchange")]
    Order,
    /// The message isn't an authentication request.
    #[error(transparent)]
    Message(#[from] crate::wire::Fault),
}

impl Fault {
    /// What pgbouncer tells clients that wait for a connection, after `server login failed: `; where it tells them
    /// nothing, it tries again later.
    #[must_use]
    pub fn told(&self) -> Option<&'static str> {
        match self {
            Self::Mechanism => Some("none of the server's SASL authentication mechanisms are supported"),
            Self::SecretType(_) | Self::NoKeys => Some("wrong password type"),
            Self::Scram(scram::Fault::Signature) => Some("invalid server signature"),
            _ => None,
        }
    }
}

/// How far the login has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The server has the next word.
    Waiting,
    /// Logged in.
    Admitted,
}

/// A login under way.
#[derive(Debug)]
pub struct Login {
    user: Box<[u8]>,
    secret: Arc<Secret>,
    keys: Option<Keys>,
    state: State,
}

#[derive(Debug)]
enum State {
    Begun(Nonce),
    Opened(Exchange),
    Proved(Proved),
    /// Whatever was asked for has been given, or the server has shown that it knows the password.
    Answered,
}

impl Login {
    /// A login as this user. Without a password, give an empty one: the server will say what it thinks of it. Keys are
    /// those of a client that logged in by SCRAM; they serve where the secret is a SCRAM one.
    #[must_use]
    pub fn new(user: &[u8], secret: Arc<Secret>, keys: Option<Keys>, nonce: Nonce) -> Self {
        Self { user: user.into(), secret, keys, state: State::Begun(nonce) }
    }

    /// Reads the body of an authentication request (kind `R`), and appends to `out` what to answer. `derive` makes keys
    /// from a password, or remembers them: see [`scram::Derived`].
    ///
    /// # Errors
    /// The login can't succeed.
    pub fn answer(
        &mut self,
        body: &[u8],
        derive: impl FnOnce(&[u8], &Challenge) -> Keys,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Fault> {
        let state = std::mem::replace(&mut self.state, State::Answered);
        match (Authentication::read(body)?, state) {
            (Authentication::Ok, State::Begun(_) | State::Answered) => return Ok(Progress::Admitted),
            (Authentication::Cleartext, State::Begun(_)) => match &*self.secret {
                Secret::Plain(password) => frontend::password(out, password),
                Secret::Md5(_) | Secret::Scram(_) => return Err(Fault::SecretType("cleartext")),
            },
            (Authentication::Md5(salt), State::Begun(_)) => {
                let answer = self.secret.md5_answer(&self.user, salt).ok_or(Fault::SecretType("MD5"))?;
                frontend::password(out, &answer);
            }
            (Authentication::Sasl(offered), State::Begun(nonce)) => {
                if !offered.has(MECHANISM) {
                    return Err(Fault::Mechanism);
                }
                self.check_secret()?;
                let (exchange, message) = Exchange::begin(nonce);
                frontend::sasl_initial(out, MECHANISM, &message);
                self.state = State::Opened(exchange);
            }
            (Authentication::SaslContinue(data), State::Opened(exchange)) => {
                let challenged = exchange.challenged(data)?;
                let keys = match (&*self.secret, self.keys.take()) {
                    (Secret::Plain(password), _) => derive(password, challenged.challenge()),
                    (_, keys) => keys.ok_or(Fault::NoKeys)?,
                };
                let (proved, message) = challenged.prove(&keys);
                frontend::sasl_response(out, &message);
                self.state = State::Proved(proved);
            }
            (Authentication::SaslFinal(data), State::Proved(proved)) => proved.finish(data)?,
            (Authentication::Other(method), _) => return Err(Fault::Method(method)),
            _ => return Err(Fault::Order),
        }
        Ok(Progress::Waiting)
    }

    /// Whether the secret can serve in a SCRAM exchange, asked before one is begun.
    fn check_secret(&self) -> Result<(), Fault> {
        match &*self.secret {
            Secret::Plain(_) => Ok(()),
            Secret::Scram(_) if self.keys.is_some() => Ok(()),
            Secret::Scram(_) => Err(Fault::NoKeys),
            Secret::Md5(_) => Err(Fault::SecretType("SCRAM")),
        }
    }
}

#[cfg(test)]
mod tests;
