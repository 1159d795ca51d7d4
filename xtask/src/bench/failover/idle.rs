//! What the agents cost while nothing happens: pgherd's and Patroni's clusters idle side by side, with the same settings.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::process::{self, Identity};
use harness::programs::Programs;
use harness::{Cluster, Options, Store};
use nix::time::{ClockId, clock_gettime};

use super::{PATIENCE, peer};
use crate::bench::cost::Cpu;

/// How long the processes are watched.
const STEADY: Duration = Duration::from_secs(60);
/// A new cluster has work to do for some time.
const SETTLING: Duration = Duration::from_secs(15);

/// Bytes between the places that the yardstick touches, and how many they are.
const PAGE: usize = 4096;
const PAGES: usize = 100;

/// Measures; returns Markdown.
pub(super) async fn measure(programs: &Programs, patroni: Option<&peer::Patroni>) -> Result<String> {
    say!("idle");
    let scratch = tempfile::Builder::new().prefix("pgherd-bench-").tempdir_in("/tmp").context("make a directory")?;
    peer::open_to_all(scratch.path())?;
    let own = start(programs.clone()).await?;
    let peers = match patroni {
        Some(patroni) => Some((patroni, start(patroni.programs(programs, scratch.path())?).await?)),
        None => None,
    };
    tokio::time::sleep(SETTLING).await;
    let leader = own.leader(PATIENCE).await?;
    let agent = leader.agent().context("no agent runs")?;
    let mut watched: Vec<(String, Identity)> = vec![("pgherd's agent of the leader".into(), agent)];
    watched.extend(leader.guards().into_iter().map(|g| ("its guard".into(), g)));
    for node in own.nodes.iter().filter(|n| n.name != leader.name).take(1) {
        watched.push(("pgherd's agent of a replica".into(), node.agent().context("no agent runs")?));
    }
    if let Some((patroni, cluster)) = &peers {
        let leader = cluster.leader(PATIENCE).await?;
        watched.push((format!("{} of the leader", patroni.version), leader.agent().context("no agent runs")?));
    }
    let yardstick = std::thread::spawn(yardstick);
    let before = watched.iter().map(|(_, i)| Cpu::read(i.pid)).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(STEADY).await;
    let mut table = String::from("| idle process | resident MiB | CPU, % of a core |\n|---|---:|---:|\n");
    let share = |used: Duration| used.as_secs_f64() / STEADY.as_secs_f64() * 100.0;
    for ((name, identity), before) in watched.iter().zip(before) {
        let used = Cpu::read(identity.pid)?.since(before).total;
        let memory = process::resident_bytes(identity.pid).context("read a process's memory")?;
        let _ = writeln!(table, "| {name} | {:.1} | {:.2} |", memory as f64 / f64::from(1 << 20), share(used));
    }
    // It ends as it began, a moment later than the others.
    let used = yardstick.join().map_err(|_| anyhow::anyhow!("the yardstick has failed"))??;
    let _ = writeln!(table, "| the yardstick | | {:.2} |", share(used));
    Ok(format!(
        "## Idle\n\n\
         Both clusters idle in the same {} s, ttl 30 and loop_wait 10. pgherd's agent looks at its PostgreSQL every second, \
         Patroni every loop_wait. The yardstick is a thread that touches {PAGES} pages of its memory once a second and does \
         nothing else: what it costs is the machine's price for waking up.\n\n{table}\n",
        STEADY.as_secs()
    ))
}

async fn start(programs: Programs) -> Result<Cluster> {
    Cluster::start(Options { programs: Some(programs), ..Options::seed(Store::Etcd) }).await
}

/// CPU time of a thread that touches its memory once a second.
fn yardstick() -> Result<Duration> {
    let clock =
        || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).context("read the thread's clock");
    let mut memory = vec![1_u8; PAGE * PAGES];
    let before = clock()?;
    for _ in 0..STEADY.as_secs() {
        std::thread::sleep(Duration::from_secs(1));
        for byte in memory.iter_mut().step_by(PAGE) {
            *byte = std::hint::black_box(byte.wrapping_add(1));
        }
    }
    Ok(clock()?.saturating_sub(before))
}
