//! A pooler between real clients and a PostgreSQL of its own, made for one test and gone without a trace. The program is
//! pgherd's, or another that takes pgbouncer's ini, named by an environment variable. What is tested is in tests/e2e.

pub mod clients;
pub mod log;
pub mod postgres;
pub mod process;
pub mod raw;
pub mod setup;
mod template;
pub mod tls;
mod world;

pub use process::Peer;
pub use setup::Setup;
pub use world::{Row, World};

/// Environment variable that names the program under test.
pub const PROGRAM: &str = "PGHERD_TEST_POOLER";

/// The password that every user of these tests has.
pub fn password(user: &str) -> String {
    format!("{user}-secret")
}

/// A user's secret as PostgreSQL would keep it with `password_encryption = md5`.
pub fn md5_secret(user: &str) -> String {
    postgres_protocol::password::md5(password(user).as_bytes(), user)
}
