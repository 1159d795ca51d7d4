//! `cargo xtask up`: from a fresh machine to a running cluster in one command. Stopping it is in `down`.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use harness::cluster::{members, summary};
use harness::etcd::Etcd;
use harness::logs;
use harness::node::{self, Node};
use harness::programs::Programs;
use harness::rest;
use harness::yaml::{Dcs, NodeConfig};
use serde_json::{Value, json};

use crate::packages::{self, Need};
use crate::place::{Place, Shape};
use crate::poolers::{self, Pooler};
use crate::{checkout, programs};

/// How long a cluster may take to come up.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the cluster's state is kept: a file (nothing to install), or a real etcd of three members
    #[arg(long, value_enum)]
    dcs: Option<Kind>,
    /// How many nodes, 1 to 9; 3 unless given
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: Option<u8>,
    /// Build without optimisation, which is faster
    #[arg(long)]
    debug: bool,
    /// Take the programs in dist/ as they are
    #[arg(long)]
    no_build: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Embedded,
    Etcd,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = args.dcs.map(|k| k == Kind::Etcd);
    let known = Place::find()?.map(|p| p.shape()).transpose()?.flatten();
    let shape = agree(known, args.nodes, wanted)?;
    let needs: &[Need] = if shape.etcd { &[Need::Postgres, Need::Etcd] } else { &[Need::Postgres] };
    packages::ensure(needs)?;
    if !args.no_build {
        say!("building pgherd ({})", if args.debug { "debug" } else { "release" });
        programs::build(args.debug)?;
    }
    let programs = Programs::in_directory(&checkout::root()?.join("dist"))?;
    let place = Place::make()?;
    place.record(shape)?;
    let (nodes, etcd) = place.nodes(shape, &programs);
    configure(&place, &nodes, etcd.as_ref(), &programs)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(start(&nodes, etcd.as_ref()))?;
    start_poolers(&place, &nodes)?;
    show(&place, &nodes, &programs)
}

/// The shape that is there, unless another is asked for.
fn agree(known: Option<Shape>, nodes: Option<u8>, etcd: Option<bool>) -> Result<Shape> {
    let Some(known) = known else { return Ok(Shape { nodes: nodes.unwrap_or(3), etcd: etcd.unwrap_or(false) }) };
    let asked = Shape { nodes: nodes.unwrap_or(known.nodes), etcd: etcd.unwrap_or(known.etcd) };
    if asked != known {
        bail!(
            "target/cluster holds a cluster of {} nodes on {}: 'cargo xtask up' resumes it, \
             'cargo xtask down --wipe' deletes it so that another can be made",
            known.nodes,
            known.dcs()
        );
    }
    Ok(known)
}

/// Writes the files that are not there; a file that somebody changed stays.
fn configure(place: &Place, nodes: &[Node], etcd: Option<&Etcd>, programs: &Programs) -> Result<()> {
    let dcs = match etcd {
        Some(etcd) => Dcs::Etcd(etcd.hosts()),
        None => Dcs::Embedded(place.directory.join("dcs.db")),
    };
    if let Dcs::Embedded(path) = &dcs {
        share_with_poolers(path)?;
    }
    for node in nodes {
        node.prepare_directories()?;
        if !node.yaml().exists() {
            node.write_yaml(&NodeConfig {
                name: &node.name,
                address: node.address,
                data_dir: &node.data_dir(),
                bin_dir: &programs.postgres,
                socket_dir: &node.socket_dir(),
                dcs: &dcs,
                dynamic: &json!({}),
                extra: &json!({}),
            })?;
        }
    }
    Ok(())
}

/// Agents may be root's, poolers never are: the store's file is the user's that both can be. SQLite gives its other files
/// the same owner.
fn share_with_poolers(path: &Path) -> Result<()> {
    if !harness::programs::is_root() {
        return Ok(());
    }
    let file = std::fs::File::options().create(true).append(true).mode(0o600).open(path);
    drop(file.with_context(|| format!("create {}", path.display()))?);
    node::own_by_postgres(path)
}

async fn start(nodes: &[Node], etcd: Option<&Etcd>) -> Result<()> {
    if let Some(etcd) = etcd {
        say!("starting etcd on {}", etcd.hosts().join(", "));
        etcd.start()?;
        etcd.wait_healthy(Duration::from_secs(60)).await?;
    }
    for node in nodes {
        match node.agent() {
            Some(agent) => say!("{} runs already (process {})", node.name, agent.pid),
            None => {
                let agent = node.start()?;
                say!("started {} on {} (process {})", node.name, node.address, agent.pid);
            }
        }
    }
    wait(nodes).await
}

