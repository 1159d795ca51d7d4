//! Changing the configuration of a running server.

mod cluster;

use cluster::Place;
use instance::{Start, Stop};

#[tokio::test]
async fn changes_are_told_as_patroni_tells_them() {
    let place = Place::new();
    let mut pg1 = place.primary("pg1").await;
    let applied = pg1.instance.apply(&pg1.conf).await.unwrap();
    assert!(!applied.needs_reload() && applied.changed.is_empty(), "{applied:?}");

    pg1.conf.parameters.insert("temp_buffers".into(), "16MB".into());
    pg1.conf.parameters.insert("shared_buffers".into(), "16384kB".into());
    let applied = pg1.instance.apply(&pg1.conf).await.unwrap();
    let lines: Vec<String> = applied.changed.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["Changed temp_buffers from 1024 to 16MB"], "16384kB is the 16MB in force");
    assert!(applied.needs_reload());
    pg1.instance.reload().await.unwrap();
    let began = std::time::Instant::now();
    while pg1.ask("SHOW temp_buffers").await != "16MB" {
        assert!(began.elapsed() < cluster::LONG);
    }

    pg1.conf.parameters.insert("shared_buffers".into(), "32MB".into());
    pg1.conf.parameters.insert("no_such_parameter".into(), "1".into());
    let applied = pg1.instance.apply(&pg1.conf).await.unwrap();
    let lines: Vec<String> = applied.changed.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["Changed shared_buffers from 2048 to 32MB (restart required)"]);
    assert_eq!(applied.rejected[0].0, "no_such_parameter");
    pg1.instance.reload().await.unwrap();
    let answer = pg1.wait("pending", |a| !a.pending_restart.is_empty()).await;
    assert_eq!(answer.pending_restart, [("shared_buffers".into(), "16MB".into(), "32MB".into())]);

    pg1.conf.parameters.remove("temp_buffers");
    let applied = pg1.instance.apply(&pg1.conf).await.unwrap();
    assert_eq!(applied.changed[0].to_string(), "Changed temp_buffers from 2048 to its default");
    pg1.instance.stop(Stop::default()).await.unwrap();
    pg1.start(Start::Primary).await;
    assert_eq!(pg1.ask("SHOW shared_buffers").await, "32MB");
    assert_eq!(pg1.wait("up", |_| true).await.pending_restart, vec![]);
}

#[tokio::test]
async fn access_rules_are_replaced_without_locking_pgherd_out() {
    let place = Place::new();
    let mut pg1 = place.primary("pg1").await;
    pg1.conf.pg_hba = Some(vec!["local all all reject".into()]);
    let applied = pg1.instance.apply(&pg1.conf).await.unwrap();
    assert!(applied.hba_changed && !applied.conf_changed);
    pg1.instance.reload().await.unwrap();
    let began = std::time::Instant::now();
    while pg1.ask("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'reject'").await != "1" {
        assert!(began.elapsed() < cluster::LONG);
    }
    pg1.instance.create_users(&[]).await.unwrap();
}

#[tokio::test]
async fn a_replica_keeps_what_its_primary_needs_and_shows_it() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let mut pg2 = place.replica("pg2", &pg1).await;
    pg2.instance.stop(Stop::default()).await.unwrap();
    pg2.conf.parameters.insert("max_connections".into(), "10".into());
    pg2.start(Start::Replica { upstream: Some(pg1.upstream()) }).await;
    assert_eq!(pg2.ask("SHOW max_connections").await, "20");
    let answer = pg2.wait("up", |_| true).await;
    assert_eq!(answer.pending_restart, [("max_connections".into(), "20".into(), "10".into())]);
}
