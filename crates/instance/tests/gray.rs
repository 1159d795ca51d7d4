//! Servers that live but don't answer.

mod cluster;

use std::time::{Duration, Instant as Clock};

use cluster::{Gate, Place, send};
use ha::local::{DataDir, Process, Sql};
use instance::{Start, Stop};
use rustix::process::Signal;

#[tokio::test]
async fn a_stopped_postmaster_refuses_new_connections_while_the_reserved_one_answers() {
    let place = Place::new();
    let node = place.primary("pg1").await;
    let local = node.wait_local("up", |l| matches!(l.sql, Sql::Up(_))).await;
    assert_eq!(local.refusing_since, None);
    send(node.pid(), Signal::STOP);
    let local = node.wait_local("refusing", |l| l.refusing_since.is_some()).await;
    assert!(matches!(local.sql, Sql::Up(_)), "{local:?}");
    send(node.pid(), Signal::CONT);
    node.wait_local("taking connections again", |l| l.refusing_since.is_none()).await;
}

#[tokio::test]
async fn a_reserved_connection_that_does_not_answer_is_silence() {
    let place = Place::new();
    let node = place.primary("pg1").await;
    node.wait("up", |_| true).await;
    let backend: u32 =
        node.ask("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgherd' AND state = 'idle' ORDER BY backend_start LIMIT 1").await.parse().unwrap();
    send(backend, Signal::STOP);
    let local = node.wait_local("silent", |l| matches!(l.sql, Sql::Silent(_))).await;
    let Sql::Silent(since) = local.sql else { panic!() };
    assert_eq!(local.refusing_since, None);
    let later = node.wait_local("still silent", |l| matches!(l.sql, Sql::Silent(_))).await;
    assert_eq!(later.sql, Sql::Silent(since), "it counts from the first question without an answer");
    send(backend, Signal::CONT);
    node.wait("answering again", |_| true).await;
}

#[tokio::test]
async fn a_server_without_free_connections_is_not_refusing() {
    let place = Place::new();
    let node = place.primary("pg1").await;
    node.wait("up", |_| true).await;
    let mut clients = Vec::new();
    loop {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&node.socket_dir).port(node.port).user("postgres").dbname("postgres");
        config.password(node.options.superuser.password.as_ref().unwrap());
        match config.connect(tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                clients.push(client);
            }
            Err(e) => {
                assert_eq!(e.code().map(|c| c.code()), Some("53300"));
                break;
            }
        }
    }
    let began = Clock::now();
    while began.elapsed() < Duration::from_millis(700) {
        let local = node.instance.probe().await;
        assert!(matches!(local.sql, Sql::Up(_)) && local.refusing_since.is_none(), "{local:?}");
    }
}

#[tokio::test]
async fn storage_that_hangs_does_not_hang_the_probe() {
    let place = Place::new();
    let mut node = place.node("pg1");
    let gate = Gate::new(node.data.parent().unwrap());
    std::fs::create_dir_all(node.data.join("global")).unwrap();
    std::fs::set_permissions(&node.data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for file in ["PG_VERSION", "global/pg_control"] {
        std::fs::write(node.data.join(file), format!("{}\n", node.instance.version().major())).unwrap();
    }
    cluster::give(&node.data);
    node.wrap("pg_controldata", &gate.wait());
    let local = node.wait_local("stuck", |l| l.storage_stuck_since.is_some()).await;
    let later = node.wait_local("stuck", |l| l.storage_stuck_since.is_some()).await;
    assert_eq!(local.storage_stuck_since, later.storage_stuck_since, "it counts from the first look");
    gate.open();
    node.wait_local("answering again", |l| l.storage_stuck_since.is_none()).await;
}

#[tokio::test]
async fn the_end_of_all_processes_is_seen_although_storage_hangs() {
    let place = Place::new();
    let mut node = place.primary("pg1").await;
    let gate = Gate::new(node.data.parent().unwrap());
    node.wrap("pg_controldata", &format!("{}\nexec $BIN/pg_controldata \"$@\"", gate.wait()));
    let local = node.wait_local("stuck", |l| l.storage_stuck_since.is_some()).await;
    assert!(matches!(local.process, Process::Running { .. }) && matches!(local.sql, Sql::Up(_)), "{local:?}");
    send(node.pid(), Signal::STOP);
    let fenced_at = instance::now();
    let instance = node.instance.clone();
    let outcome = tokio::task::spawn_blocking(move || instance.fence(Duration::from_secs(10))).await.unwrap();
    assert!(outcome.killed > 0 && outcome.left.is_empty(), "{outcome:?}");
    for _ in 0..2 {
        let before = instance::now();
        let local = node.instance.probe().await;
        assert_eq!(local.process, Process::Stopped);
        assert!(local.taken_at >= before && local.taken_at > fenced_at, "it tells of now");
        assert!(local.storage_stuck_since.is_some_and(|t| t < fenced_at));
    }
    gate.open();
    let local = node.wait_local("answering again", |l| l.storage_stuck_since.is_none()).await;
    assert!(matches!(local.data, DataDir::Valid(ref c) if !c.clean), "{local:?}");
}

#[tokio::test]
async fn a_hung_data_directory_keeps_what_was_known_of_it() {
    let place = Place::new();
    let mut node = place.primary("pg1").await;
    node.instance.stop(Stop::default()).await.unwrap();
    let gate = Gate::new(node.data.parent().unwrap());
    let hangs = node.data.with_file_name("hangs");
    let script = format!("[ ! -e {} ] || {{ {}; }}\nexec $BIN/pg_controldata \"$@\"", hangs.display(), gate.wait());
    node.wrap("pg_controldata", &script);
    node.start(Start::Primary).await;
    std::fs::write(&hangs, "").unwrap();
    node.instance.kill().await.unwrap();
    let local = node.wait_local("stuck", |l| l.storage_stuck_since.is_some()).await;
    assert_eq!(local.process, Process::Stopped);
    assert!(matches!(local.data, DataDir::Valid(ref c) if !c.clean), "it was started since it was clean: {local:?}");
    gate.open();
    node.wait_local("answering again", |l| l.storage_stuck_since.is_none()).await;
}

#[tokio::test]
async fn a_fast_stop_of_a_frozen_server_is_bounded() {
    let place = Place::new();
    let node = place.primary("pg1").await;
    let session = node.client().await;
    session.simple_query("SELECT 1").await.unwrap();
    let backend = node.titled(&["[local]", "idle"]);
    send(backend[0], Signal::STOP);
    let began = Clock::now();
    let stop = Stop { give_up_after: Some(Duration::from_secs(1)), ..Stop::default() };
    let stopped = node.instance.stop(stop).await.unwrap();
    assert!(stopped.killed && !stopped.clean, "{stopped:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(node.processes(), Vec::<u32>::new());
    assert_eq!(node.instance.probe().await.process, Process::Stopped);
}
