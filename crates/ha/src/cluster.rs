//! The cluster as the DCS holds it, decoded. The keys and JSON formats themselves are in the `dcs` crate's layout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::lsn::Lsn;
use crate::poolers::{Drain, Pooler};

/// One linearizable reading of every key of a cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cluster {
    /// Identity of the DCS itself (etcd's cluster id). Another id means that the DCS was rebuilt.
    pub dcs_id: u64,
    /// Store revision of this reading. It never goes backwards unless the DCS was restored from a backup.
    pub revision: i64,
    /// The `initialize` key: `None` absent, `Some("")` while one node bootstraps, else the system identifier.
    pub initialize: Option<String>,
    /// The lease of the `initialize` key; 0 for none. While a node bootstraps, it is that node's.
    pub initialize_lease: i64,
    /// The dynamic configuration as JSON, with the revision to compare-and-swap on.
    pub config: Option<Revisioned<Value>>,
    /// The leader key.
    pub leader: Option<Leader>,
    /// Members by name.
    pub members: BTreeMap<String, Member>,
    /// The `status` key.
    pub status: Option<Optime>,
    /// The `sync` key. Absent while synchronous mode is off.
    pub sync: Option<Revisioned<SyncState>>,
    /// The `failover` key: a requested switchover or failover. `None` also when the value is `{}`.
    pub failover: Option<Revisioned<Failover>>,
    /// The `history` key, as in GET /history.
    pub history: Vec<HistoryLine>,
    /// Revision of the `history` key, 0 when absent.
    pub history_revision: i64,
    /// Members that poolers are to leave, by name.
    pub drains: BTreeMap<String, Revisioned<Drain>>,
    /// Poolers in front of the cluster, by their own name for themselves.
    pub poolers: BTreeMap<String, Pooler>,
}

impl Cluster {
    /// Whether `name` holds the leader key.
    pub fn is_led_by(&self, name: &str) -> bool {
        self.leader.as_ref().is_some_and(|l| l.name == name)
    }

    /// The term of the present leader.
    pub fn term(&self) -> Option<Term> {
        self.leader.as_ref().map(|l| l.term)
    }
}

/// A value together with the revision (etcd's mod_revision) that a compare-and-swap must name.
#[derive(Debug, Clone, PartialEq)]
pub struct Revisioned<T> {
    /// mod_revision of the key.
    pub revision: i64,
    /// The decoded value.
    pub value: T,
}

/// A leader epoch: the create_revision of the leader key together with the DCS's identity. Terms of one DCS grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Term {
    /// etcd's cluster id.
    pub dcs_id: u64,
    /// create_revision of the leader key.
    pub revision: i64,
}

/// Who holds the leader key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The member's name (the key's value).
    pub name: String,
    /// The epoch.
    pub term: Term,
    /// The lease that the key hangs on; 0 when it has none.
    pub lease: i64,
}

/// A member's key, `members/<name>`. Every field that Patroni writes and pgherd doesn't know is kept in `extra`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Member {
    /// Name, from the key rather than the value.
    #[serde(skip)]
    pub name: String,
    /// The lease that the key hangs on.
    #[serde(skip)]
    pub lease: i64,
    /// Connection URL of PostgreSQL, `postgres://host:port/postgres`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub conn_url: String,
    /// REST address, `http://host:port/patroni`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_url: String,
    /// State in Patroni's words (`running`, `creating replica`, ...).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Role in Patroni's words (`primary`, `replica`, ...; older members say `master`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// Version of the agent, a dotted number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The position as a single number: the primary's write position, or what a replica has received or replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xlog_location: Option<Lsn>,
    /// What a replica has received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<Lsn>,
    /// What a replica has replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<Lsn>,
    /// `streaming`, `in archive recovery`, or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// Timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Parameters changed that wait for a restart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending_restart: bool,
    /// Old and new value of each such parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_restart_reason: Option<Value>,
    /// A scheduled restart, as Patroni writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Value>,
    /// The member acknowledges the maintenance mode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pause: bool,
    /// Tags as configured.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Value>,
    /// What is not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Member {
    /// Whether a boolean tag is set (`true`, or a string that YAML reads as true).
    pub fn tag(&self, name: &str) -> bool {
        tag_is_set(&self.tags, name)
    }

    /// The furthest position the member is known to hold.
    pub fn position(&self) -> Option<Lsn> {
        self.receive_lsn.max(self.replay_lsn).max(self.xlog_location)
    }

    /// Whether PostgreSQL runs there.
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// Host and port of PostgreSQL out of `conn_url`.
    pub fn host_port(&self) -> Option<(String, u16)> {
        host_port(&self.conn_url)
    }

    /// Host of the REST API out of `api_url`.
    pub fn api_host(&self) -> Option<String> {
        host_port(&self.api_url).map(|(host, _)| host)
    }
}

/// Host and port out of a URL, without looking at its user, path or query. The port is PostgreSQL's unless given.
fn host_port(url: &str) -> Option<(String, u16)> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, a)| a);
    if let Some(v6) = authority.strip_prefix('[') {
        let (host, tail) = v6.split_once(']')?;
        let port = tail.strip_prefix(':').map_or(Ok(5432), str::parse).ok()?;
        return Some((host.to_owned(), port));
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((authority.to_owned(), 5432)),
    }
}

/// Whether a boolean tag is set in a tags mapping.
pub fn tag_is_set(tags: &Map<String, Value>, name: &str) -> bool {
    match tags.get(name) {
        Some(Value::Bool(b)) => *b,
        Some(Value::String(s)) => matches!(s.to_ascii_lowercase().as_str(), "true" | "on" | "yes"),
        _ => false,
    }
}

/// The `status` key: the leader's last known position, and slot positions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Optime {
    /// The leader's position when it last wrote this; after a clean shutdown, the shutdown checkpoint's end.
    #[serde(default)]
    pub optime: Lsn,
    /// Positions of slots.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub slots: Map<String, Value>,
    /// Everything else Patroni keeps there.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The `sync` key. Only `leader` and the members of `sync_standby` may be promoted while it exists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncState {
    /// Who wrote it.
    pub leader: String,
    /// Standbys whose acknowledgement every commit waited for, sorted.
    pub standbys: Vec<String>,
    /// Other votes a candidate needs (Patroni's quorum mode); 0 in priority mode.
    pub quorum: u32,
}

impl SyncState {
    /// Whether `name` holds every commit acknowledged while this was in force.
    pub fn covers(&self, name: &str) -> bool {
        self.leader == name || self.standbys.iter().any(|s| s == name)
    }
}

/// A requested change of leader.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Failover {
    /// The leader that must step down (set for a switchover, absent for a failover).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Who must take over; absent means whoever is best.
    #[serde(default, rename = "member", skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// When, as an ISO timestamp; absent means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
}

/// One line of the `history` key: a promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    /// The timeline that ended.
    pub timeline: u32,
    /// Where it ended.
    pub lsn: Lsn,
    /// PostgreSQL's reason from the history file.
    pub reason: String,
    /// When, ISO; may be empty.
    pub timestamp: String,
    /// Who began the next timeline; may be empty.
    pub new_leader: String,
}
