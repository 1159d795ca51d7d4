//! What the log says, and what it never says.

use anyhow::{Result, ensure};
use e2e::SOON;
use harness::pooler::Setup;
use harness::pooler::raw::Batch;
use harness::wait::wait_until;

use super::refusal;

#[test]
fn a_session_leaves_the_known_lines() -> Result<()> {
    Setup::transaction(1).set("server_idle_timeout", 1).run(async |world| {
        let mut session = world.session().await?;
        session.value("SELECT 1").await?;
        session.batch(Batch::new().terminate()).await?;
        for text in [
            "app/alice@127.0.0.1:",
            " login attempt: db=app user=alice tls=no",
            "closing because: client close request (age=",
            &world.fill(" app/alice@{pg}:5432 new connection to server (from 127.0.0.1:"),
            &world.fill(" app/alice@{pg}:5432 closing because: server idle timeout (age="),
            &world.fill(" LOG listening on {pooler}:6543"),
            &world.fill(" LOG listening on unix:{dir}/pooler/.s.PGSQL.6543"),
            " LOG process up: ",
        ] {
            world.logged(text).await?;
        }
        Ok(())
    })
}

#[test]
fn lines_begin_with_time_process_and_severity() -> Result<()> {
    Setup::new().run(async |world| {
        world.session().await?;
        let log = world.log();
        let pid = world.pid()?;
        ensure!(log.lines().count() > 3);
        for line in log.lines() {
            // 2020-01-11 08:30:24.178 UTC [17] LOG text
            let (stamp, rest) = line.split_at(23);
            let shape: String = stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            ensure!(shape == "0000-00-00 00:00:00.000", "{line}");
            let mark = format!(" [{pid}] LOG ");
            ensure!(rest.contains(&mark), "{line}");
        }
        Ok(())
    })
}

#[test]
fn connections_are_logged_only_if_wanted() -> Result<()> {
    let setup = Setup::new().set("log_connections", 0).set("log_disconnections", 0).set("log_pooler_errors", 0);
    setup.run(async |world| {
        world.session().await?.value("SELECT 1").await?;
        refusal(world.session_as("nobody", "app").await)?;
        world.console("RELOAD").await?;
        world.logged("RELOAD command issued").await?;
        let log = world.log();
        for text in ["login attempt", "closing because", "pooler error", "new connection to server"] {
            ensure!(!log.contains(text), "{text}:\n{log}");
        }
        Ok(())
    })
}

#[test]
fn statistics_are_logged_now_and_then() -> Result<()> {
    Setup::transaction(1).set("stats_period", 1).pgbouncer_at_least(1, 24).run(async |world| {
        world.session().await?.value("SELECT 1").await?;
        world.logged(" LOG stats: ").await?;
        let line = world.log().lines().find(|l| l.contains(" LOG stats: ")).unwrap_or_default().to_owned();
        for text in [
            " xacts/s, ",
            " queries/s, ",
            " client parses/s, ",
            " in ",
            " B/s, out ",
            " xact ",
            " us, query ",
            " us, wait ",
        ] {
            ensure!(line.contains(text), "{text:?} is not in {line}");
        }
        Ok(())
    })
}

/// Whatever goes wrong, the log holds neither passwords nor what clients ask.
#[test]
fn neither_passwords_nor_queries_are_logged() -> Result<()> {
    for kind in ["plain", "md5", "scram-sha-256"] {
        Setup::transaction(1).set("auth_type", kind).set("query_timeout", 1).run(async |world| {
            let mut session = world.session().await?;
            session.refused("SELECT confidential_column").await?;
            session.roundtrip(Batch::new().parse("s", "SELECT 'confidential statement'").sync()).await?;
            session.firsts("SET application_name = 'mine'").await?;
            session.batch(Batch::new().query("SELECT 'confidential', pg_sleep(600)")).await?;
            session.last_words().await?;
            let mut raw = world.raw().await?;
            refusal(raw.log_in(&[("user", "alice"), ("database", "app")], "confidential-password").await)?;
            world.allow("query timeout");
            world.allow("authentication failed");
            let said = format!("{}{}", world.log(), world.output());
            for text in ["confidential", "alice-secret", "SELECT", "md5"] {
                ensure!(!said.contains(text), "{text} is in the log:\n{said}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn the_log_file_is_opened_anew_after_a_reload() -> Result<()> {
    Setup::new().run(async |world| {
        let (file, moved) = (world.socket_dir().join("pooler.log"), world.socket_dir().join("pooler.log.1"));
        std::fs::rename(&file, &moved)?;
        world.console("RELOAD").await?;
        // RELOAD is answered before the new file is there.
        wait_until("there is a new file", SOON, || async { Ok(file.exists().then_some(())) }).await?;
        world.session().await?.value("SELECT 1").await?;
        world.logged("login attempt: db=app").await
    })
}
