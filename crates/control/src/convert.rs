//! Conversions between the field's types and the wire's, which is the only place where both meet.

mod poolers;

use std::time::Duration;

use ha::access::Denied;
use ha::cluster::{Cluster, Failover, HistoryLine, Leader, Member, Optime, Revisioned, SyncState, Term};
use ha::command::{Command, Outcome, Reply, RestartFilter};
use ha::status::Standby;
use ha::{Lsn, Status, Tick};
use serde_json::{Map, Value};

use crate::client::{Error, Report, View};
use crate::proto;

type Fallible<T> = Result<T, Error>;

fn garbled(what: &str) -> Error {
    Error::Protocol(format!("{what} can't be understood"))
}

fn object_text(map: &Map<String, Value>) -> String {
    if map.is_empty() { String::new() } else { Value::Object(map.clone()).to_string() }
}

fn object(text: &str, what: &str) -> Fallible<Map<String, Value>> {
    if text.is_empty() { Ok(Map::new()) } else { serde_json::from_str(text).map_err(|_| garbled(what)) }
}

fn json(text: &str, what: &str) -> Fallible<Value> {
    serde_json::from_str(text).map_err(|_| garbled(what))
}

pub(crate) fn timestamp(seconds: i64) -> Option<prost_types::Timestamp> {
    (seconds > 0).then_some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn instant(t: Option<prost_types::Timestamp>) -> Option<jiff::Timestamp> {
    t.and_then(|t| jiff::Timestamp::new(t.seconds, t.nanos).ok())
}

fn postgres_timestamp(text: &str) -> Option<prost_types::Timestamp> {
    let t: jiff::Timestamp = text.parse().ok()?;
    Some(prost_types::Timestamp { seconds: t.as_second(), nanos: t.subsec_nanosecond() })
}

fn duration(d: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(d).ok()
}

fn span(d: Option<prost_types::Duration>) -> Option<Duration> {
    d.and_then(|d| Duration::try_from(d).ok())
}

impl From<Term> for proto::Term {
    fn from(t: Term) -> Self {
        proto::Term { dcs_id: t.dcs_id, revision: t.revision }
    }
}

impl From<proto::Term> for Term {
    fn from(t: proto::Term) -> Self {
        Term { dcs_id: t.dcs_id, revision: t.revision }
    }
}

impl From<&Cluster> for proto::Cluster {
    fn from(c: &Cluster) -> Self {
        proto::Cluster {
            dcs_id: c.dcs_id,
            revision: c.revision,
            initialize: c.initialize.clone(),
            initialize_lease: c.initialize_lease,
            config: c.config.as_ref().map(Into::into),
            leader: c.leader.as_ref().map(|l| proto::Leader {
                name: l.name.clone(),
                term: Some(l.term.into()),
                lease: l.lease,
            }),
            members: c.members.values().map(Into::into).collect(),
            status: c.status.as_ref().map(|s| proto::Optime {
                optime: s.optime.0,
                slots_json: object_text(&s.slots),
                extra_json: object_text(&s.extra),
            }),
            sync: c.sync.as_ref().map(|s| proto::SyncState {
                revision: s.revision,
                leader: s.value.leader.clone(),
                standbys: s.value.standbys.clone(),
                quorum: s.value.quorum,
            }),
            failover: c.failover.as_ref().map(|f| proto::PendingFailover {
                revision: f.revision,
                leader: f.value.leader.clone(),
                candidate: f.value.candidate.clone(),
                scheduled_at: f.value.scheduled_at.clone(),
            }),
            history: c.history.iter().map(Into::into).collect(),
            history_revision: c.history_revision,
            drains: poolers::drains(c),
            poolers: poolers::poolers(c),
        }
    }
}

impl TryFrom<proto::Cluster> for Cluster {
    type Error = Error;

    fn try_from(c: proto::Cluster) -> Fallible<Self> {
        let members = c.members.into_iter().map(|m| Ok((m.name.clone(), m.try_into()?)));
        Ok(Cluster {
            dcs_id: c.dcs_id,
            revision: c.revision,
            initialize: c.initialize,
            initialize_lease: c.initialize_lease,
            config: c.config.map(TryInto::try_into).transpose()?,
            leader: c.leader.map(|l| Leader {
                name: l.name,
                term: l.term.map(Into::into).unwrap_or_default(),
                lease: l.lease,
            }),
            members: members.collect::<Fallible<_>>()?,
            status: c.status.map(TryInto::try_into).transpose()?,
            sync: c.sync.map(|s| Revisioned {
                revision: s.revision,
                value: SyncState { leader: s.leader, standbys: s.standbys, quorum: s.quorum },
            }),
            failover: c.failover.map(|f| Revisioned {
                revision: f.revision,
                value: Failover { leader: f.leader, candidate: f.candidate, scheduled_at: f.scheduled_at },
            }),
            history: c.history.into_iter().map(Into::into).collect(),
            history_revision: c.history_revision,
            drains: c.drains.into_iter().map(poolers::drain).collect(),
            poolers: c.poolers.into_iter().map(poolers::pooler).collect(),
        })
    }
}

impl From<&Revisioned<Value>> for proto::Config {
    fn from(c: &Revisioned<Value>) -> Self {
        proto::Config { json: c.value.to_string(), revision: c.revision }
    }
}

impl TryFrom<proto::Config> for Revisioned<Value> {
    type Error = Error;

    fn try_from(c: proto::Config) -> Fallible<Self> {
        Ok(Revisioned { revision: c.revision, value: json(&c.json, "the configuration")? })
    }
}

impl TryFrom<proto::Optime> for Optime {
    type Error = Error;

    fn try_from(s: proto::Optime) -> Fallible<Self> {
        Ok(Optime {
            optime: Lsn(s.optime),
            slots: object(&s.slots_json, "the slots' positions")?,
            extra: object(&s.extra_json, "the status key")?,
        })
    }
}

impl From<&Member> for proto::Member {
    fn from(m: &Member) -> Self {
        proto::Member {
            name: m.name.clone(),
            lease: m.lease,
            conn_url: m.conn_url.clone(),
            api_url: m.api_url.clone(),
            state: m.state.clone(),
            role: m.role.clone(),
            version: m.version.clone(),
            xlog_location: m.xlog_location.map(|l| l.0),
            receive_lsn: m.receive_lsn.map(|l| l.0),
            replay_lsn: m.replay_lsn.map(|l| l.0),
            replication_state: m.replication_state.clone(),
            timeline: m.timeline,
            pending_restart: m.pending_restart,
            pending_restart_reason_json: m.pending_restart_reason.as_ref().map(Value::to_string),
            scheduled_restart_json: m.scheduled_restart.as_ref().map(Value::to_string),
            pause: m.pause,
            tags_json: object_text(&m.tags),
            extra_json: object_text(&m.extra),
        }
    }
}

impl TryFrom<proto::Member> for Member {
    type Error = Error;

    fn try_from(m: proto::Member) -> Fallible<Self> {
        let optional = |text: Option<String>, what| text.map(|t| json(&t, what)).transpose();
        Ok(Member {
            name: m.name,
            lease: m.lease,
            conn_url: m.conn_url,
            api_url: m.api_url,
            state: m.state,
            role: m.role,
            version: m.version,
            xlog_location: m.xlog_location.map(Lsn),
            receive_lsn: m.receive_lsn.map(Lsn),
            replay_lsn: m.replay_lsn.map(Lsn),
            replication_state: m.replication_state,
            timeline: m.timeline,
            pending_restart: m.pending_restart,
            pending_restart_reason: optional(m.pending_restart_reason_json, "the reason of a pending restart")?,
            scheduled_restart: optional(m.scheduled_restart_json, "a scheduled restart")?,
            pause: m.pause,
            tags: object(&m.tags_json, "a member's tags")?,
            extra: object(&m.extra_json, "a member's other fields")?,
        })
    }
}

impl From<&HistoryLine> for proto::HistoryLine {
    fn from(h: &HistoryLine) -> Self {
        proto::HistoryLine {
            timeline: h.timeline,
            lsn: h.lsn.0,
            reason: h.reason.clone(),
            timestamp: h.timestamp.clone(),
            new_leader: h.new_leader.clone(),
        }
    }
}

impl From<proto::HistoryLine> for HistoryLine {
    fn from(h: proto::HistoryLine) -> Self {
        HistoryLine {
            timeline: h.timeline,
            lsn: Lsn(h.lsn),
            reason: h.reason,
            timestamp: h.timestamp,
            new_leader: h.new_leader,
        }
    }
}

impl From<&Standby> for proto::Standby {
    fn from(s: &Standby) -> Self {
        proto::Standby {
            usename: s.usename.clone(),
            application_name: s.application_name.clone(),
            client_addr: s.client_addr.clone(),
            state: s.state.clone(),
            sync_state: s.sync_state.clone(),
            sync_priority: s.sync_priority,
            flush_lsn: s.flush_lsn.map(|l| l.0),
        }
    }
}

impl From<proto::Standby> for Standby {
    fn from(s: proto::Standby) -> Self {
        Standby {
            usename: s.usename,
            application_name: s.application_name,
            client_addr: s.client_addr,
            state: s.state,
            sync_state: s.sync_state,
            sync_priority: s.sync_priority,
            flush_lsn: s.flush_lsn.map(Lsn),
        }
    }
}

/// What an agent tells about itself. Its moments on CLOCK_BOOTTIME mean nothing on another machine and become spans.
pub(crate) fn report(s: &Status, now: Tick) -> proto::GetStatusResponse {
    proto::GetStatusResponse {
        scope: s.scope.clone(),
        name: s.name.clone(),
        version: s.version.clone(),
        state: s.state.as_str().to_owned(),
        role: s.role.as_str().to_owned(),
        leader_for: s.leader_until.filter(|until| now < *until).and_then(|until| duration(until - now)),
        term: s.term.map(Into::into),
        decided_ago: duration(now - s.decided_at),
        server_version: s.server_version,
        postmaster_start_time: s.postmaster_start_time.as_deref().and_then(postgres_timestamp),
        timeline: s.timeline,
        system_identifier: s.system_identifier.clone(),
        location: s.location.map(|l| l.0),
        received_location: s.received_location.map(|l| l.0),
        replayed_location: s.replayed_location.map(|l| l.0),
        replication_state: s.replication_state.clone(),
        replication: s.replication.iter().map(Into::into).collect(),
        sync_standby: s.sync_standby,
        pending_restart_json: object_text(&s.pending_restart),
        tags_json: object_text(&s.tags),
        pause: s.pause,
        dcs_last_seen: timestamp(s.dcs_last_seen),
        reason: s.reason.clone(),
        reason_label: s.reason_label.to_owned(),
        trouble: s.trouble.clone(),
    }
}

impl TryFrom<proto::GetStatusResponse> for Report {
    type Error = Error;

    fn try_from(s: proto::GetStatusResponse) -> Fallible<Self> {
        Ok(Report {
            scope: s.scope,
            name: s.name,
            version: s.version,
            state: s.state,
            role: s.role,
            leader_for: span(s.leader_for),
            term: s.term.map(Into::into),
            decided_ago: span(s.decided_ago).unwrap_or_default(),
            server_version: s.server_version,
            postmaster_start_time: instant(s.postmaster_start_time),
            timeline: s.timeline,
            system_identifier: s.system_identifier,
            location: s.location.map(Lsn),
            received_location: s.received_location.map(Lsn),
            replayed_location: s.replayed_location.map(Lsn),
            replication_state: s.replication_state,
            replication: s.replication.into_iter().map(Into::into).collect(),
            sync_standby: s.sync_standby,
            pending_restart: object(&s.pending_restart_json, "the pending restart")?,
            tags: object(&s.tags_json, "the tags")?,
            pause: s.pause,
            dcs_last_seen: instant(s.dcs_last_seen),
            reason: s.reason,
            reason_label: s.reason_label,
            trouble: s.trouble,
        })
    }
}

impl TryFrom<proto::GetClusterResponse> for View {
    type Error = Error;

    fn try_from(r: proto::GetClusterResponse) -> Fallible<Self> {
        Ok(View {
            scope: r.scope,
            answered_by: r.answered_by,
            cluster: r.cluster.ok_or_else(|| garbled("a cluster that is missing"))?.try_into()?,
            read_at: instant(r.read_at),
        })
    }
}

impl From<proto::WatchClusterResponse> for proto::GetClusterResponse {
    fn from(r: proto::WatchClusterResponse) -> Self {
        proto::GetClusterResponse { scope: r.scope, answered_by: r.answered_by, cluster: r.cluster, read_at: r.read_at }
    }
}

impl From<Outcome> for proto::Outcome {
    fn from(o: Outcome) -> Self {
        match o {
            Outcome::Done => proto::Outcome::Done,
            Outcome::Accepted => proto::Outcome::Accepted,
            Outcome::Invalid => proto::Outcome::Invalid,
            Outcome::Conflict => proto::Outcome::Conflict,
            Outcome::Precondition => proto::Outcome::Precondition,
            Outcome::Unprocessable => proto::Outcome::Unprocessable,
            Outcome::Failed => proto::Outcome::Failed,
            Outcome::Dcs => proto::Outcome::Dcs,
        }
    }
}

impl TryFrom<proto::Outcome> for Outcome {
    type Error = Error;

    fn try_from(o: proto::Outcome) -> Fallible<Self> {
        Ok(match o {
            proto::Outcome::Unspecified => return Err(garbled("an order's outcome")),
            proto::Outcome::Done => Outcome::Done,
            proto::Outcome::Accepted => Outcome::Accepted,
            proto::Outcome::Invalid => Outcome::Invalid,
            proto::Outcome::Conflict => Outcome::Conflict,
            proto::Outcome::Precondition => Outcome::Precondition,
            proto::Outcome::Unprocessable => Outcome::Unprocessable,
            proto::Outcome::Failed => Outcome::Failed,
            proto::Outcome::Dcs => Outcome::Dcs,
        })
    }
}

/// The error code of an order that didn't succeed; `Ok` for one that did.
pub(crate) fn verdict(reply: &Reply) -> Result<(), tonic::Status> {
    let code = match reply.outcome {
        Outcome::Done | Outcome::Accepted => return Ok(()),
        Outcome::Invalid | Outcome::Unprocessable => tonic::Code::InvalidArgument,
        Outcome::Conflict => tonic::Code::Aborted,
        Outcome::Precondition => tonic::Code::FailedPrecondition,
        Outcome::Failed | Outcome::Dcs => tonic::Code::Unavailable,
    };
    Err(tonic::Status::new(code, reply.message.clone()))
}

pub(crate) fn denied(denied: Denied) -> tonic::Status {
    match denied {
        Denied::Address | Denied::Certificate => tonic::Status::permission_denied(denied.message()),
        Denied::NoCredentials | Denied::WrongCredentials => tonic::Status::unauthenticated(denied.message()),
    }
}

/// The order that a restart request means.
pub(crate) fn restart(r: proto::RestartRequest) -> Result<Command, tonic::Status> {
    let timeout_secs = match r.timeout {
        None => None,
        Some(d) if d.seconds > 0 && d.nanos == 0 => u64::try_from(d.seconds).ok(),
        Some(_) => return Err(tonic::Status::invalid_argument("timeout must be whole seconds, at least one")),
    };
    Ok(Command::Restart(RestartFilter {
        role: r.role,
        postgres_version: r.postgres_version,
        restart_pending: r.restart_pending,
        timeout_secs,
    }))
}

impl From<RestartFilter> for proto::RestartRequest {
    fn from(f: RestartFilter) -> Self {
        proto::RestartRequest {
            role: f.role,
            postgres_version: f.postgres_version,
            restart_pending: f.restart_pending,
            timeout: f.timeout_secs.and_then(|s| duration(Duration::from_secs(s))),
        }
    }
}

/// The JSON object that a request carries as text.
pub(crate) fn request_object(text: &str, what: &str) -> Result<Value, tonic::Status> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(tonic::Status::invalid_argument(format!("{what} must be a JSON object"))),
        Err(e) => Err(tonic::Status::invalid_argument(format!("{what} is not JSON: {e}"))),
    }
}

#[cfg(test)]
mod tests;
