//! Several servers: cloning, streaming, promotion, rewinding, slots, synchronous replication, and stops that a standby
//! could hold up.

mod cluster;

use std::time::{Duration, Instant as Clock};

use cluster::{Gate, LONG, Place, send};
use ha::Lsn;
use ha::local::{DataDir, Process, Sql};
use instance::{Divergence, Error, RewindError, Start, Stop, Upstream};
use rustix::process::Signal;

#[tokio::test]
async fn a_replica_streams_stops_receiving_and_is_promoted() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    assert_eq!(pg1.instance.divergence(&pg2.upstream()).await.unwrap(), Divergence::None);
    pg1.ask("CREATE TABLE homework (word text)").await;
    let written = pg1.wait("up", |_| true).await;
    let standby = written.replication.first().expect("a standby is connected");
    assert_eq!((standby.application_name.as_str(), standby.state.as_str()), ("pg2", "streaming"));
    let replica = pg2.wait("caught up", |a| a.replayed >= written.written).await;
    assert!(replica.in_recovery && replica.timeline == 1);
    let from = Some(("127.0.0.1".to_owned(), pg1.port));
    assert_eq!((replica.receiver_from, replica.upstream), (from.clone(), from));
    assert!(matches!(pg2.instance.probe().await.process, Process::Running { standby: true, .. }));
    assert_eq!(pg2.ask("SELECT count(*) FROM homework").await, "0");

    pg2.instance.follow(None).await.unwrap();
    assert_eq!(pg2.titled(&["walreceiver"]), Vec::<u32>::new());
    pg1.ask("INSERT INTO homework VALUES ('not for pg2')").await;
    let stalled = pg2.wait("without upstream", |a| a.upstream.is_none() && a.receiver.is_none()).await;
    assert!(stalled.received < pg1.wait("up", |_| true).await.written);
    pg2.instance.follow(Some(pg1.upstream())).await.unwrap();
    let written = pg1.wait("up", |_| true).await.written;
    pg2.wait("caught up again", |a| a.replayed >= written).await;

    let receiver = pg2.titled(&["walreceiver"]);
    send(receiver[0], Signal::STOP);
    pg2.instance.follow(None).await.unwrap();
    assert_eq!(pg2.titled(&["walreceiver"]), Vec::<u32>::new(), "a frozen receiver is ended too");

    let began = Clock::now();
    pg2.instance.promote().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    pg2.ask("INSERT INTO homework VALUES ('written by pg2')").await;
    let answer = pg2.wait("primary", |a| !a.in_recovery).await;
    assert_eq!(answer.timeline, 2);
    assert!(matches!(pg2.instance.probe().await.process, Process::Running { standby: false, .. }));
    pg2.instance.promote().await.unwrap();
}

#[tokio::test]
async fn a_diverged_primary_is_rewound() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    pg1.ask("CREATE TABLE t (v text)").await;
    let written = pg1.wait("up", |_| true).await.written;
    pg2.wait("caught up", |a| a.replayed >= written).await;
    pg2.instance.follow(None).await.unwrap();
    pg1.ask("INSERT INTO t VALUES ('lost')").await;
    pg2.instance.promote().await.unwrap();
    pg2.ask("INSERT INTO t VALUES ('kept')").await;

    let running = pg1.instance.divergence(&pg2.upstream()).await.unwrap();
    assert!(matches!(running, Divergence::Diverged { timeline: 1, upstream_timeline: 2, .. }), "{running:?}");
    send(pg1.pid(), Signal::KILL);
    pg1.instance.exited().await;
    pg1.instance.kill().await.unwrap();
    let crashed = pg1.instance.divergence(&pg2.upstream()).await.unwrap();
    assert!(!matches!(crashed, Divergence::None), "{crashed:?}");

    let mark = pg1.data.with_file_name("data.pgherd-rewinding");
    std::fs::write(&mark, "").unwrap();
    assert!(matches!(pg1.instance.probe().await.data, DataDir::Damaged(_)), "a rewind was interrupted");
    assert!(pg1.instance.start(Start::Primary, &pg1.conf).await.is_err());
    let refused = pg1.instance.rewind(&pg2.upstream(), &["--no-such-option".to_owned()]).await;
    assert!(refused.unwrap_err().to_string().contains("no-such-option"), "options are passed on");
    let rewound = pg1.instance.rewind(&pg2.upstream(), &["--restore-target-wal".to_owned()]).await;
    assert!(matches!(rewound, Err(RewindError::Failed { .. })), "there is no restore_command: {rewound:?}");
    let rewound = pg1.instance.rewind(&pg2.upstream(), &["no-sync".to_owned()]).await.unwrap();
    assert!(rewound.changed && !mark.exists());
    pg2.instance.sync_slots(&["pg1".to_owned()], true, &[]).await.unwrap();
    pg1.start(Start::Replica { upstream: Some(pg2.upstream()) }).await;
    let written = pg2.wait("up", |_| true).await.written;
    let answer = pg1.wait("caught up", |a| a.replayed >= written).await;
    assert_eq!(answer.timeline, 2);
    assert_eq!(pg1.ask("SELECT string_agg(v, ',') FROM t").await, "kept");
    assert_eq!(pg1.ask("SHOW port").await, pg1.port.to_string(), "the source's own settings are not kept");
    assert_eq!(pg1.instance.divergence(&pg2.upstream()).await.unwrap(), Divergence::None);
}

