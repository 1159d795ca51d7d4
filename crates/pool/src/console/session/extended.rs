//! The extended query protocol on the console: prepared statements and portals (PostgreSQL documentation, "Extended
//! Query"). A portal holds the result that its first Execute got, and hands it out in the portions asked for.

use std::collections::HashMap;

use super::Answer;
use crate::console::command::{Command, Request, Rights, parse};
use crate::console::error::Error;
use crate::console::message::{self, Bind};
use crate::console::table::{Column, Format, Formats, Table};
use crate::wire::build::backend;
use crate::wire::statement::{Execute, Parse, Target};

/// Statements, and portals, that one session may hold. Drivers keep a hundred or so.
const LIMIT: usize = 1000;

/// Statements, portals, and whether messages are skipped.
#[derive(Debug, Default)]
pub(super) struct Extended {
    statements: HashMap<String, Statement>,
    portals: HashMap<String, Portal>,
    /// After an error everything up to Sync is skipped.
    skipping: bool,
}

#[derive(Debug)]
struct Statement {
    task: Task,
    /// Types of parameters that the client declared, although no command takes any.
    parameters: Vec<u32>,
}

/// What a statement does.
#[derive(Debug, Clone)]
enum Task {
    /// Nothing: the query is empty. Drivers use one to see whether the connection lives.
    Nothing,
    Request(Request),
}

#[derive(Debug)]
struct Portal {
    task: Task,
    formats: Formats,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// Not executed yet.
    Fresh,
    /// Rows from this one on haven't been sent.
    Open(Table, usize),
    /// Executed to its end.
    Spent,
}

/// The Execute that a command is being performed for.
#[derive(Debug)]
pub(super) struct Resumption {
    portal: String,
    rows: u32,
}

impl Task {
    fn columns(&self) -> Option<&'static [Column]> {
        match self {
            Self::Request(Request::Command(command)) => command.columns(),
            Self::Request(Request::Own(own)) => own.columns(),
            Self::Nothing => None,
        }
    }
}

impl Extended {
    /// Portals live until the transaction ends, and without BEGIN that is at Sync.
    pub(super) fn sync(&mut self) {
        self.skipping = false;
        self.portals.clear();
    }

    pub(super) fn skip(&mut self) {
        self.skipping = true;
    }

    pub(super) fn skips(&self) -> bool {
        self.skipping
    }

    /// A simple query does away with the unnamed statement and portal.
    pub(super) fn forget_unnamed(&mut self) {
        self.statements.remove("");
        self.portals.remove("");
    }

