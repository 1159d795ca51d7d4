//! What can go wrong with a PostgreSQL instance. Variants exist where a caller branches; the texts are for people.

use std::path::PathBuf;
use std::time::Duration;

/// A failure of an operation on the local PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration, the installation or the data directory's owner or mode must be put right by a person.
    #[error("{0}")]
    Setup(String),
    /// Another program listens on PostgreSQL's port.
    #[error(
        "port {port} on {address} is in use by another program: stop that program or change postgresql.listen \
         (`ss -ltnp 'sport = :{port}'` shows who it is)"
    )]
    PortInUse {
        /// Address that could not be bound.
        address: String,
        /// The port.
        port: u16,
    },
    /// No space is left.
    #[error("no space left on the storage of {0}: free some; nothing was lost")]
    DiskFull(PathBuf),
    /// The data directory holds files where none may be.
    #[error("{0} is not empty: it is left as it is; move it away or name another data_dir")]
    NotEmpty(PathBuf),
    /// Processes of the instance live, so this may not be done.
    #[error("processes of the instance in {dir} are still alive: {pids:?}")]
    Alive {
        /// The data directory.
        dir: PathBuf,
        /// The processes.
        pids: Vec<u32>,
    },
    /// The server isn't running.
    #[error("PostgreSQL is not running")]
    NotRunning,
    /// The server ended while it should have come up; the text is the end of its log.
    #[error("PostgreSQL did not start: {0}")]
    StartFailed(String),
    /// [`crate::Instance::revoke_work`] was called meanwhile. What was begun is left where it was.
    #[error("the work was given up")]
    GivenUp,
    /// A promotion whose end wasn't seen.
    #[error("PostgreSQL was told to promote itself and may do so yet: {0}")]
    Promoting(Box<Error>),
    /// Something took longer than it may.
    #[error("{what} took longer than {} s", .limit.as_secs_f32())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The bound.
        limit: Duration,
    },
    /// One of PostgreSQL's programs failed.
    #[error("{program} failed: {message}")]
    Program {
        /// Such as `initdb`.
        program: String,
        /// The end of what it printed.
        message: String,
    },
    /// A statement failed or a connection was lost.
    #[error("{context}: {message}")]
    Sql {
        /// What was being done.
        context: String,
        /// The server's or the driver's message.
        message: String,
        /// SQLSTATE where the server answered.
        sqlstate: Option<String>,
    },
    /// A file or a process could not be handled.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// An I/O failure while doing `context`; a full disk keeps its own variant.
    pub(crate) fn io(context: impl Into<String>, source: std::io::Error) -> Error {
        let context = context.into();
        if source.kind() == std::io::ErrorKind::StorageFull || source.kind() == std::io::ErrorKind::QuotaExceeded {
            return Error::DiskFull(PathBuf::from(context.rsplit(' ').next().unwrap_or_default()));
        }
        Error::Io { context, source }
    }

    /// A failed statement.
    pub(crate) fn sql(context: impl Into<String>, e: &tokio_postgres::Error) -> Error {
        let message = match e.as_db_error() {
            Some(db) => db.message().to_owned(),
            None => chain(e),
        };
        Error::Sql { context: context.into(), message, sqlstate: e.code().map(|c| c.code().to_owned()) }
    }

    /// Whether the server ended the conversation, or began none, because it's being stopped or started (admin_shutdown,
    /// crash_shutdown, cannot_connect_now).
    pub fn is_shutdown(&self) -> bool {
        matches!(self.sqlstate(), Some("57P01" | "57P02" | "57P03"))
    }

    /// SQLSTATE, where the server answered with one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Sql { sqlstate, .. } => sqlstate.as_deref(),
            _ => None,
        }
    }
}

/// An error with its sources in one line.
pub(crate) fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let s_text = s.to_string();
        if !text.contains(&s_text) {
            text = format!("{text}: {s_text}");
        }
        source = s.source();
    }
    text
}
