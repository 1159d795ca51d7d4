//! Everything that ends by time: who is cut, with what text, and what goes on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::pooler::Setup;
use harness::pooler::raw::Batch;

use super::{idle_servers, refusal};

const SERVERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'";

#[test]
fn an_idle_transaction_is_ended() -> Result<()> {
    Setup::transaction(1).set("idle_transaction_timeout", 1).run(async |world| {
        let mut session = world.session().await?;
        session.firsts("BEGIN").await?;
        world.allow("idle transaction timeout");
        let text = session.last_words().await?;
        ensure!(text == "FATAL: idle transaction timeout", "{text}");
        ensure!(world.session().await?.value("SELECT 1").await? == "1", "its server is still taken");
        Ok(())
    })
}

#[test]
fn a_query_that_takes_too_long_is_ended() -> Result<()> {
    Setup::transaction(1).set("query_timeout", 1).run(async |world| {
        let mut session = world.session().await?;
        world.allow("query timeout");
        session.batch(Batch::new().query("SELECT pg_sleep(600)")).await?;
        let text = session.last_words().await?;
        ensure!(text == "FATAL: query timeout", "{text}");
        ensure!(world.session().await?.value("SELECT 1").await? == "1", "its server is still taken");
        Ok(())
    })
}

#[test]
fn a_transaction_that_takes_too_long_is_ended() -> Result<()> {
    Setup::transaction(1).set("transaction_timeout", 1).pgbouncer_at_least(1, 25).run(async |world| {
        let mut session = world.session().await?;
        session.firsts("BEGIN").await?;
        world.allow("transaction timeout");
        // Busy, so that it isn't the idle time that counts.
        let text = loop {
            match session.value("SELECT pg_sleep(0.1)").await {
                Ok(_) => {}
                Err(e) => break format!("{e:#}"),
            }
        };
        ensure!(text.contains("transaction timeout"), "{text}");
        Ok(())
    })
}

#[test]
fn an_idle_client_is_cut() -> Result<()> {
    Setup::transaction(1).set("client_idle_timeout", 1).run(async |world| {
        let mut session = world.session().await?;
        session.value("SELECT 1").await?;
        world.allow("client_idle_timeout");
        let text = session.last_words().await?;
        ensure!(text == "FATAL: client_idle_timeout", "{text}");
        Ok(())
    })
}

#[test]
fn an_idle_server_is_closed() -> Result<()> {
    Setup::transaction(1).set("server_idle_timeout", 1).run(async |world| {
        let mut session = world.session().await?;
        let first = session.backend().await?;
        world
            .until("the server is closed", async || Ok((world.postgres.value(SERVERS).await? == "0").then_some(())))
            .await?;
        world.logged("server idle timeout").await?;
        ensure!(session.backend().await? != first);
        Ok(())
    })
}

#[test]
fn an_old_server_is_closed_when_it_is_released() -> Result<()> {
    Setup::transaction(1).set("server_lifetime", 1).run(async |world| {
        let mut session = world.session().await?;
        let first = session.backend().await?;
        let begun = Instant::now();
        session.firsts("BEGIN").await?;
        while begun.elapsed() < Duration::from_millis(1500) {
            ensure!(session.value("SELECT pg_backend_pid(), pg_sleep(0.1)").await? == first);
        }
        session.firsts("COMMIT").await?;
        world.logged("server lifetime over").await?;
        ensure!(session.backend().await? != first);
        Ok(())
    })
}

#[test]
fn a_client_that_doesn_t_log_in_is_cut() -> Result<()> {
    Setup::new().set("client_login_timeout", 1).run(async |world| {
        world.allow("client_login_timeout");
        // Nothing at all, and a byte now and then.
        let mut silent = world.raw().await?;
        let mut slow = world.raw().await?;
        let text = silent.last_words().await?;
        ensure!(text == "FATAL: client_login_timeout", "{text}");
        let packet = harness::pooler::raw::startup(196_608, &harness::pooler::raw::parameters(&[("user", "alice")]));
        for byte in packet {
            if slow.send(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        slow.until_closed().await?;
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        Ok(())
    })
}

#[test]
fn a_client_that_never_sends_its_password_is_cut() -> Result<()> {
    Setup::new().set("client_login_timeout", 1).run(async |world| {
        world.allow("client_login_timeout");
        let mut raw = world.raw().await?;
        let pairs = [("user", "alice"), ("database", "app")];
        raw.send(&harness::pooler::raw::startup(196_608, &harness::pooler::raw::parameters(&pairs))).await?;
        raw.until(b'R').await?;
        ensure!(raw.last_words().await? == "FATAL: client_login_timeout");
        Ok(())
    })
}

#[test]
fn a_server_that_doesn_t_answer_a_login_is_given_up() -> Result<()> {
    let setup = Setup::new().database("app", "host={pooler} port=7000").set("server_connect_timeout", 1);
    setup.set("query_wait_timeout", 3).run(async |world| {
        // Accepts connections by the kernel only.
        let _listener = std::net::TcpListener::bind((world.address, 7000))?;
        world.allow("query_wait_timeout");
        world.allow("connect timeout");
        // What is under way when the listener goes, at the end.
        world.allow("connect failed");
        refusal(world.session().await)?;
        world.logged("connect timeout").await
    })
}

#[test]
fn a_pool_that_nobody_uses_is_shut() -> Result<()> {
    Setup::transaction(2).set("server_idle_timeout", 1).set("min_pool_size", 1).run(async |world| {
        let mut session = world.session().await?;
        let mut other = world.session().await?;
        other.firsts("BEGIN").await?;
        session.value("SELECT 1").await?;
        other.firsts("COMMIT").await?;
        idle_servers(world, 1).await
    })
}

#[test]
fn users_have_time_outs_of_their_own() -> Result<()> {
    let setup = Setup::transaction(2).user("alice", "query_timeout=1").user("bob", "idle_transaction_timeout=1");
    setup.pgbouncer_at_least(1, 24).run(async |world| {
        world.allow("timeout");
        let (mut alice, mut bob) = (world.session().await?, world.session_as("bob", "app").await?);
        alice.batch(Batch::new().query("SELECT pg_sleep(600)")).await?;
        bob.value("SELECT pg_sleep(1.5)").await?;
        bob.firsts("BEGIN").await?;
        ensure!(alice.last_words().await? == "FATAL: query timeout");
        ensure!(bob.last_words().await? == "FATAL: idle transaction timeout");
        Ok(())
    })
}
