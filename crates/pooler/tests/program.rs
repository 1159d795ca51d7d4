//! The program as its operator meets it: flags, exit codes, files, signals, systemd, online restart. What pooling does to
//! queries is tested with a real PostgreSQL elsewhere.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "program/online.rs"]
mod online;
#[path = "program/postgres.rs"]
mod postgres;
#[path = "program/start.rs"]
mod start;
#[path = "program/systemd.rs"]
mod systemd;
#[path = "program/world.rs"]
mod world;
