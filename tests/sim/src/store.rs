//! The model DCS: a linearizable store of the cluster's keys with leases. How requests travel to it is in `net`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ha::cluster::{Failover, HistoryLine, Leader, Member, Optime, Revisioned, SyncState};
use ha::poolers::{Drain, Pooler};
use ha::{Cluster, Lsn, Settings, Term};

/// The pooler in front of every cluster. It answers late, or not at all.
const POOLER: &str = "front";

/// True time in microseconds.
pub(crate) type Us = u64;

/// One reading of the store.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) settings: Settings,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Read,
    Grant(Duration),
    KeepAlive(i64),
    Revoke(i64),
    Write(Write),
}

/// A transaction.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    ClaimInitialize {
        lease: i64,
    },
    CompleteInitialize {
        term: Term,
        system_identifier: String,
    },
    Acquire {
        name: String,
        lease: i64,
    },
    /// Moves the leader key of this term from one lease to another.
    Move {
        term: Term,
        from: i64,
        to: i64,
    },
    Release {
        term: Term,
        position: Option<Lsn>,
    },
    Sync {
        term: Term,
        state: Option<SyncState>,
        revision: i64,
    },
    Optime {
        term: Term,
        position: Lsn,
    },
    ClearFailover {
        revision: i64,
    },
    Member {
        lease: i64,
        member: Box<Member>,
    },
    History {
        term: Term,
        line: HistoryLine,
    },
    Drain {
        member: String,
        lease: i64,
        drain: Drain,
    },
    EndDrain {
        member: String,
        revision: i64,
    },
    /// The pooler obeys the drain of this revision.
    Drained {
        member: String,
        revision: i64,
    },
    RequestFailover(Failover),
    Configure(Box<Settings>),
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Snapshot(Snapshot),
    Lease(i64),
    Kept,
    LeaseGone,
    /// A transaction's conditions held and it was done, or they didn't and nothing was; agents read which.
    Written,
}

struct Lease {
    ttl: Us,
    expires: Us,
}

/// The store.
pub(crate) struct Store {
    revision: i64,
    cluster: Cluster,
    pub(crate) settings: Settings,
    sealed: Option<Snapshot>,
    leases: BTreeMap<i64, Lease>,
    /// Leases of the `drain` keys.
    drains: BTreeMap<String, i64>,
    next_lease: i64,
    /// No quorum before this moment.
    pub(crate) down_until: Us,
    /// Leader keys created so far.
    pub(crate) acquisitions: u64,
}

