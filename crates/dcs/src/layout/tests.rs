//! Tests of the layout, with values as Patroni 4.1 and older write them.

use super::*;

fn snapshot(entries: &[(&str, &str)]) -> Snapshot {
    let entry = |v: &str| Entry { value: v.as_bytes().to_vec(), created: 7, modified: 9, lease: 5 };
    let entries = entries.iter().map(|(k, v)| ((*k).to_owned(), entry(v))).collect();
    Snapshot { dcs_id: 3, revision: 11, entries }
}

fn one(key: &str, value: &str) -> (Cluster, Vec<String>) {
    decode_reporting(&snapshot(&[(key, value)]))
}

fn utf8(value: Vec<u8>) -> String {
    String::from_utf8(value).unwrap()
}

const REPLICA: &str = r#"{"conn_url":"postgres://127.0.0.1:5433/postgres","api_url":"http://127.0.0.1:8009/patroni","state":"running","role":"replica","version":"4.1.4","xlog_location":67393608,"receive_lsn":67393608,"replay_lsn":67393600,"replication_state":"streaming","timeline":1}"#;

#[test]
fn whole_cluster_of_patroni_is_read() {
    let (cluster, warnings) = decode_reporting(&snapshot(&[
        ("config", r#"{"ttl":30,"loop_wait":10,"postgresql":{"use_pg_rewind":true,"parameters":null}}"#),
        ("history", r#"[[1,67393608,"no recovery target specified","2026-11-23T06:14:01.171607+00:00","n1"]]"#),
        ("initialize", "7443210000000000001"),
        ("leader", "n0"),
        (
            "members/n0",
            r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","api_url":"http://127.0.0.1:8008/patroni","state":"running","role":"master","version":"3.0.2","checkpoint_after_promote":false,"xlog_location":67393608,"timeline":1}"#,
        ),
        ("members/n1", REPLICA),
        ("optime/leader", "67393608"),
        ("status", r#"{"optime":67393608,"slots":{"n1":67393608},"retain_slots":["n0","n1","n2"]}"#),
        ("sync", r#"{"leader":"n0","quorum":1,"sync_standby":"n1,n2"}"#),
    ]));
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((cluster.dcs_id, cluster.revision), (3, 11));
    assert_eq!(cluster.initialize.as_deref(), Some("7443210000000000001"));
    assert_eq!(cluster.leader, Some(Leader { name: "n0".into(), term: Term { dcs_id: 3, revision: 7 }, lease: 5 }));
    let config = cluster.config.unwrap();
    assert_eq!((config.revision, &config.value["ttl"]), (9, &json!(30)));
    assert_eq!(config.value["postgresql"]["parameters"], Value::Null);
    let n0 = &cluster.members["n0"];
    assert_eq!((n0.role.as_str(), n0.extra["checkpoint_after_promote"].as_bool()), ("master", Some(false)));
    let n1 = &cluster.members["n1"];
    assert_eq!((n1.name.as_str(), n1.lease, n1.replay_lsn), ("n1", 5, Some(Lsn(67393600))));
    assert_eq!(n1.host_port(), Some(("127.0.0.1".into(), 5433)));
    let status = cluster.status.unwrap();
    assert_eq!((status.optime, &status.extra["retain_slots"]), (Lsn(67393608), &json!(["n0", "n1", "n2"])));
    let sync = cluster.sync.unwrap();
    let expected = SyncState { leader: "n0".into(), standbys: vec!["n1".into(), "n2".into()], quorum: 1 };
    assert_eq!((sync.revision, sync.value), (9, expected));
    assert_eq!(cluster.history_revision, 9);
    assert_eq!(cluster.history[0].new_leader, "n1");
    assert_eq!(cluster.failover, None);
}

#[test]
fn sync_standby_is_a_string_a_list_or_null() {
    for (value, standbys) in [
        (r#"{"leader":"n0","sync_standby":"n2,n1"}"#, vec!["n1", "n2"]),
        (r#"{"leader":"n0","sync_standby":["n2","n1"]}"#, vec!["n1", "n2"]),
        (r#"{"leader":"n0","sync_standby":null,"quorum":null}"#, vec![]),
        (r#"{"leader":"n0","sync_standby":""}"#, vec![]),
    ] {
        let (cluster, warnings) = one("sync", value);
        assert_eq!(warnings, Vec::<String>::new(), "{value}");
        let sync = cluster.sync.unwrap().value;
        assert_eq!((sync.leader.as_str(), sync.quorum), ("n0", 0), "{value}");
        assert_eq!(sync.standbys, standbys, "{value}");
    }
}

#[test]
fn unreadable_sync_covers_nobody_and_is_not_off() {
    for value in [
        "",
        "garbage",
        "null",
        "[]",
        "{}",
        r#"{"leader":null}"#,
        r#"{"leader":"n0","sync_standby":7}"#,
        r#"{"leader":"n0","sync_standby":["n1",null]}"#,
        r#"{"leader":"n0","sync_standby":"n1","quorum":"x"}"#,
    ] {
        let (cluster, warnings) = one("sync", value);
        assert_eq!(warnings.len(), 1, "{value}");
        let sync = cluster.sync.expect("synchronous mode must not look off");
        assert_eq!((sync.revision, &sync.value), (9, &SyncState::default()), "{value}");
        assert!(!sync.value.covers("n0") && !sync.value.covers("n1"), "{value}");
    }
}

#[test]
fn other_unreadable_values_are_reported_and_not_used() {
    for key in ["config", "status", "failover", "history", "members/n1"] {
        for value in ["{", "7", "[7]", "\"x\""] {
            let (cluster, warnings) = one(key, value);
            assert_eq!(warnings.len(), 1, "{key} {value}");
            assert!(warnings[0].contains(key), "{}", warnings[0]);
            assert!(cluster.config.is_none() && cluster.status.is_none() && cluster.failover.is_none());
            assert!(cluster.history.is_empty());
        }
    }
    let (cluster, _) = one("members/n1", "{");
    assert_eq!(cluster.members["n1"], Member { name: "n1".into(), lease: 5, ..Member::default() });
    assert_eq!(one("history", "{").0.history_revision, 9);
}

#[test]
fn fulfilled_failover_request_is_none() {
    for value in ["{}", "", r#"{"leader":null,"member":null}"#, r#"{"leader":"","member":""}"#] {
        let (cluster, warnings) = one("failover", value);
        assert_eq!((cluster.failover, warnings.len()), (None, 0), "{value}");
    }
    assert_eq!(failover_value(None), b"{}");
}

#[test]
fn failover_request_round_trips() {
    let value = r#"{"leader":"n0","member":"n1","scheduled_at":"2026-11-23T10:00:00+00:00"}"#;
    let (cluster, warnings) = one("failover", value);
    assert_eq!(warnings.len(), 0);
    let request = cluster.failover.unwrap().value;
    assert_eq!(request.candidate.as_deref(), Some("n1"));
    assert_eq!(utf8(failover_value(Some(&request))), value);
}

#[test]
fn member_round_trips_with_what_is_unknown() {
    let value = REPLICA.replace("\"timeline\":1", "\"timeline\":1,\"tags\":{\"nofailover\":true},\"novel\":[1,2]");
    let (cluster, _) = one("members/n1", &value);
    let member = &cluster.members["n1"];
    assert!(member.tag("nofailover"));
    assert_eq!(utf8(member_value(member)), value);
}

#[test]
fn sync_is_written_as_patroni_writes_it() {
    let mut sync = SyncState { leader: "n0".into(), standbys: vec!["n2".into(), "n1".into()], quorum: 1 };
    assert_eq!(utf8(sync_value(&sync)), r#"{"leader":"n0","quorum":1,"sync_standby":"n1,n2"}"#);
    sync.standbys.clear();
    sync.quorum = 0;
    assert_eq!(utf8(sync_value(&sync)), r#"{"leader":"n0","quorum":0,"sync_standby":null}"#);
}

#[test]
fn status_and_history_round_trip() {
    let status = r#"{"optime":67393608,"slots":{"n1":67393608},"retain_slots":["n0","n1","n2"]}"#;
    assert_eq!(utf8(status_value(&one("status", status).0.status.unwrap())), status);
    let history =
        r#"[[1,25,"no recovery target specified","2026-11-23T06:14:01+00:00","n1"],[2,26,"x","t"],[3,27,"y"]]"#;
    let (cluster, warnings) = one("history", history);
    assert_eq!(warnings.len(), 0);
    assert_eq!(utf8(history_value(&cluster.history)), history);
}

#[test]
fn prefix_ignores_slashes_around_the_namespace() {
    for namespace in ["/service", "service", "/service/", "service/"] {
        assert_eq!(prefix(namespace, "otus"), "/service/otus/");
    }
    assert_eq!(prefix("/", "otus"), "/otus/");
}

#[test]
fn drains_and_poolers_are_read_as_they_are_written() {
    let drain = Drain { to: Some("n1".into()), patience_ms: 5000 };
    let pooler = Pooler { address: "10.0.0.1:6543".into(), drained: [("n0".into(), 9)].into(), ..Pooler::default() };
    let (drained, fronted) = (utf8(drain_value(&drain)), utf8(pooler_value(&pooler)));
    assert_eq!(drained, r#"{"to":"n1","patience_ms":5000}"#);
    assert_eq!(fronted, r#"{"address":"10.0.0.1:6543","drained":{"n0":9}}"#);
    let (cluster, warnings) =
        decode_reporting(&snapshot(&[(&drain_key("n0"), &drained), (&pooler_key("front"), &fronted)]));
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(cluster.drains["n0"], Revisioned { revision: 9, value: drain });
    assert_eq!(cluster.poolers["front"], pooler);
}

#[test]
fn a_drain_that_cant_be_understood_is_obeyed_at_once() {
    let (cluster, warnings) = one("drain/n0", "{");
    assert_eq!(cluster.drains["n0"].value, Drain::default());
    assert_eq!(warnings.len(), 1);
    assert_eq!(one("poolers/front", "[]").0.poolers.len(), 0);
}
