//! A console client's session: complete messages in, response bytes and commands to be performed out. Simple and
//! extended protocol; no I/O.

mod extended;

use super::command::{Command, Request, Rights, parse};
use super::error::Error;
use super::message;
use super::own::Own;
use super::table::{Column, Table};
use crate::wire::build::backend;
use crate::wire::kind::client;
use crate::wire::{Fault, request};
use extended::{Extended, Resumption};

/// What is to be done after a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Send what was appended, go on with the next message.
    Next,
    /// Perform the command, then call [`Session::complete`]; hold the client's messages back until then.
    Perform(Command),
    /// Send what was appended and close the connection.
    Close,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The rows of a SHOW.
    Rows(Table),
    /// It is done.
    Done,
    /// It is done, but the client should know this.
    DoneBut(String),
}

/// State of a session after login. Dropping it is all that is needed at its end.
#[derive(Debug)]
pub struct Session {
    rights: Rights,
    version: String,
    extended: Extended,
    waiting: Option<Waiting>,
}

/// A command that is being performed, and what to do with its answer.
#[derive(Debug)]
struct Waiting {
    tag: String,
    /// What the client was told, or is to be told, that the rows look like.
    columns: Option<&'static [Column]>,
    resumption: Option<Resumption>,
}

impl Session {
    /// A session of a user with `rights`; `version` is what SHOW VERSION gives, as `PgBouncer 1.25.0`.
    #[must_use]
    pub fn new(rights: Rights, version: impl Into<String>) -> Self {
        Self { rights, version: version.into(), extended: Extended::default(), waiting: None }
    }

    /// Takes a complete message in and appends the response to `out`.
    ///
    /// # Panics
    /// When a command is being performed.
    pub fn message(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Step {
        assert!(self.waiting.is_none(), "a message during a command");
        match self.try_message(kind, body, out) {
            Ok(step) => step,
            Err(error) => self.refuse(kind, &error, out),
        }
    }

    /// Appends the response to the command that was performed.
    ///
    /// # Panics
    /// When no command is being performed, or the rows are another SHOW's.
    pub fn complete(&mut self, answer: Result<Answer, Error>, out: &mut Vec<u8>) {
        let waiting = self.waiting.take();
        assert!(waiting.is_some(), "an answer without a command");
        let Some(Waiting { tag, columns, resumption }) = waiting else { return };
        let answered = match &answer {
            Ok(Answer::Rows(table)) => Some(table.columns),
            Ok(Answer::Done | Answer::DoneBut(_)) => None,
            Err(_) => columns,
        };
        assert_eq!(answered, columns, "columns of the answer");
        match (resumption, answer) {
            (Some(resumption), answer) => self.extended.resume(resumption, &tag, answer, out),
            (None, Err(error)) => {
                message::error(out, &error);
                backend::ready_for_query(out, IDLE);
            }
            (None, Ok(answer)) => {
                match answer {
                    Answer::Rows(table) => message::result(out, &table),
                    Answer::Done => {}
                    Answer::DoneBut(text) => message::notice(out, &text.into()),
                }
                finish(&tag, out);
            }
        }
    }

    /// Whether a command is being performed.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    fn try_message(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<Step, Error> {
        match kind {
            client::TERMINATE => return Ok(Step::Close),
            client::SYNC => {
                self.extended.sync();
                backend::ready_for_query(out, IDLE);
            }
            // Left over from a COPY that never was.
            client::COPY_DATA | client::COPY_DONE | client::COPY_FAIL | client::FLUSH => {}
            client::PARSE
            | client::BIND
            | client::DESCRIBE
            | client::EXECUTE
            | client::CLOSE
            | client::QUERY
            | client::FUNCTION_CALL
                if self.extended.skips() => {}
            client::QUERY => {
                let sql = request::query(body).map_err(|_| Error::IncompleteQuery)?;
                return self.query(&String::from_utf8_lossy(sql), out);
            }
            client::PARSE => self.extended.parse(body, self.rights, out)?,
            client::BIND => self.extended.bind(body, out)?,
            client::DESCRIBE => self.extended.describe(body, out)?,
            client::CLOSE => self.extended.close(body, out)?,
            client::EXECUTE => {
                if let Some((command, resumption)) = self.extended.execute(body, &self.version, out)? {
                    return Ok(self.perform(command, Some(resumption)));
                }
            }
            client::FUNCTION_CALL => return Err(Error::UnsupportedMessage(kind)),
            unknown => return Err(Fault::UnknownKind(unknown).into()),
        }
        Ok(Step::Next)
    }

    fn query(&mut self, sql: &str, out: &mut Vec<u8>) -> Result<Step, Error> {
        self.extended.forget_unnamed();
        match parse(sql, self.rights)? {
            Request::Command(command) => Ok(self.perform(command, None)),
            Request::Own(own) => {
                own_response(own, &self.version, out);
                Ok(Step::Next)
            }
        }
    }

    fn perform(&mut self, command: Command, resumption: Option<Resumption>) -> Step {
        self.waiting = Some(Waiting { tag: command.tag(), columns: command.columns(), resumption });
        Step::Perform(command)
    }

    fn refuse(&mut self, kind: u8, error: &Error, out: &mut Vec<u8>) -> Step {
        message::error(out, error);
        if error.is_fatal() {
            return Step::Close;
        }
        match kind {
            client::QUERY | client::FUNCTION_CALL => backend::ready_for_query(out, IDLE),
            _ => self.extended.skip(),
        }
        Step::Next
    }
}

/// The transaction's status in ReadyForQuery: the console has no transactions.
const IDLE: u8 = b'I';

fn finish(tag: &str, out: &mut Vec<u8>) {
    backend::command_complete(out, tag.as_bytes());
    backend::ready_for_query(out, IDLE);
}

fn own_response(own: Own, version: &str, out: &mut Vec<u8>) {
    if let Some(notice) = own.notice() {
        message::notice(out, &notice);
    }
    if let Some(table) = own.table(version) {
        message::result(out, &table);
    }
    finish(own.tag(), out);
}

#[cfg(test)]
mod tests;
