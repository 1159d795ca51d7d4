//! The pooler between real clients and a real PostgreSQL. Every test here also passes on pgbouncer 1.24 (the program is
//! chosen by `$PGHERD_TEST_POOLER`), so each is a statement of what pgbouncer's users rely on; where pgherd is meant to
//! differ, the test says so.

mod auth;
mod cancel;
mod console;
mod copy;
mod drivers;
mod hba;
mod limits;
mod logging;
mod lookup;
mod metrics;
mod misbehaviour;
mod modes;
mod parameters;
mod pipeline;
mod program;
mod replication;
mod restart;
mod servers;
mod show;
mod statements;
mod story;
mod timeouts;
mod tls;

use std::time::Duration;

use anyhow::{Context, Result};
use harness::pooler::World;

/// The error of something that is expected to fail.
fn refusal<T>(result: Result<T>) -> Result<String> {
    result.err().map(|e| format!("{e:#}")).context("it was expected to fail")
}

/// Whether nothing comes of it for a moment: there is no condition to wait on for what must not happen.
async fn stays_pending<T>(future: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(300), future).await.is_err()
}

/// Waits until the pool of alice in `app` has so many idle servers.
async fn idle_servers(world: &World, count: u64) -> Result<()> {
    pool_shows(world, "idle servers", |pool| pool.number("sv_idle") + pool.number("sv_used") == count).await
}

/// Waits until so many clients of alice in `app` wait for a server.
async fn waiting_clients(world: &World, count: u64) -> Result<()> {
    pool_shows(world, "waiting clients", |pool| pool.number("cl_waiting") == count).await
}

async fn pool_shows(world: &World, what: &str, holds: impl Fn(&harness::pooler::Row) -> bool) -> Result<()> {
    world
        .until(&format!("the pool has the expected number of {what}"), async || {
            let pool = world.pool("alice", "app").await?;
            if holds(&pool) { Ok(Some(())) } else { anyhow::bail!("{pool:?}") }
        })
        .await
}
