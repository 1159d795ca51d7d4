//! End-to-end tests: real PostgreSQL, real etcd and HAProxy, and the programs as they are shipped.

mod bad_input;
mod candidates;
mod faults;
mod following;
mod front_door;
mod loaded;
mod pooler;
mod story;
