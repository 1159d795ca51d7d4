//! The distributed configuration store: one trait over etcd, an embedded SQLite file and memory. What the keys mean is
//! in [`layout`]; what is done about them is in the `ha` crate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub mod continuity;
pub mod embedded;
pub mod etcd;
pub mod layout;
pub mod memory;

pub use continuity::Continuity;
pub use embedded::Embedded;
pub use etcd::Etcd;
pub use memory::Memory;

/// A cluster's key-value store. All keys are relative to the cluster's prefix (`/service/<scope>/`), such as `leader`
/// or `members/pg1`.
#[async_trait::async_trait]
pub trait Dcs: Send + Sync + 'static {
    /// Linearizable reading of every key of the cluster.
    async fn read(&self) -> Result<Snapshot, Error>;

    /// A new lease. Its server-side life starts at some moment after the call began.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error>;

    /// Renews a lease. `Ok` only if a live quorum confirmed it after the call began: [`Error::LeaseGone`] when the
    /// lease has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error>;

    /// Ends a lease and deletes the keys on it. Ending a lease that is gone is a success. [`Error::Unknown`] means that
    /// it may or may not end; trying again does no harm.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// One atomic transaction: when every condition holds, all writes are done. `Ok(None)` means that a condition
    /// failed and nothing was written; `Ok(Some(revision))` is the revision of the writes. [`Error::Unknown`] means
    /// that it may or may not have been done, now or later; [`Error::LeaseGone`] that a write names a lease that has
    /// ended, and nothing was written. No key may be written twice.
    async fn commit(&self, conditions: &[Condition], writes: &[Write]) -> Result<Option<i64>, Error>;

    /// Calls that return once something under the prefix has changed after `revision`, or with an error when changes
    /// may have been missed (the caller reads again and watches from there). Changes are coalesced.
    async fn changed(&self, revision: i64) -> Result<(), Error>;
}

/// Identifies a lease (etcd's lease id).
pub type LeaseId = i64;

/// Every key of a cluster at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Identity of the store (etcd's cluster id). Another id means another store.
    pub dcs_id: u64,
    /// Revision of this reading.
    pub revision: i64,
    /// Keys relative to the prefix.
    pub entries: BTreeMap<String, Entry>,
}

/// A key's value and history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// Revision at which the key came into being.
    pub created: i64,
    /// Revision of its last change.
    pub modified: i64,
    /// The lease it hangs on; 0 for none.
    pub lease: LeaseId,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key doesn't exist.
    Absent(String),
    /// The key's value is this.
    ValueIs(String, Vec<u8>),
    /// The key was last changed at this revision.
    ModifiedAt(String, i64),
    /// The key came into being at this revision.
    CreatedAt(String, i64),
    /// The key exists and hangs on this lease (0: on none).
    OnLease(String, LeaseId),
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a value, on a lease unless that is 0.
    Put {
        /// Key.
        key: String,
        /// Value.
        value: Vec<u8>,
        /// Lease, 0 for none.
        lease: LeaseId,
    },
    /// Deletes a key; no fault when it is absent.
    Delete(String),
}

/// What can go wrong. Callers tell these cases apart.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Could not be reached, or no quorum; nothing was written.
    #[error("the DCS is unreachable: {0}")]
    Unavailable(String),
    /// A write that may or may not have been done, now or later.
    #[error("the DCS did not confirm a write: {0}")]
    Unknown(String),
    /// The lease doesn't exist any more.
    #[error("the lease has ended")]
    LeaseGone,
    /// A watch can't go on from this revision: read again.
    #[error("the watch lost its place: {0}")]
    Lost(String),
    /// User, password, certificate or address is wrong: a person must act.
    #[error("the DCS refuses this client: {0}")]
    Refused(String),
    /// The store is damaged or answers nonsense.
    #[error("the DCS answers something unexpected: {0}")]
    Protocol(String),
}

/// Refuses transactions that write a key twice, as etcd does.
fn check_writes(writes: &[Write]) -> Result<(), Error> {
    let mut keys = BTreeSet::new();
    for write in writes {
        let (Write::Put { key, .. } | Write::Delete(key)) = write;
        if !keys.insert(key) {
            return Err(Error::Protocol(format!("one transaction writes the key {key} twice")));
        }
    }
    Ok(())
}
