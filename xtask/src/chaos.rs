//! `cargo xtask chaos`: a real cluster on real etcd, each node in a network namespace, hurt at random under writers. After
//! every step the writers' history must hold no overlap and, with synchronous replication, no lost row.

mod fault;
mod random;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use harness::history::{self, Write};
use harness::netns::{self, Net};
use harness::process::Identity;
use harness::programs::{self as found, Programs};
use harness::writers::{self, Writers};
use harness::{Cluster, Node, Options, Store};
use serde_json::json;

use fault::{Fault, KINDS, Kind, Target};
use random::Random;
use report::Report;

use crate::packages::{self, Need};
use crate::{checkout, programs, supervise};

/// How long after the last fault is healed writes may be refused. A lease of 5 s, its restart by a new leader of etcd,
/// an election and a recovery fit in it on a slow machine.
const LEADER_BACK: Duration = Duration::from_secs(30);

/// How long after that every member may take to stream again.
const WHOLE: Duration = Duration::from_secs(120);

/// Each writer tries so often.
const PERIOD: Duration = Duration::from_millis(20);
/// What agents log when they have repaired a data directory, when they give one up, and for what reasons they may: pg_rewind
/// can't repair it, or a fault has hit pg_rewind itself.
const REWOUND: &str = "pg_rewind has brought this node back";
const CLONED: &str = "removing the data directory";
const REASONS: [&str; 2] = ["without a restart point there", "pg_rewind failed"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long, divided among the modes
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Chooses the faults; a random one unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Synchronous replication
    #[arg(long, value_enum, default_value_t = Sync::Both)]
    sync: Sync,
    /// Build without optimisation
    #[arg(long)]
    debug: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sync {
    On,
    Off,
    Both,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(found::is_root(), "chaos needs root for its network namespaces");
    packages::ensure(&[Need::Postgres, Need::Etcd, Need::Iproute])?;
    let programs = Programs::in_directory(&programs::compile(args.debug)?)?;
    let seed = args.seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs()));
    say!("chaos: seed {seed}");
    let modes: &[bool] = match args.sync {
        Sync::On => &[true],
        Sync::Off => &[false],
        Sync::Both => &[true, false],
    };
    for sync in modes {
        let length = Duration::from_secs_f64(args.minutes * 60.0 / modes.len() as f64);
        trial(&programs, *sync, seed, length).with_context(|| {
            format!("chaos failed: replay with --seed {seed} --sync {}", if *sync { "on" } else { "off" })
        })?;
    }
    say!("chaos: seed {seed}: nothing wrong");
    Ok(())
}

/// One cluster from its making to its end.
fn trial(programs: &Programs, sync: bool, seed: u64, length: Duration) -> Result<()> {
    say!("\n--- {} replication, {:.0} s", if sync { "synchronous" } else { "asynchronous" }, length.as_secs_f64());
    let net = Net::create(3)?;
    let hub = net.hub();
    let mut options = Options { programs: Some(programs.clone()), ..Options::quick(Store::Etcd) };
    options.dynamic["synchronous_mode"] = sync.into();
    // Faults come faster than servers write checkpoints: now and then pg_rewind can't repair a replica.
    options.dynamic["postgresql"] = json!({"remove_data_directory_on_rewind_failure": true});
    // In a thread of its own: it moves into the clients' namespace for good.
    let thread = std::thread::spawn(move || -> Result<()> {
        netns::enter(&hub)?;
        let (result, left) = supervise::run(async {
            let cluster = Cluster::prepare_in(net, options).await?;
            let result = Trial::start(&cluster, sync, seed).await;
            let result = match result {
                Ok(trial) => trial.go_on(length).await,
                Err(e) => Err(e),
            };
            if result.is_err() {
                cluster.keep_files();
                say!("the cluster's logs and data stay in {}", cluster.directory().display());
            }
            result
        })?;
        ensure!(left.is_empty(), "processes were left behind: {}", left.join("; "));
        result
    });
    thread.join().map_err(|_| anyhow::anyhow!("the trial panicked"))?
}

struct Trial<'a> {
    target: Target<'a>,
    writers: Writers,
    random: Random,
    report: Report,
    sync: bool,
    seed: u64,
}

