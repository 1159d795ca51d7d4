//! The cluster's members as people are shown them: role, state and lag of each. REST, gRPC clients and the admin client
//! all show these rows. How they are printed is not here.

use serde_json::{Map, Value};

use crate::cluster::{Cluster, Member};
use crate::lsn::Lsn;
use crate::settings::{Settings, parse_bool};

/// One member.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Name.
    pub name: String,
    /// Role in the cluster.
    pub role: MemberRole,
    /// What PostgreSQL does there, in Patroni's words: `running`, `streaming`, `creating replica`, ...
    pub state: String,
    /// REST address.
    pub api_url: String,
    /// Where PostgreSQL is reached.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Timeline.
    pub timeline: Option<u32>,
    /// Parameters wait for a restart.
    pub pending_restart: bool,
    /// Old and new value of each such parameter.
    pub pending_restart_reason: Option<Value>,
    /// A scheduled restart.
    pub scheduled_restart: Option<Value>,
    /// Tags.
    pub tags: Map<String, Value>,
    /// How far it is; `None` for the leader, which others are measured against.
    pub lags: Option<Lags>,
}

/// How far a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lags {
    /// What it has received; `None` when unknown, as for the others.
    pub receive: Option<Position>,
    /// What it has replayed.
    pub replay: Option<Position>,
    /// Its single position (Patroni's `lsn`).
    pub overall: Option<Position>,
}

/// A position and its distance to the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where it is.
    pub lsn: Lsn,
    /// Bytes behind the leader, zero when level or ahead of its last known position.
    pub lag: u64,
}

/// Role of a member in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Holds the leader key.
    Leader,
    /// Holds the leader key of a standby cluster.
    StandbyLeader,
    /// Commits wait for it.
    SyncStandby,
    /// One of those of which commits wait for some.
    QuorumStandby,
    /// None of these.
    Replica,
}

impl MemberRole {
    /// Patroni's word for it (GET /cluster).
    pub fn as_str(self) -> &'static str {
        match self {
            MemberRole::Leader => "leader",
            MemberRole::StandbyLeader => "standby_leader",
            MemberRole::SyncStandby => "sync_standby",
            MemberRole::QuorumStandby => "quorum_standby",
            MemberRole::Replica => "replica",
        }
    }
}

/// Every member, sorted by name.
pub fn rows(cluster: &Cluster) -> Vec<Row> {
    let leader_position = leader_position(cluster);
    cluster.members.values().map(|m| row(cluster, m, leader_position)).collect()
}

/// Whether the cluster is in maintenance mode by its configuration.
pub fn is_paused(cluster: &Cluster) -> bool {
    cluster.config.as_ref().is_some_and(|c| Settings::from_json(&c.value).0.pause)
}

/// The furthest position that the leader is known to have written.
pub fn leader_position(cluster: &Cluster) -> Lsn {
    let leader = cluster.leader.as_ref().and_then(|l| cluster.members.get(&l.name));
    let published = leader.and_then(|m| m.xlog_location).unwrap_or_default();
    published.max(cluster.status.as_ref().map(|s| s.optime).unwrap_or_default())
}

fn row(cluster: &Cluster, member: &Member, leader_position: Lsn) -> Row {
    let role = role(cluster, &member.name);
    let (host, port) = member.host_port().unzip();
    let replication = member.replication_state.as_ref().filter(|s| role != MemberRole::Leader && !s.is_empty());
    let leads = cluster.is_led_by(&member.name);
    Row {
        name: member.name.clone(),
        role,
        state: replication.unwrap_or(&member.state).clone(),
        api_url: member.api_url.clone(),
        host,
        port,
        timeline: member.timeline,
        pending_restart: member.pending_restart,
        pending_restart_reason: member.pending_restart_reason.clone(),
        scheduled_restart: member.scheduled_restart.clone(),
        tags: member.tags.clone(),
        lags: (!leads).then(|| lags(member, leader_position)),
    }
}

fn role(cluster: &Cluster, name: &str) -> MemberRole {
    let setting = |key: &str| cluster.config.as_ref().and_then(|c| c.value.get(key)).filter(|v| !v.is_null());
    let quorum = setting("synchronous_mode").and_then(Value::as_str).is_some_and(|s| s.eq_ignore_ascii_case("quorum"));
    let synchronous = quorum || setting("synchronous_mode").and_then(parse_bool).unwrap_or(false);
    let listed =
        cluster.sync.as_ref().is_some_and(|s| !s.value.leader.is_empty() && s.value.standbys.iter().any(|n| n == name));
    if cluster.is_led_by(name) {
        if setting("standby_cluster").is_some() { MemberRole::StandbyLeader } else { MemberRole::Leader }
    } else if synchronous && listed {
        if quorum { MemberRole::QuorumStandby } else { MemberRole::SyncStandby }
    } else {
        MemberRole::Replica
    }
}

