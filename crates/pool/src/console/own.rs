//! What the console answers by itself: SHOW HELP, SHOW VERSION, and the parameters that drivers ask for and set.

use super::table::{Column, Table, Value, text};

/// A request that needs nothing from the pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// SHOW HELP, answered by a notice.
    Help,
    /// SHOW VERSION.
    Version,
    /// SHOW of a parameter of PostgreSQL.
    Parameter(Parameter),
    /// SET of a parameter of PostgreSQL: accepted and forgotten.
    SetIgnored,
}

/// A parameter of PostgreSQL that drivers ask for or set at connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    columns: &'static [Column],
    value: &'static str,
}

const PARAMETERS: [Parameter; 6] = [
    Parameter { columns: &[text("client_encoding")], value: "UTF-8" },
    Parameter { columns: &[text("default_transaction_isolation")], value: "read committed" },
    Parameter { columns: &[text("standard_conforming_strings")], value: "on" },
    Parameter { columns: &[text("datestyle")], value: "ISO" },
    Parameter { columns: &[text("timezone")], value: "GMT" },
    Parameter { columns: &[text("extra_float_digits")], value: "2" },
];

const VERSION: &[Column] = &[text("version")];

/// The message of SHOW HELP.
const HELP: &str = "Console usage";

/// Its detail: the commands.
const COMMANDS: [&str; 19] = [
    "SHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION",
    "SHOW CLUSTERS",
    "SHOW PEERS|PEER_POOLS",
    "SHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE",
    "SHOW DNS_HOSTS|DNS_ZONES",
    "SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS",
    "SET key = arg",
    "RELOAD",
    "PAUSE [<db>]",
    "RESUME [<db>]",
    "DISABLE <db>",
    "ENABLE <db>",
    "RECONNECT [<db>]",
    "KILL [<db>]",
    "KILL_CLIENT <client_id>",
    "SUSPEND",
    "SHUTDOWN",
    "SHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS",
    "WAIT_CLOSE [<db>]",
];

impl Parameter {
    /// The parameter of that name, in whatever case.
    pub(super) fn named(name: &str) -> Option<Self> {
        PARAMETERS.into_iter().find(|p| p.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name)))
    }
}

/// A notice: its message, and its detail where it has one.
pub(super) struct Notice {
    pub(super) message: String,
    pub(super) detail: Option<String>,
}

impl From<String> for Notice {
    fn from(message: String) -> Self {
        Self { message, detail: None }
    }
}

impl Own {
    /// Columns of the result, `None` where there are no rows.
    pub(super) fn columns(self) -> Option<&'static [Column]> {
        match self {
            Self::Version => Some(VERSION),
            Self::Parameter(parameter) => Some(parameter.columns),
            Self::Help | Self::SetIgnored => None,
        }
    }

    /// The rows, where there are any; `version` is what SHOW VERSION gives.
    pub(super) fn table(self, version: &str) -> Option<Table> {
        let columns = self.columns()?;
        let value = match self {
            Self::Parameter(parameter) => Value::from(parameter.value),
            _ => Value::from(version.to_owned()),
        };
        Some(Table { columns, rows: vec![vec![value]] })
    }

    pub(super) fn notice(self) -> Option<Notice> {
        match self {
            Self::Help => {
                let detail: String = COMMANDS.iter().flat_map(|line| ["\n\t", *line]).collect();
                Some(Notice { message: HELP.to_owned(), detail: Some(detail) })
            }
            Self::SetIgnored => Some("SET ignored".to_owned().into()),
            Self::Version | Self::Parameter(_) => None,
        }
    }

    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::SetIgnored => "SET",
            Self::Help | Self::Version | Self::Parameter(_) => "SHOW",
        }
    }
}
