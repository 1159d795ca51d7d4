//! Who may become leader and who may not: tags and lag, in clusters whose leader's host dies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::SOON;
use harness::process::Identity;
use harness::{Cluster, Node, Options, Store, logs, rest};
use rustix::process::Signal;
use serde_json::json;

/// What agents say of a host's death and return.
const DEATH: [&str; 7] = [
    "ended unexpectedly",
    "not shut down cleanly",
    "guard",
    "diverged",
    "replication slots",
    "Connection refused",
    "not competing",
];

/// Long enough for a lease to end and for any patience with other members to run out.
const ELECTION: Duration = Duration::from_secs(12);

/// The values of the `sync` key so far.
async fn sync_values(cluster: &Cluster) -> Result<Vec<serde_json::Value>> {
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    let values = etcd.values("/service/otus/sync").await?;
    values.iter().map(|v| serde_json::from_str(v).context("read the sync key")).collect()
}

/// Waits until the `sync` key names exactly these standbys, and every commit waits for them.
async fn synchronous(cluster: &Cluster, leader: &Node, names: &[&str]) -> Result<()> {
    let wanted = names.join(",");
    cluster
        .wait(&format!("{wanted} are synchronous"), SOON, || async {
            let last = sync_values(cluster).await?.pop().unwrap_or_default();
            let setting = cluster.sql(leader, "SHOW synchronous_standby_names").await?.concat().concat();
            let named = names.iter().all(|n| setting.contains(&format!("\"{n}\"")));
            if last["sync_standby"] == wanted && last["leader"] == leader.name && named {
                return Ok(Some(()));
            }
            bail!("the sync key is {last}, synchronous_standby_names is {setting}")
        })
        .await
}

/// No leader is there, nor comes, for as long as an election may take; `node` says that it doesn't compete, and why.
async fn stays_leaderless(cluster: &Cluster, node: &Node, why: &str, label: &str) -> Result<()> {
    cluster
        .wait(&format!("{} says {why:?}", node.name), SOON, || async {
            Ok(node.log_text().contains(why).then_some(()))
        })
        .await?;
    let begun = Instant::now();
    cluster
        .wait("an election would be over", SOON, || async {
            ensure!(cluster.find_leader().await?.is_none(), "{} leads", node.name);
            Ok((begun.elapsed() > ELECTION).then_some(()))
        })
        .await?;
    ensure!(cluster.find_leader().await?.is_none(), "{} leads", node.name);
    ensure!(cluster.sql(node, "SELECT pg_is_in_recovery()").await? == [["t"]], "{} was promoted", node.name);
    let metrics = rest::get(node.address, "/metrics").await?.body;
    let shown = metrics.lines().any(|l| l.starts_with("pgherd_decision_info") && l.contains(label));
    ensure!(shown, "the metrics don't tell the reason:\n{metrics}");
    let log = node.log_text();
    let warned = log.lines().any(|l| logs::level(l) == Some("WARNING") && l.contains(why));
    ensure!(warned, "nobody is warned of a cluster without a leader:\n{log}");
    Ok(())
}

#[tokio::test]
async fn a_member_tagged_nosync_never_becomes_a_synchronous_standby() -> Result<()> {
    let dynamic = json!({
        "ttl": 5, "loop_wait": 1, "retry_timeout": 2, "synchronous_mode": true, "synchronous_node_count": 2
    });
    let cluster = Cluster::prepare(Options { dynamic, ..Options::quick(Store::Etcd) }).await?;
    let [old, tagged, other] = ["pg1", "pg2", "pg3"].map(|n| cluster.node(n));
    cluster.configure(tagged, &json!({"tags": {"nosync": true}}))?;
    old.start()?;
    cluster.leader(SOON).await?;
    tagged.start()?;
    other.start()?;
    cluster.wait_healthy(SOON).await?;
    synchronous(&cluster, old, &["pg3"]).await?;
    cluster.sql(old, "CREATE TABLE story AS SELECT 'kept' AS word").await?;

    let output = cluster.ctl(&["switchover", "--candidate", "pg2", "--force"], "").await?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
    ensure!(text.contains("pg2 isn't a synchronous standby (tagged nosync)"), "{text}");

    other.kill();
    old.kill();
    let why = "not competing: not a synchronous standby, only pg1, pg3 may lead";
    stays_leaderless(&cluster, tagged, why, "not_synchronous").await?;
    other.start()?;
    ensure!(cluster.leader(SOON).await?.name == "pg3");
    old.start()?;
    cluster.wait_healthy(SOON).await?;
    ensure!(cluster.sql(other, "SELECT word FROM story").await? == [["kept"]]);
    synchronous(&cluster, other, &["pg1"]).await?;
    for value in sync_values(&cluster).await? {
        ensure!(!value.to_string().contains("pg2"), "pg2 was in the sync key: {value}");
    }
    for node in [old, other] {
        let log = node.server_log();
        let mut lines = log.lines().filter(|l| l.contains("\"synchronous_standby_names\" changed to"));
        ensure!(lines.clone().next().is_some(), "PostgreSQL of {} never changed the setting", node.name);
        ensure!(lines.all(|l| !l.contains("pg2")), "commits waited for pg2:\n{log}");
    }

    // Without the tag it is as good as the others.
    cluster.configure(tagged, &json!({}))?;
    tagged.signal_agent(Signal::HUP)?;
    synchronous(&cluster, other, &["pg1", "pg2"]).await?;
    cluster.finish(&DEATH).await
}

