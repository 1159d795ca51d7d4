//! Who may log in and how, on both sides.

use anyhow::{Result, ensure};
use harness::pooler::{Setup, World, md5_secret, password};

use super::refusal;

/// What a wrong password gets.
const PASSWORD: &str = "FATAL: password authentication failed";

/// What it gets with SCRAM.
const SASL: &str = "FATAL: SASL authentication failed";

/// Logs in with a password other than the user's own.
async fn log_in(world: &World, user: &str, password: &str) -> Result<()> {
    let mut raw = world.raw().await?;
    raw.log_in(&[("user", user), ("database", "app")], password).await?;
    raw.value("SELECT 1").await.map(drop)
}

/// A user's secret as PostgreSQL keeps it.
async fn secret(world: &World, user: &str) -> Result<String> {
    world.postgres.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'")).await
}

#[test]
fn a_plain_secret_serves_every_kind_of_login() -> Result<()> {
    for (kind, text) in [("plain", PASSWORD), ("md5", PASSWORD), ("scram-sha-256", SASL)] {
        Setup::new().set("auth_type", kind).run(async |world| {
            world.allow("authentication failed");
            for user in ["alice", "bob"] {
                log_in(world, user, &password(user)).await?;
                let error = refusal(log_in(world, user, "wrong").await)?;
                ensure!(error == text, "{user} by {kind}: {error}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn an_unknown_user_is_refused_like_a_wrong_password() -> Result<()> {
    for kind in ["plain", "md5", "scram-sha-256"] {
        Setup::new().set("auth_type", kind).run(async |world| {
            world.allow("authentication failed");
            let error = refusal(log_in(world, "nobody", "wrong").await)?;
            ensure!(error == if kind == "scram-sha-256" { SASL } else { PASSWORD }, "{kind}: {error}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn trust_needs_no_password_but_a_known_user() -> Result<()> {
    Setup::new().set("auth_type", "trust").run(async |world| {
        world.psql("user=alice password=wrong dbname=app", &["-c", "SELECT 1"]).await?.ok()?;
        world.allow("\"trust\" authentication failed");
        let error = refusal(log_in(world, "nobody", "").await)?;
        ensure!(error == "FATAL: \"trust\" authentication failed", "{error}");
        Ok(())
    })
}

#[test]
fn any_takes_whatever_user_as_the_databases_own() -> Result<()> {
    let setup = Setup::new().set("auth_type", "any").database("app", "user=alice password=alice-secret");
    setup.database("second", "").run(async |world| {
        ensure!(world.session_as("nobody", "app").await?.value("SELECT current_user").await? == "alice");
        world.allow("auth_type=any requires forced user");
        world.allow("bouncer config error");
        let error = refusal(world.session_as("alice", "second").await)?;
        ensure!(error == "FATAL: bouncer config error", "{error}");
        Ok(())
    })
}

#[test]
fn an_md5_secret_logs_in_on_both_sides() -> Result<()> {
    Setup::new().without_pooler().run(async |world| {
        let line = format!("\"alice\" \"{}\"\n\"bob\" \"{}\"\n", secret(world, "alice").await?, md5_secret("bob"));
        world.change(|s| s.userlist(line))?;
        world.start_pooler(&[]).await?;
        log_in(world, "alice", &password("alice")).await?;
        world.allow("wrong password type");
        let error = refusal(log_in(world, "bob", &password("bob")).await)?;
        ensure!(error == "FATAL: server login failed: wrong password type", "{error}");
        Ok(())
    })
}

#[test]
fn a_scram_secret_logs_in_on_both_sides() -> Result<()> {
    for kind in ["md5", "scram-sha-256"] {
        Setup::new().set("auth_type", kind).without_pooler().run(async |world| {
            let line = format!("\"bob\" \"{}\"\n", secret(world, "bob").await?);
            world.change(|s| s.userlist(line))?;
            world.start_pooler(&[]).await?;
            log_in(world, "bob", &password("bob")).await?;
            world.allow("authentication failed");
            let error = refusal(log_in(world, "bob", "wrong").await)?;
            ensure!(error == SASL, "{error}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_scram_secret_that_is_not_the_servers_is_refused_by_it() -> Result<()> {
    Setup::new().without_pooler().run(async |world| {
        let line = format!("\"bob\" \"{}\"\n", secret(world, "bob").await?);
        world.change(|s| s.userlist(line))?;
        // The same password, salted anew.
        world.postgres.sql(&format!("ALTER ROLE bob PASSWORD '{}'", password("bob"))).await?;
        world.start_pooler(&[]).await?;
        world.allow("password authentication failed");
        let error = refusal(log_in(world, "bob", &password("bob")).await)?;
        ensure!(error == "FATAL: password authentication failed for user \"bob\"", "{error}");
        Ok(())
    })
}

#[test]
fn a_forced_user_logs_in_to_the_server_in_the_clients_place() -> Result<()> {
    let setup = Setup::new().database("app", "user=other password=other-secret");
    setup.run(async |world| {
        ensure!(world.session().await?.value("SELECT session_user").await? == "other");
        Ok(())
    })
}

#[test]
fn a_wrong_password_for_the_server_is_told_to_the_client() -> Result<()> {
    Setup::new().database("app", "user=other password=wrong").run(async |world| {
        world.allow("password authentication failed");
        let error = refusal(world.session().await)?;
        ensure!(error == "FATAL: password authentication failed for user \"other\"", "{error}");
        Ok(())
    })
}

#[test]
fn the_user_list_is_read_again_when_told_to() -> Result<()> {
    Setup::new().run(async |world| {
        world.change(|s| s.userlist("\"postgres\" \"postgres-secret\"\n\"alice\" \"changed\"\n"))?;
        log_in(world, "alice", &password("alice")).await?;
        world.console("RELOAD").await?;
        world.allow("password authentication failed");
        refusal(log_in(world, "alice", &password("alice")).await)?;
        Ok(())
    })
}

#[test]
fn a_database_that_is_not_configured_is_refused() -> Result<()> {
    Setup::new().database("app", "").run(async |world| {
        world.allow("no such database");
        let error = refusal(world.session_as("alice", "nowhere").await)?;
        ensure!(error == "FATAL: no such database: nowhere", "{error}");
        Ok(())
    })
}

#[test]
fn a_database_that_the_server_lacks_is_told_in_its_words() -> Result<()> {
    Setup::new().run(async |world| {
        world.allow("does not exist");
        let error = refusal(world.session_as("alice", "nowhere").await)?;
        ensure!(error == "FATAL: database \"nowhere\" does not exist", "{error}");
        Ok(())
    })
}
