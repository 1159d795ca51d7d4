//! The console's language: what a query asks for, and whether this user may ask it. Not how it is done.
//!
//! The grammar is pgbouncer's: `WORD [WORD] [;]`, or `SET KEY =|TO VALUE [;]`. A word is letters, digits and
//! underscores, or anything between double quotes; a value may stand between single quotes; a quote within is
//! doubled. One command a query, no comments.

use super::error::Error;
use super::own::{Own, Parameter};
use super::rows;
use super::table::Column;

/// Longest command word that pgbouncer looks at.
const LONGEST_COMMAND: usize = 15;

/// Longest name of a database or setting: PostgreSQL's NAMEDATALEN - 1.
const LONGEST_NAME: usize = 63;

/// Longest tag of SET.
const LONGEST_TAG: usize = 511;

/// What a user of the console may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Listed in stats_users: everything that shows, but for SHOW FDS.
    Stats,
    /// Listed in admin_users (or the pooler's own user over its Unix socket): everything.
    Admin,
}

/// What a user gets who may not use the console: the text of a FATAL with SQLSTATE 08P01, after a successful login.
pub const NOT_ALLOWED: &str = "not allowed";

impl Rights {
    /// The rights of a user who logged in, by the settings admin_users and stats_users; `None` for no access.
    #[must_use]
    pub fn of(user: &str, admin_users: &[String], stats_users: &[String]) -> Option<Self> {
        let listed = |users: &[String]| users.iter().any(|name| name == user);
        if listed(admin_users) {
            return Some(Self::Admin);
        }
        listed(stats_users).then_some(Self::Stats)
    }
}

/// A command that the pooler has to perform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// SHOW, with rows to be gathered.
    Show(Show),
    /// SET: change a setting until the next reload.
    Set {
        /// Name of the setting, as it was written: pgbouncer knows them in lower case only.
        key: String,
        /// The new value, unquoted.
        value: String,
    },
    /// RELOAD: read the configuration again.
    Reload,
    /// PAUSE: of one database, or of all. Answered when its server connections are closed.
    Pause(Option<String>),
    /// RESUME: of one database, or of all; after SUSPEND too.
    Resume(Option<String>),
    /// DISABLE: refuse new clients of a database.
    Disable(String),
    /// ENABLE: undo DISABLE.
    Enable(String),
    /// RECONNECT: replace the server connections of one database, or of all, as they are released.
    Reconnect(Option<String>),
    /// KILL: drop all connections of one database, or of all, and pause it.
    Kill(Option<String>),
    /// KILL_CLIENT: drop the client with this `id` of SHOW CLIENTS.
    KillClient(u64),
    /// SUSPEND: flush all buffers and stop reading. Answered when that is done.
    Suspend,
    /// SHUTDOWN.
    Shutdown(Shutdown),
    /// WAIT_CLOSE: answered when the server connections that RECONNECT marked, of one database or of all, are closed.
    WaitClose(Option<String>),
}

/// What SHUTDOWN waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Nothing. The console's connection is closed by the exit, without an answer.
    Immediate,
    /// Every server connection is released.
    WaitForServers,
    /// Every client has left.
    WaitForClients,
}

/// A SHOW whose rows come from the pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is named as the SHOW")]
pub enum Show {
    ActiveSockets,
    Clients,
    Clusters,
    Config,
    Databases,
    DnsHosts,
    DnsZones,
    Fds,
    Lists,
    Mem,
    PeerPools,
    Peers,
    Pools,
    Servers,
    Sockets,
    State,
    Stats,
    StatsAverages,
    StatsTotals,
    Totals,
    Users,
}

impl Show {
    /// Every one of them.
    pub const ALL: [Self; 21] = [
        Self::ActiveSockets,
        Self::Clients,
        Self::Clusters,
        Self::Config,
        Self::Databases,
        Self::DnsHosts,
        Self::DnsZones,
        Self::Fds,
        Self::Lists,
        Self::Mem,
        Self::PeerPools,
        Self::Peers,
        Self::Pools,
        Self::Servers,
        Self::Sockets,
        Self::State,
        Self::Stats,
        Self::StatsAverages,
        Self::StatsTotals,
        Self::Totals,
        Self::Users,
    ];

