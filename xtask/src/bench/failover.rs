//! `cargo xtask bench failover`: what applications feel of changes of the leader, behind poolers and without, beside Patroni
//! with pgbouncer and HAProxy where those can be had, and what following and the agents cost while nothing changes. Prints
//! Markdown and keeps it in docs/.

mod behind;
mod direct;
mod idle;
mod peer;
mod report;
mod steady;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::programs::Programs;
use harness::{Cluster, Node};

use self::report::Report;
use crate::packages::{self, Need};
use crate::{checkout, programs, supervise};

/// Longest wait for a cluster to do something by itself.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each event is measured; switchovers behind poolers 20 times and more
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Write the figures here too: {"switchover": {"runs", "errors", "stall_median_s", "stall_max_s", "lost"}, "crash":
    /// {...}, "host_death": {...}}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only what clients behind poolers feel of pgherd; the numbers are not kept
    #[arg(long)]
    quick: bool,
    /// Only what idle agents cost; the numbers are not kept
    #[arg(long, conflicts_with = "quick")]
    idle: bool,
    /// Build without optimisation; the numbers are not kept
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[Need::Postgres, Need::Etcd])?;
    let patroni = if args.quick { None } else { peer::find() };
    let programs = Programs::in_directory(&programs::compile(args.debug)?)?;
    let (result, left) = supervise::run(measure(args, &programs, patroni.as_ref()))?;
    let (report, rest) = result?;
    ensure!(left.is_empty(), "processes were left behind: {}", left.join("; "));
    let text = if args.idle { rest } else { report.markdown() + &rest };
    say!("\n{text}");
    if let Some(file) = &args.json {
        let document = serde_json::to_string_pretty(&report.json())? + "\n";
        std::fs::write(file, document).with_context(|| format!("write {}", file.display()))?;
        say!("figures written to {}", file.display());
    }
    if !args.debug && !args.quick && !args.idle {
        let path = checkout::root()?.join("docs/benchmarks-ha.md");
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        say!("written to {}", path.display());
    }
    Ok(())
}

async fn measure(args: &Args, programs: &Programs, patroni: Option<&peer::Patroni>) -> Result<(Report, String)> {
    let mut report = Report::default();
    if args.idle {
        return Ok((report, idle::measure(programs, patroni).await?));
    }
    behind::pgherd(programs, args.rounds, &mut report).await?;
    if let Some(patroni) = patroni {
        let measured = behind::patroni(programs, patroni, args.rounds.min(3), &mut report).await;
        // What was measured of pgherd took long.
        measured.unwrap_or_else(|e| say!("not everything was measured with Patroni: {e:#}"));
    }
    let mut rest = steady::measure(programs, args.rounds).await?;
    if !args.quick {
        rest += &direct::measure(programs, args.rounds).await?;
        rest += &idle::measure(programs, patroni).await?;
    }
    Ok((report, rest))
}

/// Makes sure that the etcd member of this node's host doesn't lead etcd: when it dies, leases then end in time.
async fn etcd_leads_elsewhere(cluster: &Cluster, node: &Node) -> Result<()> {
    let etcd = cluster.etcd.as_ref().context("the cluster has no etcd")?;
    let member = etcd.members.iter().find(|m| m.name == node.name).context("the node has no etcd member")?;
    if etcd.leader().await? == node.name {
        member.process().context("the etcd member is down")?.end(Duration::from_secs(10));
        etcd.start()?;
        etcd.wait_healthy(PATIENCE).await?;
    }
    Ok(())
}
