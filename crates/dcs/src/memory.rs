//! A store in this process's memory, for tests. Leases end by tokio's clock, so that tests may pause it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Condition, Dcs, Entry, Error, LeaseId, Snapshot, Write, check_writes};

/// A client of a store in memory. Clones are the same client; [`Memory::client`] makes another one of the same store.
#[derive(Debug, Clone)]
pub struct Memory {
    store: Arc<Store>,
    prefix: String,
    reachable: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Store {
    state: Mutex<State>,
    changes: watch::Sender<i64>,
}

#[derive(Debug, Default)]
struct State {
    dcs_id: u64,
    revision: i64,
    /// Deleted keys stay, without a value, so that watchers see the deletion.
    keys: BTreeMap<String, (Option<Vec<u8>>, Entry)>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: LeaseId,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
}

impl Memory {
    /// A new, empty store and a client of it.
    pub fn new(dcs_id: u64) -> Memory {
        let state = State { dcs_id, revision: 1, ..State::default() };
        let store = Arc::new(Store { state: Mutex::new(state), changes: watch::Sender::new(1) });
        Memory { store, prefix: "/service/test/".to_owned(), reachable: Arc::new(AtomicBool::new(true)) }
    }

    /// Another client of the same store.
    pub fn client(&self) -> Memory {
        Memory { reachable: Arc::new(AtomicBool::new(true)), ..self.clone() }
    }

    /// Another client of the same store, for the keys under another prefix.
    pub fn scoped(&self, prefix: &str) -> Memory {
        Memory { prefix: format!("{}/", prefix.trim_end_matches('/')), ..self.client() }
    }

    /// Cuts this client off from the store, or joins it again: while cut off, every operation is
    /// [`Error::Unavailable`].
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::SeqCst);
        self.store.changes.send_modify(|_| {});
    }

    /// Ends a lease at once, as if its time had passed.
    pub fn expire(&self, lease: LeaseId) {
        let mut state = self.lock();
        if let Some(lease) = state.leases.get_mut(&lease) {
            lease.ends = Instant::now();
        }
        self.expire_due(&mut state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.store.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expire_due(&self, state: &mut State) {
        let now = Instant::now();
        let due: Vec<LeaseId> = state.leases.iter().filter(|(_, l)| l.ends <= now).map(|(id, _)| *id).collect();
        for id in due {
            state.end(id);
        }
        self.publish(state.revision);
    }

    fn publish(&self, revision: i64) {
        self.store.changes.send_if_modified(|r| std::mem::replace(r, revision) != revision);
    }

    /// The state with all due leases ended.
    fn open(&self) -> Result<MutexGuard<'_, State>, Error> {
        if !self.reachable.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("cut off by the test".to_owned()));
        }
        let mut state = self.lock();
        self.expire_due(&mut state);
        Ok(state)
    }
}

impl State {
    fn live(&self, key: &str) -> Option<(&Vec<u8>, &Entry)> {
        let (value, entry) = self.keys.get(key)?;
        Some((value.as_ref()?, entry))
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let revision = self.revision + 1;
        for (value, entry) in self.keys.values_mut().filter(|(v, e)| v.is_some() && e.lease == lease) {
            *value = None;
            *entry = Entry { value: Vec::new(), created: 0, modified: revision, lease: 0 };
            self.revision = revision;
        }
    }

    fn holds(&self, prefix: &str, condition: &Condition) -> bool {
        match condition {
            Condition::Absent(k) => self.live(&format!("{prefix}{k}")).is_none(),
            Condition::ValueIs(k, v) => self.live(&format!("{prefix}{k}")).is_some_and(|(value, _)| value == v),
            Condition::ModifiedAt(k, r) => self.live(&format!("{prefix}{k}")).is_some_and(|(_, e)| e.modified == *r),
            Condition::OnLease(k, l) => self.live(&format!("{prefix}{k}")).is_some_and(|(_, e)| e.lease == *l),
            Condition::CreatedAt(k, r) => self.live(&format!("{prefix}{k}")).is_some_and(|(_, e)| e.created == *r),
        }
    }

    fn write(&mut self, prefix: &str, write: &Write, revision: i64) {
        let (key, value, lease) = match write {
            Write::Put { key, value, lease } => (format!("{prefix}{key}"), Some(value.clone()), *lease),
            Write::Delete(key) => (format!("{prefix}{key}"), None, 0),
        };
        let created = self.live(&key).map(|(_, e)| e.created);
        if value.is_none() && created.is_none() {
            return;
        }
        let created = if value.is_some() { created.unwrap_or(revision) } else { 0 };
        let entry = Entry { value: value.clone().unwrap_or_default(), created, modified: revision, lease };
        self.keys.insert(key, (value, entry));
        self.revision = revision;
    }

    /// When the first lease with keys under the prefix ends.
    fn next_end(&self, prefix: &str) -> Option<Instant> {
        let held = self.keys.range(prefix.to_owned()..).take_while(|(k, _)| k.starts_with(prefix));
        held.filter_map(|(_, (_, e))| self.leases.get(&e.lease)).map(|l| l.ends).min()
    }

    fn last_change(&self, prefix: &str) -> i64 {
        let under = self.keys.range(prefix.to_owned()..).take_while(|(k, _)| k.starts_with(prefix));
        under.map(|(_, (_, e))| e.modified).max().unwrap_or(0)
    }
}

#[async_trait::async_trait]
impl Dcs for Memory {
    async fn read(&self) -> Result<Snapshot, Error> {
        let state = self.open()?;
        let under = state.keys.range(self.prefix.clone()..).take_while(|(k, _)| k.starts_with(&self.prefix));
        let live = under.filter(|(_, (value, _))| value.is_some());
        let entries = live.map(|(k, (_, e))| (k[self.prefix.len()..].to_owned(), e.clone())).collect();
        Ok(Snapshot { dcs_id: state.dcs_id, revision: state.revision, entries })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let mut state = self.open()?;
        state.last_lease += 1;
        let id = state.last_lease;
        state.leases.insert(id, Lease { ttl, ends: Instant::now() + ttl });
        Ok(id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        let mut state = self.open()?;
        let lease = state.leases.get_mut(&lease).ok_or(Error::LeaseGone)?;
        lease.ends = Instant::now() + lease.ttl;
        Ok(())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let mut state = self.open()?;
        state.end(lease);
        self.publish(state.revision);
        Ok(())
    }

    async fn commit(&self, conditions: &[Condition], writes: &[Write]) -> Result<Option<i64>, Error> {
        check_writes(writes)?;
        let mut state = self.open()?;
        if !conditions.iter().all(|c| state.holds(&self.prefix, c)) {
            return Ok(None);
        }
        let gone =
            |w: &Write| matches!(w, Write::Put { lease, .. } if *lease != 0 && !state.leases.contains_key(lease));
        if writes.iter().any(gone) {
            return Err(Error::LeaseGone);
        }
        let revision = state.revision + 1;
        for write in writes {
            state.write(&self.prefix, write, revision);
        }
        self.publish(state.revision);
        Ok(Some(state.revision))
    }

    async fn changed(&self, revision: i64) -> Result<(), Error> {
        let mut changes = self.store.changes.subscribe();
        loop {
            let next_end = {
                let state = self.open()?;
                if state.last_change(&self.prefix) > revision {
                    return Ok(());
                }
                state.next_end(&self.prefix)
            };
            let ends = async {
                match next_end {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = ends => {}
            }
        }
    }
}
