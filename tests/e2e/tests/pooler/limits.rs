//! Limits on servers and clients, and waiting for a server.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::pooler::Setup;
use harness::pooler::raw::Batch;

use super::{idle_servers, refusal, stays_pending, waiting_clients};

/// Connections of a user to PostgreSQL, the pooler's.
const SERVERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'";

#[test]
fn clients_beyond_the_pool_size_wait_their_turn() -> Result<()> {
    Setup::transaction(2).run(async |world| {
        let mut sessions = Vec::new();
        for _ in 0..4 {
            let mut session = world.session().await?;
            session.batch(Batch::new().query("BEGIN")).await?;
            sessions.push(session);
        }
        waiting_clients(world, 2).await?;
        let pool = world.pool("alice", "app").await?;
        ensure!(pool.number("cl_active") == 2 && pool.number("sv_active") == 2, "{pool:?}");
        for session in &mut sessions {
            session.until_ready().await?;
            session.firsts("COMMIT").await?;
        }
        ensure!(world.postgres.value(SERVERS).await? == "2");
        Ok(())
    })
}

#[test]
fn waiting_clients_are_served_in_order() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut holder = world.session().await?;
        holder.firsts("BEGIN; CREATE TEMP SEQUENCE turn").await?;
        let mut waiters = Vec::new();
        for n in 0..8 {
            let mut session = world.session().await?;
            session.batch(Batch::new().query("SELECT nextval('turn')")).await?;
            waiting_clients(world, n + 1).await?;
            waiters.push(session);
        }
        holder.firsts("COMMIT").await?;
        for (n, mut waiter) in (1..).zip(waiters) {
            let answers = waiter.until_ready().await?;
            ensure!(harness::pooler::raw::firsts(&answers) == [format!("{n}")]);
        }
        Ok(())
    })
}

/// However many threads serve: the pool is one.
#[test]
fn the_pool_size_holds_under_load() -> Result<()> {
    Setup::transaction(5).run(async |world| {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..30 {
            let config = world.config("alice", "app");
            tasks.spawn(async move {
                for _ in 0..20 {
                    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
                    tokio::spawn(connection);
                    for _ in 0..n % 4 {
                        client.simple_query("SELECT 1").await?;
                    }
                }
                anyhow::Ok(())
            });
        }
        let mut most = 0;
        while !tasks.is_empty() {
            while let Some(result) = tasks.try_join_next() {
                result??;
            }
            most = most.max(world.postgres.value(SERVERS).await?.parse()?);
        }
        ensure!((1..=5).contains(&most), "{most} servers");
        Ok(())
    })
}

#[test]
fn who_waits_too_long_for_a_server_is_told_so() -> Result<()> {
    Setup::transaction(1).set("query_wait_timeout", 1).run(async |world| {
        let mut holder = world.session().await?;
        holder.firsts("BEGIN").await?;
        let mut waiter = world.session().await?;
        waiter.batch(Batch::new().query("SELECT 1")).await?;
        ensure!(waiter.last_words().await? == "FATAL: query_wait_timeout");
        world.logged("query_wait_timeout").await?;
        ensure!(holder.value("SELECT 1").await? == "1");
        Ok(())
    })
}

#[test]
fn a_waiting_client_gets_a_notice() -> Result<()> {
    Setup::transaction(1).set("query_wait_notify", 1).pgbouncer_at_least(1, 25).run(async |world| {
        let mut holder = world.session().await?;
        holder.firsts("BEGIN").await?;
        let mut waiter = world.session().await?;
        waiter.batch(Batch::new().query("SELECT 1")).await?;
        let notice = waiter.until(b'N').await?.pop();
        ensure!(notice.is_some_and(|n| n.text().contains("waiting")));
        Ok(())
    })
}

#[test]
fn the_reserve_helps_those_who_wait_long() -> Result<()> {
    let setup = Setup::transaction(1).set("reserve_pool_size", 1).set("reserve_pool_timeout", 1);
    setup.run(async |world| {
        let mut holder = world.session().await?;
        holder.firsts("BEGIN").await?;
        let begun = Instant::now();
        let mut waiter = world.session().await?;
        ensure!(waiter.value("SELECT 1").await? == "1");
        ensure!(begun.elapsed() >= Duration::from_secs(1), "the reserve was used at once");
        ensure!(world.postgres.value(SERVERS).await? == "2");
        world.logged("taking connection from reserve_pool").await?;
        Ok(())
    })
}

