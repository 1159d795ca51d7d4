//! A pool whose database is at a cluster: which member its connections go to, and what becomes of them when the cluster
//! changes.
//!
//! Every thread takes a topology over by itself (`follow`), and from then on no transaction begins there that the topology
//! forbids. A server that comes from another thread is judged by the newest topology there is (`arrive`), so that none
//! slips in that its sender had not judged yet.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use super::Pool;
use crate::client::{Cut, Order};
use crate::config::{Host, Role, Target};
use crate::route::choice::{self, Spot, Standing};
use crate::route::gate::{Door, Entry, Turn};
use crate::route::{Cluster, Member, Topology};
use crate::server::{Facts, State};
use crate::shared::Shared;
use crate::worker::Worker;

/// The way to a cluster, as this thread sees it.
#[derive(Debug)]
pub(super) struct Route {
    cluster: Arc<Cluster>,
    target: Target,
    topology: Arc<Topology>,
}

/// Where a connection is to be made to.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// The member.
    pub(crate) spot: Spot,
    /// Its address.
    pub(crate) host: Host,
    /// Its port.
    pub(crate) port: u16,
    /// It has to be writable.
    pub(crate) writes: bool,
    /// It's made before its member leads.
    pub(crate) early: bool,
    pub(super) cluster: Arc<Cluster>,
    target: Target,
}

/// What to do about one more connection.
pub(super) enum Next {
    /// Begin it.
    Go(Choice, Option<Turn>),
    /// Somebody tries already, or there's no member for it now.
    Wait,
}

impl Route {
    fn choice(&self, member: &Member) -> Choice {
        Choice {
            spot: Spot { member: member.name.clone(), epoch: self.topology.epoch },
            host: Host::read(&member.host),
            port: member.port,
            writes: self.target.role == Role::Leader,
            early: false,
            cluster: self.cluster.clone(),
            target: self.target.clone(),
        }
    }
}

impl Choice {
    /// Its gate.
    pub(super) fn door(&self) -> Door {
        (self.spot.member.clone(), self.writes.then_some(self.spot.epoch))
    }

