//! Clusters of real PostgreSQL, etcd and pgherd programs on this machine, and the means to hurt and observe them. What is
//! tested with them is in tests/e2e and in xtask.

pub mod address;
pub mod cluster;
pub mod disk;
pub mod etcd;
pub mod front;
pub mod history;
pub mod load;
pub mod logs;
pub mod netns;
pub mod node;
pub mod pooler;
pub mod process;
pub mod programs;
pub mod reaper;
pub mod relay;
pub mod rest;
pub mod sql;
pub mod wait;
pub mod writers;
pub mod yaml;

pub use cluster::{Cluster, Options, Store};
pub use node::Node;
pub use reaper::Reaper;
pub use wait::wait_until;
