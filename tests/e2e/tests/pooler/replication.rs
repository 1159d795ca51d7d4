//! Replication connections, each of which gets a server of its own.

use anyhow::{Context, Result, ensure};
use harness::pooler::Setup;
use harness::pooler::raw::Batch;

use super::stays_pending;

#[test]
fn replication_commands_work_in_every_mode() -> Result<()> {
    for mode in ["session", "transaction", "statement"] {
        Setup::new().set("pool_mode", mode).pgbouncer_at_least(1, 23).run(async |world| {
            let target = "user=replica dbname=app replication=database";
            let out = world.psql(target, &["-c", "IDENTIFY_SYSTEM"]).await?.ok()?;
            ensure!(out.trim_end().ends_with("|app"), "{out}");
            let out = world.psql("user=replica dbname=app replication=true", &["-c", "IDENTIFY_SYSTEM"]).await?.ok()?;
            ensure!(out.trim_end().ends_with('|'), "{out}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_base_backup_is_taken() -> Result<()> {
    Setup::transaction(2).pgbouncer_at_least(1, 23).run(async |world| {
        let target = world.directory().join("backup");
        let target = target.to_string_lossy();
        let arguments = ["-D", &*target, "-X", "stream", "-c", "fast"];
        world.postgres_program("pg_basebackup", "replica", &arguments).await?.ok()?;
        world.postgres_program("pg_verifybackup", "replica", &[&*target]).await?.ok()?;
        Ok(())
    })
}

#[test]
fn write_ahead_log_is_received() -> Result<()> {
    Setup::transaction(2).pgbouncer_at_least(1, 23).run(async |world| {
        let directory = world.directory().join("wal");
        std::fs::create_dir(&directory)?;
        let position = world.postgres.value("SELECT pg_switch_wal()").await?;
        let end = world.postgres.value("CREATE TABLE heap (); SELECT pg_current_wal_flush_lsn()").await?;
        let arguments = ["-D", &*directory.to_string_lossy(), "--endpos", &end, "--no-loop"];
        world.postgres_program("pg_receivewal", "replica", &arguments).await?.ok()?;
        let count = std::fs::read_dir(&directory)?.count();
        ensure!(count > 0, "nothing was received after {position}");
        Ok(())
    })
}

#[test]
fn replication_connections_count_in_the_pool_and_are_closed_at_their_end() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 23).run(async |world| {
        let mut raw = world.raw().await?;
        let pairs = [("user", "replica"), ("database", "app"), ("replication", "database")];
        raw.log_in(&pairs, &harness::pooler::password("replica")).await?;
        raw.firsts("IDENTIFY_SYSTEM").await?;
        let clients = world.console("SHOW CLIENTS").await?;
        let client = clients.iter().find(|r| &r["user"] == "replica").context("the client is not shown")?;
        ensure!(&client["replication"] == "logical", "{client:?}");
        let walsenders = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
        ensure!(world.postgres.value(walsenders).await? == "1");
        let mut other = world.session_as("replica", "app").await?;
        other.batch(Batch::new().query("SELECT 1")).await?;
        ensure!(stays_pending(other.message()).await, "the pool has a place for another server");
        raw.batch(Batch::new().terminate()).await?;
        other.until_ready().await?;
        world
            .until("the server is closed", async || Ok((world.postgres.value(walsenders).await? == "0").then_some(())))
            .await
    })
}
