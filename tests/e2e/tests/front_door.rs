//! The front door of a site: HAProxy with the seed's health checks in front of the members' REST interface, and the codes
//! that those checks rely on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::SOON;
use harness::reaper::MARK;
use harness::{Cluster, Options, Store, programs, rest};

/// The seed's configuration, with PostgreSQL's port in the place of the pooler's and a free address for each listener.
fn haproxy_config(cluster: &Cluster, address: &str) -> String {
    let seed = include_str!("../../harness/fixtures/seed/haproxy.cfg");
    let mut text = seed
        .replace("    log     127.0.0.1 local2\n", "")
        .replace("    log global\n", "")
        .replace("*:7000", &format!("{address}:7000"))
        .replace("*:5000", &format!("{address}:5000"))
        .replace(":6543", ":5432");
    for (n, node) in (1..).zip(&cluster.nodes) {
        text = text.replace(&format!("192.168.11.10{n}:"), &format!("{}:", node.address));
    }
    text
}

fn start_haproxy(cluster: &Cluster, file: &Path) -> Result<()> {
    let program = programs::require("haproxy", "haproxy")?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file).env(MARK, cluster.directory()).stdin(Stdio::null());
    let log = std::fs::File::create(cluster.directory().join("logs/haproxy.log")).context("create haproxy's log")?;
    command.stdout(log.try_clone().context("share the log")?).stderr(log);
    let mut child = command.spawn().context("start haproxy")?;
    // It ends with the cluster.
    std::thread::spawn(move || child.wait());
    Ok(())
}

#[tokio::test]
async fn haproxy_leads_to_the_leader_before_and_after_a_switchover() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Embedded)).await?;
    let leader = cluster.leader(SOON).await?;
    // The block's fourth host, as in the seed's layout.
    let mut octets = leader.address.octets();
    octets[3] = 104;
    let door = std::net::Ipv4Addr::from(octets);
    let file = cluster.directory().join("haproxy.cfg");
    std::fs::write(&file, haproxy_config(&cluster, &door.to_string()))?;
    start_haproxy(&cluster, &file)?;

    let through = |leader: String| {
        let cluster = &cluster;
        async move {
            cluster
                .wait("the front door leads to the leader", SOON, || async {
                    let config = harness::sql::config_at(door, 5000, "postgres");
                    let rows =
                        harness::sql::query_with(&config, "SELECT host(inet_server_addr()), pg_is_in_recovery()")
                            .await?;
                    if rows == [[leader.as_str(), "f"]] { Ok(Some(())) } else { bail!("{rows:?}") }
                })
                .await
        }
    };
    through(leader.address.to_string()).await?;
    cluster.ctl_ok(&["switchover", "--force"], "").await?;
    let new = cluster.leader_other_than(&leader.name, SOON).await?;
    through(new.address.to_string()).await?;
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&[]).await
}

#[tokio::test]
async fn health_checks_tell_leader_and_replicas_apart() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Embedded)).await?;
    let leader = cluster.leader(SOON).await?;
    for node in &cluster.nodes {
        let leads = node.name == leader.name;
        // The end of another member's clone begins a new WAL file, which a replica has to replay before it is near enough.
        let ready = || async { Ok((rest::get(node.address, "/readiness").await?.code == 200).then_some(())) };
        cluster.wait("the node is ready", SOON, ready).await?;
        for (path, expected) in [
            ("/", leads),
            ("/primary", leads),
            ("/read-write", leads),
            ("/master", leads),
            ("/leader", leads),
            ("/replica", !leads),
            ("/read-only", true),
            ("/health", true),
            ("/liveness", true),
            ("/readiness", true),
            ("/patroni", true),
            ("/standby-leader", false),
            ("/nonsense", false),
        ] {
            let code = rest::get(node.address, path).await?.code;
            ensure!(code == if expected { 200 } else { 503 }, "GET {path} on {}: {code}", node.name);
        }
    }
    leader.stop(SOON)?;
    ensure!(rest::get(leader.address, "/primary").await.is_err(), "a stopped agent answers");
    cluster.leader_other_than(&leader.name, Duration::from_secs(20)).await?;
    cluster.finish(&[]).await
}
