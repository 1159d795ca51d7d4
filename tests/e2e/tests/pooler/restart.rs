//! Online restart: a new process takes over from the old one while clients work. pgbouncer hands its clients over as well;
//! with pgherd those that were there finish on the old process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use harness::pooler::process::Running;
use harness::pooler::{Setup, World};
use harness::process::Identity;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls};

/// Starts a pooler with -R beside the one that runs, which is returned.
async fn take_over(world: &World) -> Result<Running> {
    let old = world.take_pooler()?;
    world.allow("Online restart is deprecated");
    world.start_pooler(&["-R"]).await?;
    Ok(old)
}

async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await.context("connect")?;
    tokio::spawn(connection);
    Ok(client)
}

/// Works until told to stop, with a session for each query or one for all; returns how often.
async fn work(config: Config, short: bool, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut count = 0;
    let mut client = connect(&config).await?;
    while !stop.load(Ordering::Relaxed) {
        if short {
            client = connect(&config).await?;
        }
        client.simple_query("SELECT 1").await.context("run a query")?;
        count += 1;
        tokio::task::yield_now().await;
    }
    Ok(count)
}

/// pgbouncer now and then loses clients that log in or wait for a server at that moment.
#[test]
fn clients_at_work_notice_nothing() -> Result<()> {
    for short in [true, false] {
        Setup::transaction(4).pgherd_only().run(async |world| {
            let stop = Arc::new(AtomicBool::new(false));
            let mut tasks = JoinSet::new();
            for _ in 0..8 {
                tasks.spawn(work(world.config("alice", "app"), short, Arc::clone(&stop)));
            }
            let mut old = Vec::new();
            for _ in 0..3 {
                world.session().await?.value("SELECT 1").await?;
                old.push(take_over(world).await?);
                world.session().await?.value("SELECT 1").await?;
            }
            stop.store(true, Ordering::Relaxed);
            while let Some(result) = tasks.join_next().await {
                ensure!(result?? > 0);
            }
            for mut process in old {
                let status = process.exit().await?;
                ensure!(status.code() == Some(0), "an old process ended with {status}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn idle_clients_stay_connected() -> Result<()> {
    Setup::transaction(2).run(async |world| {
        let mut sessions = Vec::new();
        for _ in 0..20 {
            sessions.push(world.session().await?);
        }
        let mut old = take_over(world).await?;
        for session in &mut sessions {
            ensure!(session.value("SELECT 1").await? == "1");
        }
        drop(sessions);
        ensure!(old.exit().await?.code() == Some(0));
        Ok(())
    })
}

#[test]
fn a_transaction_under_way_is_finished() -> Result<()> {
    Setup::transaction(2).run(async |world| {
        let mut session = world.session().await?;
        session.firsts("BEGIN").await?;
        let backend = session.backend().await?;
        let mut old = take_over(world).await?;
        ensure!(session.backend().await? == backend, "the transaction moved to another server");
        session.firsts("COMMIT").await?;
        drop(session);
        ensure!(old.exit().await?.code() == Some(0));
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        Ok(())
    })
}

#[test]
fn the_new_process_has_the_pid_file_the_sockets_and_the_settings() -> Result<()> {
    Setup::transaction(2).run(async |world| {
        world.change(|s| s.set("default_pool_size", 7))?;
        let mut old = take_over(world).await?;
        ensure!(old.exit().await?.code() == Some(0));
        let file = std::fs::read_to_string(world.directory().join("pooler/pooler.pid"))?;
        ensure!(file.trim() == world.pid()?.to_string(), "the pid file holds {file}");
        let mut raw = world.raw_unix().await?;
        raw.log_in(&[("user", "alice"), ("database", "app")], &harness::pooler::password("alice")).await?;
        let config = world.console("SHOW CONFIG").await?;
        ensure!(config.iter().any(|r| &r["key"] == "default_pool_size" && &r["value"] == "7"));
        Ok(())
    })
}

/// What an upgrade of the package does: the program's file is replaced, and a reload goes over to the new one.
#[test]
fn a_reload_goes_over_to_a_program_that_was_replaced() -> Result<()> {
    Setup::transaction(2).without_pooler().pgherd_only().run(async |world| {
        let (program, ini) = (world.directory().join("copy"), world.ini());
        let pid_file = world.directory().join("pooler/pooler.pid");
        let pid = || -> Option<i32> { std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok() };
        let mut old = world.spawn_copy(&program, &[&ini.to_string_lossy()])?;
        world.until("the pooler is up", async || Ok((pid() == Some(old.identity.pid)).then_some(()))).await?;
        world.logged("process up").await?;
        let mut session = world.session().await?;
        session.firsts("BEGIN").await?;

        ensure!(old.identity.signal(Signal::HUP));
        world.logged("re-reading config").await?;
        ensure!(pid() == Some(old.identity.pid), "a reload alone has replaced the process");

        world.copy_program(&program)?;
        ensure!(old.identity.signal(Signal::HUP));
        world.until("another process serves", async || Ok(pid().filter(|p| *p != old.identity.pid))).await?;
        session.firsts("COMMIT").await?;
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        drop(session);
        ensure!(old.exit().await?.code() == Some(0));
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        let new = pid().and_then(Identity::of).context("the new process has ended")?;
        ensure!(new.signal(Signal::QUIT) && new.wait_gone(std::time::Duration::from_secs(10)));
        Ok(())
    })
}

#[test]
fn without_an_old_process_it_starts_as_usual() -> Result<()> {
    Setup::new().without_pooler().run(async |world| {
        world.allow("Online restart is deprecated");
        world.start_pooler(&["-R"]).await?;
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        Ok(())
    })
}

/// The other way to restart: two processes on one port, of which the old one stops listening.
#[test]
fn poolers_share_a_port_if_told_to() -> Result<()> {
    Setup::transaction(2).set("so_reuseport", 1).pgbouncer_at_least(1, 23).run(async |world| {
        let mut session = world.session().await?;
        session.value("SELECT 1").await?;
        let mut old = world.take_pooler()?;
        world.change(|s| s.set("unix_socket_dir", "").set("pidfile", "{dir}/pooler/second.pid"))?;
        world.start_pooler(&[]).await?;
        ensure!(old.identity.signal(Signal::TERM));
        world.logged("SIGTERM").await?;
        for _ in 0..50 {
            ensure!(world.session().await?.value("SELECT 2").await? == "2");
        }
        ensure!(session.value("SELECT 1").await? == "1", "the old process has dropped its client");
        drop(session);
        ensure!(old.exit().await?.code() == Some(0));
        Ok(())
    })
}
