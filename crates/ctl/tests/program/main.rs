//! The built program against an embedded DCS, with and without agents. What single parts print is tested beside them.

#![allow(clippy::unwrap_used)]

mod agents;
mod config;
mod place;
mod store;
