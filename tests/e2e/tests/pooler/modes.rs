//! Session, transaction and statement mode: what belongs to a client, what to its server.

use anyhow::{Result, ensure};
use harness::pooler::Setup;
use harness::pooler::raw::Batch;

use super::{idle_servers, stays_pending};

#[test]
fn a_session_keeps_its_server_to_the_end() -> Result<()> {
    Setup::new().run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        let (first, second) = (one.backend().await?, two.backend().await?);
        ensure!(first != second, "two sessions share a server");
        ensure!(one.backend().await? == first);
        Ok(())
    })
}

#[test]
fn a_released_server_serves_the_next_session() -> Result<()> {
    Setup::new().run(async |world| {
        let mut one = world.session().await?;
        let first = one.backend().await?;
        drop(one);
        idle_servers(world, 1).await?;
        ensure!(world.session().await?.backend().await? == first, "a new server, although one was idle");
        Ok(())
    })
}

#[test]
fn session_mode_discards_everything_when_a_session_ends() -> Result<()> {
    Setup::new().set("default_pool_size", 1).run(async |world| {
        let mut one = world.session().await?;
        one.firsts("SET my.setting = 'left'; CREATE TEMP TABLE heap (); SELECT pg_advisory_lock(1)").await?;
        one.firsts("PREPARE plan AS SELECT 1; LISTEN news").await?;
        let first = one.backend().await?;
        one.batch(Batch::new().terminate()).await?;
        let mut two = world.session().await?;
        ensure!(two.backend().await? == first);
        ensure!(two.value("SELECT current_setting('my.setting', true)").await?.is_empty());
        ensure!(two.value("SELECT to_regclass('heap') IS NULL").await? == "t");
        ensure!(two.value("SELECT count(*) FROM pg_prepared_statements").await? == "0");
        ensure!(two.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await? == "0");
        ensure!(two.value("SELECT count(*) FROM pg_listening_channels()").await? == "0");
        Ok(())
    })
}

#[test]
fn without_a_reset_query_settings_leak_to_the_next_session() -> Result<()> {
    Setup::new().set("default_pool_size", 1).set("server_reset_query", "").run(async |world| {
        let mut one = world.session().await?;
        one.firsts("SET my.setting = 'left'").await?;
        one.batch(Batch::new().terminate()).await?;
        ensure!(world.session().await?.value("SHOW my.setting").await? == "left");
        Ok(())
    })
}

#[test]
fn transaction_mode_shares_servers_and_what_is_set_on_them() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        ensure!(one.backend().await? == two.backend().await?);
        one.firsts("SET my.setting = 'one'; CREATE TEMP TABLE heap ()").await?;
        ensure!(two.value("SHOW my.setting").await? == "one");
        ensure!(two.value("SELECT to_regclass('heap')").await? == "heap");
        two.firsts("BEGIN; SET LOCAL my.setting = 'two'; COMMIT").await?;
        ensure!(one.value("SHOW my.setting").await? == "one");
        Ok(())
    })
}

#[test]
fn the_reset_query_runs_after_each_transaction_if_told_to() -> Result<()> {
    let setup = Setup::transaction(1).set("server_reset_query_always", 1);
    setup.run(async |world| {
        let mut session = world.session().await?;
        session.firsts("SET my.setting = 'one'").await?;
        ensure!(session.value("SELECT current_setting('my.setting', true)").await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_transaction_keeps_its_server() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        one.firsts("BEGIN").await?;
        two.batch(Batch::new().query("SELECT 2")).await?;
        ensure!(stays_pending(two.message()).await, "a server in a transaction served another client");
        ensure!(one.value("SELECT 1").await? == "1");
        one.firsts("ROLLBACK").await?;
        two.until_ready().await?;
        Ok(())
    })
}

#[test]
fn statement_mode_serves_single_statements() -> Result<()> {
    Setup::new().set("pool_mode", "statement").set("default_pool_size", 1).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        ensure!(one.backend().await? == two.backend().await?);
        let answers = one.roundtrip(Batch::new().unnamed("SELECT 1").sync()).await?;
        ensure!(harness::pooler::raw::firsts(&answers) == ["1"]);
        Ok(())
    })
}

