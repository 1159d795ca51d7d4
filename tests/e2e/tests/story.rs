//! The story that must always work: a day with a cluster as its user lives it, through the admin client and SQL.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::{SOON, logged_everywhere};
use harness::{Cluster, Node, Options, Store};
use rustix::process::Signal;

#[tokio::test]
async fn a_day_with_a_cluster_on_the_embedded_store() -> Result<()> {
    live_through(Cluster::start(Options::seed(Store::Embedded)).await?).await
}

#[tokio::test]
async fn a_day_with_a_cluster_on_etcd() -> Result<()> {
    live_through(Cluster::start(Options::seed(Store::Etcd)).await?).await
}

async fn live_through(cluster: Cluster) -> Result<()> {
    replicas_stream_through_slots(&cluster).await?;
    every_member_is_listed(&cluster).await?;
    a_table_reaches_the_replicas(&cluster).await?;
    leadership_is_handed_over(&cluster).await?;
    every_member_can_be_rewound_again(&cluster).await?;
    a_stopped_leader_is_replaced_and_returns(&cluster).await?;
    a_parameter_is_changed(&cluster).await?;
    a_reload_reaches_postgresql(&cluster).await?;
    a_parameter_waits_for_a_restart(&cluster).await?;
    the_cluster_is_restarted(&cluster).await?;
    cluster.finish(&[]).await
}

async fn others<'a>(cluster: &'a Cluster, leader: &Node) -> Vec<&'a Node> {
    cluster.nodes.iter().filter(|n| n.name != leader.name).collect()
}

async fn replicas_stream_through_slots(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader(SOON).await?;
    let names: Vec<String> = others(cluster, leader).await.iter().map(|n| n.name.clone()).collect();
    let slots: Vec<Vec<String>> = names.iter().map(|n| vec![n.clone(), "physical".into(), "t".into()]).collect();
    let streams: Vec<Vec<String>> = others(cluster, leader)
        .await
        .iter()
        .map(|n| vec!["replicator".into(), n.name.clone(), "streaming".into()])
        .collect();
    cluster
        .wait("the slots are in use and the replicas stream", SOON, || async {
            let slots_now =
                cluster.sql(leader, "SELECT slot_name, slot_type, active FROM pg_replication_slots ORDER BY 1").await?;
            let query = "SELECT usename, application_name, state FROM pg_stat_replication ORDER BY 2";
            let streams_now = cluster.sql(leader, query).await?;
            if slots_now == slots && streams_now == streams {
                return Ok(Some(()));
            }
            bail!("slots {slots_now:?}, streams {streams_now:?}")
        })
        .await
}

/// pg_rewind before PostgreSQL 16 needs a checkpoint on the timeline that a server is on.
async fn every_member_can_be_rewound_again(cluster: &Cluster) -> Result<()> {
    let timelines = || async {
        for node in &cluster.nodes {
            let query = "SELECT current_setting('server_version_num')::int >= 160000, timeline_id \
                         FROM pg_control_checkpoint()";
            let row = cluster.sql(node, query).await?.concat();
            if row != ["f", "2"] && row.first().is_some_and(|newer| newer == "f") {
                bail!("{}: {row:?}", node.name);
            }
        }
        Ok(Some(()))
    };
    cluster.wait("each server has a checkpoint on the new timeline", SOON, timelines).await
}

