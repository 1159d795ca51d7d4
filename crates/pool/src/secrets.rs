//! What is known of users' passwords, kept so that nothing costly is derived twice.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, OnceLock};

use crate::auth::scram::{Challenge, Derived, Keys, Seed, Verifier};
use crate::auth::{NoRandomness, Secret};
use crate::config::Config;
use crate::shared::lock;

/// One user's secret.
#[derive(Debug)]
pub(crate) struct Known {
    /// The secret.
    pub(crate) secret: Arc<Secret>,
    verifier: OnceLock<Arc<Verifier>>,
    derived: Mutex<Derived>,
}

impl Known {
    /// Of a secret as it stands in a user list or in `pg_authid`.
    pub(crate) fn of(text: &[u8]) -> Known {
        Known { secret: Arc::new(Secret::parse(text)), verifier: OnceLock::new(), derived: Mutex::default() }
    }

    /// Keys for a server's challenge. Deriving them takes milliseconds, which is why it's done once.
    pub(crate) fn keys(&self, password: &[u8], challenge: &Challenge) -> Keys {
        if let Some(keys) = lock(&self.derived).known(challenge) {
            return keys.clone();
        }
        lock(&self.derived).keys(password, challenge)
    }
}

/// The secrets of the user list, and of users that `auth_query` told of.
pub(crate) struct Secrets {
    seed: Seed,
    listed: Mutex<HashMap<String, Arc<Known>>>,
    /// By user and secret: a changed password is another entry's.
    asked: Mutex<HashMap<String, Arc<Known>>>,
}

/// Users of `auth_query` that are remembered; more begin anew.
const MOST_ASKED: usize = 100_000;

impl Secrets {
    /// With the user list of a configuration.
    pub(crate) fn new(config: &Config) -> Result<Secrets, NoRandomness> {
        let secrets = Secrets { seed: Seed::random()?, listed: Mutex::default(), asked: Mutex::default() };
        secrets.reload(config);
        Ok(secrets)
    }

    /// Takes over the user list; what was derived for an unchanged secret is kept.
    pub(crate) fn reload(&self, config: &Config) {
        let mut listed = lock(&self.listed);
        let old = std::mem::take(&mut *listed);
        for (name, secret) in config.credentials.iter() {
            let kept = old.get(name).filter(|known| *known.secret == Secret::parse(secret.as_bytes()));
            let known = kept.cloned().unwrap_or_else(|| Arc::new(Known::of(secret.as_bytes())));
            listed.insert(name.to_owned(), known);
        }
    }

    /// A user of the list.
    pub(crate) fn listed(&self, user: &str) -> Option<Arc<Known>> {
        lock(&self.listed).get(user).cloned()
    }

    /// A user with the secret that `auth_query` told.
    pub(crate) fn asked(&self, user: &str, secret: &[u8]) -> Arc<Known> {
        let mut asked = lock(&self.asked);
        if let Some(known) = asked.get(user).filter(|k| *k.secret == Secret::parse(secret)) {
            return known.clone();
        }
        if asked.len() >= MOST_ASKED {
            asked.clear();
        }
        let known = Arc::new(Known::of(secret));
        asked.insert(user.to_owned(), known.clone());
        known
    }

    /// What verifies a user's SCRAM proof; for nobody, something that nothing satisfies.
    pub(crate) fn verifier(&self, known: Option<&Known>, user: &str, iterations: u32) -> Arc<Verifier> {
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        let make = |secret| Arc::new(Verifier::of(secret, user.as_bytes(), iterations, &self.seed));
        match known {
            Some(known) => known.verifier.get_or_init(|| make(Some(&known.secret))).clone(),
            None => make(None),
        }
    }
}
