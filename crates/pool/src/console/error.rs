//! What the console refuses, in pgbouncer's words.

use crate::wire::Fault;

/// A refused or failed console command, or a client that breaks the protocol. The texts are pgbouncer's, and
/// PostgreSQL's where pgbouncer has none (the extended protocol).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such command; carries the whole query.
    #[error("invalid command '{0}', use SHOW HELP;")]
    InvalidCommand(String),
    /// A word of the command is longer than any that has a meaning, or the key of SET is empty.
    #[error("bad arguments")]
    BadArguments,
    /// The user is in stats_users only.
    #[error("admin access needed")]
    AdminNeeded,
    /// ENABLE or DISABLE without a name.
    #[error("a database is required")]
    DatabaseRequired,
    /// KILL_CLIENT without a number.
    #[error("invalid client pointer supplied")]
    BadClient,
    /// KILL_CLIENT of a client that isn't there.
    #[error("client not found")]
    NoSuchClient,
    /// The database is neither configured nor made by the fallback `*`.
    #[error("no such database: {0}")]
    NoSuchDatabase(String),
    /// RESUME of a database that wasn't paused.
    #[error("database {0} is not paused")]
    DatabaseNotPaused(String),
    /// A command that would lock the console out, and the verb it would do it with.
    #[error("cannot {verb} admin db: {name}")]
    AdminDatabase {
        /// What was to be done; the text has it as a verb.
        verb: AdminVerb,
        /// The console's database as the user named it.
        name: String,
    },
    /// RESUME while nothing is paused.
    #[error("pooler is not paused/suspended")]
    NotPaused,
    /// RESUME during a shutdown.
    #[error("pooler is shutting down")]
    ShuttingDown,
    /// PAUSE, KILL or SUSPEND while everything is paused or suspended.
    #[error("already suspended/paused")]
    AlreadyPaused,
    /// SUSPEND while single databases are paused.
    #[error("cannot suspend with paused databases")]
    DatabasesPaused,
    /// SET of an unknown setting, of one that can't be changed, or to a bad value.
    #[error("SET failed")]
    SetFailed,
    /// RELOAD found faults; the old settings stay.
    #[error("RELOAD failed, see logs for additional details")]
    ReloadFailed,
    /// A message that the console has no use for; carries its kind.
    #[error("unsupported packet type for admin console: {0}")]
    UnsupportedMessage(u8),
    /// A query without its closing zero byte. Ends the connection.
    #[error("incomplete query")]
    IncompleteQuery,
    /// A message that can't be read. Ends the connection.
    #[error(transparent)]
    Broken(#[from] Fault),
    /// Parse with a name that is taken.
    #[error("prepared statement \"{0}\" already exists")]
    StatementExists(String),
    /// Bind or Describe of a statement that isn't there.
    #[error("{}", no_statement(.0))]
    NoSuchStatement(String),
    /// Bind with a portal name that is taken.
    #[error("cursor \"{0}\" already exists")]
    PortalExists(String),
    /// Describe or Execute of a portal that isn't there.
    #[error("portal \"{0}\" does not exist")]
    NoSuchPortal(String),
    /// Execute of a portal whose command was performed already.
    #[error("portal \"{0}\" cannot be run")]
    PortalSpent(String),
    /// Bind with another number of parameters than Parse declared.
    #[error("bind message supplies {supplied} parameters, but prepared statement \"{statement}\" requires {required}")]
    ParameterCount {
        /// How many came.
        supplied: usize,
        /// How many Parse declared.
        required: usize,
        /// Name of the statement.
        statement: String,
    },
    /// Bind with another number of result formats than there are columns.
    #[error("bind message has {formats} result formats but query has {columns} columns")]
    FormatCount {
        /// How many formats came.
        formats: usize,
        /// How many columns there are.
        columns: usize,
    },
    /// A format that is neither text (0) nor binary (1).
    #[error("unsupported format code: {0}")]
    BadFormat(u16),
    /// More statements or portals than a console session may hold.
    #[error("too many prepared statements or portals in the admin console")]
    TooMany,
}

/// A command as a verb, for "cannot ... admin db".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminVerb {
    /// PAUSE.
    Pause,
    /// KILL.
    Kill,
    /// RECONNECT.
    Reconnect,
    /// DISABLE.
    Disable,
    /// ENABLE.
    Enable,
    /// WAIT_CLOSE.
    Wait,
}

impl std::fmt::Display for AdminVerb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause",
            Self::Kill => "kill",
            Self::Reconnect => "reconnect",
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Wait => "wait in",
        })
    }
}

fn no_statement(name: &str) -> String {
    match name {
        "" => "unnamed prepared statement does not exist".to_owned(),
        name => format!("prepared statement \"{name}\" does not exist"),
    }
}

/// Bytes of an error text that pgbouncer sends at most.
const TEXT_LIMIT: usize = 1023;

impl Error {
    /// The SQLSTATE that goes with the text.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::ReloadFailed => "F0000",
            Self::StatementExists(_) => "42P05",
            Self::NoSuchStatement(_) => "26000",
            Self::PortalExists(_) => "42P03",
            Self::NoSuchPortal(_) => "34000",
            Self::PortalSpent(_) => "55000",
            Self::BadFormat(_) => "22023",
            Self::TooMany => "54000",
            _ => "08P01",
        }
    }

    /// Whether the connection ends with it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::IncompleteQuery | Self::Broken(_))
    }

    /// The text as it is sent and logged: never longer than pgbouncer's.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.to_string();
        if text.len() > TEXT_LIMIT {
            let end = (0..=TEXT_LIMIT).rev().find(|&at| text.is_char_boundary(at));
            text.truncate(end.unwrap_or(0));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = Error::InvalidCommand("ж".repeat(2000)).text();
        assert!(text.len() <= TEXT_LIMIT && text.len() > TEXT_LIMIT - 2, "{}", text.len());
        assert!(text.starts_with("invalid command 'жж"));
    }

    #[test]
    fn an_unnamed_statement_is_called_so() {
        assert_eq!(Error::NoSuchStatement(String::new()).to_string(), "unnamed prepared statement does not exist");
        assert_eq!(Error::NoSuchStatement("a".to_owned()).to_string(), "prepared statement \"a\" does not exist");
    }

    #[test]
    fn a_refusal_to_touch_the_console_itself_names_the_verb() {
        let error = Error::AdminDatabase { verb: AdminVerb::Wait, name: "pgbouncer".to_owned() };
        assert_eq!(error.to_string(), "cannot wait in admin db: pgbouncer");
        assert_eq!(error.sqlstate(), "08P01");
    }
}
