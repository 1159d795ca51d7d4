//! A machine that has far more to do than it can: short leases are kept all the same.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::SOON;
use harness::reaper::MARK;
use harness::{Cluster, Options, Store};

/// Processes that compute, for each core.
const COMPUTING: usize = 8;
/// Processes that write to the disk and wait for it, for each core.
const WRITING: usize = 2;
/// How long the load lasts: several leases.
const LASTS: Duration = Duration::from_secs(20);

/// Processes that keep the machine busy. They end with the cluster, and when this is dropped.
struct Burden(Vec<Child>);

impl Burden {
    fn lay_on(cluster: &Cluster) -> Result<Burden> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let file = |n: usize| cluster.directory().join(format!("burden{n}"));
        let compute = "while :; do :; done".to_owned();
        let write = |n: usize| {
            format!("while :; do dd if=/dev/zero of={} bs=1M count=4 conv=fsync 2>/dev/null; done", file(n).display())
        };
        let scripts = (0..cores * COMPUTING).map(|_| compute.clone()).chain((0..cores * WRITING).map(write));
        let start = |script: String| {
            let mut command = Command::new("sh");
            command.args(["-c", &script]).env(MARK, cluster.directory()).stdin(Stdio::null());
            command.spawn().context("start a process that keeps the machine busy")
        };
        let mut burden = Burden(Vec::new());
        for script in scripts {
            burden.0.push(start(script)?);
        }
        Ok(burden)
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It has ended otherwise.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn a_loaded_machine_keeps_its_leader() -> Result<()> {
    // How long etcd takes to write to a disk in use is not what's tried here.
    let options = Options { etcd_in_memory: true, ..Options::quick(Store::Etcd) };
    let cluster = Cluster::start(options).await?;
    let leader = cluster.leader(SOON).await?;
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    let terms = etcd.values("/service/otus/leader").await?;
    let burden = Burden::lay_on(&cluster)?;
    tokio::time::sleep(LASTS).await;
    drop(burden);
    if cluster.leader(SOON).await?.name != leader.name {
        return Err(cluster.failed("leadership has moved"));
    }
    if etcd.values("/service/otus/leader").await? != terms {
        return Err(cluster.failed("the leader key was lost"));
    }
    cluster.wait_healthy(SOON).await?;
    // Slow answers are told of; a lost lease or a fence would be too, and isn't expected.
    cluster
        .finish(&["not renewed:", "can't be read", "doesn't answer", "not answer", "timed out", "was not written"])
        .await
}
