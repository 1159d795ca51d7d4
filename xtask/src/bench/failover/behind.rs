//! What clients behind poolers feel: 32 writers and 32 readers, and the same events for each system.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::front::Front;
use harness::load::{self, Load, Plan};
use harness::programs::Programs;
use harness::{Cluster, Node, Options, Store, sql};
use rustix::process::Signal;
use serde_json::json;

use super::peer::{Door, Patroni};
use super::report::{Report, Run};
use super::{PATIENCE, etcd_leads_elsewhere, peer};

/// What pgherd is called in the report.
pub(super) const PGHERD: &str = "pgherd";

/// Clients of each kind.
const CLIENTS: usize = 32;
/// Each begins a transaction so often.
const PERIOD: Duration = Duration::from_millis(150);
/// Quiet time before each event.
const BEFORE: Duration = Duration::from_secs(2);
/// Switchovers are measured so often at least: that none costs an error wants many.
const SWITCHOVERS: u32 = 20;
/// Host deaths at the default timings take their time.
const SLOW_ROUNDS: u32 = 3;

/// What happens to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Switchover,
    Crash,
    /// Agent, guard, PostgreSQL and the host's etcd member at once, which doesn't lead etcd.
    HostDeath,
    /// The same, with etcd's own leader on the host.
    HostDeathWithEtcd,
}

/// Measures pgherd.
pub(super) async fn pgherd(programs: &Programs, rounds: u32, report: &mut Report) -> Result<()> {
    say!("pgherd, default timings");
    let bench = Bench::pgherd(programs, Options::seed(Store::Etcd)).await?;
    bench.repeat(report, SWITCHOVERS.max(4 * rounds), "switchover", Event::Switchover).await?;
    bench.repeat(report, rounds, "crash", Event::Crash).await?;
    bench.repeat(report, rounds.min(SLOW_ROUNDS), "host death", Event::HostDeath).await?;
    bench.repeat(report, rounds.min(SLOW_ROUNDS), "host death with etcd's leader", Event::HostDeathWithEtcd).await?;
    bench.end()?;
    say!("pgherd, fast profile (ttl 5)");
    let bench = Bench::pgherd(programs, Options::quick(Store::Etcd)).await?;
    bench.repeat(report, rounds, "host death, ttl 5", Event::HostDeath).await?;
    bench.end()?;
    say!("pgherd, synchronous mode");
    let mut options = Options::quick(Store::Etcd);
    options.dynamic["synchronous_mode"] = json!(true);
    let bench = Bench::pgherd(programs, options).await?;
    bench.repeat(report, rounds, "switchover, synchronous", Event::Switchover).await?;
    bench.repeat(report, rounds, "crash, synchronous", Event::Crash).await?;
    bench.repeat(report, rounds, "host death, synchronous, ttl 5", Event::HostDeath).await?;
    bench.end()
}

/// Measures Patroni with pgbouncer and HAProxy.
pub(super) async fn patroni(programs: &Programs, patroni: &Patroni, rounds: u32, report: &mut Report) -> Result<()> {
    say!("{} with pgbouncer and HAProxy, default timings", patroni.version);
    let scratch = tempfile::Builder::new().prefix("pgherd-bench-").tempdir_in("/tmp").context("make a directory")?;
    peer::open_to_all(scratch.path())?;
    let system = format!("{}, pgbouncer, HAProxy", patroni.version);
    let options = Options { programs: Some(patroni.programs(programs, scratch.path())?), ..Options::seed(Store::Etcd) };
    let bench = Bench::patroni(system, options).await?;
    bench.repeat(report, rounds, "switchover", Event::Switchover).await?;
    bench.repeat(report, rounds, "crash", Event::Crash).await?;
    bench.repeat(report, rounds.min(2), "host death", Event::HostDeath).await?;
    bench.end()
}

/// A system under load.
struct Bench {
    system: String,
    cluster: Cluster,
    fronts: Vec<Front>,
    synchronous: bool,
    load: Load,
    /// Acknowledged rows that were gone before.
    missed: Cell<usize>,
}

impl Bench {
    async fn pgherd(programs: &Programs, options: Options) -> Result<Bench> {
        let synchronous = options.dynamic["synchronous_mode"] == json!(true);
        let cluster = Cluster::start(Options { programs: Some(programs.clone()), ..options }).await?;
        make_table(&cluster).await?;
        let mut fronts = Vec::new();
        for n in 1..=cluster.nodes.len() {
            fronts.push(Front::start(&cluster, n, &["default_pool_size = 20", "max_client_conn = 500"]).await?);
        }
        let etcd = cluster.etcd.as_ref().context("the cluster has no etcd")?;
        let registered = || async {
            let keys = etcd.keys("/service/otus/poolers/").await?;
            Ok((keys.len() == fronts.len()).then_some(()))
        };
        cluster.wait("the poolers have registered", PATIENCE, registered).await?;
        let plan = Plan {
            writers: fronts.iter().map(|f| f.config("postgres")).collect(),
            readers: fronts.iter().map(|f| f.config("ro")).collect(),
            writing: CLIENTS,
            reading: CLIENTS,
            period: PERIOD,
            prepared: true,
        };
        let load = Load::start(&plan).context("start clients")?;
        Ok(Bench { system: PGHERD.to_owned(), cluster, fronts, synchronous, load, missed: Cell::new(0) })
    }

    async fn patroni(system: String, options: Options) -> Result<Bench> {
        let cluster = Cluster::start(options).await?;
        make_table(&cluster).await?;
        let door = Door::open(&cluster).await?;
        let plan = Plan {
            writers: vec![door.writes()],
            readers: vec![door.reads()],
            writing: CLIENTS,
            reading: CLIENTS,
            period: PERIOD,
            // Debian's older pgbouncer can't.
            prepared: false,
        };
        let load = Load::start(&plan).context("start clients")?;
        Ok(Bench { system, cluster, fronts: Vec::new(), synchronous: false, load, missed: Cell::new(0) })
    }

