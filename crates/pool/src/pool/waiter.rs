//! A client that waits for a server.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use crate::server::Server;

/// A place in a pool's queue.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Since when (nanoseconds since the start).
    pub(crate) since: u64,
    slot: RefCell<Option<Grant>>,
    waker: RefCell<Waker>,
    gone: Cell<bool>,
}

/// A server, or what the client is told in its place.
type Grant = Result<Box<Server>, Arc<str>>;

impl Waiter {
    pub(super) fn new(waker: Waker, since: u64) -> Waiter {
        Waiter { since, slot: RefCell::default(), waker: RefCell::new(waker), gone: Cell::new(false) }
    }

    /// What was granted, if anything.
    pub(crate) fn granted(self: &Rc<Self>, cx: &Context<'_>) -> Option<Grant> {
        let granted = self.slot.take();
        if granted.is_none() {
            self.waker.borrow_mut().clone_from(cx.waker());
        }
        granted
    }

    /// Waits until something is granted.
    pub(crate) async fn wait(self: &Rc<Self>) -> Grant {
        std::future::poll_fn(|cx| match self.granted(cx) {
            Some(grant) => std::task::Poll::Ready(grant),
            None => std::task::Poll::Pending,
        })
        .await
    }

    pub(super) fn grant(&self, grant: Grant) {
        *self.slot.borrow_mut() = Some(grant);
        self.waker.borrow().wake_by_ref();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// The client leaves; what it was granted meanwhile comes back.
    pub(super) fn leave(&self) -> Option<Grant> {
        self.gone.set(true);
        self.slot.take()
    }
}
