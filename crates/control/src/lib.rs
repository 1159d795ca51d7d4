//! The control plane over gRPC: the service that an agent offers, and the client that programs use. What orders mean and
//! how they are carried out is elsewhere.

mod client;
mod convert;
mod liveness;
mod progress;
mod proto;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, ClusterStream, Course, Error, Options as ClientOptions, Report, Step, View};
pub use server::{Options, Orders, routes};
