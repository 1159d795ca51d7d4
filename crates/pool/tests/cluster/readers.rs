//! Databases at a cluster's replicas, or at any of its members.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::pooler::raw::{Batch, Raw, firsts};

use super::site::{Setup, Site, name};

/// Patience that never ends in a test.
const EVER: Duration = Duration::from_secs(600);

/// Waits until every standby has the test's table.
async fn replicated(site: &Site) -> Result<()> {
    for server in 1..site.postgres.len() {
        site.until(server, "SELECT count(*) FROM pg_class WHERE relname = 'log'", "1").await?;
    }
    Ok(())
}

/// Sessions that each hold a server of their own, and how many are at each member.
async fn spread(site: &Site, database: &str, sessions: usize) -> Result<(Vec<Raw>, Vec<usize>)> {
    let (mut held, mut counts) = (Vec::new(), vec![0; site.postgres.len()]);
    for _ in 0..sessions {
        let mut session = site.session(database).await?;
        session.firsts("BEGIN").await?;
        counts[site.member_of(&mut session).await?] += 1;
        held.push(session);
    }
    Ok((held, counts))
}

#[test]
fn readers_are_spread_over_the_replicas_that_are_near_enough() -> Result<()> {
    Setup::new(3).database("any = cluster=otus role=any dbname=app").run(async |site| {
        replicated(site).await?;
        ensure!(spread(site, "replica", 6).await?.1 == [0, 3, 3]);
        ensure!(spread(site, "any", 6).await?.1 == [2, 2, 2]);
        site.change(|t| t.members[2].lag = Some(17 << 20));
        ensure!(spread(site, "replica", 4).await?.1 == [0, 4, 0]);
        site.change(|t| (t.members[1].lag, t.members[2].lag) = (None, Some(0)));
        ensure!(spread(site, "replica", 4).await?.1 == [0, 0, 4]);
        Ok(())
    })
}

#[test]
fn a_replica_that_drains_finishes_what_runs_and_gets_nothing_new() -> Result<()> {
    Setup::new(3).run(async |site| {
        replicated(site).await?;
        // The very first connections go to whoever answers first.
        let mut sessions = loop {
            let (sessions, counts) = spread(site, "replica", 2).await?;
            if counts == [0, 1, 1] {
                break sessions;
            }
        };
        site.drain("pg2", 3, EVER);
        ensure!(spread(site, "replica", 2).await?.1 == [0, 0, 2]);
        ensure!(!site.is_drained("pg2"));
        for session in &mut sessions {
            session.firsts("COMMIT").await?;
        }
        site.drained("pg2", 3).await?;
        site.until(1, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'", "0").await?;
        site.change(|t| t.draining.clear());
        ensure!(spread(site, "replica", 2).await?.1[1] > 0);
        Ok(())
    })
}

#[test]
fn the_leader_stands_in_for_replicas_unless_clients_had_rather_wait() -> Result<()> {
    let strict = "strict = cluster=otus role=replica fallback=none dbname=app";
    Setup::new(2).database(strict).run(async |site| {
        replicated(site).await?;
        site.change(|t| t.members[1].replica = false);
        let mut reader = site.session("replica").await?;
        ensure!(site.member_of(&mut reader).await? == 0);
        let waiting = site.session("strict");
        futures::pin_mut!(waiting);
        ensure!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err());
        site.change(|t| t.members[1].replica = true);
        ensure!(site.member_of(&mut waiting.await?).await? == 1);
        // The leader's connection is used no more.
        ensure!(site.member_of(&mut reader).await? == 1);
        Ok(())
    })
}

#[test]
fn a_replica_that_cannot_be_reached_keeps_nobody_waiting() -> Result<()> {
    Setup::new(3).run(async |site| {
        replicated(site).await?;
        site.change(|t| t.members[1].port = 1);
        ensure!(spread(site, "replica", 4).await?.1 == [0, 0, 4]);
        site.change(|t| t.members[1].port = 5432);
        ensure!(spread(site, "replica", 4).await?.1[1] > 0);
        Ok(())
    })
}

#[test]
fn many_pools_go_over_to_the_new_leader_without_a_stampede() -> Result<()> {
    let mut setup = Setup::new(2).postgres("log_connections", "on").set("default_pool_size", "3");
    for n in 0..12 {
        setup = setup.database(&format!("db{n} = cluster=otus dbname=app"));
    }
    setup.run(async |site| {
        replicated(site).await?;
        let mut sessions = Vec::new();
        for n in 0..12 {
            let mut session = site.session(&format!("db{n}")).await?;
            session.firsts("SELECT 1").await?;
            sessions.push(session);
        }
        site.change(|t| (t.leader, t.epoch) = (name("pg2"), 2));
        for session in &mut sessions {
            session.batch(Batch::new().query("SELECT pg_is_in_recovery()")).await?;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        let log = std::fs::read_to_string(site.postgres[1].log())?;
        let attempts = log.matches("connection authorized: user=alice").count();
        ensure!((3..40).contains(&attempts), "{attempts} attempts in 400 ms, of 12 pools that each try alone at 15 ms");
        site.promote(1).await?;
        for session in &mut sessions {
            ensure!(firsts(&session.until_ready().await?) == ["f"]);
        }
        Ok(())
    })
}
