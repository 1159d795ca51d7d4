//! Servers that die or go away: what their clients are told, and how the pool recovers.

use anyhow::{Context, Result, ensure};
use harness::pooler::postgres::Stop;
use harness::pooler::raw::{Batch, Raw, error};
use harness::pooler::{Setup, World};

use super::{idle_servers, refusal};

/// What a client gets whose server went away without a word: found when reading from it, or when writing to it.
const LOST: [&str; 2] = ["FATAL: server conn crashed?", "FATAL: server connection closed"];

/// What PostgreSQL itself says to a connection that an administrator ends.
const TERMINATED: &str = "FATAL: terminating connection due to administrator command";

async fn terminate(world: &World, condition: &str) -> Result<()> {
    let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'alice' AND {condition}");
    world.until("the server is there", async || Ok((!world.postgres.sql(&sql).await?.is_empty()).then_some(()))).await
}

/// Everything up to the end, and the first error in it.
async fn end(session: &mut Raw) -> Result<String> {
    session.last_words().await
}

#[test]
fn a_server_that_dies_in_a_query_is_told_to_its_client() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut session = world.session().await?;
        session.batch(Batch::new().query("SELECT pg_sleep(600)")).await?;
        world.allow("terminating connection");
        world.allow("server conn");
        terminate(world, "query ~ 'sleep'").await?;
        ensure!(end(&mut session).await? == TERMINATED);
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        Ok(())
    })
}

#[test]
fn a_server_that_dies_in_a_transaction_is_told_to_its_client() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut session = world.session().await?;
        session.firsts("BEGIN").await?;
        world.allow("terminating connection");
        world.allow("server conn");
        terminate(world, "state = 'idle in transaction'").await?;
        ensure!(end(&mut session).await? == TERMINATED);
        Ok(())
    })
}

#[test]
fn a_server_that_dies_between_transactions_disturbs_nobody() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut session = world.session().await?;
        let first = session.backend().await?;
        idle_servers(world, 1).await?;
        world.allow("got packet 'E' from server when not linked");
        terminate(world, "true").await?;
        idle_servers(world, 0).await?;
        ensure!(session.backend().await? != first);
        Ok(())
    })
}

#[test]
fn a_server_that_dies_in_a_copy_is_told_to_its_client() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        world.allow("terminating connection");
        world.allow("server conn");
        world.postgres.sql("CREATE TABLE heap (x text); GRANT ALL ON heap TO alice").await?;
        let mut session = world.session().await?;
        session.batch(Batch::new().query("COPY heap FROM STDIN").copy_data(b"one\n")).await?;
        session.until(b'G').await?;
        terminate(world, "query ~ 'COPY'").await?;
        ensure!(end(&mut session).await? == TERMINATED);
        let mut session = world.session().await?;
        let out = "COPY (SELECT repeat('x', 1000), generate_series(1, 100000000)) TO STDOUT";
        session.batch(Batch::new().query(out)).await?;
        session.until(b'd').await?;
        terminate(world, "query ~ 'COPY'").await?;
        // An error can't be told when the server died in the middle of a message.
        match session.until_closed().await {
            Ok(answers) => ensure!(error(&answers).is_some_and(|t| t == TERMINATED || LOST.contains(&&*t)), "no error"),
            Err(e) => ensure!(e.to_string().starts_with("half a message"), "{e:#}"),
        }
        ensure!(world.session().await?.value("SELECT count(*) FROM heap").await? == "0");
        Ok(())
    })
}

#[test]
fn a_crash_of_postgresql_cuts_what_runs_and_only_that() -> Result<()> {
    Setup::transaction(2).run(async |world| {
        let (mut idle, mut busy) = (world.session().await?, world.session().await?);
        idle.value("SELECT 1").await?;
        busy.batch(Batch::new().query("BEGIN").query("SELECT pg_sleep(600)")).await?;
        busy.until_ready().await?;
        for text in [
            "server conn",
            "terminating connection",
            "connect failed",
            "server login failed",
            "shutting down",
            "starting up",
            "closing because",
        ] {
            world.allow(text);
        }
        world.postgres.stop(Stop::Immediate)?;
        let text = end(&mut busy).await?;
        ensure!(LOST.contains(&&*text) || text.contains("terminating connection"), "{text}");
        world.postgres.start().await?;
        ensure!(idle.value("SELECT 2").await? == "2", "a client without a transaction was cut");
        Ok(())
    })
}