fn lags(member: &Member, leader: Lsn) -> Lags {
    let position =
        |lsn: Option<Lsn>| lsn.filter(|l| *l > Lsn(0)).map(|lsn| Position { lsn, lag: leader.bytes_since(lsn) });
    Lags {
        receive: position(member.receive_lsn),
        replay: position(member.replay_lsn),
        overall: position(member.xlog_location),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Leader, Optime, Revisioned, SyncState, Term};
    use serde_json::json;

    fn member(name: &str, state: &str) -> Member {
        Member {
            name: name.into(),
            state: state.into(),
            conn_url: format!("postgres://{name}.example:5433/postgres"),
            ..Member::default()
        }
    }

    fn cluster(members: Vec<Member>) -> Cluster {
        Cluster {
            leader: Some(Leader { name: "pg1".into(), term: Term::default(), lease: 1 }),
            members: members.into_iter().map(|m| (m.name.clone(), m)).collect(),
            status: Some(Optime { optime: Lsn(1000), ..Optime::default() }),
            ..Cluster::default()
        }
    }

    fn configured(mut cluster: Cluster, config: Value) -> Cluster {
        cluster.config = Some(Revisioned { revision: 1, value: config });
        cluster.sync = Some(Revisioned {
            revision: 1,
            value: SyncState { leader: "pg1".into(), standbys: vec!["pg2".into()], quorum: 0 },
        });
        cluster
    }

    #[test]
    fn lags_are_measured_against_the_leaders_furthest_known_position() {
        let leader = Member { xlog_location: Some(Lsn(1200)), ..member("pg1", "running") };
        let replica = Member {
            receive_lsn: Some(Lsn(1150)),
            replay_lsn: Some(Lsn(900)),
            xlog_location: Some(Lsn(1300)),
            replication_state: Some("streaming".into()),
            ..member("pg2", "running")
        };
        let rows = rows(&cluster(vec![replica, leader, member("pg3", "stopped")]));
        assert_eq!(rows.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["pg1", "pg2", "pg3"]);
        assert_eq!(rows[0].lags, None);
        let lags = rows[1].lags.unwrap();
        assert_eq!(lags.receive, Some(Position { lsn: Lsn(1150), lag: 50 }));
        assert_eq!(lags.replay, Some(Position { lsn: Lsn(900), lag: 300 }));
        assert_eq!(lags.overall, Some(Position { lsn: Lsn(1300), lag: 0 }));
        assert_eq!(rows[2].lags, Some(Lags::default()));
        assert_eq!((rows[1].state.as_str(), rows[2].state.as_str()), ("streaming", "stopped"));
        assert_eq!((rows[1].host.as_deref(), rows[1].port), (Some("pg2.example"), Some(5433)));
    }

    #[test]
    fn without_the_leaders_key_its_last_position_counts() {
        let replica = Member { replay_lsn: Some(Lsn(900)), ..member("pg2", "running") };
        let rows = rows(&Cluster { leader: None, ..cluster(vec![replica]) });
        assert_eq!(rows[0].lags.unwrap().replay, Some(Position { lsn: Lsn(900), lag: 100 }));
    }

    #[test]
    fn roles_follow_leader_key_sync_key_and_configuration() {
        let members = || vec![member("pg1", "running"), member("pg2", "running"), member("pg3", "running")];
        let roles = |config: Value| {
            let rows = rows(&configured(cluster(members()), config));
            rows.iter().map(|r| r.role.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(roles(json!({})), ["leader", "replica", "replica"]);
        assert_eq!(roles(json!({"synchronous_mode": true})), ["leader", "sync_standby", "replica"]);
        assert_eq!(roles(json!({"synchronous_mode": "on"})), ["leader", "sync_standby", "replica"]);
        assert_eq!(roles(json!({"synchronous_mode": "quorum"})), ["leader", "quorum_standby", "replica"]);
        assert_eq!(roles(json!({"standby_cluster": {"host": "x"}})), ["standby_leader", "replica", "replica"]);
    }

    #[test]
    fn maintenance_mode_is_read_from_the_configuration() {
        assert!(is_paused(&configured(cluster(vec![]), json!({"pause": true}))));
        assert!(!is_paused(&configured(cluster(vec![]), json!({"pause": false}))));
        assert!(!is_paused(&cluster(vec![])));
    }
}
