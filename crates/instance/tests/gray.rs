//! Servers that live but don't answer.

mod cluster;

use std::time::{Duration, Instant as Clock};

use cluster::{Place, send};
use ha::local::{Process, Sql};
use instance::Stop;
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
