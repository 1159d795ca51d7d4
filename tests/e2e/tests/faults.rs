//! What goes wrong in a cluster's life, and what may not follow from it. Every test has writers on all nodes and fails if
//! two nodes ever took writes at the same time.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::{SOON, accepted, no_overlap, start_writers};
use harness::disk::Disk;
use harness::{Cluster, Node, Options, Store, history, writers};
use rustix::process::Signal;
use serde_json::json;

/// The ttl of `Options::quick`.
const TTL: Duration = Duration::from_secs(5);

/// What agents say of a PostgreSQL that ended other than by a shutdown, of a recovery that takes its time, and of
/// queries that its end cut off. A replica asks a leader that it can't stream from, too.
const CRASH: [&str; 5] = [
    "PostgreSQL has not served for",
    "Rejoin failed: asking",
    "PostgreSQL has ended unexpectedly",
    "PostgreSQL was not shut down cleanly",
    "replication slots could not be kept in order",
];

/// `CRASH` and more.
fn crash_and(more: &[&'static str]) -> Vec<&'static str> {
    [&CRASH, more].concat()
}

fn leader_timeline(view: &serde_json::Value) -> Option<u64> {
    harness::cluster::members(view).iter().find(|m| m["role"] == "leader")?["timeline"].as_u64()
}

fn kill(node: &Node) -> Result<()> {
    let agent = node.agent().context("no agent runs")?;
    agent.signal(Signal::KILL);
    ensure!(agent.wait_gone(SOON), "the agent survives SIGKILL");
    Ok(())
}

#[tokio::test]
async fn a_killed_agent_that_returns_in_time_interrupts_nothing() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let before = cluster.view().await?;
    let writers = start_writers(&cluster).await?;
    let leader = cluster.leader(SOON).await?;
    let session = harness::sql::connect(leader.address, "postgres").await?;
    let (postmaster, since) = (leader.postmaster().context("no postmaster")?, writers.now());

    kill(leader)?;
    leader.start()?;
    cluster
        .wait("the new agent has taken the primary over", SOON, || async {
            Ok(leader.log_text().contains("going on with it").then_some(()))
        })
        .await?;
    let again = cluster.wait_healthy(SOON).await?;
    accepted(&cluster, &writers).await?;

    ensure!(postmaster.is_alive(), "PostgreSQL was restarted");
    session.simple_query("SELECT 1").await.context("use a session opened before")?;
    ensure!(leader_timeline(&again) == leader_timeline(&before), "another timeline: {again}");
    let until = writers.now();
    let writes = writers.stop()?;
    no_overlap(&writes)?;
    let outage = history::outage(&writes, since, until);
    ensure!(outage < Duration::from_secs(1), "no write was accepted for {outage:?}");
    cluster.finish(&[]).await
}

#[tokio::test]
async fn a_frozen_agents_postgres_is_fenced_before_another_leads() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let writers = start_writers(&cluster).await?;
    let leader = cluster.leader(SOON).await?;
    leader.signal_agent(Signal::STOP)?;
    let new = cluster.leader_other_than(&leader.name, SOON).await?;
    ensure!(leader.postgres_processes().is_empty(), "PostgreSQL of the frozen agent lives");
    ensure!(accepted(&cluster, &writers).await?.name == new.name);
    leader.signal_agent(Signal::CONT)?;
    cluster.wait_healthy(SOON).await?;
    no_overlap(&writers.stop()?)?;
    // What it says of its lost term depends on what it waited for when it was frozen.
    let woken = ["the DCS can't be read", "demoting", "this term has ended", "lease"];
    cluster.finish(&crash_and(&[&woken[..], &["fenced", "guard", "diverged"]].concat())).await
}

