//! Unplanned changes: clients between transactions go on, clients inside of one are told at once, and what may or may not
//! have been committed is said to be unknown.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::SOON;
use harness::front::Front;
use harness::load::{self, Done, Failure};
use harness::{Cluster, Options, Store, sql};
use rustix::process::Signal;

use super::{Site, no_errors};

/// What agents say of a death.
const DEATH: [&str; 9] = [
    "ended unexpectedly",
    "has not served",
    "not shut down cleanly",
    "guard",
    "diverged",
    "replication slots",
    "Connection refused",
    "not competing",
    "other processes of PostgreSQL live",
];
/// What poolers say of it.
const CUT: [&str; 4] = ["server conn crashed", "cut", "the leader", "pooler error"];

/// Whether a client that runs short transactions may see this when its server dies. What a client is told between two
/// statements of a transaction, this driver shows as the end of the connection only.
fn is_honest(failure: &Failure) -> bool {
    let told = matches!(failure.code.as_str(), "08006" | "08007" | "57P01");
    !failure.connecting && (told || failure.text == "connection closed")
}

fn writes_of(done: &[Done]) -> Vec<Done> {
    done.iter().filter(|d| d.key.is_some() || d.error.as_ref().is_some_and(|e| e.connecting)).cloned().collect()
}

#[tokio::test]
async fn a_crash_of_the_leaders_server_is_over_in_moments() -> Result<()> {
    let site = Site::start(Options::seed(Store::Etcd)).await?;
    let load = site.load().await?;
    let leader = site.cluster.leader(SOON).await?;
    leader.postmaster().context("no postmaster")?.signal(Signal::KILL);
    site.writes(&load).await?;
    site.cluster.wait_healthy(SOON).await?;
    let acknowledged = load.acknowledged();
    let done = writes_of(&load.stop());
    let dishonest: Vec<_> = load::errors(&done).into_iter().filter(|e| !is_honest(e)).collect();
    ensure!(dishonest.is_empty(), "{dishonest:?}");
    site.nothing_is_lost(&acknowledged).await?;
    site.finish(&DEATH, &CUT).await
}

#[tokio::test]
async fn clients_go_on_at_another_leader_when_the_host_dies() -> Result<()> {
    let site = Site::synchronous().await?;
    let load = site.load().await?;
    let leader = site.cluster.leader(SOON).await?;
    leader.signal_agent(Signal::KILL)?;
    for process in leader.guards().into_iter().chain(leader.postgres_processes()) {
        process.signal(Signal::KILL);
    }
    site.cluster.leader_other_than(&leader.name, SOON).await?;
    site.writes(&load).await?;
    leader.start()?;
    site.cluster.wait_healthy(SOON).await?;
    site.writes(&load).await?;
    let acknowledged = load.acknowledged();
    let done = writes_of(&load.stop());
    let dishonest: Vec<_> = load::errors(&done).into_iter().filter(|e| !is_honest(e)).collect();
    ensure!(dishonest.is_empty(), "{dishonest:?}");
    site.nothing_is_lost(&acknowledged).await?;
    site.finish(&DEATH, &CUT).await
}

/// An agent that is frozen loses its lease; its server is fenced, and the pooler's connections to it are cut.
#[tokio::test]
async fn connections_to_a_deposed_leader_are_cut() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let front = Front::start(&cluster, 2, &[]).await?;
    let idle = sql::connect_with(&front.config("postgres")).await?;
    idle.batch_execute("SELECT 1").await?;
    let busy = sql::connect_with(&front.config("postgres")).await?;
    busy.batch_execute("BEGIN").await?;
    let leader = cluster.leader(SOON).await?;
    leader.signal_agent(Signal::STOP)?;
    cluster.leader_other_than(&leader.name, SOON).await?;
    let error = busy.batch_execute("SELECT 1").await.err().context("the transaction lives on")?;
    let code = error.code().map(|c| c.code().to_owned());
    ensure!(code.is_none() || code.as_deref() == Some("08006"), "{error:?}");
    let row = idle.query_one("SELECT pg_is_in_recovery()", &[]).await.context("go on at the new leader")?;
    ensure!(!row.get::<_, bool>(0), "a replica answers in the leader's place");
    leader.signal_agent(Signal::CONT)?;
    cluster.wait_healthy(SOON).await?;
    front.stop()?;
    cluster.finish(&[&DEATH[..], &["fenced", "lease", "this term has ended"]].concat()).await
}

