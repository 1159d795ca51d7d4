//! Secrets asked of PostgreSQL (auth_user, auth_query, auth_dbname).

use anyhow::{Result, ensure};
use harness::pooler::{Setup, password};

use super::refusal;

/// A pooler that knows no user but those it needs itself.
fn asking(kind: &str) -> Setup {
    let own = format!("\"lookup\" \"{}\"\n\"postgres\" \"{}\"\n", password("lookup"), password("postgres"));
    Setup::new().set("auth_type", kind).set("auth_user", "lookup").userlist(own)
}

#[test]
fn users_that_the_list_lacks_are_asked_of_the_server() -> Result<()> {
    for (kind, users) in [("md5", &["alice", "bob"][..]), ("scram-sha-256", &["bob"])] {
        asking(kind).run(async |world| {
            for user in users {
                ensure!(world.session_as(user, "app").await?.value("SELECT current_user").await? == *user);
                world.allow("authentication failed");
                let mut raw = world.raw().await?;
                let wrong = raw.log_in(&[("user", user), ("database", "app")], "wrong").await;
                ensure!(refusal(wrong)?.ends_with("authentication failed"));
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_user_that_the_server_lacks_too_is_refused() -> Result<()> {
    asking("md5").run(async |world| {
        world.allow("no such user");
        let error = refusal(world.session_as("nobody", "app").await)?;
        ensure!(error == "FATAL: no such user", "{error}");
        Ok(())
    })
}

#[test]
fn a_query_of_ones_own_asks_a_function() -> Result<()> {
    asking("md5").set("auth_query", "SELECT name, secret FROM user_lookup($1)").run(async |world| {
        for user in ["alice", "bob"] {
            ensure!(world.session_as(user, "second").await?.value("SELECT current_user").await? == user);
        }
        Ok(())
    })
}

#[test]
fn the_question_may_be_asked_in_another_database() -> Result<()> {
    asking("md5").set("auth_dbname", "second").pgbouncer_at_least(1, 24).run(async |world| {
        world.session().await?.value("SELECT 1").await?;
        let databases = world.postgres.sql("SELECT datname FROM pg_stat_activity WHERE usename = 'lookup'").await?;
        ensure!(databases == [["second"]], "{databases:?}");
        Ok(())
    })
}

#[test]
fn a_database_may_ask_as_a_user_of_its_own() -> Result<()> {
    let setup = asking("md5").database("app", "auth_user=lookup").database("second", "");
    setup.unset("auth_user").run(async |world| {
        world.session().await?.value("SELECT 1").await?;
        world.allow("password authentication failed");
        refusal(world.session_as("alice", "second").await)?;
        Ok(())
    })
}

#[test]
fn a_changed_password_counts_from_the_next_login_on() -> Result<()> {
    asking("md5").run(async |world| {
        world.session().await?.value("SELECT 1").await?;
        world.postgres.sql("ALTER ROLE alice PASSWORD 'changed'").await?;
        world.allow("authentication failed");
        refusal(world.session().await)?;
        let mut raw = world.raw().await?;
        raw.log_in(&[("user", "alice"), ("database", "app")], "changed").await?;
        ensure!(raw.value("SELECT 1").await? == "1");
        Ok(())
    })
}

#[test]
fn a_question_that_fails_refuses_the_client() -> Result<()> {
    for query in ["SELECT nonsense", "SELECT 1, 2, $1::text", "SELECT NULL, NULL WHERE $1 <> ''"] {
        asking("md5").set("auth_query", query).run(async |world| {
            world.allow("auth_query");
            world.allow("bouncer config error");
            let error = refusal(world.session().await)?;
            ensure!(error == "FATAL: bouncer config error", "{query}: {error}");
            Ok(())
        })?;
    }
    Ok(())
}
