//! What the end-to-end tests have in common beyond the harness. The tests are in tests/.

use std::time::Duration;

use anyhow::{Result, bail};
use harness::history::{self, Write};
use harness::writers::{self, Writers};
use harness::{Cluster, Node};

/// How long anything a cluster does by itself may take.
pub const SOON: Duration = Duration::from_secs(60);

/// Starts writers on a healthy cluster and waits until one has written.
pub async fn start_writers(cluster: &Cluster) -> Result<Writers> {
    let leader = cluster.leader(SOON).await?;
    writers::create_table(leader.address).await?;
    let writers = Writers::start(&cluster.nodes, Duration::from_millis(20))?;
    accepted(cluster, &writers).await?;
    Ok(writers)
}

/// Waits until a write begun from now on is acknowledged; returns the node that took it.
pub async fn accepted<'a>(cluster: &'a Cluster, writers: &Writers) -> Result<&'a Node> {
    let since = writers.now();
    cluster
        .wait("a write is acknowledged", SOON, || async {
            let address = writers.accepted_after(since);
            Ok(cluster.nodes.iter().find(|n| Some(n.address.to_string()) == address))
        })
        .await
}

/// Fails if two nodes took writes at the same time.
pub fn no_overlap(writes: &[Write]) -> Result<()> {
    let overlaps = history::overlaps(writes);
    if !overlaps.is_empty() {
        bail!("two nodes took writes at the same time: {overlaps:?}");
    }
    Ok(())
}

/// Text that every log file has to hold soon.
pub async fn logged_everywhere(cluster: &Cluster, text: &str) -> Result<()> {
    cluster
        .wait(&format!("every node has logged {text:?}"), SOON, || async {
            let silent: Vec<&str> =
                cluster.nodes.iter().filter(|n| !n.log_text().contains(text)).map(|n| n.name.as_str()).collect();
            if silent.is_empty() { Ok(Some(())) } else { bail!("not on {}", silent.join(", ")) }
        })
        .await
}
