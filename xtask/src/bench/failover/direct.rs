//! How long writes stop without any pooler: a writer for each node and one that follows the leader.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::process::Identity;
use harness::programs::Programs;
use harness::writers::{self, Writers};
use harness::{Cluster, Node, Options, Store, history};
use rustix::process::Signal;

use super::{PATIENCE, etcd_leads_elsewhere};

/// Each writer tries so often.
const PERIOD: Duration = Duration::from_millis(20);

/// Measures all of it; returns Markdown.
pub(super) async fn measure(programs: &Programs, rounds: u32) -> Result<String> {
    let mut table = Table::default();
    say!("default timings");
    let bench = Bench::start(programs, Options::seed(Store::Etcd)).await?;
    bench.repeat(&mut table, rounds, "kill -9 of the leader's postmaster", Event::KillPostmaster).await?;
    bench.repeat(&mut table, rounds, "switchover", Event::Switchover).await?;
    bench.end().await?;
    say!("ttl 5");
    let bench = Bench::start(programs, Options::quick(Store::Etcd)).await?;
    bench.repeat(&mut table, rounds, "ttl 5: host death, etcd's leader elsewhere", Event::KillHost).await?;
    bench.repeat(&mut table, rounds, "ttl 5: agent frozen", Event::FreezeAgent).await?;
    bench.repeat(&mut table, rounds, "ttl 5: agent killed", Event::KillAgent).await?;
    bench.end().await?;
    Ok(format!(
        "## Without a pooler\n\n\
         A writer for each node and one that follows the leader, each trying every {} ms. Each event {rounds} times. \"No \
         writes\" is the longest time without an acknowledged write; \"two writable\" the time in which two nodes both \
         took writes.\n\n{}\n",
        PERIOD.as_millis(),
        table.0
    ))
}

/// Rows of the table.
struct Table(String);

impl Default for Table {
    fn default() -> Table {
        Table("| event | no writes, median s | max s | two writable, s |\n|---|---:|---:|---:|\n".to_owned())
    }
}

/// What happens to the leader.
#[derive(Debug, Clone, Copy)]
enum Event {
    KillPostmaster,
    Switchover,
    KillHost,
    FreezeAgent,
    KillAgent,
}

struct Bench {
    cluster: Cluster,
    writers: Writers,
}

impl Bench {
    async fn start(programs: &Programs, options: Options) -> Result<Bench> {
        let cluster = Cluster::start(Options { programs: Some(programs.clone()), ..options }).await?;
        writers::create_table(cluster.leader(PATIENCE).await?.address).await?;
        let writers = Writers::start(&cluster.nodes, PERIOD)?;
        Ok(Bench { cluster, writers })
    }

    async fn repeat(&self, table: &mut Table, rounds: u32, name: &str, event: Event) -> Result<()> {
        let (mut outages, mut two_writable) = (Vec::new(), Duration::ZERO);
        for _ in 0..rounds {
            self.accepted().await?;
            let leader = self.cluster.leader(PATIENCE).await?;
            let since = self.writers.now();
            let stopped = self.happen(leader, event).await?;
            if !matches!(event, Event::KillPostmaster) {
                self.cluster.leader_other_than(&leader.name, PATIENCE).await?;
            }
            self.accepted().await?;
            let until = self.writers.now();
            self.undo(&stopped)?;
            self.cluster.wait_healthy(PATIENCE).await?;
            let writes: Vec<_> = self.writers.writes().into_iter().filter(|w| w.acked > since).collect();
            two_writable += history::overlaps(&writes).iter().map(|o| o.lasted).sum::<Duration>();
            let outage = history::outage(&self.writers.writes(), since, until);
            say!("  {name}: no writes for {:.2} s", outage.as_secs_f64());
            outages.push(outage);
        }
        outages.sort();
        let median = outages.get(outages.len() / 2).copied().unwrap_or_default().as_secs_f64();
        let max = outages.last().copied().unwrap_or_default().as_secs_f64();
        let _ = writeln!(table.0, "| {name} | {median:.2} | {max:.2} | {:.2} |", two_writable.as_secs_f64());
        Ok(())
    }

    /// Returns the processes that have to be continued.
    async fn happen(&self, leader: &Node, event: Event) -> Result<Vec<Identity>> {
        match event {
            Event::KillPostmaster => {
                leader.postmaster().context("the leader has no postmaster")?.signal(Signal::KILL);
            }
            Event::Switchover => {
                self.cluster.ctl_ok(&["switchover", "--force"], "").await?;
            }
            Event::KillHost => self.kill_host(leader).await?,
            Event::FreezeAgent => {
                leader.signal_agent(Signal::STOP)?;
                return Ok(leader.agent().into_iter().collect());
            }
            Event::KillAgent => leader.signal_agent(Signal::KILL)?,
        }
        Ok(Vec::new())
    }

    /// Everything of the node at once, its etcd member too, which must not lead etcd.
    async fn kill_host(&self, node: &Node) -> Result<()> {
        etcd_leads_elsewhere(&self.cluster, node).await?;
        let etcd = self.cluster.etcd.as_ref().context("the cluster has no etcd")?;
        let member = etcd.members.iter().find(|m| m.name == node.name).context("the node has no etcd member")?;
        let find = || {
            let daemons = node.agent().into_iter().chain(node.guards()).chain(member.process());
            daemons.chain(node.postgres_processes()).collect::<Vec<_>>()
        };
        loop {
            let found = find();
            if found.is_empty() {
                return Ok(());
            }
            found.iter().for_each(|i| {
                i.signal(Signal::KILL);
            });
            found.iter().for_each(|i| {
                i.wait_gone(Duration::from_secs(5));
            });
        }
    }

    fn undo(&self, stopped: &[Identity]) -> Result<()> {
        for identity in stopped {
            identity.signal(Signal::CONT);
        }
        if let Some(etcd) = &self.cluster.etcd {
            etcd.start()?;
        }
        self.cluster.nodes.iter().filter(|n| n.agent().is_none()).try_for_each(|n| n.start().map(drop))
    }

    async fn accepted(&self) -> Result<()> {
        let since = self.writers.now();
        let accepted = || async { Ok(self.writers.accepted_after(since).map(drop)) };
        self.cluster.wait("writes are accepted", PATIENCE, accepted).await
    }

    async fn end(self) -> Result<()> {
        self.writers.stop()?;
        self.cluster.wait_healthy(PATIENCE).await.map(drop)
    }
}
