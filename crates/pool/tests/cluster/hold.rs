//! Planned: a drain, the hold, the switchover, and its taking back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::pooler::postgres::Stop;
use harness::pooler::raw::{Batch, error};

use super::site::{Setup, Site, name, number};

/// Patience that never ends in a test.
const EVER: Duration = Duration::from_secs(600);

/// Whether nothing comes of it for a moment: there is no condition to wait on for what must not happen.
async fn stays_pending<T>(future: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(200), future).await.is_err()
}

#[test]
fn a_drain_lets_transactions_end_and_holds_new_ones_until_it_is_taken_back() -> Result<()> {
    Setup::new(1).run(async |site| {
        let (mut busy, mut idle) = (site.session("app").await?, site.session("app").await?);
        let before = idle.backend().await?;
        busy.firsts("BEGIN; INSERT INTO log (who) VALUES ('busy')").await?;
        site.drain("pg1", 5, EVER);
        idle.batch(Batch::new().query("SELECT pg_backend_pid()")).await?;
        ensure!(stays_pending(idle.message()).await && !site.is_drained("pg1"));
        // What has begun goes on to its end.
        busy.firsts("INSERT INTO log (who) VALUES ('busy')").await?;
        ensure!(!site.is_drained("pg1"));
        busy.firsts("COMMIT").await?;
        site.drained("pg1", 5).await?;
        ensure!(site.postgres[0].value("SELECT count(*) FROM log").await? == "2");
        busy.batch(Batch::new().query("SELECT 1")).await?;
        ensure!(stays_pending(busy.message()).await);
        site.change(|t| t.draining.clear());
        let rows = harness::pooler::raw::firsts(&idle.until_ready().await?);
        ensure!(error(&busy.until_ready().await?).is_none());
        let report = site.reported(|r| r.held.is_some()).await?;
        let held = report.held.context("nothing was held")?;
        ensure!(report.drained.is_empty() && held.order == 5 && held.clients == 2 && held.cut == 0, "{held:?}");
        ensure!(held.longest > Duration::from_millis(300) && held.longest < Duration::from_secs(10), "{held:?}");
        // The connections were kept.
        let known = site.postgres[0].sql("SELECT pid FROM pg_stat_activity WHERE usename = 'alice'").await?;
        ensure!(known.iter().flatten().any(|pid| *pid == before), "{known:?} {before} {rows:?}");
        Ok(())
    })
}

#[test]
fn a_drain_with_nothing_to_wait_for_is_reported_at_once() -> Result<()> {
    Setup::new(1).run(async |site| {
        site.session("app").await?.firsts("SELECT 1").await?;
        for order in 1..20 {
            let begun = Instant::now();
            site.drain("pg1", order, EVER);
            site.drained("pg1", order).await?;
            ensure!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        }
        Ok(())
    })
}

#[test]
fn what_runs_longer_than_the_drain_waits_is_cut() -> Result<()> {
    Setup::new(1).run(async |site| {
        let (mut idle, mut active, mut harmless) =
            (site.session("app").await?, site.session("app").await?, site.session("app").await?);
        idle.firsts("BEGIN; INSERT INTO log (who) VALUES ('idle')").await?;
        active.batch(Batch::new().query("INSERT INTO log (who) SELECT pg_sleep(600)")).await?;
        harmless.firsts("BEGIN").await?;
        harmless.batch(Batch::new().query("SELECT pg_sleep(600)")).await?;
        site.until(0, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "2").await?;
        site.drain("pg1", 7, Duration::from_millis(300));
        site.drained("pg1", 7).await?;
        let told = error(&idle.until_closed().await?).context("nothing was told")?;
        ensure!(told == "FATAL: terminating connection due to administrator command", "{told}");
        let messages = active.until_closed().await?;
        ensure!(messages.iter().any(|m| m.field(b'C').as_deref() == Some("08007")), "{messages:?}");
        let messages = harmless.until_closed().await?;
        ensure!(messages.iter().any(|m| m.field(b'C').as_deref() == Some("57P01")), "{messages:?}");
        site.change(|t| t.draining.clear());
        let held = site.reported(|r| r.held.is_some()).await?.held.context("nothing was held")?;
        ensure!(held.cut == 3, "{held:?}");
        Ok(())
    })
}

#[test]
fn sessions_are_held_between_transactions_and_told_when_another_leads() -> Result<()> {
    Setup::new(2).set("pool_mode", "session").run(async |site| {
        let (mut quiet, mut asking) = (site.session("app").await?, site.session("app").await?);
        quiet.firsts("SET search_path = pg_catalog").await?;
        let backend = asking.backend().await?;
        site.drain("pg1", 1, EVER);
        site.drained("pg1", 1).await?;
        asking.batch(Batch::new().query("SELECT pg_backend_pid()")).await?;
        ensure!(stays_pending(asking.message()).await);
        site.change(|t| t.draining.clear());
        ensure!(harness::pooler::raw::firsts(&asking.until_ready().await?) == [backend]);
        ensure!(quiet.value("SHOW search_path").await? == "pg_catalog");
        site.drain("pg1", 2, EVER);
        site.drained("pg1", 2).await?;
        asking.batch(Batch::new().query("SELECT pg_backend_pid()")).await?;
        site.postgres[0].stop(Stop::Fast)?;
        site.promote(1).await?;
        site.change(|t| {
            t.draining.clear();
            (t.leader, t.epoch) = (name("pg2"), 2);
        });
        for session in [&mut quiet, &mut asking] {
            let messages = session.until_closed().await?;
            ensure!(messages.iter().any(|m| m.field(b'C').as_deref() == Some("57P01")), "{messages:?}");
        }
        ensure!(site.member_of(&mut site.session("app").await?).await? == 1);
        Ok(())
    })
}

