//! The HA brain of pgherd: types of the field and the pure decision core. No tokio, clock, randomness, logging or I/O
//! lives here; time is an argument and a failed probe is a value.

pub mod access;
pub mod action;
pub mod cluster;
pub mod command;
pub mod decide;
pub mod local;
pub mod lsn;
pub mod members;
pub mod memory;
pub mod poolers;
pub mod reason;
pub mod settings;
pub mod status;
pub mod time;
pub mod view;

pub use action::Action;
pub use cluster::{Cluster, Leader, Member, Term};
pub use decide::{Decision, decide};
pub use lsn::Lsn;
pub use memory::Memory;
pub use reason::Reason;
pub use settings::Settings;
pub use status::{Role, State, Status};
pub use time::Tick;
pub use view::View;
