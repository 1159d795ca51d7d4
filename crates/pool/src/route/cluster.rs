//! A cluster as all threads see it.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Report, Topology};

/// The part of a cluster's state that all threads see.
#[derive(Debug)]
pub(crate) struct Cluster {
    topology: watch::Sender<Arc<Topology>>,
    report: watch::Sender<Report>,
}

impl Cluster {
    /// A cluster of which nothing is known yet.
    pub(crate) fn new() -> Cluster {
        Cluster { topology: watch::Sender::default(), report: watch::Sender::default() }
    }

    /// Puts another view in force.
    pub(crate) fn set_topology(&self, topology: Topology) {
        self.topology.send_if_modified(|known| {
            let differs = **known != topology;
            if differs {
                *known = Arc::new(topology);
            }
            differs
        });
    }

    /// Shows what there is to say.
    pub(crate) fn reports(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }
}
