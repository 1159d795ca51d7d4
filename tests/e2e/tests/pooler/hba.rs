//! Logins by the HBA file and by the Unix socket's peer.

use anyhow::{Context, Result, ensure};
use harness::pooler::{Setup, World, password};
use harness::programs;

use super::refusal;

/// What a client gets that no rule is for.
const NO_RULE: &str = "FATAL: no authentication method is found";

fn by_rules(rules: &str) -> Setup {
    let setup = Setup::new().set("auth_type", "hba").set("auth_hba_file", "{dir}/hba.conf");
    let setup = setup.pgbouncer_at_least(1, 24);
    setup.file("hba.conf", format!("{rules}\nhost pgbouncer postgres 127.0.0.0/8 md5\n"))
}

async fn log_in(world: &World, user: &str, database: &str, password: &str) -> Result<()> {
    world.raw().await?.log_in(&[("user", user), ("database", database)], password).await
}

/// The name of the user that this process runs as.
fn own_name() -> Result<String> {
    let output = std::process::Command::new("id").arg("-un").output().context("ask for the user's name")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn the_first_rule_that_matches_decides() -> Result<()> {
    let rules = "host app alice 127.0.0.0/8 trust\n\
        host app bob 127.0.0.0/8 reject\n\
        host second alice,other 127.0.0.1/32 md5\n\
        host second bob 127.0.0.0 255.0.0.0 scram-sha-256\n\
        host second replica 127.0.0.0/8 password\n\
        host all stats 10.0.0.0/8 trust\n";
    by_rules(rules).run(async |world| {
        world.allow("login rejected");
        world.allow("authentication failed");
        world.allow("no authentication method is found");
        for (user, database, word, text) in [
            ("alice", "app", "wrong", None),
            ("bob", "app", "bob-secret", Some("FATAL: login rejected")),
            ("alice", "second", "alice-secret", None),
            ("alice", "second", "wrong", Some("FATAL: password authentication failed")),
            ("other", "second", "other-secret", None),
            ("bob", "second", "bob-secret", None),
            ("bob", "second", "wrong", Some("FATAL: SASL authentication failed")),
            ("replica", "second", "replica-secret", None),
            ("stats", "app", "stats-secret", Some(NO_RULE)),
        ] {
            let result = log_in(world, user, database, word).await.map_err(|e| format!("{e:#}"));
            ensure!(result.as_ref().err().map(String::as_str) == text, "{user} in {database}: {result:?}");
        }
        Ok(())
    })
}

#[test]
fn rules_for_the_socket_don_t_count_for_tcp() -> Result<()> {
    by_rules("local all all trust\nhost all bob 127.0.0.0/8 md5\n").run(async |world| {
        let mut raw = world.raw_unix().await?;
        raw.log_in(&[("user", "alice"), ("database", "app")], "wrong").await?;
        world.allow("no authentication method is found");
        let error = refusal(log_in(world, "alice", "app", &password("alice")).await)?;
        ensure!(error == NO_RULE, "{error}");
        log_in(world, "bob", "app", &password("bob")).await
    })
}

#[test]
fn a_reload_reads_the_rules_again() -> Result<()> {
    by_rules("host all alice 127.0.0.0/8 trust\n").run(async |world| {
        log_in(world, "alice", "app", "wrong").await?;
        let rules = "host all alice 127.0.0.0/8 reject\nhost pgbouncer postgres 127.0.0.0/8 md5\n";
        world.change(|s| s.file("hba.conf", rules))?;
        world.console("RELOAD").await?;
        world.allow("login rejected");
        refusal(log_in(world, "alice", "app", "wrong").await)?;
        Ok(())
    })
}

/// The console's administrators get in by the socket too: with `peer`, the rules' map names them.
#[test]
fn a_peer_on_the_socket_is_known_by_its_user() -> Result<()> {
    let name = own_name()?;
    let setup = by_rules("local all all peer map=mine\n").set("auth_ident_file", "{dir}/ident.conf");
    setup.file("ident.conf", format!("mine {name} alice\n")).pgbouncer_at_least(1, 23).run(async |world| {
        let mut raw = world.raw_unix().await?;
        raw.log_in(&[("user", "alice"), ("database", "app")], "wrong").await?;
        ensure!(raw.value("SELECT current_user").await? == "alice");
        world.allow("unix socket login rejected");
        world.allow("ident map mine cannot be matched");
        let mut raw = world.raw_unix().await?;
        let error = refusal(raw.log_in(&[("user", "bob"), ("database", "app")], "bob-secret").await)?;
        ensure!(error == "FATAL: unix socket login rejected", "{error}");
        Ok(())
    })
}

#[test]
fn psql_comes_in_by_the_socket() -> Result<()> {
    Setup::new().run(async |world| {
        let target = format!("user=alice dbname=app host={}", world.socket_dir().display());
        let out = world.psql(&target, &["-c", "SELECT current_user"]).await?.ok()?;
        ensure!(out.trim() == "alice");
        Ok(())
    })
}

/// Whoever runs the pooler administers it without a password.
#[test]
fn the_poolers_own_user_reaches_the_console_by_the_socket() -> Result<()> {
    Setup::new().pgbouncer_at_least(1, 24).run(async |world| {
        let target = format!("user=pgbouncer dbname=pgbouncer host={}", world.socket_dir().display());
        let mut command = world.psql_command(&target)?;
        if programs::is_root() {
            let user = std::process::Command::new("id").args(["-u", "postgres"]).output()?;
            command.uid(String::from_utf8(user.stdout)?.trim().parse()?);
        }
        command.env("PGPASSWORD", "wrong").args(["-c", "SHOW VERSION"]);
        let out = harness::pooler::clients::run(command, b"").await?.ok()?;
        ensure!(!out.trim().is_empty());
        if programs::is_root() {
            // This process's user is another one.
            world.allow("authentication failed");
            let error = world.psql(&target, &["-c", "SHOW VERSION"]).await?.refused()?;
            ensure!(error.contains("authentication failed"), "{error}");
        }
        Ok(())
    })
}
