//! A connection pooler for PostgreSQL: wire protocol, client sessions, server pools, authentication and the admin
//! console, with pgbouncer's configuration and texts. Process matters (flags, pidfile, signals) live in the program.

pub mod auth;
pub mod config;
pub mod console;
pub mod stream;
pub mod tls;
pub mod wire;
