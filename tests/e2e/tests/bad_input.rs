//! Configurations and environments that can't work: one clear message each, the right exit code, and no data touched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::SOON;
use harness::programs::{self, Programs};
use harness::{Cluster, Node, Options, Store};
use rustix::process::Signal;
use serde_json::json;

/// A cluster's files with nothing started.
async fn files() -> Result<Cluster> {
    Cluster::prepare(Options { nodes: 1, ..Options::quick(Store::Embedded) }).await
}

/// Runs the agent on a node's file until it ends by itself.
async fn run_agent(node: &Node) -> Result<Output> {
    let mut command = tokio::process::Command::from(node.command(Programs::find()?.agent.to_str().context("a path")?));
    command.arg(node.yaml()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().context("start the agent")?;
    tokio::time::timeout(SOON, child.wait_with_output())
        .await
        .context("the agent does not end")?
        .context("run the agent")
}

/// The agent ends with `code` and names every one of `words` on stderr.
async fn refuses(node: &Node, code: i32, words: &[&str]) -> Result<()> {
    let output = run_agent(node).await?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "exit {} in place of {code}:\n{text}", output.status);
    for word in words {
        ensure!(text.contains(word), "{word:?} is not said:\n{text}");
    }
    ensure!(!text.contains("panicked"), "{text}");
    Ok(())
}

fn edit(node: &Node, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(node.yaml())?;
    ensure!(text.contains(from), "{from:?} is not in the file");
    fs::write(node.yaml(), text.replace(from, to))?;
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_not_yaml_is_refused_with_its_line() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    edit(node, "restapi:\n", "restapi: [\n")?;
    refuses(node, 64, &["pg1.yml"]).await
}

#[tokio::test]
async fn every_fault_of_a_file_is_told_at_once() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    edit(node, "scope: otus\n", "")?;
    edit(node, "ttl: 5", "ttl: soon")?;
    edit(node, "data_dir:", "data_dri:")?;
    refuses(node, 64, &["scope", "ttl", "data_dir"]).await
}

#[tokio::test]
async fn a_misspelt_setting_is_named_with_the_nearest_known_one() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    edit(node, "use_slots: true", "use_slotz: true")?;
    refuses(node, 64, &["use_slotz", "\"use_slots\""]).await
}

#[tokio::test]
async fn timings_that_do_not_fit_together_are_refused() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    edit(node, "retry_timeout: 2", "retry_timeout: 20")?;
    refuses(node, 64, &["ttl", "loop_wait", "retry_timeout"]).await
}

#[tokio::test]
async fn missing_programs_are_named() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    cluster.configure(node, &json!({"postgresql": {"bin_dir": "/nowhere/bin"}}))?;
    refuses(node, 64, &["/nowhere/bin"]).await
}

#[tokio::test]
async fn a_postgresql_that_is_too_old_is_refused() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    let old = cluster.directory().join("old");
    fs::create_dir(&old)?;
    for entry in fs::read_dir(Programs::find()?.postgres)? {
        let name = entry?.file_name();
        let script = format!("#!/bin/sh\necho '{} (PostgreSQL) 11.22'\n", name.display());
        fs::write(old.join(&name), script)?;
        fs::set_permissions(old.join(&name), fs::Permissions::from_mode(0o755))?;
    }
    cluster.configure(node, &json!({"postgresql": {"bin_dir": old}}))?;
    refuses(node, 64, &["11", "12"]).await?;
    ensure!(fs::read_dir(node.data_dir())?.next().is_none(), "data was written");
    Ok(())
}

#[tokio::test]
async fn a_data_directory_of_root_is_refused() -> Result<()> {
    if !programs::is_root() {
        println!("skipped: only root can give a directory to root");
        return Ok(());
    }
    let cluster = files().await?;
    let node = cluster.node("pg1");
    node.start()?;
    cluster.leader(SOON).await?;
    node.stop(SOON)?;
    std::os::unix::fs::chown(node.data_dir(), Some(0), Some(0))?;
    let data_dir = node.data_dir();
    refuses(node, 64, &[&data_dir.to_string_lossy(), "root", "chown"]).await?;
    ensure!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&data_dir)?) == 0, "the owner was changed");
    Ok(())
}

