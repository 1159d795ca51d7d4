//! Proving to a server who the pool's user is.

use std::rc::Rc;

use super::login::Error;
use crate::plan::Plan;
use crate::pool::Pool;
use crate::worker::Worker;

/// The proof as far as it has got.
pub(super) struct Proof {}

impl Proof {
    pub(super) fn new(_worker: &Rc<Worker>, _pool: &Pool, _plan: &Plan) -> Proof {
        Proof {}
    }

    /// What to answer to an authentication request.
    pub(super) fn answer(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match body.first_chunk::<4>().map(|c| u32::from_be_bytes(*c)) {
            Some(0) => Ok(None),
            _ => Err(Error::Secret("unsupported authentication method".to_owned())),
        }
    }
}