#[tokio::test]
async fn a_killed_agents_postgres_is_fenced_before_another_leads() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Embedded)).await?;
    let writers = start_writers(&cluster).await?;
    let leader = cluster.leader(SOON).await?;
    kill(leader)?;
    let new = cluster.leader_other_than(&leader.name, SOON).await?;
    ensure!(leader.postgres_processes().is_empty(), "PostgreSQL of the killed agent lives");
    ensure!(accepted(&cluster, &writers).await?.name == new.name);
    leader.start()?;
    cluster.wait_healthy(SOON).await?;
    no_overlap(&writers.stop()?)?;
    // The killed one may have had what it sent to nobody; of the others the one that had most leads.
    for other in cluster.nodes.iter().filter(|n| n.name != leader.name) {
        ensure!(!other.log_text().contains("has diverged"), "{} had more than {}, which leads", other.name, new.name);
    }
    cluster.finish(&crash_and(&["guard", "fenc", "has diverged"])).await
}

#[tokio::test]
async fn orphans_of_a_killed_postmaster_write_no_more() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let writers = start_writers(&cluster).await?;
    let leader = cluster.leader(SOON).await?;
    // A backend that is busy without the postmaster: it would go on for a minute.
    let busy = harness::sql::connect(leader.address, "postgres").await?;
    let query = "DO $$ BEGIN FOR i IN 1..6000 LOOP PERFORM pg_sleep(0.01); INSERT INTO probe VALUES (-i); COMMIT; \
                 END LOOP; END $$";
    let task = tokio::spawn(async move { busy.simple_query(query).await.map(drop) });
    cluster
        .wait("the backend is busy", SOON, || async {
            let rows = cluster.sql(leader, "SELECT count(*) FROM probe WHERE key < 0").await?;
            Ok((rows != [["0"]]).then_some(()))
        })
        .await?;
    let postmaster = leader.postmaster().context("no postmaster")?;
    let orphans = leader.postgres_processes();

    postmaster.signal(Signal::KILL);
    // Sessions of the orphans may write until they end. A new session is another server's.
    cluster
        .wait("a primary takes new sessions", SOON, || async {
            for node in &cluster.nodes {
                let answer = cluster.sql(node, "SELECT pg_is_in_recovery()").await;
                if answer.is_ok_and(|rows| rows == [["f"]]) {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await?;
    let left: Vec<_> = orphans.iter().filter(|o| o.is_alive()).collect();
    ensure!(left.is_empty(), "orphans live beside a new primary: {left:?}");
    ensure!(task.await?.is_err(), "the busy session survived");
    accepted(&cluster, &writers).await?;
    cluster.wait_healthy(SOON).await?;
    no_overlap(&writers.stop()?)?;
    cluster.finish(&crash_and(&["other processes of PostgreSQL live"])).await
}

#[tokio::test]
async fn without_etcd_the_leader_steps_down_and_leads_again_when_it_returns() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let writers = start_writers(&cluster).await?;
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    let members: Vec<_> =
        etcd.members.iter().map(|m| m.process().context("an etcd member is down")).collect::<Result<_>>()?;
    members.iter().for_each(|m| assert!(m.signal(Signal::STOP)));
    let since = writers.now();
    let lease_ends = since + TTL;
    cluster
        .wait("the leader has stepped down", SOON, || async {
            match cluster.find_leader().await? {
                Some(leader) => bail!("{} leads", leader.name),
                None => Ok((writers.now() > lease_ends).then_some(())),
            }
        })
        .await?;
    // Long enough for whoever still took writes to be seen.
    let seen = writers.now() + Duration::from_secs(1);
    cluster.wait("the writers go on", SOON, || async { Ok((writers.now() > seen).then_some(())) }).await?;
    // A writer may have been slow to read its clock after the answer, so only when a write began is proof.
    let last = writers.writes().iter().map(|w| w.begun).max().unwrap_or_default();
    ensure!(last < lease_ends, "a write begun {:?} after etcd was lost was accepted", last - since);
    ensure!(cluster.find_leader().await?.is_none(), "a node says it is primary without etcd");

    members.iter().for_each(|m| assert!(m.signal(Signal::CONT)));
    accepted(&cluster, &writers).await?;
    cluster.wait_healthy(SOON).await?;
    no_overlap(&writers.stop()?)?;
    // Whoever leads then, the old leader may have had rows that no other got.
    let lost = ["DCS", "etcd", "lease", "watch", "fenced", "this term has ended", "diverged"];
    cluster.finish(&crash_and(&lost)).await
}

/// Once it thaws, the guard kills whatever appears in the data directory until it's told that its fencing is known.
#[tokio::test]
async fn a_guard_that_was_frozen_while_its_deadline_passed_keeps_no_replica_from_returning() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let leader = cluster.leader(SOON).await?;
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    let etcd: Vec<_> = etcd.members.iter().filter_map(|m| m.process()).collect();
    etcd.iter().for_each(|p| assert!(p.signal(Signal::STOP)));
    let steps_down = async || Ok(leader.log_text().contains("demoting: ").then_some(()));
    cluster.wait("the leader steps down", SOON, steps_down).await?;
    // The agent acts a moment before the guard's deadline.
    let guards = leader.guards();
    ensure!(!guards.is_empty(), "the leader has no guard");
    guards.iter().for_each(|p| assert!(p.signal(Signal::STOP)));
    let missed = async || Ok(leader.log_text().contains("the guard doesn't answer").then_some(()));
    cluster.wait("the agent misses its guard", SOON, missed).await?;
    // Another member leads, so that this guard isn't replaced by one for a new term.
    leader.signal_agent(Signal::STOP)?;
    etcd.iter().for_each(|p| assert!(p.signal(Signal::CONT)));
    cluster.leader_other_than(&leader.name, SOON).await?;
    guards.iter().for_each(|p| assert!(p.signal(Signal::CONT)));
    leader.signal_agent(Signal::CONT)?;
    cluster.wait_healthy(SOON).await?;
    let lost = ["DCS", "etcd", "lease", "watch", "fenced", "this term has ended", "diverged", "guard", "demoting"];
    // What is started before the agent has heard of its guard again is killed.
    let killed = ["Rejoin failed: pg_rewind failed: crash recovery"];
    cluster.finish(&crash_and(&[&lost[..], &killed].concat())).await
}

#[tokio::test]
async fn losing_an_etcd_member_is_not_noticed() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let writers = start_writers(&cluster).await?;
    let leader = cluster.leader(SOON).await?.name.clone();
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    for member in &etcd.members {
        let since = writers.now();
        let process = member.process().context("an etcd member is down")?;
        process.signal(Signal::KILL);
        ensure!(process.wait_gone(SOON), "etcd survives SIGKILL");
        // Longer than the lease lives, which must have been renewed through the other members.
        cluster
            .wait("a lease's life has passed", SOON, || async {
                Ok((writers.now() > since + Duration::from_secs(7)).then_some(()))
            })
            .await?;
        let outage = history::outage(&writers.writes(), since, writers.now());
        ensure!(
            outage < Duration::from_secs(1),
            "no write for {outage:?} after etcd member {} was killed",
            member.name
        );
        etcd.start_member(member)?;
        etcd.wait_healthy(SOON).await?;
    }
    ensure!(cluster.leader(SOON).await?.name == leader, "the leadership moved");
    no_overlap(&writers.stop()?)?;
    cluster.finish(&["DCS", "etcd", "lease", "watch"]).await
}

