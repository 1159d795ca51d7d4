//! The keys of a cluster and the formats of their values, which are Patroni's. What they mean for decisions is in the
//! `ha` crate; how they are stored is not here.

use std::collections::BTreeMap;

use ha::cluster::{Cluster, Failover, HistoryLine, Leader, Member, Optime, Revisioned, SyncState, Term};
use ha::lsn::Lsn;
use ha::poolers::{Drain, Pooler};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{Entry, Snapshot};

/// Holder of the leader lock: a plain member name.
pub const LEADER: &str = "leader";
/// What every member's key begins with.
pub const MEMBERS: &str = "members/";
/// Dynamic configuration.
pub const CONFIG: &str = "config";
/// System identifier, empty while one node bootstraps.
pub const INITIALIZE: &str = "initialize";
/// A requested switchover or failover.
pub const FAILOVER: &str = "failover";
/// Synchronous standbys; absent while synchronous mode is off.
pub const SYNC: &str = "sync";
/// The leader's position and its slots.
pub const STATUS: &str = "status";
/// Past promotions.
pub const HISTORY: &str = "history";
/// Addresses that a leader asks when the DCS is gone.
pub const FAILSAFE: &str = "failsafe";

/// What the keys of members that poolers are to leave begin with (pgherd's own).
pub const DRAINS: &str = "drain/";
/// What poolers' keys begin with (pgherd's own).
pub const POOLERS: &str = "poolers/";

/// Key that tells poolers to leave a member.
pub fn drain_key(member: &str) -> String {
    format!("{DRAINS}{member}")
}

/// Key of a pooler.
pub fn pooler_key(id: &str) -> String {
    format!("{POOLERS}{id}")
}

/// Key of a member.
pub fn member_key(name: &str) -> String {
    format!("{MEMBERS}{name}")
}

/// A cluster's prefix such as `/service/otus/`, out of the namespace (`/service`, slashes at either end don't matter)
/// and the scope.
pub fn prefix(namespace: &str, scope: &str) -> String {
    match namespace.trim_matches('/') {
        "" => format!("/{scope}/"),
        namespace => format!("/{namespace}/{scope}/"),
    }
}

/// Decodes a reading. Values that can't be understood are logged and read as [`decode_reporting`] says.
pub fn decode(snapshot: &Snapshot) -> Cluster {
    let (cluster, warnings) = decode_reporting(snapshot);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    cluster
}

/// Decodes a reading. A value that can't be understood is reported in the second part and read in the way that lets
/// the least happen:
/// - `sync`: synchronous mode is on and nobody is covered;
/// - `config`, `status`, `failover`: as if absent (a compare-and-swap that wants them absent still fails);
/// - `history`: empty, with its revision;
/// - a member: known by name only.
pub fn decode_reporting(snapshot: &Snapshot) -> (Cluster, Vec<String>) {
    let mut warnings = Vec::new();
    let mut cluster = Cluster { dcs_id: snapshot.dcs_id, revision: snapshot.revision, ..Cluster::default() };
    for (key, entry) in &snapshot.entries {
        if let Err(fault) = decode_entry(&mut cluster, key, entry) {
            warnings.push(format!("key {key} in the DCS can't be understood and is not used: {fault}"));
        }
    }
    (cluster, warnings)
}

fn decode_entry(cluster: &mut Cluster, key: &str, entry: &Entry) -> Result<(), String> {
    let revision = entry.modified;
    match key {
        LEADER => {
            let term = Term { dcs_id: cluster.dcs_id, revision: entry.created };
            cluster.leader = Some(Leader { name: text(entry), term, lease: entry.lease });
        }
        INITIALIZE => (cluster.initialize, cluster.initialize_lease) = (Some(text(entry)), entry.lease),
        CONFIG => cluster.config = Some(Revisioned { revision, value: Value::Object(object(entry)?) }),
        STATUS => cluster.status = Some(parse::<Optime>(object(entry)?)?),
        SYNC => {
            let (value, fault) = match object(entry).and_then(|o| sync(&o)) {
                Ok(value) => (value, None),
                Err(fault) => (SyncState::default(), Some(fault)),
            };
            cluster.sync = Some(Revisioned { revision, value });
            return fault.map_or(Ok(()), |f| Err(format!("{f}; nobody counts as synchronous until it is repaired")));
        }
        FAILOVER => cluster.failover = failover(entry)?.map(|value| Revisioned { revision, value }),
        HISTORY => {
            cluster.history_revision = revision;
            cluster.history = history(entry)?;
        }
        _ => {
            if let Some(name) = key.strip_prefix(DRAINS) {
                // Whatever it says, the member wants to be left.
                let (value, fault) = match object(entry).and_then(parse::<Drain>) {
                    Ok(value) => (value, Ok(())),
                    Err(fault) => (Drain::default(), Err(fault)),
                };
                cluster.drains.insert(name.to_owned(), Revisioned { revision, value });
                return fault;
            }
            if let Some(id) = key.strip_prefix(POOLERS) {
                cluster.poolers.insert(id.to_owned(), object(entry).and_then(parse::<Pooler>)?);
            } else if let Some(name) = key.strip_prefix(MEMBERS) {
                let parsed = object(entry).and_then(parse::<Member>);
                let (member, fault) = parsed.map_or_else(|f| (Member::default(), Err(f)), |m| (m, Ok(())));
                let member = Member { name: name.to_owned(), lease: entry.lease, ..member };
                cluster.members.insert(name.to_owned(), member);
                return fault;
            }
        }
    }
    Ok(())
}