#[test]
fn a_pool_is_filled_up_to_its_minimum() -> Result<()> {
    Setup::transaction(5).set("min_pool_size", 3).run(async |world| {
        let mut session = world.session().await?;
        session.value("SELECT 1").await?;
        idle_servers(world, 3).await?;
        ensure!(world.postgres.value(SERVERS).await? == "3");
        Ok(())
    })
}

#[test]
fn a_pool_with_a_forced_user_is_filled_before_the_first_client() -> Result<()> {
    let setup = Setup::new().database("app", "min_pool_size=2 user=alice password=alice-secret");
    setup.pgbouncer_at_least(1, 24).run(async |world| {
        world.until("servers are there", async || Ok((world.postgres.value(SERVERS).await? == "2").then_some(()))).await
    })
}

#[test]
fn too_many_clients_are_refused() -> Result<()> {
    Setup::new().set("max_client_conn", 2).run(async |world| {
        world.allow("no more connections allowed (max_client_conn)");
        let _one = world.session().await?;
        let two = world.session().await?;
        let error = refusal(world.session().await)?;
        ensure!(error == "FATAL: no more connections allowed (max_client_conn)", "{error}");
        drop(two);
        world.until("a place is free", async || Ok(world.session().await.is_ok().then_some(()))).await
    })
}

#[test]
fn a_database_has_at_most_so_many_servers() -> Result<()> {
    Setup::new().database("app", "max_db_connections=1").run(async |world| {
        let mut one = world.session().await?;
        one.value("SELECT 1").await?;
        // The first session of a pool needs a server for its very login.
        ensure!(stays_pending(world.session_as("bob", "app")).await, "the limit does not hold across users");
        one.batch(Batch::new().terminate()).await?;
        world.session_as("bob", "app").await?.value("SELECT 2").await?;
        let all = "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('alice', 'bob')";
        ensure!(world.postgres.value(all).await? == "1");
        Ok(())
    })
}

#[test]
fn a_user_has_at_most_so_many_servers() -> Result<()> {
    Setup::new().user("alice", "max_user_connections=1").run(async |world| {
        let mut one = world.session().await?;
        one.value("SELECT 1").await?;
        ensure!(stays_pending(world.session_as("alice", "second")).await, "the limit does not hold across databases");
        one.batch(Batch::new().terminate()).await?;
        world.session_as("alice", "second").await?.value("SELECT 2").await?;
        ensure!(world.postgres.value(SERVERS).await? == "1");
        Ok(())
    })
}

#[test]
fn a_database_takes_at_most_so_many_clients() -> Result<()> {
    let setup = Setup::new().database("app", "max_db_client_connections=1").pgbouncer_at_least(1, 24);
    setup.run(async |world| {
        world.allow("max_db_client_connections");
        let _one = world.session().await?;
        let error = refusal(world.session_as("bob", "app").await)?;
        ensure!(error == "FATAL: client connections exceeded (max_db_client_connections)", "{error}");
        Ok(())
    })
}

#[test]
fn a_user_has_at_most_so_many_clients() -> Result<()> {
    let setup = Setup::new().user("alice", "max_user_client_connections=1").pgbouncer_at_least(1, 24);
    setup.run(async |world| {
        world.allow("max_user_client_connections");
        let _one = world.session().await?;
        let error = refusal(world.session_as("alice", "second").await)?;
        ensure!(error == "FATAL: client connections exceeded (max_user_client_connections)", "{error}");
        Ok(())
    })
}

#[test]
fn pools_have_sizes_of_their_own() -> Result<()> {
    let setup = Setup::transaction(5).database("app", "pool_size=2").database("second", "");
    setup.user("bob", "pool_size=3").pgbouncer_at_least(1, 24).run(async |world| {
        for (user, database, size) in [("alice", "app", 2), ("alice", "second", 5), ("bob", "second", 3)] {
            let mut sessions = Vec::new();
            for _ in 0..6 {
                let mut session = world.session_as(user, database).await?;
                session.batch(Batch::new().query("BEGIN")).await?;
                sessions.push(session);
            }
            world
                .until("the others wait", async || {
                    let pool = world.pool(user, database).await?;
                    let numbers = (pool.number("sv_active"), pool.number("cl_waiting"));
                    if numbers == (size, 6 - size) { Ok(Some(())) } else { anyhow::bail!("{pool:?}") }
                })
                .await?;
        }
        Ok(())
    })
}
