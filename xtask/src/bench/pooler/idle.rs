//! What clients cost that do nothing: memory each, and CPU time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::client;
use super::results::{Idle, Step};
use crate::bench::cost::{Cpu, Memory};

/// So many clients, each step on top of the one before.
pub(super) const STEPS: [usize; 2] = [1_000, 10_000];

/// Clients that come and go first, so that what a pooler sets up once isn't counted for the clients measured.
const FORERUNNERS: usize = 8;

/// How long nothing happens while CPU time is counted.
const STILLNESS: Duration = Duration::from_secs(2);

/// Memory is settled when it has changed by less than this (bytes) over this time.
const SETTLED: u64 = 64 * 1024;
const SETTLING: Duration = Duration::from_millis(300);

/// Longest wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Measures a pooler that has just been started.
pub(super) async fn measure(pid: i32, target: std::net::SocketAddrV4) -> Result<Idle> {
    let base = settled(pid).await?;
    client::leave(client::query(client::connect(target, FORERUNNERS).await?).await?).await;
    let before = settled(pid).await?.private;
    let each = |memory: Memory, clients: usize| memory.private.saturating_sub(before) as f64 / 1024.0 / clients as f64;
    let (mut clients, mut steps) = (Vec::new(), Vec::new());
    for count in STEPS {
        let more = client::connect(target, count - clients.len()).await;
        clients.extend(more.with_context(|| format!("log in {count} clients"))?);
        let connected_kib = each(settled(pid).await?, count);
        clients = client::query(clients).await.context("have each client run a query")?;
        let queried_kib = each(settled(pid).await?, count);
        let (began, cpu) = (Instant::now(), Cpu::read(pid)?);
        tokio::time::sleep(STILLNESS).await;
        let spent = Cpu::read(pid)?.since(cpu).total;
        let cpu_percent = 100.0 * spent.as_secs_f64() / began.elapsed().as_secs_f64();
        steps.push(Step { clients: count, connected_kib, queried_kib, cpu_percent });
    }
    client::leave(clients).await;
    Ok(Idle { base_mib: base.resident as f64 / f64::from(1 << 20), steps })
}

/// The memory once it no longer changes.
async fn settled(pid: i32) -> Result<Memory> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = Memory::read(pid)?;
    loop {
        tokio::time::sleep(SETTLING).await;
        let now = Memory::read(pid)?;
        if now.private.abs_diff(last.private) < SETTLED || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
}
