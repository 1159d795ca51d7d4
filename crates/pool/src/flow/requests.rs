//! From the client to the server: which requests go by, what they will be answered with, and the renaming of prepared
//! statements.

use std::cell::Cell;
use std::rc::Rc;

use super::pending::Pending;
use super::statements::Statement;
use super::{ClientStatements, Fault, HEADER, Owed, Registry, ServerStatements, cstr, header};

/// What the client's side of a conversation remembers between chunks.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Bytes of the last message's body that haven't come yet; they go by unseen.
    rest: usize,
}

/// The server's side, as far as requests change it.
pub(crate) struct Target<'a> {
    /// Answers to come.
    pub(crate) owed: &'a mut Owed,
    /// Whether the server reads a COPY.
    pub(crate) copy_in: &'a mut bool,
    /// Its prepared statements.
    pub(crate) statements: &'a mut ServerStatements,
    /// Status of its transaction, as last heard.
    pub(crate) status: u8,
}

impl Target<'_> {
    /// Whether the server is sure to have the statement when it comes to what is asked of it now.
    fn knows(&mut self, statement: &Statement) -> bool {
        self.statements.touch(statement.id) && !self.owed.is_unsure(statement.id)
    }
}

/// Renaming of prepared statements for one client.
pub(crate) struct Renaming<'a> {
    /// This thread's statements.
    pub(crate) registry: &'a Rc<Registry>,
    /// The client's.
    pub(crate) client: &'a mut ClientStatements,
    /// How many a server keeps (`max_prepared_statements`).
    pub(crate) most: usize,
    /// Where Parse messages are counted.
    pub(crate) parses: &'a Parses,
}

/// How many Parse messages there were.
#[derive(Debug, Default)]
pub(crate) struct Parses {
    /// From clients.
    pub(crate) client: Cell<u64>,
    /// To servers.
    pub(crate) server: Cell<u64>,
}

/// What became of a chunk of requests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Bytes used up. What is behind them has to be offered again with more bytes.
    pub(crate) used: usize,
    /// The server gets `to_server`, not the bytes as they were.
    pub(crate) rewritten: bool,
    /// The client says goodbye; nothing behind that counts.
    pub(crate) terminate: bool,
    /// Requests that a ReadyForQuery will answer.
    pub(crate) queries: u32,
    /// Bind messages.
    pub(crate) binds: u32,
}

impl Requests {
    /// Whether the last chunk ended inside a message.
    pub(crate) fn is_inside(&self) -> bool {
        self.rest > 0
    }

    /// Bytes of the last message's body that haven't come yet.
    pub(super) fn rest(&self) -> usize {
        self.rest
    }

    /// Looks through a chunk of requests. Where nothing has to be changed, the caller sends `data[..used]`; otherwise what
    /// stands in `to_server`. `to_client` gets answers of the pooler's own that are due.
    pub(crate) fn take(
        &mut self,
        data: &[u8],
        target: &mut Target<'_>,
        mut renaming: Option<Renaming<'_>>,
        longest: usize,
        (to_server, to_client): (&mut Vec<u8>, &mut Vec<u8>),
    ) -> Result<Taken, Fault> {
        let mut taken = Taken::default();
        // Everything before this is in `to_server`, once anything is.
        let mut copied = 0;
        let mut at = self.rest.min(data.len());
        self.rest -= at;
        while let Some((kind, length)) = header(&data[at..])? {
            if length + HEADER > longest {
                return Err(crate::wire::Fault::header(&data[at..]).into());
            }
            let body = &data[at + HEADER..];
            let whole = body.get(..length);
            let named = matches!(kind, b'P' | b'B' | b'D' | b'C') && !target.owed.is_skipping();
            let renames = renaming.as_mut().filter(|_| named);
            if let Some(renaming) = renames {
                let mark = to_server.len();
                let begun = taken.rewritten;
                if !begun {
                    to_server.extend_from_slice(&data[..at]);
                } else {
                    to_server.extend_from_slice(&data[copied..at]);
                }
                match renaming.rename(kind, length, body, target, to_server, to_client)? {
                    Renamed::No => {
                        to_server.truncate(mark);
                        count(kind, target, &mut taken, to_client);
                    }
                    Renamed::Incomplete => {
                        to_server.truncate(mark);
                        break;
                    }
                    Renamed::Yes { used } => {
                        taken.rewritten = true;
                        taken.binds += u32::from(kind == b'B');
                        copied = at + HEADER + used;
                    }
                }
            } else {
                match kind {
                    b'X' => {
                        taken.terminate = true;
                        break;
                    }
                    b'Q' | b'F' | b'S' | b'P' | b'B' | b'D' | b'C' | b'E' | b'H' | b'd' | b'c' | b'f' => {
                        count(kind, target, &mut taken, to_client);
                    }
                    other => return Err(Fault::Unknown(other)),
                }
            }
            at += HEADER + whole.map_or(body.len(), <[u8]>::len);
            self.rest = length - whole.map_or(body.len(), <[u8]>::len);
            if self.rest > 0 {
                break;
            }
        }
        if taken.rewritten {
            to_server.extend_from_slice(&data[copied..at]);
        }
        taken.used = at;
        Ok(taken)
    }
}

