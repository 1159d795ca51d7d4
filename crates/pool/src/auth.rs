//! How clients prove who they are, and how the pooler proves it to servers: pure state machines, no I/O.

pub mod admission;
pub mod login;
pub mod scram;
pub mod secret;

pub use secret::Secret;

use std::cell::RefCell;

use ring::rand::{SecureRandom, SystemRandom};

/// The only SASL mechanism that is spoken here.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Why a client isn't let in. The text is what pgbouncer tells the client, with SQLSTATE 08P01.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The password is wrong, or there is no such user, or none that could log in this way: the client can't tell.
    #[error("password authentication failed")]
    Password,
    /// The client sent an empty password.
    #[error("empty password returned by client")]
    EmptyPassword,
    /// The client chose a mechanism that wasn't offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// The SCRAM exchange failed; why is for the log alone.
    #[error("SASL authentication failed")]
    Scram(scram::Fault),
    /// The message isn't an answer to what was asked.
    #[error(transparent)]
    Message(#[from] crate::wire::Fault),
}

impl Refusal {
    /// What pgbouncer writes to the log, as an error, besides the text for the client.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Scram(fault) => Some(fault.to_string()),
            _ => None,
        }
    }
}

impl From<scram::Fault> for Refusal {
    fn from(fault: scram::Fault) -> Self {
        Self::Scram(fault)
    }
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no random bytes to be had")]
pub struct NoRandomness;

/// Random bytes that nobody can foretell: for salts, nonces and cancel keys.
///
/// # Errors
/// The system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    thread_local! {
        static STORE: RefCell<Store> = const { RefCell::new(Store { bytes: [0; STORED], used: STORED }) };
    }
    STORE.with_borrow_mut(Store::take)
}

/// Bytes asked for at once: one system call for many logins.
const STORED: usize = 512;

/// A thread's random bytes, each given out once.
struct Store {
    bytes: [u8; STORED],
    used: usize,
}

impl Store {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NoRandomness> {
        const { assert!(N <= STORED) };
        if self.used + N > STORED {
            SystemRandom::new().fill(&mut self.bytes).map_err(|_| NoRandomness)?;
            self.used = 0;
        }
        let mut taken = [0; N];
        let given = &mut self.bytes[self.used..self.used + N];
        taken.copy_from_slice(given);
        given.fill(0);
        self.used += N;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_are_given_out_once() {
        let mut store = Store { bytes: [0; STORED], used: STORED };
        // Twice what is asked for at once.
        let taken: Vec<[u8; 32]> = (0..2 * STORED / 32).map(|_| store.take().unwrap()).collect();
        let distinct: std::collections::HashSet<_> = taken.iter().collect();
        assert_eq!(distinct.len(), taken.len());
        assert_eq!(store.bytes, [0; STORED], "what was given out is kept");
    }
}
