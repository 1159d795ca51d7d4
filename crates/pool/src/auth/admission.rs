//! A client proves who it is, once it's decided how: password, MD5 or SCRAM. Methods without a conversation (trust,
//! certificates, peer) are decided elsewhere.

use std::sync::Arc;

use super::scram::server::Exchange;
use super::scram::{Keys, Nonce, Verifier};
use super::{MECHANISM, Refusal, Secret};
use crate::wire::Fault;
use crate::wire::build::backend;
use crate::wire::kind::client;
use crate::wire::request::{self, SaslInitial};

/// Longest body of an answer that should be read: enough for any password or SCRAM message, and all that a client can
/// make the pooler keep before it has proved anything. PostgreSQL's limit.
pub const MAX_ANSWER: usize = 65_535;

/// What the client is asked for. Users that don't exist are asked as all others are, and fail in the end.
#[derive(Debug)]
pub enum Demand {
    /// The password in clear text. `None`: no such user.
    Password(Option<Arc<Secret>>),
    /// The password's hash with this salt. A user with a SCRAM secret must be asked for SCRAM instead.
    Md5(Option<Arc<Secret>>, [u8; 4]),
    /// A SCRAM exchange.
    Scram(Arc<Verifier>, Nonce),
}

/// How far a client has got.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has been asked for more.
    Asked,
    /// It is who it says it is, and has shown these keys if it did so by SCRAM.
    Admitted(Option<Keys>),
}

/// A client that proves who it is.
#[derive(Debug)]
pub struct Admission {
    user: Box<[u8]>,
    state: State,
}

#[derive(Debug)]
enum State {
    Asked(Demand),
    Exchange(Exchange),
    Over,
}

impl Admission {
    /// Appends the request for the client to `out`.
    #[must_use]
    pub fn begin(user: &[u8], demand: Demand, out: &mut Vec<u8>) -> Self {
        match &demand {
            Demand::Password(_) => backend::authentication_cleartext(out),
            Demand::Md5(_, salt) => backend::authentication_md5(out, *salt),
            Demand::Scram(..) => backend::authentication_sasl(out, &[MECHANISM]),
        }
        Self { user: user.into(), state: State::Asked(demand) }
    }

    /// Judges the body of the client's answer (kind `p`), and appends to `out` what it must be sent: the next request,
    /// or the last word of the exchange. AuthenticationOk isn't part of it.
    ///
    /// # Errors
    /// The client isn't let in.
    pub fn answer(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<Progress, Refusal> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Asked(Demand::Password(secret)) => {
                let password = request::password(body)?;
                judge(secret, password, |secret| secret.check_password(&self.user, password))
            }
            State::Asked(Demand::Md5(secret, salt)) => {
                let answer = request::password(body)?;
                judge(secret, answer, |secret| secret.check_md5(&self.user, salt, answer))
            }
            State::Asked(Demand::Scram(verifier, nonce)) => {
                let initial = SaslInitial::read(body).map_err(|_| Refusal::Mechanism)?;
                if initial.mechanism != MECHANISM.as_bytes() {
                    return Err(Refusal::Mechanism);
                }
                let (exchange, data) = Exchange::begin(verifier, initial.data.unwrap_or_default(), &nonce)?;
                backend::authentication_sasl_continue(out, &data);
                self.state = State::Exchange(exchange);
                Ok(Progress::Asked)
            }
            State::Exchange(exchange) => {
                let proved = exchange.finish(body)?;
                backend::authentication_sasl_final(out, &proved.answer);
                Ok(Progress::Admitted(Some(proved.keys)))
            }
            State::Over => Err(Fault::UnknownKind(client::PASSWORD).into()),
        }
    }
}

fn judge(
    secret: Option<Arc<Secret>>,
    answer: &[u8],
    check: impl FnOnce(&Secret) -> Result<(), Refusal>,
) -> Result<Progress, Refusal> {
    match secret {
        Some(secret) => check(&secret)?,
        None if answer.is_empty() => return Err(Refusal::EmptyPassword),
        None => return Err(Refusal::Password),
    }
    Ok(Progress::Admitted(None))
}

#[cfg(test)]
mod tests;