/// The `failsafe` key: API addresses by member, empty when the key is absent or can't be understood.
pub fn failsafe(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let entry = snapshot.entries.get(FAILSAFE);
    entry.and_then(|e| serde_json::from_slice(&e.value).ok()).unwrap_or_default()
}

fn text(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.value).into_owned()
}

/// A JSON object without its nulls, which Patroni writes for what is absent. Nulls deeper down stay.
fn object(entry: &Entry) -> Result<Map<String, Value>, String> {
    let value: Value = serde_json::from_slice(&entry.value).map_err(|e| format!("it is not JSON ({e})"))?;
    let Value::Object(mut object) = value else { return Err("it is not a JSON object".to_owned()) };
    object.retain(|_, v| !v.is_null());
    Ok(object)
}

fn parse<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(object)).map_err(|e| e.to_string())
}

fn sync(object: &Map<String, Value>) -> Result<SyncState, String> {
    let Some(leader) = object.get("leader").and_then(Value::as_str).filter(|l| !l.is_empty()) else {
        return Err("it names no leader".to_owned());
    };
    let names = match object.get("sync_standby") {
        None => Vec::new(),
        Some(Value::String(names)) => names.split(',').map(|n| Some(n.trim().to_owned())).collect(),
        Some(Value::Array(names)) => names.iter().map(|n| n.as_str().map(str::to_owned)).collect(),
        Some(_) => vec![None],
    };
    let names: Option<Vec<String>> = names.into_iter().collect();
    let mut standbys = names.ok_or("sync_standby is neither a string nor a list of strings")?;
    standbys.retain(|n| !n.is_empty());
    standbys.sort();
    standbys.dedup();
    let quorum = match object.get("quorum") {
        None => 0,
        Some(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("quorum is not a number")?,
    };
    Ok(SyncState { leader: leader.to_owned(), standbys, quorum })
}

fn failover(entry: &Entry) -> Result<Option<Failover>, String> {
    if entry.value.is_empty() {
        return Ok(None);
    }
    let mut object = object(entry)?;
    object.retain(|_, v| v.as_str() != Some(""));
    let failover: Failover = parse(object)?;
    Ok((failover != Failover::default()).then_some(failover))
}

fn history(entry: &Entry) -> Result<Vec<HistoryLine>, String> {
    let lines: Vec<Vec<Value>> =
        serde_json::from_slice(&entry.value).map_err(|e| format!("it is not a list of lists ({e})"))?;
    let part = |line: &[Value], i: usize| line.get(i).and_then(Value::as_str).unwrap_or_default().to_owned();
    lines
        .iter()
        .map(|line| {
            let timeline = line.first().and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
            let lsn = line.get(1).and_then(Value::as_u64).map(Lsn);
            let (timeline, lsn) = timeline.zip(lsn).ok_or("a line has no timeline and position")?;
            let (reason, timestamp) = (part(line, 2), part(line, 3));
            Ok(HistoryLine { timeline, lsn, reason, timestamp, new_leader: part(line, 4) })
        })
        .collect()
}

/// Value of a member's key.
pub fn member_value(member: &Member) -> Vec<u8> {
    encode(member)
}

/// Value of a `drain` key.
pub fn drain_value(drain: &Drain) -> Vec<u8> {
    encode(drain)
}

/// Value of a pooler's key.
pub fn pooler_value(pooler: &Pooler) -> Vec<u8> {
    encode(pooler)
}

/// Value of the `sync` key: `{"leader":"n0","quorum":0,"sync_standby":"n1,n2"}`, names sorted, null for none.
pub fn sync_value(sync: &SyncState) -> Vec<u8> {
    let mut standbys = sync.standbys.clone();
    standbys.sort();
    let standbys = if standbys.is_empty() { Value::Null } else { Value::String(standbys.join(",")) };
    let value = json!({"leader": sync.leader, "quorum": sync.quorum, "sync_standby": standbys});
    value.to_string().into_bytes()
}

/// Value of the `failover` key; `None` is `{}`, as a fulfilled request is left behind.
pub fn failover_value(failover: Option<&Failover>) -> Vec<u8> {
    failover.map_or_else(|| b"{}".to_vec(), encode)
}

/// Value of the `status` key.
pub fn status_value(status: &Optime) -> Vec<u8> {
    encode(status)
}

/// Value of the `history` key: `[[timeline, position, reason, time, new leader],...]`. Time and new leader are left out
/// where they aren't known.
pub fn history_value(history: &[HistoryLine]) -> Vec<u8> {
    let line = |l: &HistoryLine| {
        let mut line = vec![json!(l.timeline), json!(l.lsn), json!(l.reason)];
        if !l.timestamp.is_empty() || !l.new_leader.is_empty() {
            line.push(json!(l.timestamp));
        }
        if !l.new_leader.is_empty() {
            line.push(json!(l.new_leader));
        }
        Value::Array(line)
    };
    Value::Array(history.iter().map(line).collect()).to_string().into_bytes()
}

/// Value of the `config` key.
pub fn config_value(config: &Value) -> Vec<u8> {
    config.to_string().into_bytes()
}

/// Value of the `failsafe` key: API addresses by member.
pub fn failsafe_value(addresses: &BTreeMap<String, String>) -> Vec<u8> {
    encode(addresses)
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with text keys always become JSON")
}

#[cfg(test)]
mod tests;