/// Starts a pooler in front of each node.
fn start_poolers(place: &Place, nodes: &[Node]) -> Result<()> {
    let program = checkout::root()?.join("dist/pgherd-pooler");
    for node in nodes {
        let pooler = Pooler::of(node, place);
        pooler.configure()?;
        if pooler.start(&program)? {
            say!("started the pooler of {} on {}:{}", node.name, node.address, poolers::PORT);
        }
    }
    Ok(())
}

/// Prints how the cluster comes up until it is whole.
async fn wait(nodes: &[Node]) -> Result<()> {
    let begun = Instant::now();
    let mut shown = String::new();
    loop {
        if let Some(dead) = nodes.iter().find(|n| n.agent().is_none()) {
            bail!("the agent of {} has ended:\n{}", dead.name, logs::tail(&dead.log(), 30));
        }
        let view = view(nodes).await;
        let line = view.as_ref().map_or_else(|| "no agent answers yet".to_owned(), summary);
        if line != shown {
            say!("{:5.1} s  {line}", begun.elapsed().as_secs_f64());
            shown = line;
        }
        if view.is_some_and(|v| is_whole(&v, nodes.len())) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let tails: Vec<String> = nodes.iter().map(|n| logs::tail(&n.log(), 15)).collect();
            bail!("the cluster is not whole after {} s\n{}", PATIENCE.as_secs(), tails.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn view(nodes: &[Node]) -> Option<Value> {
    for node in nodes {
        if let Ok(answer) = rest::get(node.address, "/cluster").await
            && let Ok(view) = answer.json()
        {
            return Some(view);
        }
    }
    None
}

fn is_whole(view: &Value, nodes: usize) -> bool {
    let members = members(view);
    let leads = |m: &Value| m["role"].as_str().is_some_and(|r| r.ends_with("leader"));
    let good = |m: &Value| m["state"] == if leads(m) { "running" } else { "streaming" };
    members.len() == nodes && members.iter().any(leads) && members.iter().all(good)
}

fn show(place: &Place, nodes: &[Node], programs: &Programs) -> Result<()> {
    say!();
    let yaml = nodes.first().context("there are no nodes")?.yaml();
    checkout::run(Command::new(&programs.ctl).arg("-c").arg(yaml).arg("list"))?;
    let here = "target/cluster";
    let first = nodes.first().context("there are no nodes")?;
    say!(
        "\nWhat to try next:\n  \
         PGPASSWORD=otus psql -h {} -U postgres -c 'select slot_name, active from pg_replication_slots'\n  \
         PGPASSWORD=otus psql 'host={} port=5432 user=postgres target_session_attrs=read-write'\n  \
         PGPASSWORD=otus psql -h {} -p 6543 -U postgres                        # through the pooler\n  \
         PGPASSWORD=otus psql -h {} -p 6543 -U postgres pgbouncer -c 'show pools'\n  \
         PGPASSWORD=otus psql -h {} -p 6543 -U postgres rw                     # on the leader, wherever it is\n  \
         dist/pgherdctl -c {here}/{}.yml list\n  \
         dist/pgherdctl -c {here}/{}.yml switchover\n  \
         dist/pgherdctl -c {here}/{}.yml edit-config\n  \
         curl -s http://{}:8008/cluster\n  \
         kill -9 $(head -n 1 {here}/data/{}/postmaster.pid)     # and watch it come back\n  \
         tail -f {here}/logs/*.log\n  \
         cargo xtask down                    # 'cargo xtask up' resumes, 'down --wipe' deletes",
        first.address,
        nodes.iter().map(|n| n.address.to_string()).collect::<Vec<_>>().join(","),
        first.address,
        first.address,
        first.address,
        first.name,
        first.name,
        first.name,
        first.address,
        first.name,
    );
    if place.name != place.directory {
        say!("  (target/cluster is {})", place.directory.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_resumed_in_its_own_shape_only() {
        let fresh = agree(None, None, None).unwrap();
        assert_eq!(fresh, Shape { nodes: 3, etcd: false });
        let known = Shape { nodes: 2, etcd: true };
        assert_eq!(agree(Some(known), None, None).unwrap(), known);
        assert_eq!(agree(Some(known), Some(2), Some(true)).unwrap(), known);
        assert!(agree(Some(known), None, Some(false)).is_err());
        assert!(agree(Some(known), Some(3), None).is_err());
    }

    #[test]
    fn a_cluster_is_whole_when_all_stream_from_a_leader() {
        let member = |role: &str, state: &str| json!({"role": role, "state": state});
        let view = |members: &[Value]| json!({"members": members});
        assert!(is_whole(&view(&[member("leader", "running"), member("replica", "streaming")]), 2));
        assert!(!is_whole(&view(&[member("leader", "running"), member("replica", "running")]), 2));
        assert!(!is_whole(&view(&[member("leader", "running")]), 2));
        assert!(!is_whole(&view(&[member("replica", "streaming"), member("replica", "streaming")]), 2));
    }
}
