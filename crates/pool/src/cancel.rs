//! Cancel requests: from the client's key to the server that runs its query. A server that such a request is under way to
//! goes to no other client before the request has arrived.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use subtle::ConstantTimeEq;

use crate::auth;
use crate::server::{Facts, Marks, login};
use crate::session::login::SLOT_BITS;
use crate::shared::Shared;
use crate::wire::build::frontend as build;
use crate::worker::Worker;

/// What became of cancel requests.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Sent to the server that a client of ours holds.
    pub(crate) forwarded: AtomicU64,
    /// Left to the process that this one took the place of.
    pub(crate) passed_on: AtomicU64,
    /// Dropped: no client that holds a server has the key.
    pub(crate) unmatched: AtomicU64,
}

/// A secret for a client's cancel key: 4 bytes, or 32 from protocol 3.2 on.
pub(crate) fn new_key(minor: u16) -> Box<[u8]> {
    // Without randomness nobody may cancel: a key of zeros is never matched.
    match minor {
        0 | 1 => Box::from(auth::random::<4>().unwrap_or_default()),
        _ => Box::from(auth::random::<32>().unwrap_or_default()),
    }
}

/// Cancels what the client with this key runs, here or at the process that this one took the place of; returns when the
/// server has been asked.
pub(crate) async fn forward(shared: &Arc<Shared>, pid: u32, key: &[u8]) {
    let counts = &shared.cancels;
    let outcome = if forward_here(shared, pid, key).await {
        &counts.forwarded
    } else if let Some(old) = shared.old.get() {
        old.cancel(pid, key).await;
        &counts.passed_on
    } else {
        &counts.unmatched
    };
    outcome.fetch_add(1, Ordering::Relaxed);
}

/// Whether the key was that of a client with a server.
async fn forward_here(shared: &Arc<Shared>, pid: u32, key: &[u8]) -> bool {
    let (thread, slot) = ((pid >> SLOT_BITS) as usize, (pid & ((1 << SLOT_BITS) - 1)) as usize);
    if thread >= shared.threads() {
        return false;
    }
    let key: Box<[u8]> = key.into();
    let (done, end) = tokio::sync::oneshot::channel();
    shared.send(
        thread,
        crate::shared::Message::Call(Box::new(move |worker| {
            let worker = worker.clone();
            tokio::task::spawn_local(Box::pin(async move {
                let found = find(&worker, slot, &key);
                if let Some((facts, marks)) = &found {
                    ask(&worker, facts, marks).await;
                }
                // Whoever asked may have gone.
                let _ = done.send(found.is_some());
            }));
        })),
    );
    // An error means that the thread has ended.
    end.await.unwrap_or(false)
}

/// The server that the client holds, with the request counted against it.
fn find(worker: &Worker, slot: usize, key: &[u8]) -> Option<(Arc<Facts>, Rc<Marks>)> {
    let presence = worker.clients.borrow().get(slot)?.clone();
    let known = presence.key.borrow();
    if known.iter().all(|b| *b == 0) || !bool::from(known.ct_eq(key)) {
        return None;
    }
    let facts = presence.server.borrow().clone()?;
    let marks = worker.pools().iter().find_map(|pool| pool.marks(facts.id))?;
    marks.cancels.set(marks.cancels.get() + 1);
    Some((facts, marks))
}

/// Sends the request and waits until the server closes the connection: then it has acted on it.
async fn ask(worker: &Worker, facts: &Facts, marks: &Marks) {
    let timeout = crate::pool::launch::nonzero(worker.config().settings.cancel_wait_timeout);
    let asked = async {
        let stream = login::open(worker, &facts.address.peer).await?;
        let encrypts = facts.address.tls;
        let host = &facts.address.host;
        let mut stream =
            if encrypts { login::encrypt(worker, stream, host).await.map_err(std::io::Error::other)? } else { stream };
        let mut packet = Vec::new();
        build::cancel_request(&mut packet, facts.pid, &facts.key);
        crate::server::Output::default().drain(&mut stream, &packet).await?;
        let mut buffer = [0; 16];
        while std::future::poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    if let Ok(Err(e)) = tokio::time::timeout(timeout, asked).await {
        tracing::warn!("send a cancel request to {}: {e}", facts.address);
    }
    marks.cancels.set(marks.cancels.get() - 1);
    marks.cancelled.notify_waiters();
}
