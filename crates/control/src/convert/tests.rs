//! Round trips of every conversion, through the bytes of the wire.

use ha::poolers::{Drain, Held, Pooler};
use prost::Message;
use serde_json::json;

use super::*;

fn through_the_wire<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn full_cluster() -> Cluster {
    let member = Member {
        name: "pg1".to_owned(),
        lease: 77,
        conn_url: "postgres://127.0.0.1:5432/postgres".to_owned(),
        api_url: "http://127.0.0.1:8008/patroni".to_owned(),
        state: "running".to_owned(),
        role: "primary".to_owned(),
        version: "4.1.4".to_owned(),
        xlog_location: Some(Lsn(u64::MAX)),
        receive_lsn: Some(Lsn(0)),
        replay_lsn: Some(Lsn(5)),
        replication_state: Some("streaming".to_owned()),
        timeline: Some(3),
        pending_restart: true,
        pending_restart_reason: Some(json!({"shared_buffers": {"old_value": "128MB", "new_value": "256MB"}})),
        scheduled_restart: Some(json!({"schedule": "2030-01-01T00:00:00+00:00"})),
        pause: true,
        tags: map(json!({"nofailover": true, "zone": "west"})),
        extra: map(json!({"proxy_url": "postgres://10.0.0.1:6543/postgres", "big": 18_446_744_073_709_551_615_u64})),
    };
    Cluster {
        dcs_id: u64::MAX,
        revision: 42,
        initialize: Some("7412".to_owned()),
        initialize_lease: 9,
        config: Some(Revisioned { revision: 40, value: json!({"z": 1, "a": {"pause": true, "x": 1.5}}) }),
        leader: Some(Leader { name: "pg1".to_owned(), term: Term { dcs_id: u64::MAX, revision: 12 }, lease: 77 }),
        members: [
            ("pg1".to_owned(), member),
            ("pg2".to_owned(), Member { name: "pg2".to_owned(), ..Member::default() }),
        ]
        .into(),
        status: Some(Optime {
            optime: Lsn(99),
            slots: map(json!({"pg2": 98})),
            extra: map(json!({"retain_slots": ["pg1"]})),
        }),
        sync: Some(Revisioned {
            revision: 41,
            value: SyncState { leader: "pg1".to_owned(), standbys: vec!["pg2".to_owned()], quorum: 1 },
        }),
        failover: Some(Revisioned {
            revision: 39,
            value: Failover { leader: Some("pg1".to_owned()), candidate: None, scheduled_at: Some(String::new()) },
        }),
        history: vec![HistoryLine {
            timeline: 1,
            lsn: Lsn(25_000),
            reason: "no recovery target specified".to_owned(),
            timestamp: "2026-11-23T06:13:28+00:00".to_owned(),
            new_leader: "pg1".to_owned(),
        }],
        history_revision: 38,
        drains: [(
            "pg1".to_owned(),
            Revisioned { revision: 37, value: Drain { to: Some("pg2".to_owned()), patience_ms: 5_250 } },
        )]
        .into(),
        poolers: [(
            "front".to_owned(),
            Pooler {
                address: "10.0.0.1:6543".to_owned(),
                version: "0.1.0".to_owned(),
                drained: [("pg1".to_owned(), 37)].into(),
                held: Some(Held { order: 30, clients: 9, longest_ms: 212, cut: 1 }),
            },
        )]
        .into(),
    }
}

#[test]
fn clusters_survive() {
    for cluster in
        [full_cluster(), Cluster::default(), Cluster { initialize: Some(String::new()), ..Cluster::default() }]
    {
        let wire = through_the_wire(&proto::Cluster::from(&cluster));
        assert_eq!(Cluster::try_from(wire).unwrap(), cluster);
    }
}

