//! Where a database leads to: members of the pooler's own machine, another role after a reload, and the member that says
//! that it leads when the DCS can't be asked.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::SOON;
use harness::front::Front;
use harness::relay::Relay;
use harness::{Cluster, Node, Options, Store, sql};
use rustix::process::Signal;
use serde_json::json;
use tokio_postgres::Client;

/// Addresses of the servers that so many readers get at the same time.
async fn servers(front: &Front, database: &str, readers: usize) -> Result<Vec<String>> {
    let mut sessions: Vec<Client> = Vec::new();
    for _ in 0..readers {
        let session = sql::connect_with(&front.config(database)).await?;
        session.batch_execute("BEGIN").await?;
        sessions.push(session);
    }
    let mut addresses = Vec::new();
    for session in &sessions {
        addresses.push(session.query_one("SELECT host(inet_server_addr())", &[]).await?.get(0));
        session.batch_execute("COMMIT").await?;
    }
    Ok(addresses)
}

#[tokio::test]
async fn readers_stay_on_their_machine_while_it_has_a_replica() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let leader = cluster.leader(SOON).await?;
    let n = cluster.nodes.iter().position(|n| n.name != leader.name).context("no replica")? + 1;
    let here = &cluster.nodes[n - 1];
    let databases = "near = dbname=postgres cluster=otus role=replica prefer=local\n\
                     far = dbname=postgres cluster=otus role=replica";
    let front = Front::start_with(&cluster, n, databases, &[]).await?;
    let local = here.address.to_string();
    ensure!(servers(&front, "near", 6).await? == vec![local.clone(); 6]);
    let both = async || {
        let found = servers(&front, "far", 6).await?;
        let leads = found.contains(&leader.address.to_string());
        Ok((!leads && found.contains(&local) && found.iter().any(|a| *a != local)).then_some(()))
    };
    cluster.wait("others go to both replicas", SOON, both).await?;
    here.signal_agent(Signal::TERM)?;
    let elsewhere = async || {
        // What runs on a server that shuts down is lost.
        let Ok(found) = servers(&front, "near", 3).await else { return Ok(None) };
        Ok((!found.contains(&local) && !found.contains(&leader.address.to_string())).then_some(()))
    };
    cluster.wait("readers go to the other replica", SOON, elsewhere).await?;
    cluster.wait("the agent has left", SOON, async || Ok(here.agent().is_none().then_some(()))).await?;
    here.start()?;
    let back = async || Ok((servers(&front, "near", 6).await? == vec![local.clone(); 6]).then_some(()));
    cluster.wait("readers are back on their machine", SOON, back).await?;
    front.check_log(&["server conn crashed", "pooler error"])?;
    front.stop()?;
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&["replication slots"]).await
}

/// Takes every connection that a server has room for.
async fn fill(node: &Node) -> Result<Vec<Client>> {
    let mut taken = Vec::new();
    for _ in 0..100 {
        match sql::connect(node.address, "postgres").await {
            Ok(client) => taken.push(client),
            Err(error) if format!("{error:#}").contains("too many clients") => return Ok(taken),
            Err(error) => return Err(error),
        }
    }
    bail!("{} has room for more than 100", node.name)
}

/// A cluster whose servers have room for few, and a pooler.
async fn small() -> Result<(Cluster, Front)> {
    let mut options = Options::quick(Store::Etcd);
    options.dynamic["postgresql"] = json!({"parameters": {"max_connections": 25}});
    let cluster = Cluster::start(options).await?;
    let front = Front::start(&cluster, 2, &[]).await?;
    Ok((cluster, front))
}

#[tokio::test]
async fn readers_go_elsewhere_while_a_replica_has_no_room() -> Result<()> {
    let (cluster, front) = small().await?;
    let leader = cluster.leader(SOON).await?;
    let mut replicas = cluster.nodes.iter().filter(|n| n.name != leader.name);
    let (full, free) = (replicas.next().context("no replica")?, replicas.next().context("one replica")?);
    let taken = fill(full).await?;
    ensure!(servers(&front, "ro", 8).await? == vec![free.address.to_string(); 8]);
    drop(taken);
    let both = async || {
        // Servers that are there are used again, wherever they are.
        front.sql("pgbouncer", "RECONNECT ro").await?;
        Ok(servers(&front, "ro", 10).await?.contains(&full.address.to_string()).then_some(()))
    };
    cluster.wait("readers go to the other one too", SOON, both).await?;
    front.check_log(&["too many clients"])?;
    front.stop()?;
    cluster.finish(&["too many clients"]).await
}

#[tokio::test]
async fn writers_wait_until_the_leader_has_room() -> Result<()> {
    let (cluster, front) = small().await?;
    let taken = fill(cluster.leader(SOON).await?).await?;
    let query = front.sql("postgres", "SELECT pg_is_in_recovery()");
    let room = async {
        let told = async || Ok(front.log_text().contains("too many clients already").then_some(()));
        cluster.wait("the pooler is refused", SOON, told).await?;
        drop(taken);
        anyhow::Ok(())
    };
    let (rows, waited) = tokio::join!(query, room);
    waited?;
    ensure!(rows? == [["f"]]);
    front.stop()?;
    cluster.finish(&["too many clients"]).await
}