#[tokio::test]
async fn a_diverged_member_is_rewound() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Embedded)).await?;
    let writers = start_writers(&cluster).await?;
    let old = cluster.leader(SOON).await?;
    writers_table(&cluster, old).await?;
    // A host whose agent and guard are both gone, and whose PostgreSQL goes on: nothing but the operator's own hands can
    // make this. What it writes then is not acknowledged by the cluster.
    for guard in old.guards() {
        guard.signal(Signal::KILL);
    }
    kill(old)?;
    for guard in old.guards() {
        guard.signal(Signal::KILL);
    }
    let new = cluster.leader_other_than(&old.name, SOON).await?;
    cluster.sql(new, "INSERT INTO story VALUES ('kept')").await?;
    cluster.sql(old, "INSERT INTO story VALUES ('diverged')").await?;
    // Two nodes do take writes now: the writers have to see it, or the other tests prove nothing.
    cluster
        .wait("the writers see two leaders", SOON, || async {
            Ok((!history::overlaps(&writers.writes()).is_empty()).then_some(()))
        })
        .await?;
    writers.stop()?;
    old.start()?;
    cluster.wait_healthy(SOON).await?;
    cluster
        .wait("the old leader has the new one's data", SOON, || async {
            let rows = cluster.sql(old, "SELECT word FROM story ORDER BY 1").await?;
            if rows == [["before"], ["kept"]] { Ok(Some(())) } else { bail!("{rows:?}") }
        })
        .await?;
    ensure!(old.log_text().contains("pg_rewind"), "the old leader came back without pg_rewind");
    cluster.finish(&crash_and(&["guard", "fenc", "diverged", "rewind", "primary"])).await
}