#[tokio::test]
async fn a_replica_that_has_received_half_a_record_too_much_can_follow_again() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    let pg3 = place.replica("pg3", &pg1).await;
    pg1.ask("CREATE TABLE t (v text)").await;
    // Afterwards the message alone writes WAL: no hint bits, no pruning.
    pg1.ask("VACUUM").await;
    let client = pg1.client().await;
    let message = |size| format!("SELECT pg_logical_emit_message(false, '', repeat('x', {size}))");
    client.simple_query(&message(10)).await.unwrap();
    client.simple_query("INSERT INTO t VALUES ('flushed')").await.unwrap();
    let written = pg1.wait("up", |_| true).await.written;
    pg2.wait("caught up", |a| a.replayed >= written).await;
    pg3.wait("caught up", |a| a.replayed >= written).await;
    pg3.instance.stop(Stop::default()).await.unwrap();
    pg2.instance.follow(None).await.unwrap();
    client.simple_query(&message(20_000_000)).await.unwrap();
    client.simple_query("INSERT INTO t VALUES ('flushed too')").await.unwrap();
    pg2.instance.promote().await.unwrap();
    // What pg3 would have, had pg1 died while it sent the record: the first of its segments.
    let segment = pg1.ask(&format!("SELECT pg_walfile_name('{written}')")).await;
    std::fs::copy(pg1.data.join("pg_wal").join(&segment), pg3.data.join("pg_wal").join(&segment)).unwrap();

    let end = match pg1.instance.divergence(&pg2.upstream()).await.unwrap() {
        Divergence::Diverged { switchpoint: Some(end), .. } => end,
        other => panic!("{other:?}"),
    };
    pg2.instance.sync_slots(&["pg3".to_owned()], true, &[]).await.unwrap();
    let follow = Start::Replica { upstream: Some(pg2.upstream()) };
    pg3.start(follow.clone()).await;
    let stuck = pg3.wait("waits for the rest of the record", |a| a.waits_at.is_some()).await;
    assert!(stuck.waits_at > Some(end) && stuck.position() == end && stuck.timeline == 1, "{end:?} {stuck:?}");
    let compared = pg3.instance.divergence(&pg2.upstream()).await.unwrap();
    assert!(
        matches!(compared, Divergence::Diverged { timeline: 1, switchpoint: Some(at), .. } if at == end),
        "{compared:?}"
    );

    pg3.instance.stop(Stop::default()).await.unwrap();
    assert!(!pg3.instance.forget_unreplayed(1, Lsn(end.0 - 16384)).await.unwrap(), "that was replayed");
    assert!(pg3.instance.forget_unreplayed(1, end).await.unwrap());
    pg3.start(follow).await;
    let written = pg2.wait("up", |_| true).await.written;
    pg3.wait("follows", |a| a.replayed >= written && a.timeline == 2).await;
}

#[tokio::test]
async fn a_replica_whose_wal_is_gone_says_so() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    pg2.instance.stop(Stop::default()).await.unwrap();
    let keep = if pg1.instance.version().has_wal_keep_size() { "wal_keep_size" } else { "wal_keep_segments" };
    pg1.ask(&format!("ALTER SYSTEM SET {keep} = 0")).await;
    pg1.ask("SELECT pg_reload_conf()").await;
    let needed = pg1.ask("SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    pg1.ask("SELECT pg_drop_replication_slot('pg2')").await;
    while pg1.data.join("pg_wal").join(&needed).exists() {
        pg1.ask("CREATE TABLE t (v text)").await;
        pg1.ask("DROP TABLE t").await;
        pg1.ask("SELECT pg_switch_wal()").await;
        pg1.ask("CHECKPOINT").await;
    }
    pg1.instance.sync_slots(&["pg2".to_owned()], true, &[]).await.unwrap();
    pg2.start(Start::Replica { upstream: Some(pg1.upstream()) }).await;
    pg2.wait_local("in trouble", |_| pg2.instance.trouble().is_some()).await;
    let trouble = pg2.instance.trouble().unwrap();
    assert!(trouble.contains("has removed (segment 0000000100000000") && trouble.contains("reinit"), "{trouble}");

    pg2.instance.stop(Stop::default()).await.unwrap();
    pg2.instance.probe().await;
    assert_eq!(pg2.instance.trouble(), None);
}

