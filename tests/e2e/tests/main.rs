//! End-to-end tests: real PostgreSQL, real etcd and HAProxy, and the programs as they are shipped.

mod bad_input;
mod candidates;
mod faults;
mod front_door;
mod pooler;
mod story;
