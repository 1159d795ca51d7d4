//! Conducts a cluster's holds: sees to it that drains come to an end, tells when they have, and counts what clients waited.
//!
//! A drain is reported when no transaction runs on the member. That is exact, because the count is taken by messages to the
//! threads that follow those by which the threads took the drain over: whatever they count was there before, and nothing
//! begins behind them.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Cluster, Drain, Held, Topology};
use crate::config::Role;
use crate::shared::Shared;
use crate::worker::Worker;

/// Time between two looks at what still runs.
const LOOK: Duration = Duration::from_millis(4);

/// After this time a hold counts as ended although clients of it still wait: other things keep them waiting.
const AFTERMATH: Duration = Duration::from_secs(30);

/// Conducts in a task of its own, on this thread.
pub(super) fn conduct(worker: &Rc<Worker>, cluster: Arc<Cluster>) {
    let shared = worker.shared.clone();
    tokio::task::spawn_local(Box::pin(async move {
        let mut topologies = cluster.topologies();
        let mut conductor = Conductor { shared, cluster, drains: BTreeMap::new(), hold: None, known: Arc::default() };
        loop {
            let topology = topologies.borrow_and_update().clone();
            conductor.take_over(topology).await;
            conductor.look().await;
            let changed = if conductor.is_done() {
                topologies.changed().await
            } else {
                tokio::time::timeout(LOOK, topologies.changed()).await.unwrap_or(Ok(()))
            };
            if changed.is_err() {
                return;
            }
        }
    }));
}

struct Conductor {
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    known: Arc<Topology>,
    drains: BTreeMap<Arc<str>, Draining>,
    hold: Option<Hold>,
}

/// A drain under way.
struct Draining {
    drain: Drain,
    begun: Instant,
    /// Clients that were told that their transaction is cut.
    cut: u32,
    is_done: bool,
}

/// Clients of the leader are held, or have just been let go.
struct Hold {
    order: i64,
    begun: Instant,
    released: Option<Instant>,
    /// Transactions that had been cut before.
    cuts: u64,
}

/// Whether clients of the leader are held, and by which order.
pub(super) fn held_by(topology: &Topology) -> Option<i64> {
    match &topology.leader {
        None => Some(0),
        Some(leader) => topology.draining.get(leader).map(|drain| drain.order),
    }
}

impl Conductor {
    async fn take_over(&mut self, topology: Arc<Topology>) {
        if Arc::ptr_eq(&topology, &self.known) {
            return;
        }
        self.begin_hold(&topology);
        let followed = self.cluster.clone();
        self.shared.call_all(move |worker| worker.follow(&followed)).await;
        self.note_drains(&topology);
        if held_by(&topology).is_none()
            && let Some(hold) = &mut self.hold
        {
            hold.released.get_or_insert_with(Instant::now);
            self.cluster.release();
        }
        self.known = topology;
    }

    /// A hold begins with a drain of the leader, with its loss, or with another leader out of the blue.
    fn begin_hold(&mut self, topology: &Topology) {
        let name = &self.cluster.name;
        let leads = |t: &Topology| t.leader.clone().map(|leader| (leader, t.epoch));
        let (old, new) = (leads(&self.known), leads(topology));
        if let Some((leader, epoch)) = new.as_ref().filter(|_| new != old) {
            tracing::info!(target: "pooler", "cluster {name}: the leader is {leader} (epoch {epoch})");
        }
        let order = held_by(topology);
        if let Some(hold) = &mut self.hold {
            match order {
                // A drain that is followed by the loss of the leader is still the same hold.
                Some(order) if hold.released.is_none() => hold.order = hold.order.max(order),
                Some(order) => {
                    (hold.order, hold.released) = (order, None);
                    self.cluster.hold_again();
                }
                None => {}
            }
            return;
        }
        let is_replaced = old.is_some() && new != old;
        if order.is_none() && !is_replaced {
            return;
        }
        let begun = Instant::now();
        self.cluster.count(begun, order.is_some());
        let order = order.unwrap_or(0);
        let why = match (&topology.leader, &old) {
            (None, _) => "there is no leader".to_owned(),
            (Some(leader), Some((old, _))) if is_replaced => format!("{leader} took the place of {old}"),
            (Some(leader), _) => format!("{leader} drains (order {order})"),
        };
        tracing::info!(target: "pooler", "cluster {name}: clients of the leader are held: {why}");
        self.hold = Some(Hold { order, begun, released: None, cuts: self.cluster.cuts.load(Ordering::SeqCst) });
    }

