//! From the server to the client: where the server becomes free, what it reports, and which of its answers the client
//! doesn't expect.

use super::honesty;
use super::pending::Pending;
use super::{ClientStatements, Fault, HEADER, LONGEST_INSPECTED, Owed, ServerStatements, cstr, header};
use crate::wire::build::backend::{Report, error_response};
use crate::wire::reply::Fields;

/// SQLSTATE of a name that's given twice (PostgreSQL documentation, "Error Codes").
const DUPLICATE_STATEMENT: &str = "42P05";

/// What the server's side of a conversation remembers between chunks.
#[derive(Debug)]
pub(crate) struct Replies {
    /// Bytes of the last message's body that haven't come yet.
    rest: usize,
    /// Those bytes are not for the client.
    dropping: bool,
    /// Status of the transaction, from the last ReadyForQuery: `I`, `T` or `E`.
    pub(crate) status: u8,
    /// Answers to come.
    pub(crate) owed: Owed,
    /// Whether the server reads a COPY.
    pub(crate) copy_in: bool,
    /// ReadyForQuery messages that end requests of the pooler's own; nothing up to them is for the client.
    pub(crate) own: u32,
    /// Prepared statements that the server knows.
    pub(crate) statements: ServerStatements,
    /// A commit that no synchronous standby has confirmed is an error.
    pub(crate) strict: bool,
    /// Such an error was told: the rest of the answers is not for the client.
    muted: bool,
}

impl Default for Replies {
    fn default() -> Replies {
        Replies {
            rest: 0,
            dropping: false,
            status: b'I',
            owed: Owed::default(),
            copy_in: false,
            own: 0,
            statements: ServerStatements::default(),
            strict: false,
            muted: false,
        }
    }
}

/// Something in the stream that more than this conversation has to know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// ParameterStatus: name and value.
    Parameter(&'a [u8], &'a [u8]),
    /// ReadyForQuery for a client's request, with the status of the transaction.
    Ready(u8),
    /// ErrorResponse to the client's request: the message's body.
    Error(&'a [u8]),
}

/// What became of a chunk of replies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Bytes used up. What is behind them has to be offered again with more bytes.
    pub(crate) used: usize,
    /// The client gets `to_client`, not the bytes as they were.
    pub(crate) rewritten: bool,
}

impl Replies {
    /// Whether the server has answered everything and is in no transaction.
    pub(crate) fn is_free(&self) -> bool {
        self.status == b'I' && self.is_settled()
    }

    /// Whether the server has answered everything.
    pub(crate) fn is_settled(&self) -> bool {
        self.owed.is_settled() && self.rest == 0 && self.own == 0 && !self.copy_in
    }

    /// Looks through a chunk of replies. Where nothing has to be changed, the caller sends `data[..used]`; otherwise what
    /// stands in `to_client`.
    pub(crate) fn take(
        &mut self,
        data: &[u8],
        mut client: Option<&mut ClientStatements>,
        to_client: &mut Vec<u8>,
        heed: &mut dyn FnMut(Event<'_>),
    ) -> Result<Seen, Fault> {
        let mut seen = Seen::default();
        // Everything before this is in `to_client`, once anything is.
        let mut copied = 0;
        let mut at = self.rest.min(data.len());
        self.rest -= at;
        if self.dropping && at > 0 {
            seen.rewritten = true;
            copied = at;
        }
        if at > 0 {
            self.give_due(&data[..at], &mut copied, &mut seen, to_client);
        }
        while let Some((kind, length)) = header(&data[at..])? {
            let body = &data[at + HEADER..];
            let here = length.min(body.len());
            let body = &body[..here];
            let inspects = matches!(kind, b'Z' | b'S' | b'C' | b'E') || (kind == b'N' && self.strict);
            if here < length && inspects && length <= LONGEST_INSPECTED {
                break;
            }
            let end = at + HEADER + here;
            let mut instead = None;
            let pass = if self.own > 0 {
                self.own_reply(kind, body, heed)?
            } else {
                let is_muted = self.muted;
                instead = self.in_clients_words(kind, body).or_else(|| self.unconfirmed(kind, body));
                let passes = self.reply(kind, body, client.as_deref_mut(), heed)? && instead.is_none();
                passes && (!is_muted || self.passes_muted(kind)?)
            };
            self.rest = length - here;
            self.dropping = !pass;
            if !pass {
                to_client.extend_from_slice(&data[copied..at]);
                seen.rewritten = true;
                copied = end;
                to_client.append(&mut instead.unwrap_or_default());
            }
            self.give_due(&data[..end], &mut copied, &mut seen, to_client);
            at = end;
            if self.rest > 0 {
                break;
            }
        }
        if seen.rewritten {
            to_client.extend_from_slice(&data[copied..at]);
        }
        seen.used = at;
        Ok(seen)
    }

    /// Gives the answers of the pooler's own that are due behind `data`, never inside a message of the server.
    #[inline]
    fn give_due(&mut self, data: &[u8], copied: &mut usize, seen: &mut Seen, to_client: &mut Vec<u8>) {
        self.owed.inside = self.rest > 0;
        if self.owed.inside || !self.owed.is_due() {
            return;
        }
        to_client.extend_from_slice(&data[*copied..]);
        seen.rewritten = true;
        *copied = data.len();
        if self.muted {
            self.owed.give_due(&mut Vec::new());
        } else {
            self.owed.give_due(to_client);
        }
    }

    /// A message that answers the pooler's own request: never for the client.
    fn own_reply(&mut self, kind: u8, body: &[u8], heed: &mut dyn FnMut(Event<'_>)) -> Result<bool, Fault> {
        match kind {
            b'S' => parameter(body, heed),
            b'E' => return Err(Fault::Refused),
            b'Z' => {
                self.own -= 1;
                self.status = body.first().copied().unwrap_or(b'I');
            }
            _ => {}
        }
        Ok(false)
    }

    /// The error of a name given twice, about the client's name in the place of the server's.
    fn in_clients_words(&self, kind: u8, body: &[u8]) -> Option<Vec<u8>> {
        if kind != b'E' {
            return None;
        }
        let Some(Pending::Taken(name)) = self.owed.front() else { return None };
        if Fields::of(body).get(b'C') != DUPLICATE_STATEMENT.as_bytes() {
            return None;
        }
        let text = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name));
        let mut out = Vec::new();
        error_response(&mut out, &Report::error(DUPLICATE_STATEMENT, &text));
        Some(out)
    }