#[test]
fn statement_mode_refuses_transactions() -> Result<()> {
    const TEXT: &str = "transaction blocks not allowed in statement pooling mode";
    Setup::new().set("pool_mode", "statement").run(async |world| {
        world.allow(TEXT);
        for batch in [Batch::new().query("BEGIN"), Batch::new().unnamed("BEGIN").sync()] {
            let mut session = world.session().await?;
            session.batch(batch).await?;
            ensure!(session.last_words().await? == format!("FATAL: {TEXT}"));
        }
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        Ok(())
    })
}

#[test]
fn databases_and_users_have_modes_of_their_own() -> Result<()> {
    let setup = Setup::new().set("default_pool_size", 1).database("app", "pool_mode=transaction");
    let setup = setup.database("second", "").user("bob", "pool_mode=transaction");
    setup.run(async |world| {
        for (user, database, mode) in
            [("alice", "app", "transaction"), ("alice", "second", "session"), ("bob", "second", "transaction")]
        {
            let mut one = world.session_as(user, database).await?;
            one.value("SELECT 1").await?;
            ensure!(&world.pool(user, database).await?["pool_mode"] == mode, "{user} in {database}");
            let mut two = world.session_as(user, database).await?;
            two.batch(Batch::new().query("SELECT 2")).await?;
            ensure!(stays_pending(two.message()).await == (mode == "session"), "{user} in {database}");
        }
        Ok(())
    })
}

#[test]
fn notifications_reach_a_listening_session() -> Result<()> {
    Setup::new().run(async |world| {
        let mut listener = world.session().await?;
        listener.firsts("LISTEN news").await?;
        world.session().await?.firsts("NOTIFY news, 'hello'").await?;
        let message = listener.until(b'A').await?.pop();
        ensure!(message.is_some_and(|m| m.body.ends_with(b"news\0hello\0")));
        Ok(())
    })
}

#[test]
fn a_client_that_leaves_in_a_transaction_leaves_nothing_behind() -> Result<()> {
    for mode in ["session", "transaction"] {
        Setup::transaction(1).set("pool_mode", mode).run(async |world| {
            world.postgres.sql("CREATE TABLE heap (x int); GRANT ALL ON heap TO alice").await?;
            let mut one = world.session().await?;
            one.firsts("BEGIN; INSERT INTO heap VALUES (1); SET my.setting = 'dirty'").await?;
            let first = one.backend().await?;
            drop(one);
            let mut two = world.session().await?;
            ensure!(two.backend().await? != first, "a server in a transaction was used again");
            ensure!(two.value("SELECT count(*) FROM heap").await? == "0");
            ensure!(two.value("SELECT current_setting('my.setting', true)").await?.is_empty());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_client_that_leaves_during_a_query_frees_its_place() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut one = world.session().await?;
        one.batch(Batch::new().query("SELECT pg_sleep(600)")).await?;
        world
            .until("the query runs", async || {
                let count =
                    world.postgres.value("SELECT count(*) FROM pg_stat_activity WHERE query ~ 'sleep\\(6'").await?;
                Ok((count == "1").then_some(()))
            })
            .await?;
        drop(one);
        ensure!(world.session().await?.value("SELECT 2").await? == "2");
        Ok(())
    })
}

#[test]
fn a_new_server_runs_the_connect_query() -> Result<()> {
    Setup::new().database("app", "connect_query='SET my.setting = 42'").run(async |world| {
        ensure!(world.session().await?.value("SHOW my.setting").await? == "42");
        Ok(())
    })
}

#[test]
fn servers_are_used_in_turn_if_told_to() -> Result<()> {
    for (in_turn, expected) in [(0, 1), (1, 2)] {
        Setup::transaction(2).set("server_round_robin", in_turn).run(async |world| {
            let (mut one, mut two) = (world.session().await?, world.session().await?);
            one.firsts("BEGIN").await?;
            two.firsts("BEGIN").await?;
            one.firsts("COMMIT").await?;
            two.firsts("COMMIT").await?;
            idle_servers(world, 2).await?;
            let mut backends = Vec::new();
            for _ in 0..6 {
                backends.push(one.backend().await?);
            }
            backends.sort();
            backends.dedup();
            ensure!(backends.len() == expected, "server_round_robin = {in_turn}: {backends:?}");
            Ok(())
        })?;
    }
    Ok(())
}
