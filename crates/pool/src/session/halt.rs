//! What a cluster does to a session: it begins nothing while its server's member drains, and its server is taken away when
//! another leadership is in force.

use std::task::{Context, Poll};
use std::time::Instant;

use super::{End, Session, Step};
use crate::client::{Cut, State};
use crate::config::Role;
use crate::worker::Scratch;

/// Most chunks of a server's answers that are still passed on: a long answer doesn't put the cut off.
const LAST_WORDS: u32 = 16;

impl Session {
    /// Whether the session's next request would begin something, and nothing may begin on its server now.
    #[inline]
    pub(super) fn is_halted(&self) -> bool {
        let Some(server) = &self.server else { return false };
        self.pool.halts(&server.facts) && !self.dedicated && !self.may_go_on()
    }

    /// Whether requests belong to what the server is at: to a message or a batch that has begun, or to an open block.
    fn may_go_on(&self) -> bool {
        let Some(server) = &self.server else { return true };
        let replies = &server.replies;
        let in_block = replies.status != b'I' && replies.is_settled();
        self.client.requests.is_inside() || replies.owed.is_open() || replies.copy_in || in_block
    }

    /// Begins nothing until the member goes on, or the server is taken away.
    pub(super) fn park(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<Step, End> {
        let Some(server) = self.server.as_ref().filter(|s| s.replies.is_free() && s.output.is_empty()) else {
            // Its answers come first.
            return Ok(Step::Wait);
        };
        if self.pool.role() != Some(Role::Leader) {
            // Another member serves its next connection at once.
            return Err(End::Cut(Cut::Drained));
        }
        server.marks.parked.set(true);
        self.parked = true;
        if !self.client.input.is_empty() {
            return Ok(Step::Wait);
        }
        let read = match self.client.stream.poll_read(cx, &mut scratch.read) {
            Poll::Pending => return Ok(Step::Wait),
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(Ok(_)) => return Err(End::Gone(None)),
            Poll::Ready(Err(e)) => return Err(End::Gone(Some(e))),
        };
        if scratch.read[0] == b'X' {
            return Err(End::Terminated);
        }
        self.pool.stats.received(read);
        self.client.input = scratch.read[..read].to_vec();
        let now = Instant::now();
        self.presence.state.set(State::Waiting);
        self.presence.requested.set(Some(now));
        self.presence.waits.set(Some(now));
        Ok(Step::Wait)
    }

    /// Goes on where it was parked.
    pub(super) fn unpark(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        self.parked = false;
        if let Some(server) = &self.server {
            server.marks.parked.set(false);
        }
        if self.presence.state.get() == State::Waiting {
            self.waited();
        }
        self.retry(cx, scratch)
    }

    /// The server is taken away. What it has answered already goes to the client before that, and a client that asked
    /// nothing of it yet gets another.
    pub(super) fn obey(&mut self, cut: Cut, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        for _ in 0..LAST_WORDS {
            if self.server.is_none() {
                return Ok(());
            }
            if self.setting {
                return self.exchange_server(cx, scratch);
            }
            let blocked = self.flush_client(cx)?;
            if let Step::Wait = self.serve_replies(cx, scratch, blocked)? {
                break;
            }
        }
        if self.server.is_some() { Err(End::Cut(cut)) } else { Ok(()) }
    }

    /// Takes another server in place of one that the client's requests haven't reached.
    pub(super) fn exchange_server(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        self.setting = false;
        if let Some(server) = self.server.take() {
            self.presence.server.take();
            server.marks.client.set(None);
            self.pool.close(server, "server conn crashed?");
            self.pool.refill(&self.worker);
        }
        self.borrow(cx)?;
        if self.server.is_some() && !self.setting {
            self.retry(cx, scratch)?;
        }
        Ok(())
    }
}
