//! Health checks, views and metrics.

use super::*;

const CHECKS: [&str; 14] = [
    "/",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/replica",
    "/read-only",
    "/sync",
    "/async",
    "/read-only-sync",
    "/health",
    "/readiness",
    "/liveness",
];

/// The checks that the node passes.
async fn passed(bed: &Bed) -> Vec<&'static str> {
    let mut passed = Vec::new();
    for path in CHECKS {
        match bed.code(path).await {
            200 => passed.push(path),
            code => assert_eq!(code, 503, "{path}"),
        }
    }
    passed
}

#[tokio::test]
async fn each_kind_of_node_passes_its_own_checks() {
    let none: Vec<&str> = vec![];
    let bed = Bed::new(primary()).await;
    let leads = ["/", "/primary", "/master", "/read-write", "/leader", "/read-only", "/async", "/read-only-sync"];
    let leads = leads.into_iter().filter(|p| *p != "/async").chain(["/health", "/readiness", "/liveness"]);
    assert_eq!(passed(&bed).await, leads.collect::<Vec<_>>());

    bed.publish(|s| *s = replica());
    assert_eq!(passed(&bed).await, ["/replica", "/read-only", "/async", "/health", "/readiness", "/liveness"]);

    bed.publish(|s| {
        s.sync_standby = true;
        s.settings.synchronous_mode = true;
    });
    let sync = ["/replica", "/read-only", "/sync", "/read-only-sync", "/health", "/readiness", "/liveness"];
    assert_eq!(passed(&bed).await, sync);

    bed.publish(|s| {
        *s = replica();
        s.tags.insert("noloadbalance".to_owned(), true.into());
    });
    assert_eq!(passed(&bed).await, ["/health", "/readiness", "/liveness"]);

    bed.publish(|s| *s = Status { state: State::Crashed, server_version: None, ..replica() });
    assert_eq!(passed(&bed).await, ["/liveness"]);

    bed.publish(|s| *s = Status { decided_at: Tick::default(), ..Status::default() });
    assert_eq!(passed(&bed).await, none);
}

#[tokio::test]
async fn a_stuck_loop_loses_the_primary_check_at_its_deadline() {
    let bed = Bed::new(primary()).await;
    bed.set_clock(119_999);
    assert_eq!((bed.code("/primary").await, bed.code("/leader").await), (200, 200));
    assert!(!bed.get("/patroni").await.body.contains("cluster_unlocked"));
    bed.set_clock(120_000);
    for path in ["/", "/primary", "/read-write", "/leader", "/read-only", "/replica", "/readiness"] {
        assert_eq!(bed.code(path).await, 503, "{path}");
    }
    assert_eq!(bed.get("/patroni").await.json()["cluster_unlocked"], true);
    assert!(
        bed.get("/metrics").await.body.contains("pgherd_leader_deadline_seconds{scope=\"batman\",name=\"pg1\"} 0\n")
    );

    bed.publish(|s| s.leader_until = Some(Tick::from_millis(150_000)));
    assert_eq!(bed.code("/primary").await, 200);
}

#[tokio::test]
async fn a_leader_that_is_not_promoted_yet_is_no_primary() {
    let bed = Bed::new(Status { role: Role::Replica, ..primary() }).await;
    assert_eq!((bed.code("/primary").await, bed.code("/leader").await, bed.code("/replica").await), (503, 200, 503));
    bed.publish(|s| *s = Status { state: State::Starting, ..primary() });
    assert_eq!((bed.code("/primary").await, bed.code("/leader").await), (503, 200));
}

#[tokio::test]
async fn liveness_follows_the_last_decision() {
    let bed = Bed::new(primary()).await;
    for (status, age_ms, code) in [
        (primary(), 29_999, 200),
        (primary(), 30_000, 503),
        (replica(), 59_999, 200),
        (replica(), 60_000, 503),
        (Status { pause: true, ..replica() }, 90_000, 200),
    ] {
        let role = status.role;
        bed.publish(|s| *s = status);
        bed.set_clock(99_000 + age_ms);
        assert_eq!(bed.code("/liveness").await, code, "{role:?} {age_ms}");
    }
}

