//! Drivers of several languages in transaction mode, with more connections than servers. Each case is a function of a
//! script in tests/e2e/clients.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use harness::pooler::{Peer, Setup};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Three servers for each test's eight or ten connections.
fn few_servers() -> Setup {
    Setup::transaction(3).set("max_prepared_statements", 10).pgbouncer_at_least(1, 21)
}

fn passes(setup: Setup, script_name: &str, name: &str) -> Result<()> {
    setup.run(async |world| world.script(&script(script_name), &[name]).await?.ok().map(drop))
}

/// A test for each case of a script.
macro_rules! cases {
    ($script:literal: $($name:ident => $case:literal),* $(,)?) => {
        $(#[test]
        fn $name() -> Result<()> {
            passes(few_servers(), $script, $case)
        })*
    };
}

cases! { "with_psycopg.py":
    psycopg_runs_prepared_statements_on_several_servers => "prepared",
    psycopg_runs_more_statements_than_a_server_keeps => "many_statements",
    psycopg_pipelines_queries => "pipeline",
    psycopg_pipelines_errors => "pipeline_errors",
    psycopg_cancels_its_own_query => "cancel",
    psycopg_copies => "copy",
    psycopg_sends_and_receives_binary => "binary",
    psycopg_fetches_in_pieces => "server_cursor",
    psycopg_sees_the_state_of_its_session => "two_phase",
}

cases! { "with_asyncpg.py":
    asyncpg_runs_prepared_statements_on_several_servers => "prepared",
    asyncpg_runs_transactions_of_many_tasks => "transactions",
    asyncpg_times_out_and_goes_on => "timeouts",
    asyncpg_goes_on_after_errors => "errors",
    asyncpg_fetches_in_pieces => "cursor",
    asyncpg_copies => "copy",
}

cases! { "with_pg.js":
    node_runs_prepared_statements_on_several_servers => "prepared",
    node_gives_the_same_name_to_different_statements => "names",
    node_runs_transactions_of_a_pool => "transactions",
    node_goes_on_after_errors => "errors",
}

#[test]
fn asyncpg_hears_notifications_in_session_mode() -> Result<()> {
    passes(Setup::new(), "with_asyncpg.py", "listen")
}

#[test]
fn drivers_read_the_console() -> Result<()> {
    // asyncpg asks for a session's parameters that the console has no use for.
    Setup::new().set("ignore_startup_parameters", "extra_float_digits").run(async |world| {
        let extended = if world.peer == Peer::Pgherd { "extended" } else { "simple" };
        for (script_name, arguments) in [
            ("with_psycopg.py", &["console"][..]),
            ("with_asyncpg.py", &["console", extended]),
            ("with_pg.js", &["console"]),
        ] {
            let output = world.script_at_console(&script(script_name), arguments).await?;
            output.ok().map_err(|e| e.context(script_name))?;
        }
        Ok(())
    })
}

#[test]
fn tokio_postgres_runs_prepared_statements_on_several_servers() -> Result<()> {
    few_servers().run(async |world| {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..8_i32 {
            let client = world.client().await?;
            tasks.spawn(async move {
                let statement = client.prepare("SELECT $1::int + $2::int").await?;
                for turn in 0..30 {
                    let row = client.query_one(&statement, &[&n, &turn]).await?;
                    ensure!(row.get::<_, i32>(0) == n + turn);
                    // Its name is closed when this is dropped.
                    let sql = format!("SELECT {turn}, $1::int");
                    ensure!(client.query_one(&sql, &[&n]).await?.get::<_, i32>(1) == n);
                }
                Ok(())
            });
        }
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        Ok(())
    })
}

#[test]
fn tokio_postgres_pipelines_queries() -> Result<()> {
    few_servers().run(async |world| {
        let client = world.client().await?;
        let (a, b, c) = tokio::try_join!(
            client.query_one("SELECT 'a', pg_sleep(0.1)", &[]),
            client.query_one("SELECT 'b'", &[]),
            client.simple_query("SELECT 'c'"),
        )?;
        ensure!(a.get::<_, &str>(0) == "a" && b.get::<_, &str>(0) == "b" && !c.is_empty());
        Ok(())
    })
}

#[test]
fn pgbench_runs_in_transaction_mode_in_every_protocol() -> Result<()> {
    few_servers().run(async |world| {
        world.pgbench(&["-i", "-q", "-s", "1"]).await?.ok()?;
        for protocol in ["simple", "extended", "prepared"] {
            // A thread each: pgbench waits for a preparation, and its other clients might hold all servers.
            let out = world.pgbench(&["-n", "-c", "10", "-j", "10", "-t", "50", "-M", protocol]).await?.ok()?;
            ensure!(out.contains("number of transactions actually processed: 500/500"), "{protocol}: {out}");
        }
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)";
        ensure!(world.postgres.value(sums).await? == "t");
        Ok(())
    })
}