#[tokio::test]
async fn wrong_etcd_credentials_are_named() -> Result<()> {
    let cluster = Cluster::prepare(Options { nodes: 1, ..Options::quick(Store::Etcd) }).await?;
    let node = cluster.node("pg1");
    let endpoint = format!("{}:2379", node.address);
    for arguments in
        [vec!["user", "add", "root:right"], vec!["user", "grant-role", "root", "root"], vec!["auth", "enable"]]
    {
        let mut etcdctl = tokio::process::Command::new("etcdctl");
        let output = etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]).args(&arguments).output().await?;
        ensure!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    cluster.configure(node, &json!({"etcd": {"username": "root", "password": "wrong"}}))?;
    node.start()?;
    cluster
        .wait("the credentials are refused", SOON, || async {
            let log = node.log_text();
            let told =
                log.contains("authentication failed") || log.contains("etcd.username") || log.contains("password");
            Ok(told.then_some(()))
        })
        .await?;
    ensure!(!node.log_text().contains("wrong,"), "the password is in the log");
    let output = cluster.ctl(&["list"], "").await?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(64) && text.contains("password"), "{}: {text}", output.status);
    ensure!(fs::read_dir(node.data_dir())?.next().is_none(), "data was written");

    // With the right ones it goes on.
    let _ = node.stop(SOON);
    cluster.configure(node, &json!({"etcd": {"username": "root", "password": "right"}}))?;
    node.start()?;
    cluster.leader(SOON).await.map(drop)
}

#[tokio::test]
async fn a_config_key_deleted_by_hand_is_written_again() -> Result<()> {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::quick(Store::Etcd) }).await?;
    let node = cluster.node("pg1");
    cluster.ctl_ok(&["edit-config", "--pg", "work_mem=7MB", "--force"], "").await?;
    let work_mem = || async {
        let rows = cluster.sql(node, "SHOW work_mem").await?;
        Ok((rows == [["7MB"]]).then_some(()))
    };
    cluster.wait("the parameter is in force", SOON, work_mem).await?;
    let mut etcdctl = tokio::process::Command::new("etcdctl");
    etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &format!("{}:2379", node.address)]);
    let output = etcdctl.args(["del", "/service/otus/config"]).output().await?;
    ensure!(output.stdout == b"1\n", "etcdctl: {}", String::from_utf8_lossy(&output.stderr));
    cluster
        .wait("the key is there again", SOON, || async {
            Ok(cluster.ctl_ok(&["show-config"], "").await?.contains("work_mem: 7MB").then_some(()))
        })
        .await?;
    ensure!(work_mem().await?.is_some(), "the parameter is no longer in force");
    cluster.finish(&["the config key was deleted: it is written again"]).await
}

#[tokio::test]
async fn a_taken_postgresql_port_is_named() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    let _taken = std::net::TcpListener::bind((node.address, 5432))?;
    node.start()?;
    cluster
        .wait("the port is named", SOON, || async {
            let address = format!("{}:5432", node.address);
            let log = node.log_text();
            let named = log.lines().any(|l| {
                let serious = matches!(harness::logs::level(l), Some("ERROR" | "WARNING"));
                serious && (l.contains(&address) || l.contains("5432") && l.contains("in use"))
            });
            Ok(named.then_some(()))
        })
        .await
}

#[tokio::test]
async fn a_data_directory_open_to_others_is_refused_and_left_alone() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    node.start()?;
    cluster.leader(SOON).await?;
    node.stop(SOON)?;
    fs::set_permissions(node.data_dir(), fs::Permissions::from_mode(0o777))?;
    let output = run_agent(node).await?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(64), "exit {}:\n{text}", output.status);
    ensure!(text.contains("chmod") || text.contains("0700"), "what to do is not said:\n{text}");
    ensure!(fs::metadata(node.data_dir())?.permissions().mode() & 0o777 == 0o777, "the mode was changed");
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_named() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    let _taken = std::net::TcpListener::bind((node.address, 8008))?;
    let output = run_agent(node).await?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "the agent ran:\n{text}");
    ensure!(text.contains(&format!("{}:8008", node.address)), "the address is not said:\n{text}");
    ensure!(!node.data_dir().join("PG_VERSION").exists(), "data was written");
    Ok(())
}

