//! A connection pooler for PostgreSQL: wire protocol, client sessions, server pools, authentication and the admin
//! console, with pgbouncer's configuration and texts. Process matters (flags, pidfile, signals) live in the program.

pub mod auth;
mod cancel;
mod client;
pub mod config;
pub mod console;
mod flow;
pub mod listen;
mod plan;
mod pool;
pub mod pooler;
mod server;
mod session;
mod shared;
mod stats;
pub mod stream;
mod sweep;
pub mod tls;
mod vars;
pub mod wire;
mod worker;