#[tokio::test]
async fn parameters_narrow_the_checks() {
    let mut status = replica();
    status.tags.insert("zone".to_owned(), "west".into());
    status.tags.insert("reports".to_owned(), true.into());
    let bed = Bed::new(status).await;
    for (path, code) in [
        ("/replica?lag=100", 200),
        ("/replica?lag=99", 503),
        ("/replica?lag=1kB", 200),
        ("/replica?lag=nonsense", 200),
        ("/async?lag=10", 503),
        ("/read-only?lag=10", 503),
        ("/replica?replication_state=streaming", 200),
        ("/replica?replication_state=in+archive+recovery", 503),
        ("/replica?tag_zone=west", 200),
        ("/replica?tag_zone=west&tag_reports=true", 200),
        ("/replica?tag_zone=east", 503),
        ("/health?tag_other=1", 503),
        ("/readiness?lag=99", 503),
        ("/readiness?lag=99&mode=write", 200),
        ("/readiness?mode=apply", 200),
    ] {
        assert_eq!(bed.code(path).await, code, "{path}");
    }
    bed.publish(|s| *s = primary());
    assert_eq!(bed.code("/primary?tag_zone=east&lag=0").await, 200, "tags are ignored on a primary check");
}

#[tokio::test]
async fn readiness_wants_a_streaming_replica() {
    let bed = Bed::new(Status { replication_state: Some("in archive recovery".to_owned()), ..replica() }).await;
    assert_eq!(bed.code("/readiness").await, 503);
    bed.publish(|s| *s = Status { cluster: None, ..replica() });
    assert_eq!(bed.code("/readiness").await, 503);
}

