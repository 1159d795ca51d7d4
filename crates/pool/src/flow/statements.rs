//! Prepared statements of many clients on few servers. Equal statements share one name, under which each server learns
//! them when it first needs them; a client's own names are translated.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::rc::{Rc, Weak};

use super::{cstr, verdict};

/// A statement of this thread: the text with its parameter types, and the name that servers know it by.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Number, unique in this process.
    pub(crate) id: u64,
    /// Name on servers.
    pub(crate) name: Box<[u8]>,
    /// A Parse message's body behind the name: the query with its zero byte, and the parameters' types.
    pub(crate) text: Rc<[u8]>,
    /// It may end a transaction block.
    pub(crate) may_commit: bool,
    home: Weak<Registry>,
}

impl Drop for Statement {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.by_text.borrow_mut().remove(&self.text);
        }
    }
}

/// The statements that some client or server of this thread knows.
#[derive(Debug)]
pub(crate) struct Registry {
    thread: u64,
    next: Cell<u64>,
    by_text: RefCell<HashMap<Rc<[u8]>, Weak<Statement>>>,
}

impl Registry {
    /// `thread` keeps the names of threads apart: servers change threads.
    pub(crate) fn new(thread: usize) -> Rc<Registry> {
        Rc::new(Registry { thread: thread as u64, next: Cell::new(1), by_text: RefCell::default() })
    }

    /// The statement with this text.
    pub(crate) fn statement(self: &Rc<Self>, text: &[u8]) -> Rc<Statement> {
        if let Some(known) = self.by_text.borrow().get(text).and_then(Weak::upgrade) {
            return known;
        }
        let id = self.thread << 48 | self.next.get();
        self.next.set(self.next.get() + 1);
        let text: Rc<[u8]> = text.into();
        let name = server_name(id).into_bytes().into_boxed_slice();
        let may_commit = cstr(&text).is_none_or(|(sql, _)| verdict::may_commit(sql));
        let made = Rc::new(Statement { id, name, text: text.clone(), may_commit, home: Rc::downgrade(self) });
        self.by_text.borrow_mut().insert(text, Rc::downgrade(&made));
        made
    }
}

/// What a server calls the statement with this number.
fn server_name(id: u64) -> String {
    let mut name = String::from("PGHERD_");
    let (thread, number) = (id >> 48, id & 0xffff_ffff_ffff);
    // Writing to a String can't fail.
    let _ = if thread == 0 { write!(name, "{number}") } else { write!(name, "{number}_{thread}") };
    name
}

/// One client's named statements.
#[derive(Debug, Default)]
pub(crate) struct ClientStatements {
    by_name: HashMap<Box<[u8]>, Rc<Statement>>,
}

impl ClientStatements {
    /// Remembers a statement under the client's name for it; a name given again means the newer one.
    pub(crate) fn insert(&mut self, name: &[u8], statement: Rc<Statement>) {
        self.by_name.insert(name.into(), statement);
    }

    /// The statement with the client's name.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.by_name.get(name)
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        self.by_name.remove(name)
    }

    /// Forgets one, if it's still this statement.
    pub(crate) fn undo(&mut self, name: &[u8], statement: &Rc<Statement>) {
        if self.by_name.get(name).is_some_and(|s| Rc::ptr_eq(s, statement)) {
            self.by_name.remove(name);
        }
    }

    /// Remembers one again, unless the name has come to mean another.
    pub(crate) fn redo(&mut self, name: &[u8], statement: Rc<Statement>) {
        self.by_name.entry(name.into()).or_insert(statement);
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.by_name.clear();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }
}

/// The statements that one server knows, with the time of their last use: as it will be once it has answered everything.
#[derive(Debug, Default)]
pub(crate) struct ServerStatements {
    used: HashMap<u64, u64>,
    uses: u64,
    /// Those that it has by its answers so far.
    confirmed: HashSet<u64>,
}

impl ServerStatements {
    /// Whether the server has it; if so, it counts as used now.
    pub(crate) fn touch(&mut self, id: u64) -> bool {
        self.uses += 1;
        let Some(used) = self.used.get_mut(&id) else { return false };
        *used = self.uses;
        true
    }

    /// The server is told of it. Returns number and name of those to give up, so that no more than `most` are kept.
    pub(crate) fn insert(&mut self, id: u64, most: usize) -> Vec<(u64, Box<[u8]>)> {
        let mut given_up = Vec::new();
        while !self.used.contains_key(&id) && self.used.len() >= most.max(1) {
            let Some((&oldest, _)) = self.used.iter().min_by_key(|(_, used)| **used) else { break };
            self.used.remove(&oldest);
            given_up.push((oldest, server_name(oldest).into_bytes().into_boxed_slice()));
        }
        self.uses += 1;
        self.used.insert(id, self.uses);
        given_up
    }

    /// The server says that it has it now, or has it no more.
    pub(crate) fn confirm(&mut self, id: u64, has: bool) {
        if has {
            self.confirmed.insert(id);
        } else {
            self.confirmed.remove(&id);
        }
    }

    /// Nothing that was asked of the server changes this one any more: what it has confirmed counts.
    pub(crate) fn settle(&mut self, id: u64) {
        if self.confirmed.contains(&id) {
            self.used.entry(id).or_insert(self.uses);
        } else {
            self.used.remove(&id);
        }
    }

    /// The server has dropped all.
    pub(crate) fn clear(&mut self) {
        self.used.clear();
        self.confirmed.clear();
    }

    /// How many the server has.
    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }
}
