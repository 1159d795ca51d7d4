//! A connection pooler for PostgreSQL: wire protocol, client sessions, server pools, authentication and the admin
//! console, with pgbouncer's configuration and texts. Process matters (flags, pidfile, signals) live in the program.

mod admin;
pub mod auth;
mod cancel;
mod client;
pub mod config;
pub mod console;
mod flow;
pub mod listen;
pub mod metrics;
mod plan;
mod pool;
pub mod pooler;
pub mod route;
mod secrets;
mod server;
mod session;
mod shared;
mod stats;
pub mod stream;
mod sweep;
pub mod takeover;
pub mod tls;
mod vars;
pub mod wire;
mod worker;

/// Version of the program, as a bare number.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Name and version: the first line of `-V`, and what SHOW VERSION gives.
pub const BANNER: &str = concat!("pgherd-pooler ", env!("CARGO_PKG_VERSION"));