#[tokio::test]
async fn head_and_options_answer_the_status_line_only() {
    let bed = Bed::new(primary()).await;
    for method in ["HEAD", "OPTIONS"] {
        for (path, code) in [("/", 200), ("/primary", 200), ("/replica", 503), ("/liveness", 200), ("/patroni", 200)] {
            let request = format!("{method} {path} HTTP/1.0\r\n\r\n");
            let answer = bed.raw(&request).await;
            assert_eq!((answer.code, answer.body.as_str()), (code, ""), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn an_unknown_path_answers_503_with_the_status() {
    let bed = Bed::new(primary()).await;
    let answer = bed.get("/nonsense").await;
    assert_eq!((answer.code, &answer.json()["patroni"]["name"]), (503, &json!("pg1")));
    assert!(answer.head.contains("x-site: test"));
}

#[tokio::test]
async fn patroni_reports_a_primary() {
    let bed = Bed::new(primary()).await;
    let answer = bed.get("/patroni").await;
    assert_eq!(answer.code, 200);
    assert!(answer.head.contains("content-type: application/json"));
    assert_eq!(
        answer.body,
        "{\"state\": \"running\", \"postmaster_start_time\": \"2026-11-23 06:13:28.171607+00:00\", \
         \"role\": \"primary\", \"server_version\": 150020, \"xlog\": {\"location\": 1000}, \"timeline\": 1, \
         \"replication\": [{\"usename\": \"replicator\", \"application_name\": \"pg2\", \"client_addr\": \
         \"127.0.0.1\", \"state\": \"streaming\", \"sync_state\": \"async\", \"sync_priority\": 0}], \
         \"dcs_last_seen\": 1795414531, \"database_system_identifier\": \"7412\", \
         \"patroni\": {\"version\": \"4.1.4\", \"scope\": \"batman\", \"name\": \"pg1\"}}"
    );
    assert_eq!(bed.get("/primary").await.body, answer.body);
}

#[tokio::test]
async fn patroni_reports_a_replica() {
    let mut status = Status { pause: true, watchdog_failed: true, sync_standby: true, ..replica() };
    status.pending_restart.insert("shared_buffers".to_owned(), json!({"old_value": "128MB", "new_value": "256MB"}));
    status.tags.insert("nofailover".to_owned(), true.into());
    let bed = Bed::new(status).await;
    assert_eq!(
        bed.get("/patroni").await.body,
        "{\"state\": \"running\", \"postmaster_start_time\": \"2026-11-23 06:13:28.171607+00:00\", \
         \"role\": \"replica\", \"server_version\": 150020, \"xlog\": {\"received_location\": 1000, \
         \"replayed_location\": 900, \"replayed_timestamp\": \"2026-11-23 06:13:30.5+00:00\", \"paused\": false}, \
         \"sync_standby\": true, \"timeline\": 1, \"replication_state\": \"streaming\", \"pause\": true, \
         \"dcs_last_seen\": 1795414531, \"tags\": {\"nofailover\": true}, \"database_system_identifier\": \"7412\", \
         \"pending_restart\": true, \"pending_restart_reason\": {\"shared_buffers\": {\"old_value\": \"128MB\", \
         \"new_value\": \"256MB\"}}, \"patroni\": {\"version\": \"4.1.4\", \"scope\": \"batman\", \"name\": \"pg2\"}, \
         \"watchdog_failed\": true}"
    );
    bed.publish(|s| *s = Status { state: State::Stopped, server_version: None, cluster: None, ..replica() });
    assert_eq!(
        bed.get("/patroni").await.body,
        "{\"state\": \"stopped\", \"role\": \"replica\", \"cluster_unlocked\": true, \"dcs_last_seen\": 1795414531, \
         \"database_system_identifier\": \"7412\", \
         \"patroni\": {\"version\": \"4.1.4\", \"scope\": \"batman\", \"name\": \"pg2\"}}"
    );
}

#[tokio::test]
async fn cluster_shows_every_member() {
    let bed = Bed::new(replica()).await;
    assert_eq!(
        bed.get("/cluster").await.body,
        "{\"members\": [{\"name\": \"pg1\", \"role\": \"leader\", \"state\": \"running\", \"api_url\": \
         \"http://127.0.0.1:8432/patroni\", \"host\": \"127.0.0.1\", \"port\": 5432, \"timeline\": 1}, \
         {\"name\": \"pg2\", \"role\": \"replica\", \"state\": \"streaming\", \"api_url\": \
         \"http://127.0.0.1:8433/patroni\", \"host\": \"127.0.0.1\", \"port\": 5433, \"timeline\": 1, \
         \"receive_lag\": 0, \"receive_lsn\": \"0/3E8\", \"replay_lag\": 100, \"replay_lsn\": \"0/384\", \
         \"lag\": 0, \"lsn\": \"0/3E8\"}, {\"name\": \"pg3\", \"role\": \"replica\", \"state\": \"stopped\", \
         \"api_url\": \"http://127.0.0.1:8434/patroni\", \"host\": \"127.0.0.1\", \"port\": 5434, \
         \"receive_lsn\": \"unknown\", \"receive_lag\": \"unknown\", \"replay_lsn\": \"unknown\", \
         \"replay_lag\": \"unknown\", \"lsn\": \"unknown\", \"lag\": \"unknown\"}], \"scope\": \"batman\"}"
    );
    bed.publish(|s| {
        let mut cluster = cluster();
        cluster.config = Some(Revisioned { revision: 4, value: json!({"pause": true}) });
        let failover = ha::cluster::Failover {
            leader: Some("pg1".to_owned()),
            candidate: None,
            scheduled_at: Some("2026-12-01T00:00:00+00:00".to_owned()),
        };
        cluster.failover = Some(Revisioned { revision: 5, value: failover });
        s.cluster = Some(Arc::new(cluster));
    });
    let view = bed.get("/cluster").await.json();
    assert_eq!(view["pause"], true);
    assert_eq!(view["scheduled_switchover"], json!({"at": "2026-12-01T00:00:00+00:00", "from": "pg1"}));
    bed.publish(|s| s.cluster = None);
    assert_eq!(bed.code("/cluster").await, 503);
}

#[tokio::test]
async fn history_config_and_failsafe() {
    let bed = Bed::new(primary()).await;
    assert_eq!(bed.get("/history").await.body, "[]");
    assert_eq!(bed.get("/config").await.json(), json!({"ttl": 30, "loop_wait": 10}));
    assert_eq!(bed.code("/failsafe").await, 502);
    bed.publish(|s| {
        let line = |timestamp: &str, new_leader: &str| ha::cluster::HistoryLine {
            timeline: 1,
            lsn: Lsn(25_000),
            reason: "no recovery target specified".to_owned(),
            timestamp: timestamp.to_owned(),
            new_leader: new_leader.to_owned(),
        };
        let history = vec![line("", ""), line("2026-11-23T06:13:28+00:00", "pg2")];
        s.cluster = Some(Arc::new(Cluster { history, config: None, ..cluster() }));
    });
    assert_eq!(
        bed.get("/history").await.body,
        "[[1, 25000, \"no recovery target specified\"], \
         [1, 25000, \"no recovery target specified\", \"2026-11-23T06:13:28+00:00\", \"pg2\"]]"
    );
    assert_eq!(bed.code("/config").await, 502);
}

/// Samples by name, after checking that each line follows the text format.
fn samples(text: &str) -> std::collections::BTreeMap<String, (String, f64)> {
    let mut found = std::collections::BTreeMap::new();
    let mut lines = text.lines();
    while let Some(help) = lines.next() {
        let (name, words) = help.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        assert!(!words.is_empty());
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert!(["gauge", "counter"].contains(&kind));
        let sample = lines.next().unwrap().strip_prefix(&format!("{name}{{")).unwrap();
        let (labels, value) = sample.rsplit_once("} ").unwrap();
        assert!(labels.starts_with("scope=\"bat\\\"man\",name=\"pg"), "{labels}");
        let value = (labels.to_owned(), value.parse().unwrap());
        assert!(found.insert(name.to_owned(), value).is_none(), "{name} twice");
    }
    found
}

#[tokio::test]
async fn metrics_follow_the_text_format() {
    let bed = Bed::new(Status { scope: "bat\"man".to_owned(), ..primary() }).await;
    let answer = bed.get("/metrics").await;
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"));
    let primary_samples = samples(&answer.body);
    for name in "version postgres_running postmaster_start_time primary xlog_location standby_leader replica \
                 sync_standby quorum_standby xlog_received_location xlog_replayed_location xlog_replayed_timestamp \
                 xlog_paused postgres_streaming postgres_in_archive_recovery postgres_server_version cluster_unlocked \
                 failsafe_mode_is_active failsafe_mode_enabled failsafe_member postgres_timeline dcs_last_seen \
                 pending_restart is_paused postgres_state failover_priority"
        .split_whitespace()
    {
        assert!(primary_samples.contains_key(&format!("patroni_{name}")), "{name}");
    }
    for (name, value) in [
        ("patroni_version", 40_104.0),
        ("patroni_primary", 1.0),
        ("patroni_replica", 0.0),
        ("patroni_xlog_location", 1000.0),
        ("patroni_postmaster_start_time", 1_795_414_408.171_607),
        ("patroni_postgres_state", 5.0),
        ("patroni_failover_priority", 1.0),
        ("pgherd_leader", 1.0),
        ("pgherd_leader_deadline_seconds", 20.0),
        ("pgherd_decision_age_seconds", 1.0),
        ("pgherd_trouble", 0.0),
    ] {
        assert_eq!(primary_samples[name].1, value, "{name}");
    }
    assert!(primary_samples["pgherd_decision_info"].0.ends_with(",reason=\"lead\""));

    bed.publish(|s| {
        *s = Status { scope: "bat\"man".to_owned(), trouble: Some("the disk is full".to_owned()), ..replica() };
        s.tags.insert("nofailover".to_owned(), true.into());
    });
    let replica_samples = samples(&bed.get("/metrics").await.body);
    for (name, value) in [
        ("patroni_primary", 0.0),
        ("patroni_replica", 1.0),
        ("patroni_xlog_location", 0.0),
        ("patroni_xlog_received_location", 1000.0),
        ("patroni_xlog_replayed_location", 900.0),
        ("patroni_xlog_replayed_timestamp", 1_795_414_410.5),
        ("patroni_postgres_streaming", 1.0),
        ("patroni_failover_priority", 0.0),
        ("pgherd_leader", 0.0),
        ("pgherd_trouble", 1.0),
    ] {
        assert_eq!(replica_samples[name].1, value, "{name}");
    }
}

/// Members compare positions in it.
#[tokio::test]
async fn patroni_answers_from_a_look_at_this_moment_and_health_checks_ask_for_none() {
    let bed = Bed::new(Status { looked_at: Some(Tick::from_millis(99_000)), ..replica() }).await;
    let status = bed.status.clone();
    *bed.look.lock().unwrap() = Some(Box::new(move || {
        let looked_at = Some(Tick::from_millis(100_000));
        let later = Status { looked_at, received_location: Some(Lsn(2000)), ..replica() };
        status.send_replace(Arc::new(later));
    }));
    assert_eq!(bed.get("/replica").await.json()["xlog"]["received_location"], 1000);
    assert_eq!(bed.get("/patroni").await.json()["xlog"]["received_location"], 2000);
}

#[tokio::test]
async fn a_server_that_cant_be_looked_at_holds_patroni_up_for_a_moment_only() {
    let bed = Bed::new(Status { looked_at: Some(Tick::from_millis(99_000)), ..replica() }).await;
    let answer = tokio::time::timeout(Duration::from_secs(5), bed.get("/patroni")).await.unwrap();
    assert_eq!(answer.json()["xlog"]["received_location"], 1000);
}
