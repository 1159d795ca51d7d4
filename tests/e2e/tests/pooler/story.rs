//! A day with the pooler as its user lives it, with the very ini of the site.

use anyhow::{Result, ensure};
use harness::pooler::{Setup, World};
use harness::programs::is_root;

/// The file that a site runs today, with addresses and paths of this test only.
fn seed() -> Setup {
    // The directory of the socket is the program's choice in the file; here every test has its own.
    let own =
        format!("unix_socket_dir = {{dir}}/pooler\n{}logfile =", if is_root() { "user = postgres\n" } else { "" });
    let ini = include_str!("../../../harness/fixtures/seed/pgbouncer.ini")
        .replace("host=127.0.0.1", "host={pg}")
        .replace("listen_addr = *", "listen_addr = {pooler}")
        .replace("/var/log/pgbouncer/", "{dir}/pooler/")
        .replace("/var/run/pgbouncer/", "{dir}/pooler/")
        .replace("/etc/pgbouncer/", "{dir}/")
        .replace("pgbouncer.log", "pooler.log")
        .replace("logfile =", &own);
    let line = |user: &str| format!("\"{user}\" \"{}\"\n", harness::pooler::md5_secret(user));
    Setup::new().ini(ini).userlist(["postgres", "stats", "alice"].map(line).concat())
}

/// psql as an operator types it: no flags but the user's.
async fn psql(world: &World, user: &str, database: &str, sql: &str) -> Result<harness::pooler::clients::Output> {
    world.psql(&format!("user={user} dbname={database}"), &["-P", "tuples_only=off", "-c", sql]).await
}

#[test]
fn a_table_is_made_and_read_through_the_pooler() -> Result<()> {
    seed().run(async |world| {
        psql(world, "postgres", "postgres", "CREATE DATABASE otus").await?.ok()?;
        psql(world, "postgres", "otus", "CREATE TABLE homework (id serial, word varchar)").await?.ok()?;
        psql(world, "postgres", "otus", "INSERT INTO homework (word) VALUES ('test_repl1')").await?.ok()?;
        let out = psql(world, "postgres", "otus", "SELECT * FROM homework").await?.ok()?;
        ensure!(out == "id|word\n1|test_repl1\n(1 row)\n", "{out}");
        Ok(())
    })
}

#[test]
fn pools_are_looked_at_by_the_administrator_and_the_watcher() -> Result<()> {
    seed().run(async |world| {
        let mut session = world.session().await?;
        session.value("SELECT 1").await?;
        for user in ["postgres", "stats"] {
            let out = psql(world, user, "pgbouncer", "show pools").await?.ok()?;
            ensure!(out.lines().next().is_some_and(|l| l.starts_with("database|user|cl_active|cl_waiting|")), "{out}");
            ensure!(out.lines().any(|l| l.starts_with("app|alice|1|0|")), "{out}");
            ensure!(out.lines().any(|l| l.starts_with("pgbouncer|pgbouncer|1|0|")), "{out}");
        }
        world.allow("admin access needed");
        let error = psql(world, "stats", "pgbouncer", "pause").await?.refused()?;
        ensure!(error.contains("ERROR:  admin access needed"), "{error}");
        Ok(())
    })
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_refused() -> Result<()> {
    seed().run(async |world| {
        world.allow("password authentication failed");
        for target in ["user=alice password=wrong dbname=app", "user=nobody dbname=app"] {
            let error = world.psql(target, &["-c", "SELECT 1"]).await?.refused()?;
            ensure!(error.contains("FATAL:  password authentication failed"), "{error}");
        }
        Ok(())
    })
}

#[test]
fn a_benchmark_runs_in_every_protocol() -> Result<()> {
    seed().run(async |world| {
        world.pgbench(&["-i", "-q", "-s", "1", "-I", "dtgvp"]).await?.ok()?;
        for protocol in ["simple", "extended", "prepared"] {
            let out = world.pgbench(&["-S", "-n", "-c", "8", "-t", "50", "-M", protocol]).await?.ok()?;
            ensure!(out.contains("number of transactions actually processed: 400/400"), "{out}");
            let out = world.pgbench(&["-n", "-c", "4", "-t", "10", "-C", "-M", protocol]).await?.ok()?;
            ensure!(out.contains("number of transactions actually processed: 40/40"), "{out}");
        }
        Ok(())
    })
}
