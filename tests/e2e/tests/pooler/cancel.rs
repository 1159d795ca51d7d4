//! Cancelling a query: the right one, and only that.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::pooler::raw::{Batch, CANCEL, Raw, V3_0, error, startup};
use harness::pooler::{Setup, World, password};
use rustix::process::Signal;
use tokio_postgres::NoTls;

const CANCELED: &str = "ERROR: canceling statement due to user request";

/// Sends a cancel request and waits until its connection is closed.
async fn cancel(world: &World, key: &[u8]) -> Result<()> {
    let mut raw = world.raw().await?;
    raw.send(&startup(CANCEL, key)).await?;
    ensure!(raw.until_closed().await?.is_empty(), "a cancel request was answered");
    Ok(())
}

/// Waits until so many servers sleep.
async fn sleepers(world: &World, count: usize) -> Result<()> {
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ 'pg_sleep' AND usename = 'alice'";
    world
        .until("queries sleep", async || Ok((world.postgres.value(sql).await? == count.to_string()).then_some(())))
        .await
}

async fn asleep(world: &World) -> Result<Raw> {
    let mut session = world.session().await?;
    session.batch(Batch::new().query("SELECT pg_sleep(600)")).await?;
    Ok(session)
}

#[test]
fn a_cancel_request_ends_the_query_of_its_client_only() -> Result<()> {
    Setup::transaction(3).run(async |world| {
        let mut sessions = [asleep(world).await?, asleep(world).await?, asleep(world).await?];
        sleepers(world, 3).await?;
        cancel(world, &sessions[1].key.clone()).await?;
        let answers = sessions[1].until_ready().await?;
        ensure!(error(&answers).as_deref() == Some(CANCELED), "{answers:?}");
        sleepers(world, 2).await?;
        ensure!(sessions[1].value("SELECT 1").await? == "1");
        Ok(())
    })
}

/// Protocol 3.2 has keys of up to 256 bytes. pgbouncer 1.24 knows only 3.0.
#[test]
fn a_long_key_cancels_only_as_a_whole() -> Result<()> {
    Setup::transaction(2).pgherd_only().run(async |world| {
        let mut session = world.raw().await?;
        let alice = [("user", "alice"), ("database", "app")];
        session.log_in_speaking(V3_0 + 2, &alice, &password("alice")).await?;
        let key = session.key.clone();
        ensure!(key.len() > 8, "the key has {} bytes", key.len());
        session.batch(Batch::new().query("SELECT pg_sleep(600)")).await?;
        sleepers(world, 1).await?;
        let mut wrong = key.to_vec();
        wrong[key.len() - 1] ^= 1;
        for wrong in [&wrong[..], &key[..8], &key[..key.len() - 1], &[&key[..], b"x"].concat()] {
            cancel(world, wrong).await?;
        }
        ensure!(super::stays_pending(session.message()).await, "half a key was enough");
        cancel(world, &key).await?;
        let answers = session.until_ready().await?;
        ensure!(error(&answers).as_deref() == Some(CANCELED), "{answers:?}");
        Ok(())
    })
}

#[test]
fn keys_of_clients_differ_from_each_other_and_from_the_servers() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut keys = Vec::new();
        let mut sessions = Vec::new();
        for _ in 0..20 {
            let session = world.session().await?;
            keys.push(session.key.clone());
            sessions.push(session);
        }
        ensure!(keys.iter().all(|k| k.len() == 8));
        keys.sort();
        keys.dedup();
        ensure!(keys.len() == 20);
        Ok(())
    })
}

#[test]
fn a_cancel_request_of_an_idle_client_hits_nobody() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut idle = world.session().await?;
        idle.value("SELECT 1").await?;
        let mut busy = asleep(world).await?;
        sleepers(world, 1).await?;
        cancel(world, &idle.key.clone()).await?;
        sleepers(world, 1).await?;
        cancel(world, &busy.key.clone()).await?;
        ensure!(error(&busy.until_ready().await?).as_deref() == Some(CANCELED));
        Ok(())
    })
}

#[test]
fn a_cancel_request_with_a_wrong_key_hits_nobody() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let busy = asleep(world).await?;
        sleepers(world, 1).await?;
        let mut key = busy.key.to_vec();
        key[7] ^= 1;
        world.allow("failed cancel request");
        let mut raw = world.raw().await?;
        raw.send(&startup(CANCEL, &key)).await?;
        raw.until_closed().await?;
        sleepers(world, 1).await
    })
}

#[test]
fn a_cancel_request_of_a_waiting_client_hits_nobody_else() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut busy = asleep(world).await?;
        sleepers(world, 1).await?;
        let mut waiter = world.session().await?;
        waiter.batch(Batch::new().query("SELECT 1")).await?;
        super::waiting_clients(world, 1).await?;
        world.allow("canceling statement");
        cancel(world, &waiter.key.clone()).await?;
        sleepers(world, 1).await?;
        cancel(world, &busy.key.clone()).await?;
        ensure!(error(&busy.until_ready().await?).as_deref() == Some(CANCELED));
        // Told of the request or not, it is served from now on.
        waiter.until_ready().await?;
        ensure!(waiter.value("SELECT 1").await? == "1");
        Ok(())
    })
}

#[test]
fn an_interrupt_in_psql_ends_its_query() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut psql = world.psql_command("dbname=app")?;
        psql.args(["-c", "SELECT pg_sleep(600)"]).stderr(std::process::Stdio::piped());
        let child = psql.spawn()?;
        sleepers(world, 1).await?;
        let pid = child.id().and_then(|p| i32::try_from(p).ok()).and_then(harness::process::Identity::of);
        ensure!(pid.is_some_and(|p| p.signal(Signal::INT)));
        let output = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await??;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(text.contains("canceling statement due to user request"), "{text}");
        Ok(())
    })
}

/// Twenty clients on four servers: each second one is cancelled again and again, and nobody else ever is.
#[test]
fn cancels_among_many_clients_hit_the_right_ones() -> Result<()> {
    Setup::transaction(4).run(async |world| {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..20 {
            let config = world.config("alice", "app");
            tasks.spawn(async move {
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(connection);
                for _ in 0..10 {
                    if n % 2 == 0 {
                        let token = client.cancel_token();
                        let cancel = async {
                            // Some arrive while the client waits, some while its query runs, some too late.
                            tokio::time::sleep(Duration::from_millis(n)).await;
                            token.cancel_query(NoTls).await
                        };
                        let (_, sent) = tokio::join!(client.simple_query("SELECT pg_sleep(0.02)"), cancel);
                        sent?;
                    } else {
                        client.simple_query("SELECT pg_sleep(0.005)").await?;
                    }
                }
                anyhow::Ok(())
            });
        }
        world.allow("canceling statement");
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        Ok(())
    })
}