    /// Returns when the topology doesn't want this connection any more.
    pub(super) async fn is_gone(&self) {
        let mut topologies = self.cluster.topologies();
        loop {
            let stays = {
                let topology = topologies.borrow_and_update();
                let same_epoch = !self.writes || topology.epoch == self.spot.epoch;
                let is_here = |m: &&Member| m.name == self.spot.member;
                let member = choice::candidates(&topology, &self.target).into_iter().find(is_here);
                same_epoch && member.is_some_and(|m| m.port == self.port && Host::read(&m.host) == self.host)
            };
            if !stays {
                return;
            }
            if topologies.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

impl Pool {
    /// Goes by the plan in force: its database is at a cluster, or not.
    pub(super) fn set_route(&self, shared: &Shared) {
        let target = self.plan().target.clone();
        let route = target.map(|target| {
            let cluster = shared.cluster(&target.cluster);
            let topology = cluster.topology();
            Route { cluster, target, topology }
        });
        self.set_held(route.as_ref());
        *self.route.borrow_mut() = route;
    }

    fn set_held(&self, route: Option<&Route>) {
        self.held.set(route.is_some_and(|r| choice::is_held(&r.topology, &r.target)));
        self.halting.set(self.held.get() || route.is_some_and(|r| !r.topology.draining.is_empty()));
    }

    /// The cluster that its database is at.
    pub(crate) fn cluster(&self) -> Option<Arc<Cluster>> {
        self.route.borrow().as_ref().map(|route| route.cluster.clone())
    }

    /// Whether its database is at this cluster.
    pub(crate) fn is_at(&self, cluster: &Arc<Cluster>) -> bool {
        self.route.borrow().as_ref().is_some_and(|route| Arc::ptr_eq(&route.cluster, cluster))
    }

    /// The role of members that its connections go to, where its database is at a cluster.
    pub(crate) fn role(&self) -> Option<Role> {
        self.route.borrow().as_ref().map(|route| route.target.role)
    }

    /// What the topology means for a connection.
    pub(super) fn standing(&self, facts: &Facts) -> Standing {
        match (&*self.route.borrow(), &facts.spot) {
            (Some(route), Some(spot)) => choice::standing(&route.topology, &route.target, spot),
            _ => Standing::Good,
        }
    }

    /// Whether no transaction may begin on this server now.
    pub(crate) fn halts(&self, facts: &Facts) -> bool {
        if !self.halting.get() {
            return false;
        }
        let drains = |route: &Route, spot: &Spot| route.topology.draining.contains_key(&spot.member);
        let route = self.route.borrow();
        self.held.get() || route.as_ref().zip(facts.spot.as_ref()).is_some_and(|(route, spot)| drains(route, spot))
    }

    /// Takes over the newest topology.
    pub(crate) fn follow(&self, worker: &Rc<Worker>) {
        {
            let mut route = self.route.borrow_mut();
            let Some(route) = &mut *route else { return };
            let topology = route.cluster.topology();
            if Arc::ptr_eq(&topology, &route.topology) {
                return;
            }
            route.topology = topology;
            self.set_held(Some(route));
        }
        self.judge(worker);
        self.close_outdated();
        self.wake_parked(worker);
        self.prepare(worker);
        self.seek(worker);
    }

    /// Marks servers that must not be used again, and has those cut that another leadership is in the way of.
    fn judge(&self, worker: &Rc<Worker>) {
        let mut deposed = HashSet::new();
        for (facts, marks) in self.servers() {
            match self.standing(&facts) {
                Standing::Good | Standing::Held => continue,
                Standing::Outdated => {}
                Standing::Deposed => deposed.extend(marks.client.get()),
            }
            marks.outdated.set(true);
        }
        if !deposed.is_empty() {
            worker.tell_clients(&Order::Cut(Cut::Deposed), |client| deposed.contains(&client.id));
        }
    }

    /// Closes idle servers that must not be used again.
    fn close_outdated(&self) {
        let (outdated, kept): (Vec<_>, Vec<_>) =
            self.idle.take().into_iter().partition(|server| server.marks.outdated.get());
        self.shared.set_idle(self.thread, kept.len());
        self.idle.borrow_mut().extend(kept);
        for server in outdated {
            self.close(server, "cluster has changed");
        }
    }

    /// Has sessions look again whether they may go on.
    fn wake_parked(&self, worker: &Worker) {
        let parked: HashSet<u64> =
            self.servers().iter().filter(|(_, m)| m.parked.get()).filter_map(|(_, m)| m.client.get()).collect();
        let halting = self.halting.get();
        if parked.is_empty() && !halting {
            return;
        }
        for (_, client) in worker.clients.borrow().iter() {
            // Sessions that hold a server without using it must learn of a hold too: then they know that they're parked.
            let has_server = halting && client.server.borrow().is_some() && self.has(client);
            if parked.contains(&client.id) || has_server {
                client.wake();
            }
        }
    }

    fn has(&self, client: &crate::client::Presence) -> bool {
        let names = (&self.shared.database.name, &self.shared.user.name);
        client.pool.borrow().as_ref().is_some_and(|(database, user)| (database, user) == names)
    }

    /// Where connections go that are made before the leader has changed; `None`: nowhere.
    pub(super) fn successor(&self) -> Option<Choice> {
        let route = self.route.borrow();
        let route = route.as_ref().filter(|route| route.target.role == Role::Leader)?;
        let name = choice::successor(&route.topology)?;
        let member = route.topology.members.iter().find(|m| m.name == *name)?;
        Some(Choice { writes: false, early: true, ..route.choice(member) })
    }

    /// Where one more connection goes.
    pub(super) fn next(&self) -> Next {
        let route = self.route.borrow();
        let Some(route) = &*route else { return Next::Wait };
        let counts = self.shared.members();
        let mut members = choice::candidates(&route.topology, &route.target);
        members.sort_by_key(|m| counts.get(&m.name).copied().unwrap_or(0));
        for member in members {
            let choice = route.choice(member);
            match route.cluster.enter(&choice.door()) {
                Entry::Open => return Next::Go(choice, None),
                Entry::First(turn) => return Next::Go(choice, Some(turn)),
                Entry::Busy => {}
            }
        }
        Next::Wait
    }

    /// Where a connection goes that one client wants for itself; `None`: to the hosts of the plan.
    pub(crate) fn only(&self) -> Result<Option<Choice>, String> {
        let route = self.route.borrow();
        let Some(route) = &*route else { return Ok(None) };
        let member = choice::candidates(&route.topology, &route.target).into_iter().next();
        let member = member.ok_or_else(|| format!("cluster {} has no member for this now", route.cluster.name))?;
        Ok(Some(route.choice(member)))
    }

    /// Servers on a member that a transaction may run on. Those of parked sessions and of replication don't count.
    pub(crate) fn running(&self, member: &str) -> impl Iterator<Item = super::Enrolled> {
        let is_there = move |facts: &Facts| facts.spot.as_ref().is_some_and(|spot| *spot.member == *member);
        self.servers().into_iter().filter(move |(facts, marks)| {
            let at_work = matches!(marks.state.get(), State::Active | State::Tested);
            at_work && is_there(facts) && !marks.parked.get() && !marks.dedicated.get()
        })
    }

    /// Cuts what runs on a member. How many clients hadn't been told so before.
    pub(crate) fn cut(&self, worker: &Worker, member: &str) -> u32 {
        let (mut clients, mut new) = (HashSet::new(), 0);
        for (_, marks) in self.running(member) {
            let Some(client) = marks.client.get() else { continue };
            clients.insert(client);
            new += u32::from(!marks.cut.replace(true));
        }
        worker.tell_clients(&Order::Cut(Cut::Drained), |client| clients.contains(&client.id));
        new
    }

    /// Whether clients wait that waited then already.
    pub(crate) fn has_waited_since(&self, nanos: u64) -> bool {
        self.first_waiter().is_some_and(|waiter| waiter.since <= nanos)
    }
}