impl Store {
    pub(crate) fn new(settings: Settings) -> Store {
        Store {
            revision: 1,
            cluster: Cluster {
                dcs_id: 7,
                revision: 1,
                poolers: BTreeMap::from([(POOLER.to_owned(), Pooler::default())]),
                ..Cluster::default()
            },
            settings,
            sealed: None,
            leases: BTreeMap::new(),
            drains: BTreeMap::new(),
            next_lease: 100,
            down_until: 0,
            acquisitions: 0,
        }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// Performs a request that has reached the store.
    pub(crate) fn apply(&mut self, op: &Op, now: Us) -> Answer {
        match op {
            Op::Read => Answer::Snapshot(self.read()),
            Op::Grant(ttl) => {
                self.next_lease += 1;
                let ttl = ttl.as_micros() as Us;
                self.leases.insert(self.next_lease, Lease { ttl, expires: now + ttl });
                Answer::Lease(self.next_lease)
            }
            Op::KeepAlive(id) => match self.leases.get_mut(id) {
                Some(l) if l.expires > now => {
                    l.expires = now + l.ttl;
                    Answer::Kept
                }
                Some(_) => {
                    self.end_lease(*id);
                    Answer::LeaseGone
                }
                None => Answer::LeaseGone,
            },
            Op::Revoke(id) => {
                self.end_lease(*id);
                Answer::Kept
            }
            Op::Write(w) => self.write(w),
        }
    }

    fn read(&mut self) -> Snapshot {
        if self.sealed.as_ref().is_none_or(|s| s.cluster.revision != self.revision) {
            let cluster = Arc::new(Cluster { revision: self.revision, ..self.cluster.clone() });
            self.sealed = Some(Snapshot { cluster, settings: self.settings.clone() });
        }
        self.sealed.clone().expect("sealed just now")
    }

    /// When a lease ends, unless it is renewed; `None` when it is gone.
    pub(crate) fn lease_end(&self, id: i64) -> Option<Us> {
        self.leases.get(&id).map(|l| l.expires)
    }

    /// Deletes what hangs on leases that have ended.
    pub(crate) fn expire(&mut self, now: Us) {
        let ended: Vec<i64> = self.leases.iter().filter(|(_, l)| l.expires <= now).map(|(id, _)| *id).collect();
        for id in ended {
            self.end_lease(id);
        }
    }

    /// A new leader of the store starts every lease afresh. The ids and new ends are returned.
    pub(crate) fn restart_leases(&mut self, now: Us) -> Vec<(i64, Us)> {
        for l in self.leases.values_mut() {
            l.expires = now + l.ttl;
        }
        self.leases.iter().map(|(id, l)| (*id, l.expires)).collect()
    }

    fn end_lease(&mut self, id: i64) {
        if self.leases.remove(&id).is_none() {
            return;
        }
        let c = &mut self.cluster;
        let before = (c.leader.is_some(), c.members.len(), c.initialize.is_some(), c.drains.len());
        if c.leader.as_ref().is_some_and(|l| l.lease == id) {
            c.leader = None;
        }
        c.members.retain(|_, m| m.lease != id);
        if c.initialize_lease == id {
            (c.initialize, c.initialize_lease) = (None, 0);
        }
        c.drains.retain(|member, _| self.drains.get(member) != Some(&id));
        if before != (c.leader.is_some(), c.members.len(), c.initialize.is_some(), c.drains.len()) {
            self.revision += 1;
        }
    }

    fn leads(&self, term: Term) -> bool {
        self.cluster.leader.as_ref().is_some_and(|l| l.term == term)
    }

    fn write(&mut self, w: &Write) -> Answer {
        let next = self.revision + 1;
        let lives = |id: &i64| self.leases.contains_key(id);
        let done = match w {
            Write::ClaimInitialize { lease: id }
            | Write::Acquire { lease: id, .. }
            | Write::Member { lease: id, .. }
            | Write::Drain { lease: id, .. }
            | Write::Move { to: id, .. }
                if !lives(id) =>
            {
                return Answer::LeaseGone;
            }
            Write::ClaimInitialize { lease } => {
                let free = self.cluster.initialize.is_none();
                if free {
                    (self.cluster.initialize, self.cluster.initialize_lease) = (Some(String::new()), *lease);
                }
                free
            }
            Write::CompleteInitialize { term, system_identifier } => {
                let ours = self.leads(*term);
                if ours {
                    self.cluster.initialize = Some(system_identifier.clone());
                    self.cluster.initialize_lease = 0;
                }
                ours
            }
            Write::Acquire { name, lease } => {
                let free = self.cluster.leader.is_none();
                if free {
                    let term = Term { dcs_id: self.cluster.dcs_id, revision: next };
                    self.cluster.leader = Some(Leader { name: name.clone(), term, lease: *lease });
                    self.acquisitions += 1;
                }
                free
            }
            Write::Member { member, lease } => {
                let member = Member { lease: *lease, ..(**member).clone() };
                self.cluster.members.insert(member.name.clone(), member);
                true
            }
            Write::Drain { member, lease, drain } => {
                self.drains.insert(member.clone(), *lease);
                self.cluster.drains.insert(member.clone(), Revisioned { revision: next, value: drain.clone() });
                true
            }
            Write::EndDrain { member, revision } => {
                let same = self.cluster.drains.get(member).is_some_and(|d| d.revision == *revision);
                if same {
                    self.cluster.drains.remove(member);
                }
                same
            }
            Write::Drained { member, revision } => {
                let pooler = self.cluster.poolers.entry(POOLER.to_owned()).or_default();
                pooler.drained.insert(member.clone(), *revision);
                true
            }
            Write::RequestFailover(f) => {
                self.cluster.failover = Some(Revisioned { revision: next, value: f.clone() });
                true
            }
            Write::Configure(settings) => {
                self.settings = (**settings).clone();
                true
            }
            Write::ClearFailover { revision } => {
                let same = self.cluster.failover.as_ref().is_some_and(|f| f.revision == *revision);
                if same {
                    self.cluster.failover = None;
                }
                same
            }
            _ => self.write_under_term(w, next),
        };
        if done {
            self.revision = next;
        }
        Answer::Written
    }

    fn write_under_term(&mut self, w: &Write, next: i64) -> bool {
        match w {
            Write::Move { term, from, to } if self.leads(*term) => {
                let leader = self.cluster.leader.as_mut().filter(|l| l.lease == *from);
                leader.map(|l| l.lease = *to).is_some()
            }
            Write::Release { term, position } if self.leads(*term) => {
                self.cluster.leader = None;
                if let Some(optime) = position {
                    self.cluster.status = Some(Optime { optime: *optime, ..Optime::default() });
                }
                true
            }
            Write::Sync { term, state, revision } if self.leads(*term) => {
                let same = self.cluster.sync.as_ref().map_or(0, |s| s.revision) == *revision;
                if same {
                    self.cluster.sync = state.clone().map(|value| Revisioned { revision: next, value });
                }
                same
            }
            Write::Optime { term, position } if self.leads(*term) => {
                self.cluster.status = Some(Optime { optime: *position, ..Optime::default() });
                true
            }
            Write::History { term, line } if self.leads(*term) => {
                if self.cluster.history.last().is_none_or(|l| l.timeline < line.timeline) {
                    self.cluster.history.push(line.clone());
                    self.cluster.history_revision = next;
                }
                true
            }
            _ => false,
        }
    }
}
