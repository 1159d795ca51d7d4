//! The fencing process, `pgherd-agent guard`: it ends PostgreSQL when the agent can't. Here are the parts' doors; how
//! the processes of an instance are found and killed is in [`crate::fence`], and when to arm is the agent's business.
//!
//! The guard is a small single-threaded process of its own, so that neither the death, nor a stop, nor a stall of the
//! agent keeps it from killing at the deadline. Between its deadline and the kill it waits for nobody: no file, no pipe
//! and no peer can block it.
//!
//! | from \ on | arm | extend | disarm | deadline, fence now |
//! |---|---|---|---|---|
//! | idle, disarmed | armed | refused | disarmed | fenced |
//! | armed(t) | armed, if not older than t | armed, if for t | disarmed | fenced(t) |
//! | fenced(t) | armed, if later than t | refused | fenced(t), settled | fenced(t) |
//!
//! While *fenced but not settled* the guard goes on killing whatever appears in the data directory, because the agent
//! may have been stopped halfway through starting PostgreSQL. `disarm` says that the agent has understood that it lost
//! the term, and may start PostgreSQL again as a replica; it doesn't make the guard accept the fenced term again.
//!
//! SIGTERM and the like end the guard only when there is nothing to guard. It leaves by itself a while after its last
//! client went, again only when nothing is armed.

mod client;
mod hardening;
mod keeper;
mod log;
mod protocol;
mod server;
mod state;
pub mod watchdog;

pub use crate::clock::now;
pub use client::{Client, Error, Options};
pub use protocol::{Report, State};
pub use server::{Args, run};

/// The version that agent and guard compare when they meet.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
