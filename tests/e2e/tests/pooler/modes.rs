//! Session, transaction and statement mode: what belongs to a client, what to its server.

use anyhow::{Result, ensure};
use harness::pooler::raw::error;
use harness::pooler::{Setup, World};

/// The server's process number, over a raw session.
async fn backend(session: &mut harness::pooler::raw::Raw) -> Result<String> {
    Ok(session.firsts("SELECT pg_backend_pid()").await?.concat())
}

#[test]
fn a_session_keeps_its_server_to_the_end() -> Result<()> {
    Setup::new().run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        let (first, second) = (backend(&mut one).await?, backend(&mut two).await?);
        ensure!(first != second, "two sessions share a server");
        ensure!(backend(&mut one).await? == first);
        Ok(())
    })
}

#[test]
fn a_released_server_serves_the_next_session() -> Result<()> {
    Setup::new().run(async |world| {
        let mut one = world.session().await?;
        let first = backend(&mut one).await?;
        drop(one);
        idle(world, 1).await?;
        ensure!(backend(&mut world.session().await?).await? == first, "a new server, although one was idle");
        Ok(())
    })
}

async fn idle(world: &World, count: u64) -> Result<()> {
    world
        .until("servers are idle", async || {
            let pool = world.pool("alice", "app").await?;
            Ok((pool.number("sv_idle") + pool.number("sv_used") == count).then_some(()))
        })
        .await
}

#[test]
fn statement_mode_refuses_transactions() -> Result<()> {
    Setup::new().set("pool_mode", "statement").run(async |world| {
        let mut session = world.session().await?;
        session.batch(harness::pooler::raw::Batch::new().query("BEGIN")).await?;
        let answers = session.until_closed().await?;
        world.allow("transaction blocks not allowed");
        ensure!(
            error(&answers).as_deref() == Some("FATAL: transaction blocks not allowed in statement pooling mode"),
            "{answers:?}"
        );
        Ok(())
    })
}
