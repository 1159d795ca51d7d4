//! The admin console: the virtual database `pgbouncer`. Commands, their results' columns, the protocol's simple and
//! extended forms. No I/O: where rows come from and how a command is performed is the caller's matter.

pub mod command;
mod error;
mod message;
mod own;
pub mod rows;
pub mod session;
pub mod table;
pub mod welcome;

pub use command::{Command, Rights, Show, Shutdown};
pub use error::{AdminVerb, Error};
pub use session::{Answer, Session, Step};
pub use table::Table;

/// Name of the console's database.
pub const DATABASE: &str = "pgbouncer";
