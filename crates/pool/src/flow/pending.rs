//! What a server still owes: one entry for every request that it will answer, in order.

use std::collections::VecDeque;
use std::rc::Rc;

use super::statements::Statement;

/// One answer to come.
#[derive(Debug)]
pub(crate) enum Pending {
    /// ReadyForQuery after a simple query or a function call.
    Query,
    /// ReadyForQuery after a Sync.
    Sync,
    /// ParseComplete for a statement with no name, or one that nobody renames.
    Parse,
    /// ParseComplete for a renamed statement; an error means that neither side has it.
    Named(Rc<Statement>, Box<[u8]>),
    /// ParseComplete that the client doesn't expect: the pooler itself made the statement.
    Own(Rc<Statement>),
    /// ParseComplete that the pooler gives, because the server has the statement already.
    Known,
    /// BindComplete.
    Bind,
    /// RowDescription or NoData.
    Describe,
    /// CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// CloseComplete.
    Close,
    /// CloseComplete for the statement with this number, which the pooler gave up.
    OwnClose(u64),
    /// CloseComplete that the pooler gives: the server keeps the statement.
    KnownClose,
}

/// ParseComplete.
const PARSED: [u8; 5] = [b'1', 0, 0, 0, 4];
/// CloseComplete.
const CLOSED: [u8; 5] = [b'3', 0, 0, 0, 4];

/// The queue of answers to come.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    queue: VecDeque<Pending>,
    /// ReadyForQuery messages among them.
    ready: u32,
    /// Requests since the last one that ends in a ReadyForQuery.
    open: bool,
}

impl Owed {
    /// Whether nothing is owed and no request waits for its Sync.
    pub(crate) fn is_settled(&self) -> bool {
        self.ready == 0 && !self.open
    }

    /// Adds an answer to come. What the pooler answers itself goes to `to_client` at once where nothing is before it.
    pub(crate) fn push(&mut self, pending: Pending, to_client: &mut Vec<u8>) {
        match pending {
            Pending::Query | Pending::Sync => {
                self.ready += 1;
                self.open = false;
            }
            Pending::Known if self.queue.is_empty() => {
                self.open = true;
                to_client.extend_from_slice(&PARSED);
                return;
            }
            Pending::KnownClose if self.queue.is_empty() => {
                self.open = true;
                to_client.extend_from_slice(&CLOSED);
                return;
            }
            _ => self.open = true,
        }
        self.queue.push_back(pending);
    }

    /// A request that nothing answers was sent (Flush).
    pub(crate) fn opened(&mut self) {
        self.open = true;
    }

    /// What the server answers next.
    pub(crate) fn front(&self) -> Option<&Pending> {
        self.queue.front()
    }

    /// Takes the first entry; a server answered it.
    pub(crate) fn pop(&mut self) -> Option<Pending> {
        self.queue.pop_front()
    }

    /// Gives the answers of the pooler's own that are due now, behind what was just answered.
    pub(crate) fn give_due(&mut self, to_client: &mut Vec<u8>) {
        loop {
            match self.queue.front() {
                Some(Pending::Known) => to_client.extend_from_slice(&PARSED),
                Some(Pending::KnownClose) => to_client.extend_from_slice(&CLOSED),
                _ => return,
            }
            self.queue.pop_front();
        }
    }

    /// Whether the next entry is the pooler's own answer.
    pub(crate) fn is_due(&self) -> bool {
        matches!(self.queue.front(), Some(Pending::Known | Pending::KnownClose))
    }

    /// An error: the server skips everything up to the next Sync. Returns what it skipped, the failed request first.
    pub(crate) fn fail(&mut self) -> Vec<Pending> {
        let mut skipped = Vec::new();
        while let Some(front) = self.queue.front() {
            if matches!(front, Pending::Query | Pending::Sync) {
                break;
            }
            skipped.extend(self.queue.pop_front());
        }
        skipped
    }

    /// ReadyForQuery arrived.
    pub(crate) fn ready(&mut self) {
        while let Some(entry) = self.queue.pop_front() {
            if matches!(entry, Pending::Query | Pending::Sync) {
                self.ready -= 1;
                return;
            }
        }
        // It answers a Sync that was thought to be lost in a COPY, which had failed before the server read that far.
        self.open = false;
    }

    /// The server is about to read a COPY: it ignores each Sync that was sent behind the Execute that began it
    /// (PostgreSQL documentation, "COPY Operations").
    pub(crate) fn copy_begins(&mut self) {
        if !matches!(self.queue.front(), Some(Pending::Execute)) {
            return;
        }
        let syncs = self.queue.iter().filter(|p| matches!(p, Pending::Sync)).count();
        self.queue.retain(|p| !matches!(p, Pending::Sync));
        self.ready -= syncs as u32;
        self.open = true;
    }
}
