//! Unplanned: another leader out of the blue, and connections that aren't writable yet.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::pooler::postgres::Stop;
use harness::pooler::raw::{Batch, Raw};

use super::site::{Setup, Site, name};

/// SQLSTATE of the error that ends a session.
async fn last_code(session: &mut Raw) -> Result<String> {
    let messages = session.until_closed().await?;
    let codes = messages.iter().filter(|m| m.tag == b'E').filter_map(|m| m.field(b'C'));
    codes.last().with_context(|| format!("no error in {messages:?}"))
}

fn lead_by_second(site: &Site) {
    site.change(|t| (t.leader, t.epoch) = (name("pg2"), 2));
}

#[test]
fn another_leader_cuts_what_runs_and_disturbs_nobody_else() -> Result<()> {
    Setup::new(2).run(async |site| {
        let mut between = site.session("app").await?;
        between.firsts("SET application_name = 'between'").await?;
        let (mut idle, mut selects, mut commits, mut alone, mut several) = (
            site.session("app").await?,
            site.session("app").await?,
            site.session("app").await?,
            site.session("app").await?,
            site.session("app").await?,
        );
        for session in [&mut idle, &mut selects, &mut commits, &mut several] {
            session.firsts("BEGIN").await?;
        }
        // A commit that hangs: a deferred trigger sleeps in it.
        site.postgres[0]
            .sql(
                "CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NULL; END $$; \
                 CREATE CONSTRAINT TRIGGER doze AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED \
                 FOR EACH ROW EXECUTE FUNCTION doze()",
            )
            .await?;
        commits.firsts("INSERT INTO log (who) VALUES ('commits')").await?;
        commits.batch(Batch::new().query("COMMIT")).await?;
        selects.batch(Batch::new().query("/* a (b) */ SELECT pg_sleep(600);")).await?;
        several.batch(Batch::new().query("SELECT pg_sleep(600); COMMIT")).await?;
        alone.batch(Batch::new().query("SELECT pg_sleep(600)")).await?;
        site.until(0, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "4").await?;
        site.promote(1).await?;
        lead_by_second(site);
        ensure!(last_code(&mut idle).await? == "08006");
        ensure!(last_code(&mut selects).await? == "08006");
        ensure!(last_code(&mut commits).await? == "08007");
        ensure!(last_code(&mut several).await? == "08007");
        ensure!(last_code(&mut alone).await? == "08007");
        ensure!(site.member_of(&mut between).await? == 1);
        ensure!(between.value("SHOW application_name").await? == "between");
        site.until(0, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice' AND state LIKE 'idle%'", "0").await?;
        Ok(())
    })
}

#[test]
fn a_leader_that_is_not_writable_yet_serves_nobody() -> Result<()> {
    Setup::new(2).run(async |site| {
        let mut session = site.session("app").await?;
        session.firsts("SELECT 1").await?;
        lead_by_second(site);
        session.batch(Batch::new().query("INSERT INTO log (who) VALUES ('x')")).await?;
        let early = tokio::time::timeout(Duration::from_millis(300), session.message()).await;
        ensure!(early.is_err(), "{early:?}");
        site.promote(1).await?;
        ensure!(harness::pooler::raw::error(&session.until_ready().await?).is_none());
        ensure!(site.member_of(&mut session).await? == 1);
        Ok(())
    })
}

#[test]
fn clients_between_transactions_outlast_a_crash_of_the_leader() -> Result<()> {
    Setup::new(1).run(async |site| {
        let (mut between, mut inside) = (site.session("app").await?, site.session("app").await?);
        between.firsts("SELECT 1").await?;
        inside.firsts("BEGIN; INSERT INTO log (who) VALUES ('x')").await?;
        site.postgres[0].stop(Stop::Immediate)?;
        ensure!(last_code(&mut inside).await? == "08006");
        between.batch(Batch::new().query("SELECT count(*) FROM log")).await?;
        let early = tokio::time::timeout(Duration::from_millis(300), between.message()).await;
        ensure!(early.is_err(), "{early:?}");
        site.postgres[0].start().await?;
        ensure!(harness::pooler::raw::firsts(&between.until_ready().await?) == ["0"]);
        ensure!(site.session("app").await?.value("SELECT 1").await? == "1");
        Ok(())
    })
}

#[test]
fn a_refused_login_is_told_and_a_prepared_statement_is_judged_by_its_text() -> Result<()> {
    Setup::new(2).database("nowhere = cluster=otus dbname=nowhere").run(async |site| {
        let refused = site.session("nowhere").await.err().context("it was let in")?;
        ensure!(refused.to_string().contains("database \"nowhere\" does not exist"), "{refused:#}");
        let (mut reads, mut commits) = (site.session("app").await?, site.session("app").await?);
        for session in [&mut reads, &mut commits] {
            session.roundtrip(Batch::new().parse("r", "SELECT pg_sleep(600)").parse("c", "COMMIT").sync()).await?;
            session.firsts("BEGIN; INSERT INTO log (who) VALUES ('x')").await?;
        }
        reads.batch(Batch::new().bind("", "r", &[]).execute("").sync()).await?;
        commits.batch(Batch::new().bind("", "r", &[]).execute("").bind("", "c", &[]).execute("").sync()).await?;
        site.until(0, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "2").await?;
        site.promote(1).await?;
        lead_by_second(site);
        ensure!(last_code(&mut reads).await? == "08006");
        ensure!(last_code(&mut commits).await? == "08007");
        Ok(())
    })
}