#[tokio::test]
async fn a_reload_leads_a_session_elsewhere_between_its_transactions() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let front = Front::start_with(&cluster, 2, "app = dbname=postgres cluster=otus role=leader", &[]).await?;
    let session = sql::connect_with(&front.config("app")).await?;
    let replica =
        async || Ok::<bool, anyhow::Error>(session.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0));
    ensure!(!replica().await?);
    session.batch_execute("BEGIN").await?;
    front.configure("app = dbname=postgres cluster=otus role=replica fallback=none", &[])?;
    front.signal(Signal::HUP)?;
    let reloaded = async || Ok(front.log_text().contains("got SIGHUP").then_some(()));
    cluster.wait("the pooler reloads", SOON, reloaded).await?;
    ensure!(!replica().await?, "a transaction went on at another server");
    session.batch_execute("COMMIT").await?;
    cluster.wait("the session reads from a replica", SOON, async || Ok(replica().await?.then_some(()))).await?;
    let leader = cluster.leader(SOON).await?;
    front.configure(&format!("app = dbname=postgres host={} port=5432", leader.address), &[])?;
    front.signal(Signal::HUP)?;
    cluster.wait("the session is at a host", SOON, async || Ok((!replica().await?).then_some(()))).await?;
    front.check_log(&[])?;
    front.stop()?;
    cluster.finish(&[]).await
}

/// The pooler alone is cut off: the cluster goes on, and its members tell who leads. Then it's led to another member of
/// etcd.
#[tokio::test]
async fn a_pooler_without_a_dcs_asks_the_members_who_leads() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let front_node = &cluster.nodes[1];
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    let member = SocketAddrV4::new(etcd.members[0].address, 2379);
    let mut relay = Relay::start(front_node.address, member).await?;
    let place = cluster.directory().join("pooler.yml");
    std::fs::write(&place, format!("scope: otus\netcd3:\n  hosts: {}\n", relay.address)).context("write a file")?;
    let setting = format!("cluster_config = {}", place.display());
    let front = Front::start_with(&cluster, 2, "* = cluster=otus role=leader", &[&setting]).await?;
    let session = sql::connect_with(&front.config("postgres")).await?;
    let address = async || {
        let row = session.query_one("SELECT host(inet_server_addr())", &[]).await?;
        Ok::<String, anyhow::Error>(row.get(0))
    };
    let old = cluster.leader(SOON).await?;
    ensure!(address().await? == old.address.to_string());
    relay.cut();
    let cut = async || Ok(front.log_text().contains("clients are sent where they were sent before").then_some(()));
    cluster.wait("the pooler notices", SOON, cut).await?;
    ensure!(address().await? == old.address.to_string());
    cluster.ctl_ok(&["switchover", "--force"], "").await?;
    let new = cluster.leader_other_than(&old.name, SOON).await?;
    ensure!(address().await? == new.address.to_string());
    let says = format!("member {} says that it leads", new.name);
    // Lines are written some milliseconds after what they tell of.
    let told = async || Ok(front.log_text().contains(&says).then_some(()));
    cluster.wait("the pooler tells of it", SOON, told).await?;
    relay.mend().await?;
    let mended = async || Ok(front.log_text().contains("the DCS can be read again").then_some(()));
    cluster.wait("the pooler reads the DCS again", SOON, mended).await?;
    ensure!(address().await? == new.address.to_string());
    // A reload takes what the file says now.
    std::fs::write(&place, format!("scope: otus\netcd3:\n  hosts: {member}\n")).context("write a file")?;
    front.signal(Signal::HUP)?;
    let moved = async || Ok(front.log_text().contains("and the DCS is read there").then_some(()));
    cluster.wait("the pooler reads the DCS elsewhere", SOON, moved).await?;
    relay.cut();
    cluster.ctl_ok(&["switchover", "--force"], "").await?;
    let newest = cluster.leader_other_than(&new.name, SOON).await?;
    ensure!(address().await? == newest.address.to_string());
    ensure!(front.log_text().matches("clients are sent where they were sent before").count() == 1);
    front.stop()?;
    cluster.wait_healthy(SOON).await?;
    cluster.finish(&["diverged", "replication slots"]).await
}

/// Agents and poolers trust a DCS no more that was made anew. Once a person has restarted the agents, poolers follow.
#[tokio::test]
async fn a_pooler_follows_a_rebuilt_dcs_when_the_members_do() -> Result<()> {
    let cluster = Cluster::start(Options::quick(Store::Etcd)).await?;
    let front = Front::start(&cluster, 1, &[]).await?;
    cluster.leader(SOON).await?;
    ensure!(front.sql("postgres", "SELECT pg_is_in_recovery()").await? == [["f"]]);

    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    for member in &etcd.members {
        let process = member.process().context("etcd doesn't run")?;
        process.signal(Signal::KILL);
        ensure!(process.wait_gone(SOON), "etcd doesn't end");
    }
    std::fs::remove_dir_all(cluster.directory().join("etcd")).context("delete etcd's data")?;
    etcd.start()?;
    etcd.wait_healthy(SOON).await?;
    let noticed = async || Ok(front.log_text().contains("the DCS was re").then_some(()));
    cluster.wait("the pooler notices", SOON, noticed).await?;

    for node in &cluster.nodes {
        node.signal_agent(Signal::KILL)?;
    }
    for node in &cluster.nodes {
        let gone = async || Ok(node.agent().is_none().then_some(()));
        cluster.wait("the agent has ended", SOON, gone).await?;
        node.start()?;
    }
    cluster.leader(Duration::from_secs(90)).await?;
    let followed = async || Ok(front.log_text().contains("leads by what the DCS says now").then_some(()));
    cluster.wait("the pooler follows again", SOON, followed).await?;
    ensure!(front.sql("postgres", "SELECT pg_is_in_recovery()").await? == [["f"]]);
    cluster.wait_healthy(SOON).await?;
    let said = cluster.ctl_ok(&["switchover", "--force"], "").await?;
    ensure!(said.contains("clients of 1 pooler)"), "{said}");
    front.stop()?;
    cluster.finish(&["the DCS", "lease", "demoting", "fenced", "diverged", "replication slots"]).await
}