#[tokio::test]
async fn a_full_disk_moves_the_leadership_and_loses_nothing() -> Result<()> {
    let dynamic = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 2, "synchronous_mode": true});
    let mut cluster = Cluster::prepare(Options { dynamic, ..Options::quick(Store::Embedded) }).await?;
    cluster.disk = Disk::mount(&cluster.node("pg1").data_dir(), 500)?;
    let Some(disk) = &cluster.disk else {
        println!("skipped: mounts are not permitted here");
        return Ok(());
    };
    let old = cluster.node("pg1");
    old.start()?;
    cluster.leader(SOON).await?;
    cluster.start_agents_but(old)?;
    cluster.wait_healthy(SOON).await?;
    cluster
        .wait("a standby is synchronous", SOON, || async {
            let view = cluster.view().await?;
            Ok(harness::cluster::members(&view).iter().any(|m| m["role"] == "sync_standby").then_some(()))
        })
        .await?;
    let writers = start_writers(&cluster).await?;
    disk.fill()?;
    let full = format!("no space left on the storage of {}: free some", old.data_dir().display());
    cluster
        .wait("the full disk is told of", SOON, || async { Ok(old.log_text().contains(&full).then_some(())) })
        .await?;
    // Until PostgreSQL needs a new WAL file, which is its end.
    cluster
        .wait("another node leads", SOON, || async {
            let _ = cluster.sql(old, "SELECT pg_logical_emit_message(false, '', repeat('x', 1000000))").await;
            Ok(cluster.find_leader().await?.filter(|l| l.name != old.name))
        })
        .await?;
    ensure!(accepted(&cluster, &writers).await?.name != old.name);

    disk.free()?;
    cluster.wait_healthy(SOON).await?;
    accepted(&cluster, &writers).await?;
    let writes = writers.stop()?;
    no_overlap(&writes)?;
    for node in &cluster.nodes {
        cluster
            .wait("every acknowledged row is there", SOON, || async {
                let rows = writers::rows(node.address).await?;
                let lost = history::lost(&writes, &rows);
                if lost.is_empty() {
                    Ok(Some(()))
                } else {
                    bail!("{} of {} are not on {}", lost.len(), writes.len(), node.name)
                }
            })
            .await?;
    }
    cluster.finish(&crash_and(&["no space left", "handing over", "term has ended", "diverged", "guard"])).await
}

async fn writers_table(cluster: &Cluster, leader: &Node) -> Result<()> {
    cluster.sql(leader, "CREATE TABLE story (word text)").await?;
    cluster.sql(leader, "INSERT INTO story VALUES ('before')").await?;
    cluster.wait_healthy(SOON).await.map(drop)
}