#[tokio::test]
async fn data_of_another_cluster_is_refused_and_left_alone() -> Result<()> {
    let one = Cluster::start(Options { nodes: 1, ..Options::quick(Store::Embedded) }).await?;
    let other = Cluster::start(Options { nodes: 2, ..Options::quick(Store::Embedded) }).await?;
    let stranger = one.node("pg1");
    stranger.stop(SOON)?;
    let leader = other.leader(SOON).await?;
    let replica = other.nodes.iter().find(|n| n.name != leader.name).context("no replica")?;
    replica.stop(SOON)?;
    fs::rename(replica.data_dir(), replica.data_dir().with_extension("aside"))?;
    fs::rename(stranger.data_dir(), replica.data_dir())?;
    let control = fs::read(replica.data_dir().join("global/pg_control"))?;
    replica.start()?;
    other
        .wait("the other cluster's data is refused", SOON, || async {
            Ok(replica.log_text().contains("belongs to another cluster").then_some(()))
        })
        .await?;
    ensure!(replica.postgres_processes().is_empty(), "PostgreSQL was started on another cluster's data");
    ensure!(fs::read(replica.data_dir().join("global/pg_control"))? == control, "the data was touched");
    Ok(())
}

#[tokio::test]
async fn switchover_to_a_member_that_cannot_lead_is_refused_with_the_reason() -> Result<()> {
    let cluster = Cluster::prepare(Options { nodes: 2, ..Options::quick(Store::Embedded) }).await?;
    cluster.configure(cluster.node("pg2"), &json!({"tags": {"nofailover": true}}))?;
    cluster.node("pg1").start()?;
    cluster.leader(SOON).await?;
    cluster.node("pg2").start()?;
    cluster.wait_healthy(Duration::from_secs(120)).await?;
    for candidate in ["pg2", "pg9"] {
        let output = cluster.ctl(&["switchover", "--candidate", candidate, "--force"], "").await?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
        ensure!(text.contains(candidate) || text.contains("No candidates"), "{text}");
    }
    ensure!(cluster.leader(SOON).await?.name == "pg1");
    cluster.finish(&[]).await
}

#[tokio::test]
async fn the_client_tells_a_bad_configuration_from_other_failures() -> Result<()> {
    let cluster = files().await?;
    let node = cluster.node("pg1");
    edit(node, "embedded:\n", "embeded:\n")?;
    let output = cluster.ctl(&["list"], "").await?;
    ensure!(output.status.code() == Some(64), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn switchover_to_a_member_that_is_far_behind_is_refused_with_how_far() -> Result<()> {
    let cluster = Cluster::start(Options { nodes: 2, ..Options::quick(Store::Embedded) }).await?;
    let leader = cluster.leader(SOON).await?;
    let lagging = if leader.name == "pg1" { cluster.node("pg2") } else { cluster.node("pg1") };
    let frozen: Vec<_> = lagging
        .postgres_processes()
        .into_iter()
        .filter(|p| harness::process::arguments(p.pid).join(" ").contains("walreceiver"))
        .collect();
    ensure!(frozen.len() == 1, "WAL receivers: {frozen:?}");
    frozen[0].signal(Signal::STOP);
    cluster.sql(leader, "CREATE TABLE far AS SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n").await?;
    let output = cluster.ctl(&["switchover", "--candidate", &lagging.name, "--force"], "").await;
    frozen[0].signal(Signal::CONT);
    let output = output?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && text.contains("bytes behind"), "{}: {text}", output.status);
    ensure!(cluster.leader(SOON).await?.name == leader.name);
    cluster.finish(&[]).await
}