    fn note_drains(&mut self, topology: &Topology) {
        self.drains.retain(|member, d| topology.draining.get(member).is_some_and(|drain| drain.order == d.drain.order));
        for (member, drain) in &topology.draining {
            let begun = Draining { drain: drain.clone(), begun: Instant::now(), cut: 0, is_done: false };
            self.drains.entry(member.clone()).or_insert(begun).drain.patience = drain.patience;
        }
        self.report_drains();
    }

    fn report_drains(&self) {
        let done = self.drains.iter().filter(|(_, d)| d.is_done).map(|(member, d)| (member.clone(), d.drain.order));
        let done: BTreeMap<Arc<str>, i64> = done.collect();
        self.cluster.report.send_if_modified(|report| {
            let differs = report.drained != done;
            report.drained = done;
            differs
        });
    }

    async fn look(&mut self) {
        let open: Vec<Arc<str>> = self.drains.iter().filter(|(_, d)| !d.is_done).map(|(m, _)| m.clone()).collect();
        for member in open {
            self.look_at(&member).await;
        }
        if let Some(released) = self.hold.as_ref().and_then(|hold| hold.released) {
            let (cluster, since) = (self.cluster.clone(), self.shared.nanos(released));
            let waits = move |worker: &Rc<Worker>| {
                let of_leader = worker.pools_at(&cluster).into_iter().filter(|p| p.role() == Some(Role::Leader));
                of_leader.into_iter().any(|pool| pool.has_waited_since(since))
            };
            if released.elapsed() > AFTERMATH || !self.shared.call_all(waits).await.contains(&true) {
                self.end_hold(released);
            }
        }
    }

    /// Looks whether a member is drained, and cuts what runs there when time is up.
    async fn look_at(&mut self, member: &Arc<str>) {
        let (cluster, name) = (self.cluster.clone(), member.clone());
        let count = move |worker: &Rc<Worker>| -> usize {
            worker.pools_at(&cluster).iter().map(|pool| pool.running(&name).count()).sum()
        };
        let running: usize = self.shared.call_all(count).await.into_iter().sum();
        let Some(draining) = self.drains.get_mut(member) else { return };
        let order = draining.drain.order;
        if running == 0 {
            draining.is_done = true;
            let lasted = draining.begun.elapsed().as_millis();
            let (cut, patience) = (draining.cut, draining.drain.patience.as_millis());
            if cut > 0 {
                tracing::warn!(target: "pooler", "cluster {}: {cut} transactions on {member} were cut, which ran for {patience} ms into its drain (order {order})", self.cluster.name);
            }
            tracing::info!(target: "pooler", "cluster {}: {member} is drained after {lasted} ms (order {order})", self.cluster.name);
            return self.report_drains();
        }
        if draining.begun.elapsed() < draining.drain.patience {
            return;
        }
        // Again at each look: a server may have been on its way to a client the last time.
        let (cluster, name) = (self.cluster.clone(), member.clone());
        let cut = move |worker: &Rc<Worker>| -> u32 {
            worker.pools_at(&cluster).iter().map(|pool| pool.cut(worker, &name)).sum()
        };
        let cut: u32 = self.shared.call_all(cut).await.into_iter().sum();
        if let Some(draining) = self.drains.get_mut(member) {
            draining.cut += cut;
        }
    }

    fn end_hold(&mut self, released: Instant) {
        let Some(hold) = self.hold.take() else { return };
        let tally = self.cluster.counted();
        let cut = self.cluster.cuts.load(Ordering::SeqCst) - hold.cuts;
        let cut = u32::try_from(cut).unwrap_or(u32::MAX);
        let held = Held { order: hold.order, clients: tally.clients, longest: tally.longest, cut };
        let (lasted, longest) = ((released - hold.begun).as_millis(), held.longest.as_millis());
        let (count, micros) = &self.cluster.holds;
        count.fetch_add(1, Ordering::Relaxed);
        micros.fetch_add(u64::try_from(hold.begun.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        tracing::info!(
            target: "pooler",
            "cluster {}: clients of the leader go on: {} were held, {longest} ms at most; the hold lasted {lasted} ms, {cut} transactions were cut",
            self.cluster.name, held.clients
        );
        self.cluster.report.send_modify(|report| report.held = Some(held));
    }

    /// Whether there's nothing to look at before the topology changes.
    fn is_done(&self) -> bool {
        self.drains.values().all(|d| d.is_done) && self.hold.as_ref().is_none_or(|hold| hold.released.is_none())
    }
}
