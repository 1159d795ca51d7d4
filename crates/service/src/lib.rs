//! What every long-running program of pgherd needs around its own work: configuration, logging, supervised tasks,
//! signals, TLS, the shared listener and systemd's notifications. Nothing of PostgreSQL, DCS or HA lives here.

pub mod config;
pub mod fetch;
pub mod listen;
pub mod logging;
pub mod notify;
pub mod signals;
pub mod tasks;
pub mod tls;