    /// The word after SHOW.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ActiveSockets => "active_sockets",
            Self::Clients => "clients",
            Self::Clusters => "clusters",
            Self::Config => "config",
            Self::Databases => "databases",
            Self::DnsHosts => "dns_hosts",
            Self::DnsZones => "dns_zones",
            Self::Fds => "fds",
            Self::Lists => "lists",
            Self::Mem => "mem",
            Self::PeerPools => "peer_pools",
            Self::Peers => "peers",
            Self::Pools => "pools",
            Self::Servers => "servers",
            Self::Sockets => "sockets",
            Self::State => "state",
            Self::Stats => "stats",
            Self::StatsAverages => "stats_averages",
            Self::StatsTotals => "stats_totals",
            Self::Totals => "totals",
            Self::Users => "users",
        }
    }

    /// The columns of its table, known before there are rows.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        rows::columns(self)
    }

    fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|show| show.name().eq_ignore_ascii_case(word))
    }
}

impl Command {
    /// Columns of its result, `None` where there are no rows.
    #[must_use]
    pub fn columns(&self) -> Option<&'static [Column]> {
        match self {
            Self::Show(show) => Some(show.columns()),
            _ => None,
        }
    }

    /// The tag of its CommandComplete.
    #[must_use]
    pub fn tag(&self) -> String {
        let tag = match self {
            Self::Show(_) => "SHOW",
            Self::Set { key, value } => {
                let mut tag = format!("SET {key}={value}");
                let end = (0..=LONGEST_TAG.min(tag.len())).rev().find(|&at| tag.is_char_boundary(at));
                tag.truncate(end.unwrap_or(0));
                return tag;
            }
            Self::Reload => "RELOAD",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Reconnect(_) => "RECONNECT",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::Suspend => "SUSPEND",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::WaitClose(_) => "WAIT_CLOSE",
        };
        tag.to_owned()
    }
}

/// What a query asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Something that the console answers by itself.
    Own(Own),
    /// Something that the pooler performs.
    Command(Command),
}

/// Reads a query and checks that a user with `rights` may run it.
///
/// # Errors
/// The refusal, in the order in which pgbouncer finds faults: a command that can't be, then missing rights, then a
/// missing or bad argument.
pub fn parse(sql: &str, rights: Rights) -> Result<Request, Error> {
    match Sentence::read(sql) {
        Some(Sentence::Words(verb, argument)) => {
            if verb.len() > LONGEST_COMMAND || argument.len() > LONGEST_NAME {
                return Err(Error::BadArguments);
            }
            command(&verb, argument, rights, || Error::InvalidCommand(sql.to_owned()))
        }
        Some(Sentence::Set(key, value)) => set(key, value, rights),
        None => Err(Error::InvalidCommand(sql.to_owned())),
    }
}

fn set(key: String, value: String, rights: Rights) -> Result<Request, Error> {
    if key.is_empty() || key.len() > LONGEST_NAME {
        return Err(Error::BadArguments);
    }
    // Drivers set some parameters at every connect, whoever the user is.
    if Parameter::named(&key).is_some() {
        return Ok(Request::Own(Own::SetIgnored));
    }
    admin(rights)?;
    Ok(Request::Command(Command::Set { key, value }))
}

fn command(verb: &str, argument: String, rights: Rights, invalid: impl Fn() -> Error) -> Result<Request, Error> {
    let verb = verb.to_ascii_lowercase();
    if let "show" | "select" = verb.as_str() {
        return show(&argument, rights, invalid);
    }
    let shutdown = match argument.to_ascii_lowercase().as_str() {
        "" => Some(Shutdown::Immediate),
        "wait_for_servers" => Some(Shutdown::WaitForServers),
        "wait_for_clients" => Some(Shutdown::WaitForClients),
        _ => None,
    };
    match verb.as_str() {
        "reload" | "suspend" if !argument.is_empty() => return Err(invalid()),
        "shutdown" if shutdown.is_none() => return Err(invalid()),
        "disable" | "enable" | "kill" | "kill_client" | "pause" | "reconnect" | "reload" | "resume" | "shutdown"
        | "suspend" | "wait_close" => admin(rights)?,
        _ => return Err(invalid()),
    }
    let database = (!argument.is_empty()).then(|| argument.clone());
    let command = match verb.as_str() {
        "disable" => Command::Disable(database.ok_or(Error::DatabaseRequired)?),
        "enable" => Command::Enable(database.ok_or(Error::DatabaseRequired)?),
        "kill" => Command::Kill(database),
        "kill_client" => Command::KillClient(client(&argument)?),
        "pause" => Command::Pause(database),
        "reconnect" => Command::Reconnect(database),
        "reload" => Command::Reload,
        "resume" => Command::Resume(database),
        "shutdown" => Command::Shutdown(shutdown.ok_or_else(invalid)?),
        "suspend" => Command::Suspend,
        "wait_close" => Command::WaitClose(database),
        _ => return Err(invalid()),
    };
    Ok(Request::Command(command))
}

