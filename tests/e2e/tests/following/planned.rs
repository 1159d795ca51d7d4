//! Planned changes: clients wait for a moment and see no error.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::SOON;
use harness::front::Front;
use harness::{Cluster, Options, Store, sql};
use rustix::process::Signal;
use serde_json::json;

use super::{Site, no_errors};

/// What servers that are shut down as planned make agents say.
const SHUTDOWN: [&str; 2] = ["diverged", "replication slots"];

#[tokio::test]
async fn a_switchover_costs_no_client_an_error() -> Result<()> {
    let site = Site::start(Options::quick(Store::Etcd)).await?;
    let load = site.load().await?;
    for _ in 0..3 {
        let leader = site.cluster.leader(SOON).await?;
        let said = site.cluster.ctl_ok(&["switchover", "--force"], "").await?;
        ensure!(said.contains("Clients waited "), "{said}");
        ensure!(said.contains("clients of 2 poolers), no transaction was cut"), "{said}");
        site.cluster.leader_other_than(&leader.name, SOON).await?;
        site.writes(&load).await?;
        site.cluster.wait_healthy(SOON).await?;
    }
    let acknowledged = load.acknowledged();
    no_errors(&load.stop())?;
    site.nothing_is_lost(&acknowledged).await?;
    site.finish(&SHUTDOWN, &[]).await
}

#[tokio::test]
async fn a_departure_of_the_leaders_agent_costs_no_client_an_error() -> Result<()> {
    let site = Site::start(Options::quick(Store::Etcd)).await?;
    let load = site.load().await?;
    let leader = site.cluster.leader(SOON).await?;
    leader.signal_agent(Signal::TERM)?;
    site.cluster.leader_other_than(&leader.name, SOON).await?;
    site.writes(&load).await?;
    site.cluster.wait("the agent has ended", SOON, || async { Ok(leader.agent().is_none().then_some(())) }).await?;
    leader.start()?;
    site.cluster.wait_healthy(SOON).await?;
    no_errors(&load.stop())?;
    site.finish(&SHUTDOWN, &[]).await
}

/// Replicas connect again only seconds after a restart of their leader, and a shutdown waits for connected ones only.
#[tokio::test]
async fn a_switchover_waits_for_a_candidate_that_streams() -> Result<()> {
    let site = Site::start(Options::quick(Store::Etcd)).await?;
    let load = site.load().await?;
    let leader = site.cluster.leader(SOON).await?;
    site.cluster.ctl_ok(&["restart", "--force", "otus", &leader.name], "").await?;
    site.writes(&load).await?;
    site.cluster.ctl_ok(&["switchover", "--force"], "").await?;
    let new = site.cluster.leader_other_than(&leader.name, SOON).await?;
    site.writes(&load).await?;
    site.cluster.wait_healthy(SOON).await?;

    // One that can't connect any more isn't handed over to, however little it lacks.
    site.cluster.sql(new, "ALTER ROLE replicator NOLOGIN").await?;
    site.cluster.sql(new, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await?;
    let output = site.cluster.ctl(&["switchover", "--candidate", &leader.name, "--force"], "").await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("isn't streaming from this leader"), "{said}");
    site.writes(&load).await?;
    ensure!(site.cluster.leader(SOON).await?.name == new.name, "leadership has moved");
    site.cluster.sql(new, "ALTER ROLE replicator LOGIN").await?;
    site.cluster.wait_healthy(SOON).await?;
    let acknowledged = load.acknowledged();
    no_errors(&load.stop())?;
    site.nothing_is_lost(&acknowledged).await?;
    site.finish(&[&SHUTDOWN[..], &["switchover refused", "is not permitted to log in"]].concat(), &[]).await
}

#[tokio::test]
async fn a_rolling_restart_costs_no_client_an_error() -> Result<()> {
    let site = Site::start(Options::quick(Store::Etcd)).await?;
    let load = site.load().await?;
    site.cluster.ctl_ok(&["edit-config", "--force", "-p", "max_locks_per_transaction=128"], "").await?;
    e2e::logged_everywhere(&site.cluster, "Changed max_locks_per_transaction from 64 to 128").await?;
    let said = site.cluster.ctl_ok(&["restart", "--rolling", "--force", "otus"], "").await?;
    for node in &site.cluster.nodes {
        ensure!(said.contains(&format!("Success: restart on member {}", node.name)), "{said}");
        let value = site.cluster.sql(node, "SHOW max_locks_per_transaction").await?;
        ensure!(value == [["128"]], "{}: {value:?}", node.name);
    }
    site.writes(&load).await?;
    no_errors(&load.stop())?;
    site.finish(&SHUTDOWN, &[]).await
}

