//! What following a cluster costs the data path while nothing changes: the same pooler, the same server, one database that
//! follows the leader and one that names its host.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::front::{Front, PORT};
use harness::programs::{self as installed, Programs};
use harness::{Cluster, Options, Store, sql};
use tokio::process::Command;

use super::PATIENCE;
use crate::bench::cost::Cpu;
use crate::bench::median;

/// Clients, and what each asks for in a round.
const CLIENTS: usize = 16;
const TRANSACTIONS: usize = 3000;

const FOLLOWING: &str = "following";
const FIXED: &str = "fixed";

/// A round with one of the databases.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// CPU time of the pooler for each transaction.
    cpu: Duration,
    per_second: f64,
}

/// Measures both in turn; returns Markdown.
pub(super) async fn measure(programs: &Programs, rounds: u32) -> Result<String> {
    say!("steady state");
    let cluster = Cluster::start(Options { programs: Some(programs.clone()), ..Options::seed(Store::Etcd) }).await?;
    let leader = cluster.leader(PATIENCE).await?.address;
    let databases = format!(
        "{FOLLOWING} = dbname=postgres cluster=otus role=leader\n{FIXED} = dbname=postgres host={leader} port=5432"
    );
    let front =
        Front::start_with(&cluster, 1, &databases, &["default_pool_size = 16", "max_client_conn = 100"]).await?;
    let pooler = front.process().context("the pooler doesn't run")?.pid;
    pgbench(leader, 5432, &["-i", "-q", "postgres"]).await?;
    let mut table = String::from(
        "| protocol | CPU with a host, us/transaction | following, us | ratio | transactions/s, ratio |\n|---|---:|---:|---:|---:|\n",
    );
    for protocol in ["simple", "prepared"] {
        let (mut following, mut fixed) = (Vec::new(), Vec::new());
        // The first round warms up.
        for n in 0..=rounds.max(3) {
            for (database, results) in [(FOLLOWING, &mut following), (FIXED, &mut fixed)] {
                let round = once(front.address, pooler, database, protocol).await?;
                if n > 0 {
                    results.push(round);
                }
            }
        }
        table += &row(protocol, &following, &fixed);
    }
    front.stop()?;
    Ok(format!(
        "## Steady state\n\n\
         What following costs while nothing changes: pgbench -S, {CLIENTS} clients in transaction mode through one pooler to \
         the same server, in turn by a database with `cluster=otus role=leader` and by one with the leader's `host`. Medians of \
         {} rounds of {} transactions; CPU time is the pooler's.\n\n{table}\n",
        rounds.max(3),
        CLIENTS * TRANSACTIONS,
    ))
}

async fn once(address: Ipv4Addr, pooler: i32, database: &str, protocol: &str) -> Result<Round> {
    let clients = CLIENTS.to_string();
    let transactions = TRANSACTIONS.to_string();
    let (before, began) = (Cpu::read(pooler)?, std::time::Instant::now());
    let arguments = ["-n", "-S", "-M", protocol, "-c", &clients, "-j", "2", "-t", &transactions, database];
    pgbench(address, PORT, &arguments).await?;
    let (spent, took) = (Cpu::read(pooler)?.since(before), began.elapsed());
    let count = CLIENTS * TRANSACTIONS;
    Ok(Round { cpu: spent.total / u32::try_from(count)?, per_second: count as f64 / took.as_secs_f64() })
}

async fn pgbench(address: Ipv4Addr, port: u16, arguments: &[&str]) -> Result<()> {
    let program = installed::postgres_directory()?.join("pgbench");
    let mut command = Command::new(program);
    command.args(["-h", &address.to_string(), "-p", &port.to_string(), "-U", "postgres"]).args(arguments);
    let output = command.env("PGPASSWORD", sql::PASSWORD).stdin(Stdio::null()).output().await.context("run pgbench")?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn row(protocol: &str, following: &[Round], fixed: &[Round]) -> String {
    let of =
        |rounds: &[Round], figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect()).unwrap_or(f64::NAN);
    let cpu = |rounds| of(rounds, |r| r.cpu.as_secs_f64() * 1e6);
    let rate = |rounds| of(rounds, |r| r.per_second);
    format!(
        "| {protocol} | {:.1} | {:.1} | {:.2} | {:.2} |\n",
        cpu(fixed),
        cpu(following),
        cpu(following) / cpu(fixed),
        rate(following) / rate(fixed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians() {
        let round = |us, per_second| Round { cpu: Duration::from_micros(us), per_second };
        let following = [round(11, 900.0), round(99, 1.0), round(10, 1000.0)];
        let fixed = [round(10, 1000.0), round(20, 1000.0), round(1, 1000.0)];
        assert_eq!(row("simple", &following, &fixed), "| simple | 10.0 | 11.0 | 1.10 | 0.90 |\n");
    }
}
