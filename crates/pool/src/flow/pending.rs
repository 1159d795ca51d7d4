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
    /// ParseComplete that the pooler gives, because the server has the statement already; unless it's skipped.
    Known(Rc<Statement>, Box<[u8]>),
    /// An error: the client has given this name to a statement already.
    Taken(Box<[u8]>),
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
    /// CloseComplete that the pooler gives: the server keeps the statement. Unless it's skipped; then the client does too.
    KnownClose(Rc<Statement>, Box<[u8]>),
}

impl Pending {
    /// The statement that the server learns or gives up with this.
    pub(crate) fn changes(&self) -> Option<u64> {
        match self {
            Pending::Named(statement, _) | Pending::Own(statement) => Some(statement.id),
            Pending::OwnClose(id) => Some(*id),
            _ => None,
        }
    }
}

/// ParseComplete.
const PARSED: [u8; 5] = [b'1', 0, 0, 0, 4];
/// CloseComplete.
const CLOSED: [u8; 5] = [b'3', 0, 0, 0, 4];

/// The queue of answers to come.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    queue: VecDeque<Pending>,
    /// Entries that change what the server has prepared.
    changes: usize,
    /// ReadyForQuery messages among them.
    ready: u32,
    /// Requests since the last one that ends in a ReadyForQuery.
    open: bool,
    /// Among them requests that may have changed the server's transaction.
    asked: bool,
    /// After an error, the server skips what comes up to a Sync that wasn't sent yet.
    skipping: bool,
    /// Only a part of the server's last message has come: nothing may be put behind that.
    pub(super) inside: bool,
}

impl Owed {
    /// Whether nothing is owed and no request waits for its Sync.
    pub(crate) fn is_settled(&self) -> bool {
        self.ready == 0 && !self.open
    }

    /// Whether the server's transaction is still in the state that the last ReadyForQuery told.
    pub(crate) fn is_as_told(&self) -> bool {
        self.ready == 0 && !self.asked
    }

    /// Whether the server skips requests until a Sync comes.
    pub(crate) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether it isn't known yet if the client's statement of this name will be there.
    pub(crate) fn is_in_doubt(&self, name: &[u8]) -> bool {
        self.queue.iter().any(|p| match p {
            Pending::Named(_, n) | Pending::Known(_, n) | Pending::KnownClose(_, n) => &**n == name,
            _ => false,
        })
    }

    /// Whether the server will yet learn this statement or give it up.
    pub(crate) fn will_change(&self, id: u64) -> bool {
        self.changes > 0 && self.queue.iter().any(|p| p.changes() == Some(id))
    }

    /// Whether an error may yet keep the server from learning this statement, but not from doing what is asked of it now:
    /// a Sync is between them.
    pub(crate) fn is_unsure(&self, id: u64) -> bool {
        if self.changes == 0 {
            return false;
        }
        let behind = self.queue.iter().rev().take_while(|p| p.changes() != Some(id));
        let (mut count, mut syncs) = (0, false);
        for entry in behind {
            count += 1;
            syncs |= matches!(entry, Pending::Sync);
        }
        syncs && count < self.queue.len()
    }

    /// Whether the server has said all that it will say for now.
    fn is_silent(&self) -> bool {
        self.queue.is_empty() && !self.inside
    }

    /// Whether requests wait for their Sync.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Adds an answer to come. What the pooler answers itself goes to `to_client` at once where nothing is before it.
    pub(crate) fn push(&mut self, pending: Pending, to_client: &mut Vec<u8>) {
        match pending {
            Pending::Sync => {
                self.ready += 1;
                (self.open, self.asked) = (false, false);
                self.skipping = false;
            }
            _ if self.skipping => return,
            Pending::Query => {
                self.ready += 1;
                (self.open, self.asked) = (false, false);
            }
            Pending::Known(..) if self.is_silent() => {
                self.open = true;
                to_client.extend_from_slice(&PARSED);
                return;
            }
            Pending::KnownClose(..) if self.is_silent() => {
                self.open = true;
                to_client.extend_from_slice(&CLOSED);
                return;
            }
            // A failed transaction takes a Close too.
            Pending::Known(..) | Pending::KnownClose(..) | Pending::Close | Pending::OwnClose(..) => self.open = true,
            _ => (self.open, self.asked) = (true, true),
        }
        self.changes += usize::from(pending.changes().is_some());
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
        let front = self.queue.pop_front()?;
        self.changes -= usize::from(front.changes().is_some());
        Some(front)
    }

    /// Gives the answers of the pooler's own that are due now, behind what was just answered.
    pub(crate) fn give_due(&mut self, to_client: &mut Vec<u8>) {
        loop {
            match self.queue.front() {
                Some(Pending::Known(..)) => to_client.extend_from_slice(&PARSED),
                Some(Pending::KnownClose(..)) => to_client.extend_from_slice(&CLOSED),
                _ => return,
            }
            self.queue.pop_front();
        }
    }

    /// Whether the next entry is the pooler's own answer.
    pub(crate) fn is_due(&self) -> bool {
        matches!(self.queue.front(), Some(Pending::Known(..) | Pending::KnownClose(..)))
    }

    /// An error. One of the extended protocol has the server skip everything up to the next Sync, simple queries too
    /// (PostgreSQL documentation, "Extended Query"). Returns what it skips, the failed request first.
    pub(crate) fn fail(&mut self) -> Vec<Pending> {
        let mut skipped = Vec::new();
        if matches!(self.queue.front(), None | Some(Pending::Query | Pending::Sync)) {
            return skipped;
        }
        self.skipping = true;
        while let Some(front) = self.pop() {
            match front {
                Pending::Sync => {
                    self.queue.push_front(front);
                    self.skipping = false;
                    break;
                }
                Pending::Query => self.ready -= 1,
                _ => skipped.push(front),
            }
        }
        self.open |= self.skipping;
        skipped
    }

    /// ReadyForQuery arrived.
    pub(crate) fn ready(&mut self) {
        while let Some(entry) = self.pop() {
            if matches!(entry, Pending::Query | Pending::Sync) {
                self.ready -= 1;
                return;
            }
        }
        // It answers a Sync that was thought to be lost in a COPY, which had failed before the server read that far.
        self.open = false;
        self.skipping = false;
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