#[tokio::test]
async fn a_restart_of_the_leader_in_place_costs_no_client_an_error() -> Result<()> {
    let site = Site::start(Options::quick(Store::Etcd)).await?;
    let load = site.load().await?;
    let leader = site.cluster.leader(SOON).await?;
    site.cluster.ctl_ok(&["restart", "--force", "otus", &leader.name], "").await?;
    site.writes(&load).await?;
    ensure!(site.cluster.leader(SOON).await?.name == leader.name, "leadership has moved");
    no_errors(&load.stop())?;
    site.finish(&SHUTDOWN, &[]).await
}

/// A cluster whose transactions may outlast a switchover by so many seconds.
async fn patient(seconds: u64) -> Result<Cluster> {
    let mut options = Options::quick(Store::Etcd);
    options.dynamic["switchover_drain_timeout"] = json!(seconds);
    Cluster::start(options).await
}

#[tokio::test]
async fn a_transaction_that_outlasts_the_patience_is_cut_and_told_of() -> Result<()> {
    let cluster = patient(1).await?;
    let front = Front::start(&cluster, 2, &[]).await?;
    let long = sql::connect_with(&front.config("postgres")).await?;
    long.batch_execute("BEGIN; CREATE TABLE unfinished ()").await?;
    let said = cluster.ctl_ok(&["switchover", "--force"], "").await?;
    ensure!(said.contains("1 transactions took too long and were cut"), "{said}");
    let error = long.batch_execute("COMMIT").await.err().context("the transaction was committed")?;
    let code = error.code().map(|c| c.code().to_owned());
    ensure!(code.is_none() || code.as_deref() == Some("57P01"), "{error:?}");
    ensure!(front.sql("postgres", "SELECT to_regclass('unfinished') IS NULL").await? == [["t"]]);
    front.stop()?;
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&SHUTDOWN).await
}

#[tokio::test]
async fn a_replicas_restart_waits_for_its_readers_and_cuts_those_who_outlast_the_patience() -> Result<()> {
    let cluster = patient(1).await?;
    let front = Front::start(&cluster, 2, &[]).await?;
    let long = sql::connect_with(&front.config("ro")).await?;
    long.batch_execute("BEGIN").await?;
    let row = long.query_one("SELECT host(inet_server_addr())", &[]).await?;
    let address: String = row.get(0);
    let replica = cluster.nodes.iter().find(|n| n.address.to_string() == address).context("no such node")?;
    cluster.ctl_ok(&["restart", "--force", "otus", &replica.name], "").await?;
    let error = long.batch_execute("COMMIT").await.err().context("the transaction has outlived its server")?;
    let code = error.code().map(|c| c.code().to_owned());
    ensure!(code.is_none() || code.as_deref() == Some("57P01"), "{error:?}");
    let told = format!("1 transactions on {} were cut, which ran for 1000 ms into its drain", replica.name);
    ensure!(front.log_text().contains(&told), "{}", front.log_text());
    ensure!(front.sql("ro", "SELECT pg_is_in_recovery()").await? == [["t"]]);
    front.stop()?;
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&SHUTDOWN).await
}

#[tokio::test]
async fn a_transaction_that_ends_in_time_is_waited_for() -> Result<()> {
    let cluster = patient(20).await?;
    let front = Front::start(&cluster, 2, &[]).await?;
    let leader = cluster.leader(SOON).await?;
    let long = sql::connect_with(&front.config("postgres")).await?;
    long.batch_execute("BEGIN; CREATE TABLE finished ()").await?;
    let order = cluster.ctl_ok(&["switchover", "--force"], "");
    let work = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let started = cluster.find_leader().await?.map(|l| l.name.clone());
        ensure!(started.as_ref() == Some(&leader.name), "the switchover didn't wait");
        long.batch_execute("COMMIT").await.context("commit")
    };
    let (said, worked) = tokio::join!(order, work);
    worked?;
    ensure!(said?.contains("no transaction was cut"));
    // The same connection goes on at the new leader.
    long.batch_execute("INSERT INTO finished DEFAULT VALUES").await?;
    front.check_log(&[])?;
    front.stop()?;
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&SHUTDOWN).await
}

