//! Proving to a server who the pool's user is.

use std::sync::Arc;

use super::login::Error;
use crate::auth::login::{Login, Progress};
use crate::auth::scram::{Keys, Nonce};
use crate::plan::Plan;
use crate::pool::Pool;
use crate::secrets::Known;
use crate::shared::Shared;

/// What a pool logs in to servers with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credential {
    /// The user's secret.
    pub(crate) known: Option<Arc<Known>>,
    /// Keys that a client has shown.
    pub(crate) keys: Option<Keys>,
}

/// The proof as far as it has got.
pub(super) struct Proof {
    login: Login,
    known: Arc<Known>,
}

impl Proof {
    pub(super) fn new(shared: &Shared, pool: &Pool, plan: &Plan) -> Result<Proof, Error> {
        let Credential { known, keys } = credential(shared, pool, plan);
        let known = known.unwrap_or_else(|| Arc::new(Known::of(b"")));
        let nonce = Nonce::random().map_err(|e| Error::Secret(e.to_string()))?;
        Ok(Proof { login: Login::new(plan.user.as_bytes(), known.secret.clone(), keys, nonce), known })
    }

    /// What to answer to an authentication request.
    pub(super) fn answer(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut out = Vec::new();
        let known = &self.known;
        match self.login.answer(body, |password, challenge| known.keys(password, challenge), &mut out) {
            Ok(Progress::Admitted) => Ok(None),
            Ok(Progress::Waiting) => Ok(Some(out).filter(|o| !o.is_empty())),
            Err(fault) => Err(match fault.told() {
                Some(told) => Error::Refused(format!("server login failed: {told}")),
                None => Error::Secret(fault.to_string()),
            }),
        }
    }
}

/// The password of the database's entry; else the user's of the list; else what its clients have shown.
fn credential(shared: &Shared, pool: &Pool, plan: &Plan) -> Credential {
    if let Some(password) = &plan.password {
        return Credential { known: Some(shared.secrets.asked(&plan.user, password.as_bytes())), keys: None };
    }
    if plan.forced_user {
        return Credential { known: shared.secrets.listed(&plan.user), keys: None };
    }
    let shown = pool.shared.credential();
    Credential { known: shared.secrets.listed(&plan.user).or(shown.known), keys: shown.keys }
}