impl<'a> Trial<'a> {
    async fn start(cluster: &'a Cluster, sync: bool, seed: u64) -> Result<Trial<'a>> {
        cluster.start_agents()?;
        cluster.wait_healthy(WHOLE).await?;
        let leader = cluster.leader(LEADER_BACK).await?;
        writers::create_table(leader.address).await?;
        let writers = Writers::start(&cluster.nodes, PERIOD)?;
        let (target, random) = (Target::new(cluster)?, Random::new(seed.wrapping_mul(2) + u64::from(sync)));
        Ok(Trial { target, writers, random, report: Report::default(), sync, seed })
    }

    async fn go_on(mut self, length: Duration) -> Result<()> {
        self.accepted().await?;
        let end = Instant::now() + length;
        while Instant::now() < end || self.report.count() == 0 {
            if let Err(e) = self.step().await {
                say!("{}", self.report.table());
                return Err(e.context(format!("the writers' history is in {}", self.save_history()?.display())));
            }
        }
        let writes = self.writers.writes();
        let lost = self.lost(&writes).await?;
        say!("\n{}", self.report.table());
        say!("{} rows acknowledged, {} lost, no two nodes took writes at the same time", writes.len(), lost.len());
        let logs: String = self.target.cluster.nodes.iter().map(Node::log_text).collect();
        let cloned: Vec<&str> = logs.lines().filter(|l| l.contains(CLONED)).collect();
        let rewound = logs.matches(REWOUND).count();
        say!("data directories brought back with pg_rewind: {rewound}, cloned anew: {}", cloned.len());
        let wrongly = cloned.iter().find(|l| !REASONS.iter().any(|r| l.contains(r)));
        ensure!(wrongly.is_none(), "a data directory was given up that pg_rewind should repair: {wrongly:?}");
        Ok(())
    }

    /// Some faults, some time, their end, and the checks.
    async fn step(&mut self) -> Result<()> {
        let faults = self.choose().await?;
        let hold = Duration::from_millis(self.random.range(200, 9000));
        let names: Vec<String> = faults.iter().map(Fault::to_string).collect();
        let since = self.writers.now();
        let mut stopped: Vec<Identity> = Vec::new();
        for fault in &faults {
            stopped.extend(self.target.inject(*fault).await.with_context(|| format!("inject: {fault}"))?);
        }
        tokio::time::sleep(hold).await;
        self.target.heal(&stopped)?;
        self.accepted().await.with_context(|| format!("after {}", names.join(" and ")))?;
        let until = self.writers.now();
        let cluster = self.target.cluster;
        cluster.wait_healthy(WHOLE).await.with_context(|| format!("after {}", names.join(" and ")))?;

        let writes = self.writers.writes();
        let outage = history::outage(&writes, since, until);
        let (from, names) = (since.as_secs_f64(), names.join(" and "));
        say!("{from:7.1} s  {names} for {:.1} s: no writes for {:.2} s", hold.as_secs_f64(), outage.as_secs_f64());
        if let [fault] = faults.as_slice() {
            self.report.add(fault.kind, outage);
        }
        let overlaps = history::overlaps(&writes);
        ensure!(overlaps.is_empty(), "two nodes took writes at the same time: {overlaps:?}");
        let lost = self.lost(&writes).await?;
        if self.sync && !lost.is_empty() {
            bail!("{} acknowledged rows are lost, the first of them {:?}", lost.len(), lost.first());
        }
        Ok(())
    }

    /// A fault, now and then two at different nodes; the leader is hit most.
    async fn choose(&mut self) -> Result<Vec<Fault>> {
        let nodes = self.target.cluster.nodes.len();
        let leader = self.target.cluster.leader(LEADER_BACK).await?;
        let leader = self.target.cluster.nodes.iter().position(|n| n.name == leader.name).unwrap_or(0);
        let any = usize::try_from(self.random.range(0, nodes as u64))?;
        let at = if self.random.chance(70) { leader } else { any };
        let mut faults = vec![Fault { kind: *self.random.choose(KINDS), at }];
        if self.random.chance(20) {
            let other = (at + 1 + usize::try_from(self.random.range(0, nodes as u64 - 1))?) % nodes;
            let kind = *self.random.choose(KINDS);
            // A command waits for its end, which the other fault could keep away.
            if kind != Kind::Switchover && faults[0].kind != Kind::Switchover {
                faults.push(Fault { kind, at: other });
            }
        }
        Ok(faults)
    }

    /// Waits for a write that is begun from now on.
    async fn accepted(&self) -> Result<()> {
        let since = self.writers.now();
        let accepted = || async { Ok(self.writers.accepted_after(since).map(drop)) };
        self.target.cluster.wait("writes are accepted again", LEADER_BACK, accepted).await
    }

    /// Acknowledged rows that the leader doesn't have.
    async fn lost<'w>(&self, writes: &'w [Write]) -> Result<Vec<&'w Write>> {
        let rows = || async {
            let leader = self.target.cluster.leader(LEADER_BACK).await?;
            writers::rows(leader.address).await.map(Some)
        };
        let present = self.target.cluster.wait("the leader's rows can be read", WHOLE, rows).await?;
        Ok(history::lost(writes, &present))
    }

    fn save_history(&self) -> Result<PathBuf> {
        let directory = checkout::root()?.join("target/chaos");
        std::fs::create_dir_all(&directory).context("create target/chaos")?;
        let mode = if self.sync { "sync" } else { "async" };
        let path = directory.join(format!("history-{}-{mode}.txt", self.seed));
        std::fs::write(&path, history::to_text(&self.writers.writes())).context("write the history")?;
        Ok(path)
    }
}