#[test]
fn the_order_of_configuration_keys_survives() {
    let wire = through_the_wire(&proto::Cluster::from(&full_cluster()));
    let config = Cluster::try_from(wire).unwrap().config.unwrap().value;
    assert_eq!(config.to_string(), r#"{"z":1,"a":{"pause":true,"x":1.5}}"#);
}

#[test]
fn damaged_json_is_an_error_not_a_default() {
    let wire = proto::Cluster::from(&full_cluster());
    let damage: [fn(&mut proto::Cluster); 5] = [
        |c| c.config.as_mut().unwrap().json = "{".to_owned(),
        |c| c.members[0].tags_json = "[]".to_owned(),
        |c| c.members[0].extra_json = "nonsense".to_owned(),
        |c| c.members[0].scheduled_restart_json = Some(String::new()),
        |c| c.status.as_mut().unwrap().slots_json = "1".to_owned(),
    ];
    for spoil in damage {
        let mut spoilt = wire.clone();
        spoil(&mut spoilt);
        assert!(matches!(Cluster::try_from(spoilt), Err(Error::Protocol(_))));
    }
}

#[test]
fn statuses_become_reports() {
    let standby = Standby {
        usename: "replicator".to_owned(),
        application_name: "pg2".to_owned(),
        client_addr: None,
        state: "streaming".to_owned(),
        sync_state: "sync".to_owned(),
        sync_priority: 1,
        flush_lsn: Some(Lsn(7)),
    };
    let status = Status {
        scope: "otus".to_owned(),
        name: "pg1".to_owned(),
        version: "0.1.0".to_owned(),
        state: ha::State::Running,
        role: ha::Role::Primary,
        leader_until: Some(Tick::from_millis(12_500)),
        term: Some(Term { dcs_id: 3, revision: 4 }),
        decided_at: Tick::from_millis(9_000),
        server_version: Some(150_004),
        postmaster_start_time: Some("2026-11-23 06:13:28.171607+00:00".to_owned()),
        timeline: Some(2),
        system_identifier: Some("7412".to_owned()),
        location: Some(Lsn(1)),
        received_location: Some(Lsn(2)),
        replayed_location: Some(Lsn(3)),
        replication_state: Some("streaming".to_owned()),
        replication: vec![standby.clone()],
        sync_standby: true,
        pending_restart: map(json!({"max_connections": {"old_value": "1", "new_value": "2"}})),
        tags: map(json!({"nofailover": true})),
        pause: true,
        dcs_last_seen: 1_795_414_531,
        reason: "leads".to_owned(),
        reason_label: "lead",
        trouble: Some("the disk is full".to_owned()),
        ..Status::default()
    };
    let now = Tick::from_millis(10_000);
    let expected = Report {
        scope: "otus".to_owned(),
        name: "pg1".to_owned(),
        version: "0.1.0".to_owned(),
        state: "running".to_owned(),
        role: "primary".to_owned(),
        leader_for: Some(Duration::from_millis(2_500)),
        term: Some(Term { dcs_id: 3, revision: 4 }),
        decided_ago: Duration::from_secs(1),
        server_version: Some(150_004),
        postmaster_start_time: Some("2026-11-23T06:13:28.171607Z".parse().unwrap()),
        timeline: Some(2),
        system_identifier: Some("7412".to_owned()),
        location: Some(Lsn(1)),
        received_location: Some(Lsn(2)),
        replayed_location: Some(Lsn(3)),
        replication_state: Some("streaming".to_owned()),
        replication: vec![standby],
        sync_standby: true,
        pending_restart: status.pending_restart.clone(),
        tags: status.tags.clone(),
        pause: true,
        dcs_last_seen: Some(jiff::Timestamp::from_second(1_795_414_531).unwrap()),
        reason: "leads".to_owned(),
        reason_label: "lead".to_owned(),
        trouble: Some("the disk is full".to_owned()),
    };
    assert_eq!(Report::try_from(through_the_wire(&report(&status, now))).unwrap(), expected);

    let late = Report::try_from(report(&status, Tick::from_millis(12_500))).unwrap();
    assert_eq!(late.leader_for, None, "the deadline has passed");
    let bare = Report::try_from(through_the_wire(&report(&Status::default(), Tick::default()))).unwrap();
    let nothing = Report { state: "stopped".to_owned(), role: "replica".to_owned(), ..Report::default() };
    assert_eq!(bare, nothing);
}

#[test]
fn restart_filters_survive() {
    let full = RestartFilter {
        role: Some("replica".to_owned()),
        postgres_version: Some("15.4".to_owned()),
        restart_pending: true,
        timeout_secs: Some(90),
    };
    for filter in [full, RestartFilter::default()] {
        let wire = through_the_wire(&proto::RestartRequest::from(filter.clone()));
        assert_eq!(restart(wire).unwrap(), Command::Restart(filter));
    }
    for (seconds, nanos) in [(0, 0), (-1, 0), (0, 500), (1, 1)] {
        let timeout = Some(prost_types::Duration { seconds, nanos });
        let refused = restart(proto::RestartRequest { timeout, ..Default::default() }).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}

#[test]
fn outcomes_survive_and_have_their_code() {
    use tonic::Code;
    for (outcome, code) in [
        (Outcome::Done, Code::Ok),
        (Outcome::Accepted, Code::Ok),
        (Outcome::Invalid, Code::InvalidArgument),
        (Outcome::Unprocessable, Code::InvalidArgument),
        (Outcome::Conflict, Code::Aborted),
        (Outcome::Precondition, Code::FailedPrecondition),
        (Outcome::Failed, Code::Unavailable),
        (Outcome::Dcs, Code::Unavailable),
    ] {
        assert_eq!(Outcome::try_from(proto::Outcome::from(outcome)).unwrap(), outcome);
        let verdict = verdict(&Reply::new(outcome, "told so"));
        assert_eq!(verdict.map_or_else(|s| s.code(), |()| Code::Ok), code, "{outcome:?}");
    }
    assert!(Outcome::try_from(proto::Outcome::Unspecified).is_err());
}
