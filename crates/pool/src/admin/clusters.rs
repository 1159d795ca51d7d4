//! What SHOW CLUSTERS and the metrics tell of clusters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::Role;
use crate::console::rows::ClusterRow;
use crate::route::{Cluster, Member};
use crate::shared::Shared;
use crate::worker::Worker;

/// A thread's clients that wait for the leader of a cluster, by its name.
pub(crate) fn waiting(worker: &Worker) -> Vec<(Arc<str>, u32)> {
    let pools = worker.pools().into_iter().filter(|pool| pool.role() == Some(Role::Leader));
    let count = |pool: std::rc::Rc<crate::pool::Pool>| {
        let parked = pool.servers().iter().filter(|(_, marks)| marks.parked.get()).count();
        let clients = pool.waiting(worker).0 + parked;
        pool.cluster().map(|cluster| (cluster.name.clone(), u32::try_from(clients).unwrap_or(u32::MAX)))
    };
    pools.filter_map(count).collect()
}

/// The rows, from what all threads say.
pub(crate) fn rows(shared: &Shared, waiting: impl IntoIterator<Item = (Arc<str>, u32)>) -> Vec<ClusterRow> {
    let mut sums: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    for (name, count) in waiting {
        *sums.entry(name).or_default() += count;
    }
    let named = shared.config().clusters();
    let mut clusters = shared.clusters();
    clusters.retain(|cluster| named.contains_key(&*cluster.name) || sums.contains_key(&cluster.name));
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    clusters.iter().map(|cluster| row(cluster, sums.get(&cluster.name).copied().unwrap_or(0))).collect()
}

fn row(cluster: &Cluster, waiting: u32) -> ClusterRow {
    let topology = cluster.topology();
    let state = cluster.state();
    let count =
        |is: &dyn Fn(&&Member) -> bool| u32::try_from(topology.members.iter().filter(is).count()).unwrap_or(u32::MAX);
    let (holds, micros) = &cluster.holds;
    ClusterRow {
        cluster: cluster.name.to_string(),
        leader: topology.leader.as_ref().map(ToString::to_string),
        state,
        epoch: topology.epoch,
        members: count(&|_| true),
        replicas: count(&|m| m.replica),
        clients_held: if state == "serving" { 0 } else { waiting },
        holds: holds.load(Ordering::Relaxed),
        hold_time: Duration::from_micros(micros.load(Ordering::Relaxed)),
        cuts: cluster.cuts.load(Ordering::Relaxed),
    }
}