async fn every_member_is_listed(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader(SOON).await?;
    let table = cluster.ctl_ok(&["list"], "").await?;
    ensure!(table.contains("+ Cluster: otus ("), "no title:\n{table}");
    for node in &cluster.nodes {
        let role = if node.name == leader.name { "Leader" } else { "Replica" };
        let line = table.lines().find(|l| l.starts_with(&format!("| {} ", node.name)));
        ensure!(line.is_some_and(|l| l.contains(role) && l.contains(&node.address.to_string())), "{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&cluster.ctl_ok(&["list", "-f", "json"], "").await?)?;
    ensure!(json.as_array().is_some_and(|members| members.len() == cluster.nodes.len()), "{json}");
    Ok(())
}

async fn a_table_reaches_the_replicas(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader(SOON).await?;
    cluster.sql(leader, "CREATE DATABASE otus").await?;
    harness::sql::query(leader.address, "otus", "CREATE TABLE homework (id serial, word varchar)").await?;
    harness::sql::query(leader.address, "otus", "INSERT INTO homework (word) VALUES ('test_repl1')").await?;
    for replica in others(cluster, leader).await {
        cluster
            .wait("the row is on the replica", SOON, || async {
                let rows = harness::sql::query(replica.address, "otus", "SELECT id, word FROM homework").await?;
                Ok((rows == [["1", "test_repl1"]]).then_some(()))
            })
            .await?;
        ensure!(cluster.sql(replica, "SELECT pg_is_in_recovery()").await? == [["t"]]);
        let refused = cluster.sql(replica, "CREATE TABLE elsewhere ()").await.expect_err("a replica took a write");
        ensure!(format!("{refused:#}").contains("read-only"), "{refused:#}");
    }
    Ok(())
}

async fn leadership_is_handed_over(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader(SOON).await?;
    let candidate = others(cluster, leader).await[0];
    let arguments = ["switchover", "--master", &leader.name, "--candidate", &candidate.name];
    let declined = cluster.ctl(&arguments, "\nn\n").await?;
    ensure!(!declined.status.success(), "a declined switchover ended with success");
    ensure!(cluster.leader(SOON).await?.name == leader.name, "a declined switchover took place");

    let text = cluster.ctl_ok(&arguments, "\ny\n").await?;
    ensure!(text.contains("Current cluster topology"), "{text}");
    let question =
        format!("Are you sure you want to switchover cluster otus, demoting current leader {}?", leader.name);
    ensure!(text.contains(&question), "{text}");
    ensure!(text.contains(&format!("Successfully switched over to \"{}\"", candidate.name)), "{text}");
    let view = cluster.wait_healthy(SOON).await?;
    ensure!(cluster.leader(SOON).await?.name == candidate.name, "{view}");
    Ok(())
}

async fn a_stopped_leader_is_replaced_and_returns(cluster: &Cluster) -> Result<()> {
    let old = cluster.leader(SOON).await?;
    old.stop(SOON)?;
    ensure!(old.postgres_processes().is_empty(), "PostgreSQL of {} outlived its agent", old.name);
    let new = cluster.leader_other_than(&old.name, SOON).await?;
    let table = cluster.ctl_ok(&["list"], "").await?;
    ensure!(!table.contains(&format!("| {} ", old.name)), "a member that left is listed:\n{table}");
    old.start()?;
    cluster.wait_healthy(SOON).await?;
    ensure!(cluster.leader(SOON).await?.name == new.name, "the returned member took over");
    ensure!(cluster.sql(old, "SELECT pg_is_in_recovery()").await? == [["t"]]);
    Ok(())
}

/// Adds a server parameter with an editor, as a person does.
async fn edit_config(cluster: &Cluster, line: &str) -> Result<()> {
    let editor = format!(r"sed -i 's/^\( *\)wal_keep_segments: 100$/&\n\1{line}/'");
    let text = cluster.ctl_ok_with(&["edit-config"], "y\n", &[("EDITOR", &editor)]).await?;
    ensure!(text.contains(&format!("+    {line}")), "the change is not shown:\n{text}");
    ensure!(text.contains("Apply these changes? [y/N]"), "{text}");
    ensure!(text.contains("Configuration changed"), "{text}");
    Ok(())
}

async fn setting_everywhere(cluster: &Cluster, name: &str, value: &str) -> Result<()> {
    for node in &cluster.nodes {
        cluster
            .wait("the parameter is in force", SOON, || async {
                let rows = cluster.sql(node, &format!("SHOW {name}")).await?;
                if rows == [[value]] { Ok(Some(())) } else { bail!("{} on {}: {rows:?}", name, node.name) }
            })
            .await?;
    }
    Ok(())
}

async fn a_parameter_is_changed(cluster: &Cluster) -> Result<()> {
    edit_config(cluster, "temp_buffers: 16MB").await?;
    logged_everywhere(cluster, " INFO: Changed temp_buffers from 1024 to 16MB\n").await?;
    setting_everywhere(cluster, "temp_buffers", "16MB").await
}

/// Also when no setting has changed: certificates and included files are read anew.
async fn a_reload_reaches_postgresql(cluster: &Cluster) -> Result<()> {
    let loaded = async |node| Ok::<_, anyhow::Error>(cluster.sql(node, "SELECT pg_conf_load_time()").await?.concat());
    for by_signal in [false, true] {
        for node in &cluster.nodes {
            let before = loaded(node).await?;
            if by_signal {
                node.signal_agent(Signal::HUP)?;
            } else {
                cluster.ctl_ok(&["reload", "otus", &node.name, "--force"], "").await?;
            }
            let again = || async { Ok((loaded(node).await? != before).then_some(())) };
            cluster.wait("PostgreSQL has read its files again", SOON, again).await?;
        }
    }
    Ok(())
}

async fn a_parameter_waits_for_a_restart(cluster: &Cluster) -> Result<()> {
    edit_config(cluster, "shared_buffers: 256MB").await?;
    logged_everywhere(cluster, " INFO: Changed shared_buffers from 16384 to 256MB (restart required)\n").await?;
    setting_everywhere(cluster, "shared_buffers", "128MB").await?;
    cluster
        .wait("every member is listed as waiting for a restart", SOON, || async {
            let table = cluster.ctl_ok(&["list"], "").await?;
            ensure!(table.contains("Pending restart"), "{table}");
            let marked = table.lines().filter(|l| l.starts_with("| pg") && l.contains("| *")).count();
            if marked == cluster.nodes.len() { Ok(Some(())) } else { bail!("{table}") }
        })
        .await
}

async fn the_cluster_is_restarted(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader(SOON).await?;
    let text = cluster.ctl_ok(&["restart", "otus"], "\ny\n\n").await?;
    ensure!(text.contains("Are you sure you want to restart members pg1, pg2, pg3?"), "{text}");
    for node in &cluster.nodes {
        ensure!(text.contains(&format!("Success: restart on member {}", node.name)), "{text}");
    }
    setting_everywhere(cluster, "shared_buffers", "256MB").await?;
    cluster.wait_healthy(SOON).await?;
    ensure!(cluster.leader(SOON).await?.name == leader.name, "a restart moved the leadership");
    cluster
        .wait("no member waits for a restart", Duration::from_secs(30), || async {
            Ok((!cluster.ctl_ok(&["list"], "").await?.contains("Pending restart")).then_some(()))
        })
        .await
}