/// The pooler knows where the leader was, and the leader fences itself if it must.
#[tokio::test]
async fn without_the_dcs_clients_stay_where_they_were() -> Result<()> {
    let cluster = Cluster::start(Options::seed(Store::Etcd)).await?;
    let leader = cluster.leader(SOON).await?;
    sql::query(leader.address, "postgres", load::TABLE).await?;
    let front = Front::start(&cluster, 2, &[]).await?;
    let session = sql::connect_with(&front.config("postgres")).await?;
    session.batch_execute("INSERT INTO load (key) VALUES (1)").await?;
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    for member in &etcd.members {
        member.process().context("an etcd member is down")?.signal(Signal::STOP);
    }
    cluster
        .wait("the pooler has noticed", SOON, || async {
            Ok(front.log_text().contains("clients are sent where they were sent before").then_some(()))
        })
        .await?;
    session.batch_execute("INSERT INTO load (key) VALUES (2)").await.context("write without a DCS")?;
    ensure!(front.sql("postgres", "SELECT count(*) FROM load").await? == [["2"]]);
    for member in &etcd.members {
        member.process().context("an etcd member is down")?.signal(Signal::CONT);
    }
    cluster
        .wait("the pooler reads the DCS again", SOON, || async {
            Ok(front.log_text().contains("the DCS can be read again").then_some(()))
        })
        .await?;
    session.batch_execute("INSERT INTO load (key) VALUES (3)").await?;
    front.stop()?;
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&["DCS", "lease", "not renewed", "member key", "diverged", "Optime"]).await
}

/// Readers see nothing of a replica's death but the loss of what they were reading.
#[tokio::test]
async fn readers_go_to_another_replica() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let leader = cluster.leader(SOON).await?;
    sql::query(leader.address, "postgres", load::TABLE).await?;
    let front = Front::start(&cluster, 2, &[]).await?;
    ensure!(front.sql("ro", "SELECT pg_is_in_recovery()").await? == [["t"]]);
    let replicas: Vec<_> = cluster.nodes.iter().filter(|n| n.name != leader.name).collect();
    for replica in &replicas {
        replica.signal_agent(Signal::TERM)?;
        let gone = || async { Ok(replica.agent().is_none().then_some(())) };
        cluster.wait("the replica has left", SOON, gone).await?;
        // The last one falls back on the leader.
        let expected = if replica.name == replicas[1].name { "f" } else { "t" };
        let answers = || async {
            let rows = front.sql("ro", "SELECT pg_is_in_recovery()").await?;
            Ok((rows == [[expected]]).then_some(()))
        };
        cluster.wait("readers are served", Duration::from_secs(10), answers).await?;
    }
    replicas.iter().try_for_each(|r| r.start().map(drop))?;
    cluster.wait_healthy(SOON).await?;
    let back = || async { Ok((front.sql("ro", "SELECT pg_is_in_recovery()").await? == [["t"]]).then_some(())) };
    cluster.wait("readers are at a replica again", SOON, back).await?;
    front.check_log(&[])?;
    front.stop()?;
    cluster.finish(&DEATH).await
}

#[tokio::test]
async fn a_steady_cluster_costs_clients_nothing() -> Result<()> {
    let site = Site::start(Options::quick(Store::Etcd)).await?;
    let load = site.load().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let done = load.stop();
    no_errors(&done)?;
    ensure!(done.len() > 500, "{} transactions in 5 s", done.len());
    site.finish(&[], &[]).await
}