    async fn repeat(&self, report: &mut Report, rounds: u32, name: &str, event: Event) -> Result<()> {
        for _ in 0..rounds {
            let run = self.once(event).await?;
            say!(
                "  {name}: {} errors, {:.2} s, {} lost, {:.0} transactions/s",
                run.errors,
                run.stall.as_secs_f64(),
                run.lost,
                run.rate
            );
            report.add(&self.system, name, run);
        }
        Ok(())
    }

    async fn once(&self, event: Event) -> Result<Run> {
        self.synchronous().await?;
        self.accepted().await?;
        let quiet = self.load.now();
        tokio::time::sleep(BEFORE).await;
        let since = self.load.now();
        let before = self.load.since(quiet).len();
        let leader = self.cluster.leader(PATIENCE).await?;
        let crashed = leader.postmaster();
        self.happen(leader, event).await?;
        if event == Event::Crash {
            // Backends without a postmaster may acknowledge writes for a moment.
            let again = || async {
                let leader = self.cluster.find_leader().await?;
                Ok(leader.and_then(Node::postmaster).filter(|now| Some(now) != crashed.as_ref()).map(drop))
            };
            self.cluster.wait("PostgreSQL runs again", PATIENCE, again).await?;
        } else {
            self.cluster.leader_other_than(&leader.name, PATIENCE).await?;
        }
        self.accepted().await?;
        let served = self.load.now();
        self.heal().await?;
        self.accepted().await?;
        let done = self.load.since(since);
        let outage = load::outage(&done, since, served);
        let stall = if event == Event::Switchover { load::longest_write(&done).max(outage) } else { outage };
        Ok(Run {
            errors: load::errors(&done).len(),
            stall,
            lost: self.lost().await?,
            rate: before as f64 / (since - quiet).as_secs_f64(),
        })
    }

    async fn happen(&self, leader: &Node, event: Event) -> Result<()> {
        match event {
            Event::Switchover => {
                self.cluster.ctl_ok(&["switchover", "--force"], "").await?;
            }
            Event::Crash => {
                leader.postmaster().context("the leader has no postmaster")?.signal(Signal::KILL);
            }
            Event::HostDeath => {
                etcd_leads_elsewhere(&self.cluster, leader).await?;
                self.kill_host(leader)?;
            }
            Event::HostDeathWithEtcd => {
                self.etcd_leads_here(leader).await?;
                self.kill_host(leader)?;
            }
        }
        Ok(())
    }

    /// Everything of the node at once but its pooler, whose clients would only tell that it is gone.
    fn kill_host(&self, node: &Node) -> Result<()> {
        let etcd = self.cluster.etcd.as_ref().context("the cluster has no etcd")?;
        if let Some(member) = etcd.members.iter().find(|m| m.name == node.name).and_then(|m| m.process()) {
            member.signal(Signal::KILL);
        }
        node.kill();
        Ok(())
    }

    /// Restarts the other members of etcd until this node's leads.
    async fn etcd_leads_here(&self, node: &Node) -> Result<()> {
        let etcd = self.cluster.etcd.as_ref().context("the cluster has no etcd")?;
        for _ in 0..20 {
            let leader = etcd.leader().await?;
            if leader == node.name {
                return Ok(());
            }
            let member = etcd.members.iter().find(|m| m.name == leader).context("etcd has a stranger")?;
            member.process().context("the etcd member is down")?.end(Duration::from_secs(10));
            etcd.start()?;
            etcd.wait_healthy(PATIENCE).await?;
        }
        anyhow::bail!("the etcd member of {} doesn't come to lead", node.name)
    }

    async fn heal(&self) -> Result<()> {
        if let Some(etcd) = &self.cluster.etcd {
            etcd.start()?;
            etcd.wait_healthy(PATIENCE).await?;
        }
        self.cluster.nodes.iter().filter(|n| n.agent().is_none()).try_for_each(|n| n.start().map(drop))?;
        self.cluster.wait_healthy(PATIENCE).await?;
        self.synchronous().await
    }

    /// Where commits wait for a standby: until there is one again that may lead.
    async fn synchronous(&self) -> Result<()> {
        if !self.synchronous {
            return Ok(());
        }
        let there = || async {
            let view = self.cluster.view().await?;
            let standby = harness::cluster::members(&view).iter().any(|m| m["role"] == "sync_standby");
            Ok(standby.then_some(()))
        };
        self.cluster.wait("a standby is synchronous", PATIENCE, there).await
    }

    async fn accepted(&self) -> Result<()> {
        let since = self.load.now();
        self.cluster
            .wait("writes are accepted", PATIENCE, || async { Ok(self.load.wrote_after(since).then_some(())) })
            .await
    }

    /// Acknowledged rows that are gone by this event.
    async fn lost(&self) -> Result<usize> {
        let acknowledged = self.load.acknowledged();
        let leader = self.cluster.leader(PATIENCE).await?;
        let rows = self.cluster.sql(leader, "SELECT key FROM load").await?;
        let there: BTreeSet<i64> = rows.iter().filter_map(|r| r.first()?.parse().ok()).collect();
        let gone = acknowledged.difference(&there).count();
        Ok(gone - self.missed.replace(gone).min(gone))
    }

    fn end(self) -> Result<()> {
        self.load.stop();
        self.fronts.iter().try_for_each(Front::stop)
    }
}

async fn make_table(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader(PATIENCE).await?;
    sql::query(leader.address, "postgres", load::TABLE).await.map(drop)
}
