//! Health checks: which node a load balancer may send which connections to. Patroni's rules, except that leadership also
//! ends when the lease's deadline passes.

use ha::cluster::tag_is_set;
use ha::members::leader_position;
use ha::{Lsn, Role, State};
use http::StatusCode;
use serde_json::Value;

use crate::Moment;
use crate::query::Query;

/// The status code of a check.
pub(crate) fn code(passes: bool) -> StatusCode {
    if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Whether the node passes the check of that path. An unknown path never passes.
pub(crate) fn passes(path: &str, query: &Query, moment: &Moment) -> bool {
    let replica = || is_usable_replica(query, moment);
    let tags = || has_tags(query, moment);
    let sync = moment.status.sync_standby && moment.status.settings.synchronous_mode;
    let known = moment.status.cluster.is_some();
    match path {
        "/" | "/primary" | "/master" | "/read-write" => is_primary(moment),
        "/leader" => moment.leads(),
        "/replica" => replica() && tags(),
        "/read-only" => (is_primary(moment) || replica()) && tags(),
        "/sync" | "/synchronous" => known && sync && replica() && tags(),
        "/async" | "/asynchronous" => known && !sync && replica() && tags(),
        "/read-only-sync" | "/read-only-synchronous" => known && (is_primary(moment) || sync && replica()) && tags(),
        // No member is a quorum standby yet, which leaves the leader.
        "/read-only-quorum" => known && is_primary(moment) && tags(),
        "/health" => moment.status.state == State::Running && tags(),
        _ => false,
    }
}

fn is_primary(moment: &Moment) -> bool {
    moment.leads() && moment.status.role == Role::Primary && moment.status.state == State::Running
}

/// A running replica that may take connections and isn't further behind than asked.
fn is_usable_replica(query: &Query, moment: &Moment) -> bool {
    let status = &moment.status;
    let replayed = status.replayed_location.unwrap_or_default();
    let near = query.bytes("lag").is_none_or(|lag| known_leader_position(moment).bytes_since(replayed) <= lag);
    let replicates =
        query.get("replication_state").is_none_or(|wanted| status.replication_state.as_deref() == Some(wanted));
    status.role == Role::Replica
        && status.state == State::Running
        && !moment.leads()
        && !tag_is_set(&status.tags, "noloadbalance")
        && near
        && replicates
}

fn known_leader_position(moment: &Moment) -> Lsn {
    moment.status.cluster.as_deref().map(leader_position).unwrap_or_default()
}

/// Whether every `tag_<name>=<value>` asked for is so configured. Values that aren't text compare as JSON writes them.
fn has_tags(query: &Query, moment: &Moment) -> bool {
    query.with_prefix("tag_").all(|(name, wanted)| match moment.status.tags.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => text == wanted,
        Some(other) => other.to_string().to_lowercase() == wanted,
    })
}

/// Whether the agent's loop runs: its last decision is at most ttl old on a running primary and 2 ttl elsewhere. In
/// maintenance mode it may be any age.
pub(crate) fn is_alive(moment: &Moment) -> bool {
    let status = &moment.status;
    let primary = status.role == Role::Primary && status.state == State::Running;
    let allowed = status.settings.ttl * if primary { 1 } else { 2 };
    status.pause || moment.now - status.decided_at < allowed
}

/// Whether the node is the leader, or streams and isn't further behind than asked
/// (`lag`, else `maximum_lag_on_failover`; `mode=write` counts received WAL instead of replayed).
pub(crate) fn is_ready(query: &Query, moment: &Moment) -> bool {
    if moment.leads() {
        return true;
    }
    let status = &moment.status;
    let position = match query.get("mode") {
        Some("write") => status.received_location.max(status.replayed_location),
        _ => status.replayed_location,
    };
    let allowed = query.bytes("lag").unwrap_or(status.settings.maximum_lag_on_failover);
    status.state == State::Running
        && status.replication_state.as_deref() == Some("streaming")
        && status.cluster.is_some()
        && known_leader_position(moment).bytes_since(position.unwrap_or_default()) <= allowed
}