/// One client's life: transactions of all kinds until it's told to stop. Returns how many.
async fn client(site: &Site, n: usize, stop: &std::cell::Cell<bool>) -> Result<u32> {
    let (client, connection) = site.config("app").connect(tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute(&format!("SET application_name = 'client{n}'; SET TimeZone = 'Etc/GMT-{}'", n % 12)).await?;
    let insert = client.prepare("INSERT INTO log (who) VALUES ($1) RETURNING id").await?;
    let zone = client.prepare("SHOW TimeZone").await?;
    let mut count = 0;
    while !stop.get() {
        let who = format!("client{n}");
        match count % 4 {
            0 => client.batch_execute(&format!("INSERT INTO log (who) VALUES ('{who}')")).await?,
            1 => _ = client.query_one(&insert, &[&who]).await?,
            2 => client.batch_execute(&format!("BEGIN; INSERT INTO log (who) VALUES ('{who}'); COMMIT")).await?,
            _ => {
                client.batch_execute("BEGIN").await?;
                client.query_one(&insert, &[&who]).await?;
                client.batch_execute("COMMIT").await?;
            }
        }
        let shown: String = client.query_one(&zone, &[]).await?.get(0);
        ensure!(shown == format!("Etc/GMT-{}", n % 12), "client {n} has the time zone {shown}");
        count += 1;
    }
    drop(client);
    connection.await??;
    Ok(count)
}

#[test]
fn a_switchover_costs_clients_of_all_kinds_no_error() -> Result<()> {
    Setup::new(2).run(async |site| {
        let stop = std::cell::Cell::new(false);
        let clients: Vec<_> = (0..24).map(|n| client(site, n, &stop)).collect();
        let switch = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            site.drain_for("pg1", "pg2", 9);
            site.drained("pg1", 9).await?;
            // Every client comes to its next request.
            tokio::time::sleep(Duration::from_millis(200)).await;
            site.change(|t| t.leader = None);
            site.postgres[0].stop(Stop::Fast)?;
            let promoting = site.promote(1);
            // The key is taken before the new leader is writable.
            site.change(|t| {
                t.draining.clear();
                (t.leader, t.epoch) = (name("pg2"), 2);
            });
            promoting.await?;
            let held = site.reported(|r| r.held.is_some()).await?.held.context("nothing was held")?;
            ensure!(held.order == 9 && held.clients == 24 && held.cut == 0, "{held:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
            stop.set(true);
            Ok(())
        };
        let (counts, ()) = futures::try_join!(futures::future::try_join_all(clients), switch)?;
        let (counts, rows) = (counts, number(&site.postgres[1].value("SELECT count(*) FROM log").await?)?);
        ensure!(i64::from(counts.iter().sum::<u32>()) == rows, "{counts:?} {rows}");
        Ok(())
    })
}

/// Connections that the pooler has to a server.
const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'";

#[test]
fn connections_made_to_the_successor_while_clients_are_held_serve_once_it_leads() -> Result<()> {
    Setup::new(2).run(async |site| {
        let mut session = site.session("app").await?;
        session.firsts("SELECT 1").await?;
        site.drain_for("pg1", "pg2", 4);
        site.drained("pg1", 4).await?;
        site.until(1, CONNECTIONS, "1").await?;
        let early = site.postgres[1].value("SELECT pid FROM pg_stat_activity WHERE usename = 'alice'").await?;
        session.batch(Batch::new().query("SELECT pg_backend_pid()")).await?;
        site.postgres[0].stop(Stop::Fast)?;
        // The key is taken before the new leader is writable.
        site.change(|t| {
            t.draining.clear();
            (t.leader, t.epoch) = (name("pg2"), 2);
        });
        ensure!(stays_pending(session.message()).await, "it isn't writable yet");
        site.promote(1).await?;
        ensure!(harness::pooler::raw::firsts(&session.until_ready().await?) == [early]);
        let (_client, connection) = site.config("app").connect(tokio_postgres::NoTls).await?;
        ensure!(connection.parameter("in_hot_standby") != Some("on"));
        session.firsts("INSERT INTO log (who) VALUES ('early')").await?;
        Ok(())
    })
}

#[test]
fn connections_to_a_successor_that_does_not_come_to_lead_end() -> Result<()> {
    Setup::new(3).run(async |site| {
        let mut session = site.session("app").await?;
        let backend = session.backend().await?;
        site.drain_for("pg1", "pg2", 4);
        site.drained("pg1", 4).await?;
        site.until(1, CONNECTIONS, "1").await?;
        session.batch(Batch::new().query("SELECT pg_backend_pid()")).await?;
        // Nobody takes over after all.
        site.change(|t| t.draining.clear());
        ensure!(harness::pooler::raw::firsts(&session.until_ready().await?) == [backend]);
        site.until(1, CONNECTIONS, "0").await?;
        // Another than was announced does.
        site.drain_for("pg1", "pg2", 5);
        site.until(1, CONNECTIONS, "1").await?;
        site.postgres[0].stop(Stop::Fast)?;
        site.promote(2).await?;
        site.change(|t| {
            t.draining.clear();
            (t.leader, t.epoch) = (name("pg3"), 2);
        });
        ensure!(site.member_of(&mut session).await? == 2);
        site.until(1, CONNECTIONS, "0").await
    })
}