/// A cluster with its leader, a replica that has everything, and one that has stopped receiving 5 MB ago.
struct Lagging {
    cluster: Cluster,
    leader: String,
    complete: String,
    behind: String,
}

impl Lagging {
    async fn start() -> Result<Lagging> {
        let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
        let leader = cluster.leader(SOON).await?;
        let [complete, behind] = [0, 1].map(|n| cluster.nodes.iter().filter(|n| n.name != leader.name).nth(n));
        let (complete, behind) = (complete.context("no replica")?, behind.context("no second replica")?);
        // Frozen at the sending end, so that nothing is under way that could still arrive.
        let query = format!("SELECT pid FROM pg_stat_replication WHERE application_name = '{}'", behind.name);
        let pid = cluster.sql(leader, &query).await?.concat().concat().parse()?;
        Identity::of(pid).context("the WAL sender is gone")?.signal(Signal::STOP);
        cluster.sql(leader, "CREATE TABLE far AS SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n").await?;
        let end = cluster.sql(leader, "SELECT pg_current_wal_flush_lsn() - '0/0'").await?.concat().concat();
        let end: u64 = end.parse()?;
        cluster
            .wait("the status key and the other replica have got that far", SOON, || async {
                let etcd = cluster.etcd.as_ref().context("no etcd")?;
                let status = etcd.values("/service/otus/status").await?.pop().unwrap_or_default();
                let status: serde_json::Value = serde_json::from_str(&status)?;
                let received =
                    cluster.sql(complete, "SELECT pg_last_wal_receive_lsn() - '0/0'").await?.concat().concat();
                if status["optime"].as_u64() >= Some(end) && received.parse::<u64>()? >= end {
                    return Ok(Some(()));
                }
                bail!("the status key is {status}, {} has {received} of {end}", complete.name)
            })
            .await?;
        let names = [leader, complete, behind].map(|n| n.name.clone());
        let [leader, complete, behind] = names;
        Ok(Lagging { cluster, leader, complete, behind })
    }

    fn nodes(&self) -> [&Node; 3] {
        [&self.leader, &self.complete, &self.behind].map(|n| self.cluster.node(n))
    }

    async fn ends_well(self) -> Result<()> {
        self.cluster.wait_healthy(SOON).await?;
        for node in &self.cluster.nodes {
            self.cluster
                .wait("every node has every row", SOON, || async {
                    let rows = self.cluster.sql(node, "SELECT count(*) FROM far").await?;
                    if rows == [["5000"]] { Ok(Some(())) } else { bail!("{}: {rows:?}", node.name) }
                })
                .await?;
        }
        self.cluster.finish(&DEATH).await
    }
}

#[tokio::test]
async fn the_replica_that_has_everything_leads_and_not_the_one_that_lags() -> Result<()> {
    let lagging = Lagging::start().await?;
    let [old, complete, _] = lagging.nodes();
    old.kill();
    let new = lagging.cluster.leader_other_than(&old.name, SOON).await?;
    ensure!(new.name == complete.name, "{} leads", new.name);
    old.start()?;
    lagging.ends_well().await
}

#[tokio::test]
async fn a_replica_behind_by_more_than_maximum_lag_on_failover_does_not_lead_alone() -> Result<()> {
    let lagging = Lagging::start().await?;
    let [old, complete, behind] = lagging.nodes();
    complete.kill();
    old.kill();
    let why = "bytes behind, maximum_lag_on_failover is 1048576";
    stays_leaderless(&lagging.cluster, behind, why, "too_far_behind").await?;
    complete.start()?;
    let new = lagging.cluster.leader(SOON).await?;
    ensure!(new.name == complete.name, "{} leads", new.name);
    old.start()?;
    lagging.ends_well().await
}
