//! Databases that follow a cluster: what whoever watches the cluster tells the pooler, and what the pooler answers. Where
//! the members stand and who leads is learnt elsewhere (the program watches the DCS); what follows from it for clients and
//! server connections is decided here.

pub(crate) mod choice;
mod cluster;
pub(crate) mod gate;
mod hold;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::pooler::Pooler;
use crate::shared::Message;
pub(crate) use cluster::Cluster;

/// A cluster as whoever watches it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// The member that writes go to; `None`: nobody may be written to now, clients of `role=leader` are held.
    pub leader: Option<Arc<str>>,
    /// Epoch of that leadership. Connections of another epoch are cut where a database asks for the leader. Of no meaning
    /// without a leader.
    pub epoch: i64,
    /// Members whose address is known.
    pub members: Vec<Member>,
    /// Members that get no new transactions, by name.
    pub draining: BTreeMap<Arc<str>, Drain>,
}

/// A member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: Arc<str>,
    /// Where PostgreSQL is: a name, an address, or the directory of a Unix socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Runs as a replica that may be read from.
    pub replica: bool,
    /// Bytes behind the leader; `None`: unknown.
    pub lag: Option<u64>,
    /// On this machine (`prefer=local`).
    pub local: bool,
}

/// An order that a member gets no new transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Number of the order (revision of the DCS key).
    pub order: i64,
    /// The member that takes over, where one is known: connections to it may be made ahead.
    pub to: Option<Arc<str>>,
    /// After this time, counted from when the pooler first sees the order, what still runs is cut.
    pub patience: Duration,
}

/// What a pooler has to say of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Orders that are obeyed, by member: no transaction runs on it through this pooler, and none begins. An entry goes when
    /// its order does.
    pub drained: BTreeMap<Arc<str>, i64>,
    /// The last hold that has ended.
    pub held: Option<Held>,
}

/// A time in which clients of a cluster's leader were held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Number of the drain order that began it; 0: there was none, the cluster had no leader.
    pub order: i64,
    /// Clients that waited.
    pub clients: u32,
    /// The longest time that any of them waited, until it had a server.
    pub longest: Duration,
    /// Transactions that were cut.
    pub cut: u32,
}

/// What the databases want of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles {
    /// Some database goes to its leader (`role=leader`): a switchover has to wait for this pooler.
    pub leader: bool,
}

impl Config {
    /// The clusters that databases name, and what they want of each.
    #[must_use]
    pub fn clusters(&self) -> BTreeMap<String, Roles> {
        let mut clusters: BTreeMap<String, Roles> = BTreeMap::new();
        for target in self.databases.values().chain(&self.fallback).filter_map(|database| database.target.as_ref()) {
            clusters.entry(target.cluster.to_string()).or_default().leader |=
                target.role == crate::config::Role::Leader;
        }
        clusters
    }
}

impl Pooler {
    /// Tells how a cluster is now. Nothing is waited for: threads take it over as they come to it, within microseconds. Tell
    /// it of clusters that no database names too, if that is easier: a configuration read later may name them.
    pub fn set_topology(&self, cluster: &str, topology: Topology) {
        let cluster = self.shared.cluster(cluster);
        if !cluster.set_topology(topology) {
            return;
        }
        let conducts = cluster.is_unconducted();
        let followed = cluster.clone();
        self.shared.tell_all(move |worker| worker.follow(&followed));
        if conducts {
            self.shared.send(0, Message::Call(Box::new(move |worker| hold::conduct(worker, cluster))));
        }
    }

    /// What the pooler has to say of a cluster, now and each time it changes.
    pub fn reports(&self, cluster: &str) -> watch::Receiver<Report> {
        self.shared.cluster(cluster).reports()
    }
}