#[tokio::test]
async fn a_replica_that_streams_while_it_is_compared_has_not_diverged() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let mut pg2 = place.replica("pg2", &pg1).await;
    pg1.ask("CREATE TABLE t (v text)").await;
    let gate = Gate::new(pg2.data.parent().unwrap());
    pg2.wrap("psql", &format!("answer=$($BIN/psql \"$@\") || exit 1\n{}\necho \"$answer\"", gate.wait()));
    let compared = tokio::spawn({
        let (instance, leader) = (pg2.instance.clone(), pg1.upstream());
        async move { instance.divergence(&leader).await.unwrap() }
    });
    gate.reached().await;
    pg1.ask("INSERT INTO t VALUES ('after the leader has answered')").await;
    let written = pg1.wait("up", |_| true).await.written;
    pg2.wait("caught up", |a| a.replayed >= written).await;
    gate.open();
    assert_eq!(compared.await.unwrap(), Divergence::None);
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_given_up() {
    let place = Place::new();
    let node = place.node("pg1");
    // Full queues: further packets are dropped, as if the host had vanished.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
    }
    let from = Upstream { name: "gone".into(), host: "127.0.0.1".into(), port: address.port() };
    let began = Clock::now();
    let failed = node.instance.clone_from(&from, &[]).await;
    assert!(matches!(&failed, Err(Error::Program { message, .. }) if message.contains("timeout")), "{failed:?}");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_promotion_whose_end_is_not_seen_says_so() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    let startup = pg2.titled(&["startup"])[0];
    send(startup, Signal::STOP);
    let promoting = tokio::spawn({
        let instance = pg2.instance.clone();
        async move { instance.promote().await }
    });
    let began = Clock::now();
    while !pg2.data.join("promote").exists() {
        assert!(began.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    send(pg2.pid(), Signal::KILL);
    let failed = promoting.await.unwrap();
    assert!(matches!(&failed, Err(Error::Promoting(_))), "{failed:?}");
    pg2.instance.kill().await.unwrap();
    pg2.start(Start::Replica { upstream: Some(pg1.upstream()) }).await;
    assert!(pg2.wait("up", |_| true).await.in_recovery, "what was left of the promotion is gone");
}

#[tokio::test]
async fn a_clean_handover_is_no_divergence_and_another_cluster_is_refused() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    let stopped = pg1.instance.stop(Stop { wait_for: Some(vec!["pg2".into()]), ..Stop::default() }).await.unwrap();
    assert!(stopped.clean);
    let end = stopped.checkpoint.unwrap();
    let answer = pg2.wait("all received", |a| a.received >= end).await;
    assert_eq!(answer.received, end, "the computed end of the shutdown checkpoint is the true one");
    pg2.instance.promote().await.unwrap();
    pg2.ask("CREATE TABLE t (v text)").await;
    assert_eq!(pg1.instance.divergence(&pg2.upstream()).await.unwrap(), Divergence::None);
    pg2.instance.sync_slots(&["pg1".to_owned()], true, &[]).await.unwrap();
    pg1.start(Start::Replica { upstream: Some(pg2.upstream()) }).await;
    let written = pg2.wait("up", |_| true).await.written;
    pg1.wait("follows", |a| a.replayed >= written && a.timeline == 2).await;

    let stranger = place.primary("other").await;
    stranger.instance.stop(Stop::default()).await.unwrap();
    let refused = stranger.instance.rewind(&pg2.upstream(), &[]).await;
    assert!(matches!(refused, Err(RewindError::OtherCluster(_))), "{refused:?}");
}

#[tokio::test]
async fn a_frozen_standby_does_not_hold_up_a_fast_stop() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    let pg3 = place.replica("pg3", &pg1).await;
    pg1.ask("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n").await;
    let frozen = pg3.processes();
    for pid in &frozen {
        send(*pid, Signal::STOP);
    }
    pg1.ask("INSERT INTO t SELECT generate_series(1, 100000)").await;
    let stop = Stop {
        wait_for: Some(vec!["pg2".into()]),
        others_after: Duration::from_millis(300),
        give_up_after: Some(LONG),
        ..Stop::default()
    };
    let began = Clock::now();
    let stopped = pg1.instance.stop(stop).await.unwrap();
    assert!(stopped.clean && !stopped.killed, "{stopped:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let end = stopped.checkpoint.unwrap();
    pg2.wait("all received", |a| a.received >= end).await;
    for pid in frozen {
        send(pid, Signal::CONT);
    }
}