#[tokio::test]
async fn a_session_is_told_at_the_moment_of_the_switch() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let front = Front::start(&cluster, 2, &["pool_mode = session"]).await?;
    let session = sql::connect_with(&front.config("postgres")).await?;
    session.batch_execute("SET work_mem = '5MB'").await?;
    cluster.ctl_ok(&["switchover", "--force"], "").await?;
    let error = session.batch_execute("SELECT 1").await.err().context("the session lives on")?;
    let code = error.code().map(|c| c.code().to_owned());
    ensure!(code.is_none() || code.as_deref() == Some("57P01"), "{error:?}");
    ensure!(front.sql("postgres", "SELECT pg_is_in_recovery()").await? == [["f"]]);
    front.stop()?;
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&SHUTDOWN).await
}

/// A pooler that is stopped while it's registered is waited for, but not for long.
#[tokio::test]
async fn a_pooler_that_doesnt_answer_delays_a_switchover_by_a_bounded_time() -> Result<()> {
    let cluster = patient(1).await?;
    let front = Front::start(&cluster, 2, &[]).await?;
    ensure!(front.sql("postgres", "SELECT pg_is_in_recovery()").await? == [["f"]]);
    front.signal(Signal::STOP)?;
    cluster.ctl_ok(&["switchover", "--force"], "").await?;
    front.signal(Signal::CONT)?;
    cluster
        .wait("the pooler goes to the new leader", SOON, || async {
            let rows = front.sql("postgres", "SELECT pg_is_in_recovery()").await?;
            Ok((rows == [["f"]]).then_some(()))
        })
        .await?;
    front.stop()?;
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&SHUTDOWN).await
}

/// Nothing shows a pooler's clients that its process has ended in order but their own connections.
#[tokio::test]
async fn a_pooler_that_has_ended_is_not_waited_for() -> Result<()> {
    let cluster = patient(60).await?;
    let front = Front::start(&cluster, 2, &[]).await?;
    ensure!(front.sql("postgres", "SELECT pg_is_in_recovery()").await? == [["f"]]);
    front.signal(Signal::TERM)?;
    let gone = || async { Ok(front.process().is_none().then_some(())) };
    cluster.wait("the pooler has ended", SOON, gone).await?;
    let said = cluster.ctl_ok(&["switchover", "--force"], "").await?;
    ensure!(!said.contains("Clients waited"), "{said}");
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&SHUTDOWN).await
}

/// Whether the order is refused at once or the shutdown is taken back because the candidate doesn't follow: clients wait for
/// a leader.
#[tokio::test]
async fn a_switchover_to_frozen_members_costs_no_writer_an_error() -> Result<()> {
    let site = Site::start(Options::quick(Store::Etcd)).await?;
    let load = site.load().await?;
    let leader = site.cluster.leader(SOON).await?;
    let frozen: Vec<_> = site.cluster.nodes.iter().filter(|n| n.name != leader.name).collect();
    for process in frozen.iter().flat_map(|n| n.postgres_processes()) {
        process.signal(Signal::STOP);
    }
    site.cluster.ctl(&["switchover", "--force"], "").await?;
    for process in frozen.iter().flat_map(|n| n.postgres_processes()) {
        process.signal(Signal::CONT);
    }
    site.writes(&load).await?;
    site.cluster.wait_healthy(SOON).await?;
    let acknowledged = load.acknowledged();
    let writes: Vec<_> = load.stop().into_iter().filter(|d| d.key.is_some()).collect();
    no_errors(&writes)?;
    site.nothing_is_lost(&acknowledged).await?;
    let expected = ["refused", "not shut down cleanly", "has not served", "doesn't answer", "no answer", "timed out"];
    let more = ["accepts no connection", "not answered", "handing over", "not competing", "ended unexpectedly"];
    site.finish(&[&SHUTDOWN[..], &expected, &more].concat(), &["WARNING"]).await
}
