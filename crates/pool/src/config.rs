//! The configuration: pgbouncer.ini and the files it names (user list, host-based rules, ident map). Read and checked
//! here, used elsewhere. Reads files, opens no connection.

mod connection;
pub mod database;
pub mod fault;
pub mod hba;
pub mod ident;
mod ini;
mod load;
mod quoted;
pub mod secret;
pub mod settings;
mod spelling;
mod support;
mod target;
pub mod users;
mod words;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use database::{Database, Host, Peer, User};
pub use fault::{Fault, Faults};
pub use hba::{Attempt, Hba, Rule};
pub use ident::Idents;
pub use load::Loaded;
pub use secret::Secret;
pub use settings::{AuthType, FileMode, OnCancelled, PoolMode, Settings, SslMode};
pub use target::{Role, Target};
pub use users::Credentials;

/// Name of the program.
pub const PROGRAM: &str = "pgherd-pooler";

/// Everything that the files say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Section `[pgbouncer]`.
    pub settings: Settings,
    /// Section `[databases]` without `*`, by the name that clients ask for.
    pub databases: BTreeMap<String, Database>,
    /// The entry `*`: what holds for a database that isn't listed. Its name is `*`; see [`Config::database`].
    pub fallback: Option<Database>,
    /// Section `[users]`, by name.
    pub users: BTreeMap<String, User>,
    /// Section `[peers]`, by `peer_id`.
    pub peers: BTreeMap<u32, Peer>,
    /// `auth_file`.
    pub credentials: Credentials,
    /// `auth_hba_file`; `None` unless `auth_type` is `hba`.
    pub hba: Option<Hba>,
    /// `auth_ident_file`; empty unless `auth_type` is `hba`.
    pub idents: Idents,
}

impl Config {
    /// The entry of a database, or the one that the fallback makes for it.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<Cow<'_, Database>> {
        match self.databases.get(name) {
            Some(database) => Some(Cow::Borrowed(database)),
            None => self.fallback.as_ref().map(|fallback| Cow::Owned(fallback.named(name))),
        }
    }
}
