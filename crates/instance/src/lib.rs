//! One PostgreSQL instance: its process, configuration files, probe, base backup, rewind, promotion and slots, and the
//! guard that fences it. What should be done with it is decided in the `ha` crate.

pub mod fence;
pub mod guard;

mod apply;
mod bootstrap;
mod cloning;
mod conf;
mod connection;
mod controldata;
mod error;
mod files;
mod instance;
mod lock_files;
mod look;
mod lost;
mod options;
mod parameters;
mod postmaster;
mod probe;
mod programs;
mod promote;
mod question;
mod replication;
mod rewind;
mod slot;
mod start;
mod stop;
mod storage;
mod surplus;
mod units;
mod upstream;
mod work;

pub mod clock;
pub mod divergence;
pub mod version;

pub use apply::{Applied, Change};
pub use bootstrap::{InitDb, InitOption, NewUser};
pub use clock::now;
pub use divergence::Divergence;
pub use error::Error;
pub use instance::{Exited, Instance};
pub use options::{Configuration, Credentials, Listen, Options, Upstream};
pub use rewind::{RewindError, Rewound};
pub use slot::slot_name;
pub use start::Start;
pub use stop::{Mode, Stop, Stopped};
pub use upstream::Identity;
pub use version::Version;
