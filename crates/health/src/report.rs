//! The JSON of GET /patroni, /cluster and /history, with Patroni's names in Patroni's order.

use ha::cluster::Cluster;
use ha::members::{self, Lags, Position, Row};
use ha::{Lsn, Role, State, Status};
use serde_json::{Map, Value, json};

use crate::Moment;

/// GET /patroni, also the body of health checks.
pub(crate) fn patroni(moment: &Moment) -> Value {
    let status = &*moment.status;
    let mut out = Map::new();
    out.insert("state".into(), status.state.as_str().into());
    if is_answering(status) {
        server(status, &mut out);
    } else {
        out.insert("role".into(), status.role.as_str().into());
    }
    if status.pause {
        out.insert("pause".into(), true.into());
    }
    if is_unlocked(moment) {
        out.insert("cluster_unlocked".into(), true.into());
    }
    out.insert("dcs_last_seen".into(), status.dcs_last_seen.into());
    agent(status, &mut out);
    Value::Object(out)
}

/// Whether there is an answer of PostgreSQL to show.
fn is_answering(status: &Status) -> bool {
    matches!(status.state, State::Running | State::Restarting | State::Starting) && status.server_version.is_some()
}

/// Whether nobody is known to lead. A leader whose own lease has run out doesn't count itself.
pub(crate) fn is_unlocked(moment: &Moment) -> bool {
    match moment.status.cluster.as_deref().and_then(|c| c.leader.as_ref()) {
        None => true,
        Some(leader) => leader.name == moment.status.name && !moment.leads(),
    }
}

fn server(status: &Status, out: &mut Map<String, Value>) {
    let number = |l: Option<Lsn>| l.unwrap_or_default().0;
    out.insert("postmaster_start_time".into(), status.postmaster_start_time.clone().into());
    out.insert("role".into(), status.role.as_str().into());
    out.insert("server_version".into(), status.server_version.into());
    let xlog = if status.role == Role::Primary {
        json!({"location": number(status.location)})
    } else {
        json!({
            "received_location": number(status.received_location.or(status.replayed_location)),
            "replayed_location": number(status.replayed_location),
            "replayed_timestamp": status.replayed_timestamp,
            "paused": status.replay_paused,
        })
    };
    out.insert("xlog".into(), xlog);
    if status.role == Role::Replica && status.sync_standby {
        out.insert("sync_standby".into(), true.into());
    }
    out.insert("timeline".into(), status.timeline.into());
    if let Some(state) = &status.replication_state {
        out.insert("replication_state".into(), state.as_str().into());
    }
    if !status.replication.is_empty() {
        let standbys = status.replication.iter().map(|s| {
            json!({
                "usename": s.usename,
                "application_name": s.application_name,
                "client_addr": s.client_addr,
                "state": s.state,
                "sync_state": s.sync_state,
                "sync_priority": s.sync_priority,
            })
        });
        out.insert("replication".into(), standbys.collect());
    }
}

fn agent(status: &Status, out: &mut Map<String, Value>) {
    if !status.tags.is_empty() {
        out.insert("tags".into(), Value::Object(status.tags.clone()));
    }
    if let Some(id) = &status.system_identifier {
        out.insert("database_system_identifier".into(), id.as_str().into());
    }
    if !status.pending_restart.is_empty() {
        out.insert("pending_restart".into(), true.into());
        out.insert("pending_restart_reason".into(), Value::Object(status.pending_restart.clone()));
    }
    out.insert("patroni".into(), json!({"version": status.version, "scope": status.scope, "name": status.name}));
    if status.watchdog_failed {
        out.insert("watchdog_failed".into(), true.into());
    }
}

/// GET /cluster; `None` before the first reading of the DCS.
pub(crate) fn cluster(status: &Status) -> Option<Value> {
    let cluster: &Cluster = status.cluster.as_deref()?;
    let mut out = Map::new();
    out.insert("members".into(), members::rows(cluster).into_iter().map(member).collect());
    if members::is_paused(cluster) {
        out.insert("pause".into(), true.into());
    }
    let failover = cluster.failover.as_ref().map(|f| &f.value);
    if let Some((failover, at)) = failover.and_then(|f| Some((f, f.scheduled_at.as_ref()?))) {
        let mut scheduled = Map::from_iter([("at".to_owned(), Value::from(at.as_str()))]);
        let ends = [("from", &failover.leader), ("to", &failover.candidate)];
        scheduled.extend(ends.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v.as_deref()?.into()))));
        out.insert("scheduled_switchover".into(), Value::Object(scheduled));
    }
    out.insert("scope".into(), status.scope.as_str().into());
    Some(Value::Object(out))
}

fn member(row: Row) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), row.name.into());
    out.insert("role".into(), row.role.as_str().into());
    out.insert("state".into(), row.state.into());
    out.insert("api_url".into(), row.api_url.into());
    let optional = [
        ("host", row.host.map(Value::from)),
        ("port", row.port.map(Value::from)),
        ("timeline", row.timeline.map(Value::from)),
        ("pending_restart", row.pending_restart.then_some(Value::Bool(true))),
        ("pending_restart_reason", row.pending_restart_reason),
        ("scheduled_restart", row.scheduled_restart),
        ("tags", (!row.tags.is_empty()).then_some(Value::Object(row.tags))),
    ];
    out.extend(optional.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))));
    if let Some(Lags { receive, replay, overall }) = row.lags {
        lag("receive_", receive, &mut out);
        lag("replay_", replay, &mut out);
        lag("", overall, &mut out);
    }
    Value::Object(out)
}

/// Patroni's order of the two keys depends on whether the position is known.
fn lag(prefix: &str, position: Option<Position>, out: &mut Map<String, Value>) {
    let (lag, lsn) = (format!("{prefix}lag"), format!("{prefix}lsn"));
    match position {
        Some(p) => out.extend([(lag, p.lag.into()), (lsn, p.lsn.to_string().into())]),
        None => out.extend([(lsn, Value::from("unknown")), (lag, Value::from("unknown"))]),
    }
}

/// GET /history: lines of timeline, position, reason, and where known the time and the new leader.
pub(crate) fn history(status: &Status) -> Value {
    let lines = status.cluster.as_deref().map(|c| c.history.as_slice()).unwrap_or_default();
    let line = |l: &ha::cluster::HistoryLine| {
        let mut out = vec![Value::from(l.timeline), Value::from(l.lsn.0), Value::from(l.reason.as_str())];
        if !l.timestamp.is_empty() {
            out.push(l.timestamp.as_str().into());
            if !l.new_leader.is_empty() {
                out.push(l.new_leader.as_str().into());
            }
        }
        Value::Array(out)
    };
    lines.iter().map(line).collect()
}