/// Notes what a request will be answered with.
#[inline]
fn count(kind: u8, target: &mut Target<'_>, taken: &mut Taken, to_client: &mut Vec<u8>) {
    let pending = match kind {
        b'Q' | b'F' => Pending::Query,
        // While it reads a COPY the server ignores it.
        b'S' if *target.copy_in => return,
        b'S' => Pending::Sync,
        b'P' => Pending::Parse,
        b'B' => Pending::Bind,
        b'D' => Pending::Describe,
        b'E' => Pending::Execute,
        b'C' => Pending::Close,
        b'c' | b'f' => {
            *target.copy_in = false;
            return;
        }
        b'H' => return target.owed.opened(),
        _ => return,
    };
    taken.binds += u32::from(kind == b'B');
    taken.queries += u32::from(matches!(pending, Pending::Query | Pending::Sync));
    target.owed.push(pending, to_client);
}

/// What became of a message that names a statement.
enum Renamed {
    /// It needs no change.
    No,
    /// More of it has to be there.
    Incomplete,
    /// Its beginning was written anew; `used` bytes of the body are done with.
    Yes { used: usize },
}

impl Renaming<'_> {
    fn rename(
        &mut self,
        kind: u8,
        length: usize,
        body: &[u8],
        target: &mut Target<'_>,
        to_server: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) -> Result<Renamed, Fault> {
        let whole = body.get(..length);
        match (kind, whole) {
            (b'B', _) => self.bind(length, &body[..length.min(body.len())], target, to_server, to_client),
            (_, None) => Ok(Renamed::Incomplete),
            (b'P', Some(whole)) => self.parse(whole, target, to_server, to_client),
            (b'D' | b'C', Some(whole)) => self.describe_or_close(kind, whole, target, to_server, to_client),
            _ => Ok(Renamed::No),
        }
    }

    fn parse(
        &mut self,
        body: &[u8],
        target: &mut Target<'_>,
        to_server: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) -> Result<Renamed, Fault> {
        self.parses.client.set(self.parses.client.get() + 1);
        let (name, text) = cstr(body).ok_or(Fault::Broken("Parse"))?;
        if name.is_empty() {
            self.parses.server.set(self.parses.server.get() + 1);
            return Ok(Renamed::No);
        }
        // Sent before the answer to the first is there, the newer one counts: the first may yet fail.
        if !target.owed.is_in_doubt(name)
            && let Some(taken) = self.ensure(name, target, to_server, to_client)
        {
            // PostgreSQL itself says so, of its own name for it: its transaction has to fail too.
            message(b'P', &[&taken.name, b"\0", text], 0, to_server);
            target.owed.push(Pending::Taken(name.into()), to_client);
            return Ok(Renamed::Yes { used: body.len() });
        }
        let statement = self.registry.statement(text);
        if target.status == b'E' && target.owed.is_as_told() && target.statements.touch(statement.id) {
            // What the server has already it would refuse all the same in a failed transaction: let it say so.
            message(b'P', &[&statement.name, b"\0", text], 0, to_server);
            target.owed.push(Pending::Taken(name.into()), to_client);
            return Ok(Renamed::Yes { used: body.len() });
        }
        self.client.insert(name, statement.clone());
        if target.knows(&statement) {
            target.owed.push(Pending::Known(statement, name.into()), to_client);
        } else {
            self.teach(&statement, target, to_server, to_client);
            target.owed.push(Pending::Named(statement, name.into()), to_client);
        }
        Ok(Renamed::Yes { used: body.len() })
    }

    /// Sends a Parse for the statement, after giving up others where the server has too many.
    fn teach(
        &mut self,
        statement: &Statement,
        target: &mut Target<'_>,
        to_server: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) {
        self.parses.server.set(self.parses.server.get() + 1);
        if target.owed.will_change(statement.id) {
            // Nobody knows yet whether the server has it: to close what isn't there is no error.
            message(b'C', &[b"S", &statement.name, b"\0"], 0, to_server);
            target.owed.push(Pending::OwnClose(statement.id), to_client);
        }
        for (id, name) in target.statements.insert(statement.id, self.most) {
            message(b'C', &[b"S", &name, b"\0"], 0, to_server);
            target.owed.push(Pending::OwnClose(id), to_client);
        }
        message(b'P', &[&statement.name, b"\0", &statement.text], 0, to_server);
    }

    /// Makes sure that the server has the statement before a request that names it. `None` for a name that this client
    /// never gave in the protocol: the server knows it from SQL's PREPARE, or says that it doesn't.
    fn ensure(
        &mut self,
        name: &[u8],
        target: &mut Target<'_>,
        to_server: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) -> Option<Rc<Statement>> {
        let statement = self.client.get(name).cloned()?;
        if !target.knows(&statement) {
            self.teach(&statement, target, to_server, to_client);
            target.owed.push(Pending::Own(statement.clone()), to_client);
        }
        Some(statement)
    }

    fn bind(
        &mut self,
        length: usize,
        body: &[u8],
        target: &mut Target<'_>,
        to_server: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) -> Result<Renamed, Fault> {
        let complete = body.len() == length;
        let names = cstr(body).and_then(|(portal, rest)| cstr(rest).map(|(name, rest)| (portal, name, rest)));
        let Some((portal, name, rest)) = names else {
            return if complete { Err(Fault::Broken("Bind")) } else { Ok(Renamed::Incomplete) };
        };
        if name.is_empty() {
            return Ok(Renamed::No);
        }
        let Some(statement) = self.ensure(name, target, to_server, to_client) else { return Ok(Renamed::No) };
        let used = body.len() - rest.len();
        message(b'B', &[portal, b"\0", &statement.name, b"\0"], length - used, to_server);
        target.owed.push(Pending::Bind, to_client);
        Ok(Renamed::Yes { used })
    }

    fn describe_or_close(
        &mut self,
        kind: u8,
        body: &[u8],
        target: &mut Target<'_>,
        to_server: &mut Vec<u8>,
        to_client: &mut Vec<u8>,
    ) -> Result<Renamed, Fault> {
        let fault = Fault::Broken(if kind == b'D' { "Describe" } else { "Close" });
        let (what, rest) = body.split_first().ok_or(fault.clone())?;
        let (name, _) = cstr(rest).ok_or(fault)?;
        if *what != b'S' || name.is_empty() {
            return Ok(Renamed::No);
        }
        if kind == b'C' {
            // Others may want it: the server keeps it until it has too many.
            let Some(statement) = self.client.remove(name) else { return Ok(Renamed::No) };
            target.owed.push(Pending::KnownClose(statement, name.into()), to_client);
        } else {
            let Some(statement) = self.ensure(name, target, to_server, to_client) else { return Ok(Renamed::No) };
            message(b'D', &[b"S", &statement.name, b"\0"], 0, to_server);
            target.owed.push(Pending::Describe, to_client);
        }
        Ok(Renamed::Yes { used: body.len() })
    }
}

/// Appends a message made of parts, the last `more` bytes of whose body follow later.
fn message(kind: u8, parts: &[&[u8]], more: usize, out: &mut Vec<u8>) {
    let length = 4 + more + parts.iter().map(|p| p.len()).sum::<usize>();
    out.push(kind);
    // No longer than what came in under the same limit.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}
