//! Commits that no synchronous standby has confirmed.

use anyhow::{Context, Result, ensure};
use harness::pooler::raw::{Batch, Message, Raw, tags};

use super::site::{Setup, Site};

fn strict() -> Setup {
    Setup::new(1).set("sync_commit_cancelled", "error")
}

/// Commits wait for a standby that doesn't exist.
async fn wait_for_nobody(site: &Site) -> Result<()> {
    site.postgres[0].sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await?;
    site.postgres[0].sql("SELECT pg_reload_conf()").await?;
    site.until(0, "SHOW synchronous_standby_names", "nobody").await
}

/// Sends requests whose commit waits, cancels the wait, and returns the answers.
async fn cancelled(site: &Site, session: &mut Raw, batch: Batch) -> Result<Vec<Message>> {
    session.batch(batch).await?;
    site.until(0, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1").await?;
    site.postgres[0].sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await?;
    session.until_ready().await
}

#[test]
fn a_cancelled_wait_for_a_standby_is_an_error_where_that_is_wanted() -> Result<()> {
    strict().run(async |site| {
        let mut session = site.session("app").await?;
        session.firsts("SELECT 1").await?;
        wait_for_nobody(site).await?;
        let insert = "INSERT INTO log (who) VALUES ('x')";
        let cases = [
            ("autocommit", Batch::new().query(insert), "EZ"),
            ("several", Batch::new().query(&format!("BEGIN; {insert}; COMMIT; SELECT 1")), "CCEZ"),
            (
                "commit",
                Batch::new().unnamed("BEGIN").unnamed(insert).unnamed("COMMIT").unnamed("SELECT 1").sync(),
                "12C12C12EZ",
            ),
            // It has completed before the commit that Sync asks for.
            ("extended", Batch::new().unnamed(insert).sync(), "12CEZ"),
        ];
        for (case, batch, expected) in cases {
            let messages = cancelled(site, &mut session, batch).await?;
            ensure!(tags(&messages) == expected, "{case}: {messages:?}");
            let error = messages.iter().find(|m| m.tag == b'E').context("no error")?;
            ensure!(error.field(b'C').as_deref() == Some("08007") && error.field(b'S').as_deref() == Some("ERROR"));
            ensure!(messages.last().is_some_and(|m| *m.body == *b"I"), "{case}");
        }
        ensure!(session.value("SELECT count(*) FROM log").await? == "4");
        // An error of another kind is what it always was.
        ensure!(session.refused("SELECT 1/0").await? == "ERROR: division by zero");
        Ok(())
    })
}

#[test]
fn a_cancelled_wait_is_a_warning_otherwise() -> Result<()> {
    Setup::new(1).run(async |site| {
        let mut session = site.session("app").await?;
        session.firsts("SET client_min_messages = error; SET client_min_messages = warning").await?;
        wait_for_nobody(site).await?;
        let insert = Batch::new().query("INSERT INTO log (who) VALUES ('x')");
        let messages = cancelled(site, &mut session, insert).await?;
        ensure!(tags(&messages) == "NCZ", "{messages:?}");
        Ok(())
    })
}

#[test]
fn who_must_hear_warnings_may_not_suppress_them() -> Result<()> {
    strict().set("ignore_startup_parameters", "client_min_messages").run(async |site| {
        for sql in ["SET client_min_messages = error", "SELECT set_config('client_min_messages', 'fatal', true)"] {
            for batch in [Batch::new().query(sql), Batch::new().unnamed(sql).sync()] {
                let mut session = site.session("app").await?;
                session.firsts("SET client_min_messages = warning").await?;
                session.batch(batch).await?;
                let told = session.last_words().await?;
                ensure!(told.starts_with("FATAL: client_min_messages above warning is not allowed"), "{told}");
            }
        }
        for parameter in [("client_min_messages", "error"), ("options", "-c client_min_messages=panic")] {
            let refused = site.session_with("app", &[parameter]).await.err().context("it was let in")?;
            ensure!(refused.to_string().contains("client_min_messages above warning"), "{refused:#}");
        }
        site.postgres[0].sql("ALTER ROLE alice SET client_min_messages = error").await?;
        site.postgres[0].sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'alice'").await?;
        site.until(0, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'", "0").await?;
        let mut session = site.session("app").await?;
        session.batch(Batch::new().query("SELECT 1")).await?;
        let told = session.last_words().await?;
        ensure!(told.contains("client_min_messages is error for this user or database"), "{told}");
        Ok(())
    })
}