#[test]
fn clients_wait_while_postgresql_restarts() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut busy = world.session().await?;
        busy.value("BEGIN; SELECT 1").await?;
        let mut sessions = Vec::new();
        for _ in 0..5 {
            let mut session = world.session().await?;
            session.batch(Batch::new().query("SELECT 2")).await?;
            sessions.push(session);
        }
        super::waiting_clients(world, 5).await?;
        for text in ["server conn crashed?", "terminating connection", "connect failed", "login failed"] {
            world.allow(text);
        }
        world.postgres.stop(Stop::Fast)?;
        end(&mut busy).await?;
        world.logged("connect failed").await?;
        super::waiting_clients(world, 5).await?;
        world.postgres.start().await?;
        for session in &mut sessions {
            let answers = session.until_ready().await?;
            ensure!(harness::pooler::raw::firsts(&answers) == ["2"], "{answers:?}");
        }
        Ok(())
    })
}

#[test]
fn a_server_that_can_t_be_reached_is_told_after_a_while() -> Result<()> {
    let setup = Setup::new().database("app", "host={pooler} port=7000").set("query_wait_timeout", 2);
    setup.run(async |world| {
        world.allow("connect failed");
        world.allow("query_wait_timeout");
        world.allow("server login has been failing");
        let error = refusal(world.session().await)?;
        ensure!(error.starts_with("FATAL: "), "{error}");
        world.logged("connect failed").await
    })
}

#[test]
fn a_login_that_has_been_failing_is_told_at_once() -> Result<()> {
    let setup = Setup::transaction(1).database("app", "user=other password=other-secret");
    setup.set("server_login_retry", 600).pgbouncer_at_least(1, 24).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        one.value("SELECT 1").await?;
        for text in ["password authentication failed", "server login has been failing", "server when not linked"] {
            world.allow(text);
        }
        world.postgres.sql("ALTER ROLE other PASSWORD 'changed'").await?;
        world.postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'other'").await?;
        world.logged("server conn crashed?").await?;
        let refused = "password authentication failed for user \"other\"";
        one.batch(Batch::new().query("SELECT 1")).await?;
        ensure!(one.last_words().await? == format!("FATAL: {refused}"));
        two.batch(Batch::new().query("SELECT 2")).await?;
        let text = two.last_words().await?;
        let expected = format!("FATAL: server login has been failing, cached error: {refused} (server_login_retry)");
        ensure!(text == expected, "{text}");
        Ok(())
    })
}

#[test]
fn a_full_postgresql_is_told_in_its_words() -> Result<()> {
    Setup::transaction(5).postgres("max_connections", "6").postgres("superuser_reserved_connections", "3").run(
        async |world| {
            world.allow("remaining connection slots");
            world.allow("too many clients");
            world.allow("server login has been failing");
            let mut sessions = Vec::new();
            for _ in 0..3 {
                let mut session = world.session().await?;
                session.firsts("BEGIN").await?;
                sessions.push(session);
            }
            // As in pgbouncer, a login that fails while others serve keeps the client waiting.
            let mut next = world.session().await?;
            next.batch(Batch::new().query("SELECT 4")).await?;
            super::waiting_clients(world, 1).await?;
            sessions.pop().context("a session")?.firsts("COMMIT").await?;
            let answers = next.until_ready().await?;
            ensure!(error(&answers).is_none(), "{answers:?}");
            Ok(())
        },
    )
}

#[test]
fn hosts_in_a_list_are_used_in_turn() -> Result<()> {
    let setup = Setup::transaction(4).database("app", "host={pg},{sockets} port=5432").pgbouncer_at_least(1, 24);
    setup.run(async |world| {
        let mut sessions = Vec::new();
        for _ in 0..4 {
            let mut session = world.session().await?;
            session.firsts("BEGIN").await?;
            sessions.push(session);
        }
        let by = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice' AND client_addr IS";
        ensure!(world.postgres.value(&format!("{by} NULL")).await? == "2");
        ensure!(world.postgres.value(&format!("{by} NOT NULL")).await? == "2");
        Ok(())
    })
}

#[test]
fn a_server_is_reached_by_its_socket() -> Result<()> {
    Setup::new().database("app", "host={sockets} port=5432").run(async |world| {
        ensure!(world.session().await?.value("SELECT inet_server_addr() IS NULL").await? == "t");
        Ok(())
    })
}