    /// The error that stands for a commit which no synchronous standby has confirmed.
    fn unconfirmed(&mut self, kind: u8, body: &[u8]) -> Option<Vec<u8>> {
        if kind != b'N' || !self.strict || self.muted {
            return None;
        }
        let error = honesty::error_of(body)?;
        self.muted = true;
        Some(error)
    }

    /// What the client gets behind such an error: nothing that could be taken for success.
    fn passes_muted(&mut self, kind: u8) -> Result<bool, Fault> {
        match kind {
            b'Z' => self.muted = false,
            b'S' | b'N' | b'A' => {}
            // Nobody would send the data.
            b'G' | b'W' => return Err(Fault::Broken("COPY behind an error")),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A message of the client's conversation. Whether the client gets it.
    #[inline]
    fn reply(
        &mut self,
        kind: u8,
        body: &[u8],
        client: Option<&mut ClientStatements>,
        heed: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, Fault> {
        match kind {
            b'D' => return Ok(true),
            b'Z' => {
                self.status = body.first().copied().unwrap_or(b'I');
                self.copy_in = false;
                self.owed.ready();
                heed(Event::Ready(self.status));
            }
            b'C' => {
                self.executed();
                self.all_dropped(body, client);
            }
            b'I' | b's' => self.executed(),
            b'1' => {
                match self.owed.front() {
                    Some(Pending::Own(statement)) => {
                        let id = statement.id;
                        self.changed(id, true);
                        return Ok(false);
                    }
                    Some(Pending::Named(statement, _)) => {
                        let id = statement.id;
                        self.changed(id, true);
                    }
                    // Somebody took the name away behind the pooler's back, and now it means another statement.
                    Some(Pending::Taken(_)) => return Err(Fault::Estranged),
                    _ => self.answered(|p| matches!(p, Pending::Parse)),
                }
            }
            b'2' => self.answered(|p| matches!(p, Pending::Bind)),
            b'3' => {
                if let Some(&Pending::OwnClose(id)) = self.owed.front() {
                    self.changed(id, false);
                    return Ok(false);
                }
                self.answered(|p| matches!(p, Pending::Close));
            }
            b'T' | b'n' => self.answered(|p| matches!(p, Pending::Describe)),
            b'S' => parameter(body, heed),
            b'G' | b'W' => {
                self.copy_in = true;
                self.owed.copy_begins();
            }
            b'E' => {
                self.copy_in = false;
                self.failed(client);
                heed(Event::Error(body));
            }
            _ => {}
        }
        Ok(true)
    }

    /// The first answer to come is there: the server has learnt a statement, or given it up.
    fn changed(&mut self, id: u64, has: bool) {
        self.owed.pop();
        self.statements.confirm(id, has);
        self.settle(id);
    }

    fn settle(&mut self, id: u64) {
        if !self.owed.will_change(id) {
            self.statements.settle(id);
        }
    }

    fn answered(&mut self, is: impl Fn(&Pending) -> bool) {
        if self.owed.front().is_some_and(is) {
            self.owed.pop();
        }
    }

    fn executed(&mut self) {
        self.answered(|p| matches!(p, Pending::Execute));
    }

    /// What the server skips after an error was never prepared.
    fn failed(&mut self, mut client: Option<&mut ClientStatements>) {
        // The last first: what was changed twice gets back to what it was before both.
        for skipped in self.owed.fail().into_iter().rev() {
            if let Some(id) = skipped.changes() {
                self.settle(id);
            }
            match skipped {
                Pending::Named(statement, name) | Pending::Known(statement, name) => {
                    if let Some(client) = client.as_deref_mut() {
                        client.undo(&name, &statement);
                    }
                }
                Pending::KnownClose(statement, name) => {
                    if let Some(client) = client.as_deref_mut() {
                        client.redo(&name, statement);
                    }
                }
                _ => {}
            }
        }
    }

    /// DEALLOCATE ALL and DISCARD ALL drop the server's statements, and the client means its own.
    fn all_dropped(&mut self, tag: &[u8], client: Option<&mut ClientStatements>) {
        if matches!(tag, b"DEALLOCATE ALL\0" | b"DISCARD ALL\0") {
            self.statements.clear();
            if let Some(client) = client {
                client.clear();
            }
        }
    }
}

fn parameter(body: &[u8], heed: &mut dyn FnMut(Event<'_>)) {
    if let Some((name, rest)) = cstr(body)
        && let Some((value, _)) = cstr(rest)
    {
        heed(Event::Parameter(name, value));
    }
}
