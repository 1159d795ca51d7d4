//! What members and the poolers in front of them tell each other through the DCS, so that a server can go away without an
//! error for any client: a member announces it, poolers finish what runs there and say so. The keys are in the `dcs`
//! crate's layout.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A `drain/<member>` key: this member's PostgreSQL is about to go away. Poolers begin no transaction on it, finish those
/// that run, and hold clients of the leader until there is one again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Drain {
    /// The member that takes over, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How long transactions may go on, in milliseconds; then poolers cut them.
    pub patience_ms: u64,
}

impl Drain {
    /// How long transactions may go on.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }
}

/// A `poolers/<id>` key: a pooler that sends clients to this cluster's members.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pooler {
    /// Where clients reach it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// By member, the revision of the `drain` key that is obeyed: nothing of this pooler's clients runs there any more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drained: BTreeMap<String, i64>,
    /// The last time clients were held, once it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// What clients of one pooler felt of a change of the leader's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// Revision of the `drain` key that it was for; 0 for none.
    pub order: i64,
    /// Clients that waited.
    pub clients: u32,
    /// How long the one that waited longest did, in milliseconds.
    pub longest_ms: u64,
    /// Transactions that were cut because they outlasted the patience.
    pub cut: u32,
}
