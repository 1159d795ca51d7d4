//! The faults: what is done to a node, and how it is undone. When and to whom is decided elsewhere.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::etcd::{Etcd, EtcdMember};
use harness::netns::{Cut, Net};
use harness::process::Identity;
use harness::{Cluster, Node};
use rustix::process::Signal;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    KillAgent,
    StopAgent,
    KillGuard,
    StopGuard,
    KillPostmaster,
    StopPostmaster,
    KillEtcd,
    StopEtcd,
    Isolate,
    LoseOutgoing,
    LoseIncoming,
    KillHost,
    StopHost,
    Switchover,
}

/// Every kind.
pub(super) const KINDS: &[Kind] = &[
    Kind::KillAgent,
    Kind::StopAgent,
    Kind::KillGuard,
    Kind::StopGuard,
    Kind::KillPostmaster,
    Kind::StopPostmaster,
    Kind::KillEtcd,
    Kind::StopEtcd,
    Kind::Isolate,
    Kind::LoseOutgoing,
    Kind::LoseIncoming,
    Kind::KillHost,
    Kind::StopHost,
    Kind::Switchover,
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::KillAgent => "agent killed",
            Kind::StopAgent => "agent frozen",
            Kind::KillGuard => "guard killed",
            Kind::StopGuard => "guard frozen",
            Kind::KillPostmaster => "postmaster killed",
            Kind::StopPostmaster => "postmaster frozen",
            Kind::KillEtcd => "etcd member killed",
            Kind::StopEtcd => "etcd member frozen",
            Kind::Isolate => "partition",
            Kind::LoseOutgoing => "partition, outgoing only",
            Kind::LoseIncoming => "partition, incoming only",
            Kind::KillHost => "host death",
            Kind::StopHost => "host frozen",
            Kind::Switchover => "switchover",
        })
    }
}

/// A fault at one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// Index of the node.
    pub(super) at: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at pg{}", self.kind, self.at + 1)
    }
}

/// The parts of a cluster that faults touch.
pub(super) struct Target<'a> {
    pub(super) cluster: &'a Cluster,
    net: &'a Net,
    etcd: &'a Etcd,
}

impl<'a> Target<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Result<Target<'a>> {
        let net = cluster.net().context("the cluster has no network of its own")?;
        let etcd = cluster.etcd.as_ref().context("the cluster has no etcd")?;
        Ok(Target { cluster, net, etcd })
    }

    fn node(&self, fault: Fault) -> &'a Node {
        &self.cluster.nodes[fault.at]
    }

    fn member(&self, fault: Fault) -> &'a EtcdMember {
        &self.etcd.members[fault.at]
    }

    /// Does it. Returns the processes that it stopped.
    pub(super) async fn inject(&self, fault: Fault) -> Result<Vec<Identity>> {
        let node = self.node(fault);
        let agent = node.agent().into_iter();
        let guards = node.guards().into_iter();
        let postmaster = node.postmaster().into_iter();
        let member = self.member(fault).process().into_iter();
        let host = || {
            let daemons = node.agent().into_iter().chain(node.guards()).chain(self.member(fault).process());
            daemons.chain(node.postgres_processes()).collect::<Vec<_>>()
        };
        let kill = |them: Vec<Identity>| {
            for identity in them {
                identity.signal(Signal::KILL);
                identity.wait_gone(Duration::from_secs(5));
            }
            Vec::new()
        };
        let stop = |them: Vec<Identity>| them.into_iter().filter(|i| i.signal(Signal::STOP)).collect();
        Ok(match fault.kind {
            Kind::KillAgent => kill(agent.collect()),
            Kind::StopAgent => stop(agent.collect()),
            Kind::KillGuard => kill(guards.collect()),
            Kind::StopGuard => stop(guards.collect()),
            Kind::KillPostmaster => kill(postmaster.collect()),
            Kind::StopPostmaster => stop(postmaster.collect()),
            Kind::KillEtcd => kill(member.collect()),
            Kind::StopEtcd => stop(member.collect()),
            Kind::KillHost => kill_host(host),
            Kind::StopHost => stop(host()),
            Kind::Isolate => self.cut(fault, Cut::Both)?,
            Kind::LoseOutgoing => self.cut(fault, Cut::Outgoing)?,
            Kind::LoseIncoming => self.cut(fault, Cut::Incoming)?,
            Kind::Switchover => {
                // Refused where it isn't possible, which is an answer too.
                self.cluster.ctl(&["switchover", "--force"], "").await?;
                Vec::new()
            }
        })
    }

    fn cut(&self, fault: Fault, cut: Cut) -> Result<Vec<Identity>> {
        self.net.isolate(u8::try_from(fault.at + 1)?, cut)?;
        Ok(Vec::new())
    }

    /// Undoes every fault: stopped processes go on, links are mended, what is dead is started.
    pub(super) fn heal(&self, stopped: &[Identity]) -> Result<()> {
        self.net.heal()?;
        for identity in stopped {
            identity.signal(Signal::CONT);
        }
        self.etcd.start()?;
        for node in self.cluster.nodes.iter().filter(|n| n.agent().is_none()) {
            node.start()?;
        }
        Ok(())
    }
}

/// All at once, as when the power fails; again until nothing is left that was just being started.
fn kill_host(processes: impl Fn() -> Vec<Identity>) -> Vec<Identity> {
    loop {
        let found = processes();
        if found.is_empty() {
            return Vec::new();
        }
        for identity in &found {
            identity.signal(Signal::KILL);
        }
        for identity in found {
            identity.wait_gone(Duration::from_secs(5));
        }
    }
}
