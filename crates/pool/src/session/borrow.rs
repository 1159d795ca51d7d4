//! A server for the pooler's own questions: to answer a login, and to look up a secret.

use std::rc::Rc;

use super::login::{Login, Refusal};
use crate::pool::Pool;
use crate::server::Server;
use crate::worker::Worker;

/// Borrows a server for the pooler's own use, as a client would.
pub(super) async fn borrow(worker: &Rc<Worker>, pool: &Rc<Pool>) -> Result<Box<Server>, Refusal> {
    if let Some(server) = pool.take(worker) {
        return Ok(server);
    }
    let waiting = std::future::poll_fn(|cx| std::task::Poll::Ready(pool.wait(worker, cx))).await;
    let waiter = waiting.map_err(|text| Refusal::told(&*text))?;
    let mut patience = Patience { pool, worker, waiter: Some(waiter.clone()) };
    let granted = waiter.wait().await;
    patience.waiter = None;
    granted.map_err(|text| Refusal::told(&*text))
}

/// Borrows a server unless the client is told otherwise meanwhile.
pub(super) async fn borrow_told(login: &mut Login<'_>, pool: &Rc<Pool>) -> Result<Box<Server>, Refusal> {
    let worker = login.seat.worker.clone();
    let waits = &login.seat.presence.waits;
    waits.set(Some(std::time::Instant::now()));
    let server = tokio::select! {
        server = borrow(&worker, pool) => server,
        refusal = login.told() => Err(refusal),
    };
    waits.set(None);
    server
}

/// A wait that gives its place up when it's dropped.
struct Patience<'a> {
    pool: &'a Rc<Pool>,
    worker: &'a Rc<Worker>,
    waiter: Option<Rc<crate::pool::Waiter>>,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            self.pool.give_up(self.worker, &waiter);
        }
    }
}