    pub(super) fn parse(&mut self, body: &[u8], rights: Rights, out: &mut Vec<u8>) -> Result<(), Error> {
        let read = Parse::read(body)?;
        let name = text(read.statement);
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Error::StatementExists(name));
        }
        let sql = text(read.query);
        let task = match sql.trim_matches([' ', '\t', '\n', '\r', ';']) {
            "" => Task::Nothing,
            _ => Task::Request(parse(&sql, rights)?),
        };
        // The first two bytes are their number.
        let types = read.types().get(2..).unwrap_or_default();
        let parameters = types.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid)).collect();
        insert(&mut self.statements, name, Statement { task, parameters })?;
        backend::parse_complete(out);
        Ok(())
    }

    pub(super) fn bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let bind = Bind::read(body)?;
        let (name, portal) = (text(bind.statement), text(bind.portal));
        let statement = self.statements.get(&name).ok_or_else(|| Error::NoSuchStatement(name.clone()))?;
        let (supplied, required) = (bind.parameters, statement.parameters.len());
        if supplied != required {
            return Err(Error::ParameterCount { supplied, required, statement: name });
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return Err(Error::PortalExists(portal));
        }
        let task = statement.task.clone();
        let formats = match task.columns() {
            Some(columns) => message::formats(&bind.formats, columns.len())?,
            None => Formats::All(Format::Text),
        };
        insert(&mut self.portals, portal, Portal { task, formats, progress: Progress::Fresh })?;
        backend::bind_complete(out);
        Ok(())
    }

    pub(super) fn describe(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (columns, formats) = match Target::read_describe(body)? {
            Target::Statement(name) => {
                let name = text(name);
                let statement = self.statements.get(&name).ok_or(Error::NoSuchStatement(name))?;
                backend::parameter_description(out, &statement.parameters);
                (statement.task.columns(), &Formats::All(Format::Text))
            }
            Target::Portal(name) => {
                let name = text(name);
                let portal = self.portals.get(&name).ok_or(Error::NoSuchPortal(name))?;
                (portal.task.columns(), &portal.formats)
            }
        };
        match columns {
            Some(columns) => message::row_description(out, columns, formats),
            None => backend::no_data(out),
        }
        Ok(())
    }

    pub(super) fn close(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        match Target::read_close(body)? {
            Target::Statement(name) => drop(self.statements.remove(&text(name))),
            Target::Portal(name) => drop(self.portals.remove(&text(name))),
        }
        backend::close_complete(out);
        Ok(())
    }

    /// Executes a portal. Gives the command to be performed, if one is to be: its answer goes to [`Self::resume`].
    pub(super) fn execute(
        &mut self,
        body: &[u8],
        version: &str,
        out: &mut Vec<u8>,
    ) -> Result<Option<(Command, Resumption)>, Error> {
        let execute = Execute::read(body)?;
        let name = text(execute.portal);
        let portal = self.portals.get_mut(&name).ok_or_else(|| Error::NoSuchPortal(name.clone()))?;
        match (&portal.progress, &portal.task) {
            (_, Task::Nothing) => backend::empty_query(out),
            // Only a SHOW has rows.
            (Progress::Open(..), _) => portal.hand_out(execute.rows, "SHOW", out),
            (Progress::Spent, _) => return Err(Error::PortalSpent(name)),
            (Progress::Fresh, Task::Request(Request::Own(own))) => {
                let own = *own;
                if let Some(notice) = own.notice() {
                    message::notice(out, &notice);
                }
                portal.progress = own.table(version).map_or(Progress::Spent, |table| Progress::Open(table, 0));
                portal.hand_out(execute.rows, own.tag(), out);
            }
            (Progress::Fresh, Task::Request(Request::Command(command))) => {
                return Ok(Some((command.clone(), Resumption { portal: name, rows: execute.rows })));
            }
        }
        Ok(None)
    }

    /// Goes on with an Execute whose command has been performed.
    pub(super) fn resume(
        &mut self,
        resumption: Resumption,
        tag: &str,
        answer: Result<Answer, Error>,
        out: &mut Vec<u8>,
    ) {
        let handed_out = answer.and_then(|answer| {
            let name = resumption.portal;
            let portal = self.portals.get_mut(&name).ok_or(Error::NoSuchPortal(name))?;
            portal.progress = match answer {
                Answer::Rows(table) => Progress::Open(table, 0),
                Answer::Done => Progress::Spent,
                Answer::DoneBut(text) => {
                    message::notice(out, &text.into());
                    Progress::Spent
                }
            };
            portal.hand_out(resumption.rows, tag, out);
            Ok(())
        });
        if let Err(error) = handed_out {
            message::error(out, &error);
            self.skip();
        }
    }
}

impl Portal {
    /// Sends the rows that are left, `most` of them unless that is 0, and what follows them. A client that gets exactly
    /// `most` learns only by asking again whether they were the last, as from PostgreSQL.
    fn hand_out(&mut self, most: u32, tag: &str, out: &mut Vec<u8>) {
        if let Progress::Open(table, sent) = &mut self.progress {
            let rest = &table.rows[*sent..];
            let most = most as usize;
            if most > 0 && rest.len() >= most {
                message::rows(out, &rest[..most], &self.formats);
                *sent += most;
                message::portal_suspended(out);
                return;
            }
            message::rows(out, rest, &self.formats);
        }
        self.progress = Progress::Spent;
        backend::command_complete(out, tag.as_bytes());
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn insert<T>(map: &mut HashMap<String, T>, name: String, value: T) -> Result<(), Error> {
    if map.len() >= LIMIT && !map.contains_key(&name) {
        return Err(Error::TooMany);
    }
    map.insert(name, value);
    Ok(())
}