#[tokio::test]
async fn a_frozen_wal_receiver_does_not_hold_up_a_fast_stop() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    send(pg2.titled(&["walreceiver"])[0], Signal::STOP);
    let began = Clock::now();
    let stopped = pg2.instance.stop(Stop { give_up_after: None, ..Stop::default() }).await.unwrap();
    assert!(!stopped.killed && began.elapsed() < Duration::from_secs(15), "{stopped:?} {:?}", began.elapsed());
    pg2.start(Start::Replica { upstream: Some(pg1.upstream()) }).await;
    pg2.wait("streaming", |a| a.receiver.as_deref() == Some("streaming")).await;
}

#[tokio::test]
async fn slots_hold_wal_on_the_primary_alone() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    let state = "SELECT string_agg(slot_name || ':' || (restart_lsn IS NOT NULL), ',' ORDER BY slot_name) FROM pg_replication_slots";
    let members = ["pg1".to_owned(), "Node-3".to_owned()];
    pg1.instance.sync_slots(&["pg2".into(), "Node-3".into()], true, &[]).await.unwrap();
    assert_eq!(pg1.ask(state).await, "node_3:true,pg2:true");
    pg2.instance.sync_slots(&members, false, &[]).await.unwrap();
    assert_eq!(pg2.ask(state).await, "node_3:false,pg1:false");
    pg2.ask("SELECT pg_drop_replication_slot('pg1')").await;
    pg2.ask("SELECT pg_create_physical_replication_slot('pg1', true)").await;
    pg2.instance.sync_slots(&members, false, &[]).await.unwrap();
    assert_eq!(pg2.ask(state).await, "node_3:false,pg1:false", "an idle slot that holds WAL is made anew");
    pg1.instance.sync_slots(&[], true, &["Node-3".into(), "pg2".into()]).await.unwrap();
    assert_eq!(pg1.ask(state).await, "pg2:true", "a slot in use stays");
    pg2.instance.promote().await.unwrap();
    pg2.instance.sync_slots(&members, true, &[]).await.unwrap();
    assert_eq!(pg2.ask(state).await, "node_3:true,pg1:true", "a new primary holds WAL for its members");
    pg2.instance.sync_slots(&members, true, &[]).await.unwrap();
    assert_eq!(pg2.ask(state).await, "node_3:true,pg1:true");
}

#[tokio::test]
async fn commits_wait_for_the_named_standbys_once_it_returns() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    pg1.ask("CREATE TABLE t (v text)").await;
    pg1.instance.set_synchronous(&["pg2".to_owned()]).await.unwrap();
    let answer = pg1.wait("up", |_| true).await;
    assert_eq!(answer.synchronous_standby_names, "\"pg2\"");
    assert_eq!(answer.replication[0].sync_state, "sync");
    let receiver = pg2.titled(&["walreceiver"])[0];
    send(receiver, Signal::STOP);
    let client = pg1.client().await;
    let commit = tokio::spawn(async move { client.simple_query("INSERT INTO t VALUES ('x')").await.map(|_| ()) });
    pg1.wait_waiting().await;
    assert!(!commit.is_finished());
    assert!(matches!(pg1.instance.probe().await.sql, Sql::Up(_)), "nothing of ours waits for standbys");
    pg1.instance.set_synchronous(&[]).await.unwrap();
    tokio::time::timeout(LONG, commit).await.unwrap().unwrap().unwrap();
    send(receiver, Signal::CONT);
    pg1.instance.set_synchronous(&["pg2".into(), "pg3".into()]).await.unwrap();
    assert_eq!(pg1.ask("SHOW synchronous_standby_names").await, "2 (\"pg2\",\"pg3\")");
    pg1.instance.stop(Stop { wait_for: Some(vec![]), ..Stop::default() }).await.unwrap();
    pg1.start(Start::Primary).await;
    assert_eq!(pg1.ask("SHOW synchronous_standby_names").await, "2 (\"pg2\",\"pg3\")", "a restart keeps them");
    assert!(pg2.wait("up", |_| true).await.position() > Lsn(0));
}

impl cluster::Node {
    /// Returns once a commit waits for a standby.
    async fn wait_waiting(&self) {
        let began = Clock::now();
        while self.ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await != "1" {
            assert!(began.elapsed() < LONG, "no commit waits");
        }
    }
}
