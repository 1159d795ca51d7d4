//! The front door of a site: HAProxy with the seed's health checks in front of the members' REST interface, and the codes
//! that those checks rely on.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::SOON;
use harness::front::Front;
use harness::reaper::MARK;
use harness::{Cluster, Options, Store, programs, rest};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The seed's configuration, with PostgreSQL's port in the place of the pooler's.
fn seed_haproxy(cluster: &Cluster, door: Ipv4Addr) -> String {
    let seed = include_str!("../../harness/fixtures/seed/haproxy.cfg");
    placed(cluster, door, &seed.replace(":6543", ":5432"))
}

/// A configuration for the seed's hosts, with the cluster's addresses in the place of theirs.
fn placed(cluster: &Cluster, door: Ipv4Addr, text: &str) -> String {
    let mut text = text
        .replace("    log     127.0.0.1 local2\n", "")
        .replace("    log global\n", "")
        .replace("*:7000", &format!("{door}:7000"))
        .replace("*:5000", &format!("{door}:5000"));
    for (n, node) in (1..).zip(&cluster.nodes) {
        text = text.replace(&format!("192.168.11.10{n}:"), &format!("{}:", node.address));
    }
    text
}

/// The address of the block's fourth host, as in the seed's layout.
fn door_of(cluster: &Cluster) -> Ipv4Addr {
    let [a, b, c, _] = cluster.nodes[0].address.octets();
    Ipv4Addr::new(a, b, c, 104)
}

fn start_haproxy(cluster: &Cluster, text: &str) -> Result<()> {
    let file = cluster.directory().join("haproxy.cfg");
    std::fs::write(&file, text)?;
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
    let door = door_of(&cluster);
    start_haproxy(&cluster, &seed_haproxy(&cluster, door))?;

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
async fn haproxy_leads_to_any_pooler_that_answers() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let leader = cluster.leader(SOON).await?;
    let mut fronts = Vec::new();
    for n in 1..=cluster.nodes.len() {
        fronts.push(Front::start(&cluster, n, &[]).await?);
    }
    let door = door_of(&cluster);
    start_haproxy(&cluster, &placed(&cluster, door, include_str!("../../../deploy/haproxy-poolers.cfg")))?;

    let checks = async |expected: [&str; 3]| {
        let checked = || async {
            // Fields by their number: server's name, and how its last check ended.
            let page = statistics(door).await?;
            let row = |name: &str| page.lines().find(|l| l.starts_with(&format!("postgres,{name},")));
            let ended = |name: &str| row(name).and_then(|l| l.split(',').nth(36)).unwrap_or_default();
            let found = ["pg1", "pg2", "pg3"].map(ended);
            if found == expected { Ok(Some(())) } else { bail!("{found:?}:\n{page}") }
        };
        cluster.wait("HAProxy has asked every pooler", SOON, checked).await
    };
    let leads = async || {
        for round in 0..2 * fronts.len() {
            for (database, expected) in [("postgres", "f"), ("ro", "t")] {
                let config = harness::sql::config_at(door, 5000, database);
                let query = harness::sql::query_with(&config, "SELECT pg_is_in_recovery()").await;
                let rows = query.with_context(|| format!("{database} in round {round}"))?;
                ensure!(rows == [[expected]], "{database} with {} leading: {rows:?}", leader.name);
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    checks(["L7OK"; 3]).await?;
    leads().await?;

    // One of them is to end: it takes nobody any more, and keeps whom it has.
    let mut clients = Vec::new();
    for _ in 0..2 * fronts.len() {
        clients.push(harness::sql::connect_with(&harness::sql::config_at(door, 5000, "postgres")).await?);
    }
    fronts[1].signal(Signal::TERM)?;
    leads().await.context("before HAProxy has noticed")?;
    checks(["L7OK", "L4CON", "L7OK"]).await?;
    leads().await?;
    for client in &clients {
        client.simple_query("SELECT 1").await.context("a client of a pooler that ends")?;
    }
    drop(clients);
    let ended = || async { Ok(fronts[1].process().is_none().then_some(())) };
    cluster.wait("the pooler has ended after its last client", SOON, ended).await?;
    for n in [0, 2] {
        fronts[n].stop()?;
    }
    cluster.finish(&[]).await
}

/// HAProxy's statistics as comma-separated values.
async fn statistics(door: Ipv4Addr) -> Result<String> {
    let mut stream = tokio::net::TcpStream::connect((door, 7000)).await.context("reach HAProxy's page")?;
    stream.write_all(b"GET /;csv HTTP/1.0\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
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