fn show(what: &str, rights: Rights, invalid: impl Fn() -> Error) -> Result<Request, Error> {
    if let Some(parameter) = Parameter::named(what) {
        return Ok(Request::Own(Own::Parameter(parameter)));
    }
    if what.eq_ignore_ascii_case("help") {
        return Ok(Request::Own(Own::Help));
    }
    if what.eq_ignore_ascii_case("version") {
        return Ok(Request::Own(Own::Version));
    }
    let show = Show::named(what).ok_or_else(invalid)?;
    if show == Show::Fds {
        // It tells cancel keys and secrets.
        admin(rights)?;
    }
    Ok(Request::Command(Command::Show(show)))
}

fn admin(rights: Rights) -> Result<(), Error> {
    match rights {
        Rights::Admin => Ok(()),
        Rights::Stats => Err(Error::AdminNeeded),
    }
}

/// The number that a text starts with: `12`, and `12abc` too, as pgbouncer reads it.
fn client(text: &str) -> Result<u64, Error> {
    let text = text.trim_start();
    let digits = &text[..text.bytes().take_while(u8::is_ascii_digit).count()];
    match digits {
        "" => Err(Error::BadClient),
        // Too large a number belongs to nobody.
        digits => Ok(digits.parse().unwrap_or(u64::MAX)),
    }
}

/// A query taken apart.
enum Sentence {
    /// A verb and its argument, which is empty where there is none.
    Words(String, String),
    /// SET with key and value.
    Set(String, String),
}

impl Sentence {
    fn read(sql: &str) -> Option<Self> {
        Self::words(Scanner(sql)).or_else(|| Self::set(Scanner(sql)))
    }

    fn words(mut scanner: Scanner<'_>) -> Option<Self> {
        scanner.space();
        let verb = scanner.word()?;
        let spaced = scanner.space();
        let argument = if spaced { scanner.word() } else { None };
        scanner.end()?;
        Some(Self::Words(verb, argument.unwrap_or_default()))
    }

    fn set(mut scanner: Scanner<'_>) -> Option<Self> {
        scanner.space();
        scanner.keyword("set")?;
        if !scanner.space() {
            return None;
        }
        let key = scanner.word()?;
        scanner.space();
        scanner.keyword("=").or_else(|| scanner.keyword("to"))?;
        scanner.space();
        let value = scanner.quoted('\'').or_else(|| scanner.word())?;
        scanner.end()?;
        Some(Self::Set(key, value))
    }
}

/// What is left of a query to be read. A reader that answers `None` has taken nothing.
#[derive(Clone, Copy)]
struct Scanner<'a>(&'a str);

impl Scanner<'_> {
    /// Skips white space and says whether there was any.
    fn space(&mut self) -> bool {
        let rest = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
        let any = rest.len() < self.0.len();
        self.0 = rest;
        any
    }

    fn keyword(&mut self, word: &str) -> Option<()> {
        let (start, rest) = self.0.split_at_checked(word.len())?;
        if !start.eq_ignore_ascii_case(word) {
            return None;
        }
        self.0 = rest;
        Some(())
    }

    fn word(&mut self) -> Option<String> {
        if let Some(quoted) = self.quoted('"') {
            return Some(quoted);
        }
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut rest = self.0.strip_prefix(quote)?;
        let mut text = String::new();
        loop {
            let (before, after) = rest.split_once(quote)?;
            text.push_str(before);
            match after.strip_prefix(quote) {
                Some(more) => {
                    text.push(quote);
                    rest = more;
                }
                None => {
                    self.0 = after;
                    return Some(text);
                }
            }
        }
    }

    /// The end of the query: white space and at most one semicolon.
    fn end(&mut self) -> Option<()> {
        self.space();
        if self.keyword(";").is_some() {
            self.space();
        }
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests;
