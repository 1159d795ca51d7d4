//! Conversions of what members and poolers tell each other.

use std::time::Duration;

use ha::Cluster;
use ha::cluster::Revisioned;
use ha::poolers::{Drain, Held, Pooler};

use crate::proto;

pub(super) fn drains(c: &Cluster) -> Vec<proto::Drain> {
    let drain = |(member, d): (&String, &Revisioned<Drain>)| proto::Drain {
        member: member.clone(),
        revision: d.revision,
        to: d.value.to.clone(),
        patience: time(d.value.patience()),
    };
    c.drains.iter().map(drain).collect()
}

pub(super) fn poolers(c: &Cluster) -> Vec<proto::Pooler> {
    let pooler = |(id, p): (&String, &Pooler)| proto::Pooler {
        id: id.clone(),
        address: p.address.clone(),
        version: p.version.clone(),
        drained: p.drained.clone().into_iter().collect(),
        held: p.held.as_ref().map(|h| proto::Held {
            order: h.order,
            clients: h.clients,
            longest: time(Duration::from_millis(h.longest_ms)),
            cut: h.cut,
        }),
    };
    c.poolers.iter().map(pooler).collect()
}

pub(super) fn drain(d: proto::Drain) -> (String, Revisioned<Drain>) {
    let value = Drain { to: d.to, patience_ms: millis(d.patience) };
    (d.member, Revisioned { revision: d.revision, value })
}

pub(super) fn pooler(p: proto::Pooler) -> (String, Pooler) {
    let held = |h: proto::Held| Held { order: h.order, clients: h.clients, longest_ms: millis(h.longest), cut: h.cut };
    let drained = p.drained.into_iter().collect();
    (p.id, Pooler { address: p.address, version: p.version, drained, held: p.held.map(held) })
}

/// `None` for what protobuf can't hold.
fn time(d: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(d).ok()
}

fn millis(d: Option<prost_types::Duration>) -> u64 {
    d.and_then(|d| Duration::try_from(d).ok()).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
