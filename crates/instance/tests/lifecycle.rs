//! A server's life: made, started, stopped, killed, found again; and what is refused.

mod cluster;

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant as Clock};

use cluster::{LONG, Place, give, seed_initdb, send};
use ha::local::{DataDir, Process, Sql};
use instance::{Error, Instance, Start, Stop};
use rustix::process::Signal;

#[tokio::test]
async fn a_new_cluster_starts_and_stops_cleanly() {
    let place = Place::new();
    let node = place.node("pg1");
    let local = node.instance.probe().await;
    assert_eq!((local.data, local.process, local.sql), (DataDir::Empty, Process::Stopped, Sql::Down));
    node.instance.initialize(&seed_initdb(), &node.conf).await.unwrap();
    assert!(matches!(node.instance.initialize(&seed_initdb(), &node.conf).await, Err(Error::NotEmpty(_))));
    node.start(Start::Primary).await;
    node.instance.create_users(&[]).await.unwrap();
    node.instance.create_users(&[]).await.unwrap();

    let answer = node.wait("a primary", |a| !a.in_recovery).await;
    assert_eq!((answer.timeline, answer.server_version), (1, node.instance.version().0));
    assert!(answer.written.0 > 0 && answer.postmaster_start_time.ends_with("+00:00"), "{answer:?}");
    assert!(answer.redo.0 > 0 && answer.redo <= answer.written && answer.checkpoint_timeline == 1, "{answer:?}");
    assert_eq!(answer.pending_restart, vec![]);
    let local = node.instance.probe().await;
    assert!(matches!(local.process, Process::Running { pid, standby: false, .. } if pid == node.pid()));
    let DataDir::Valid(control) = local.data else { panic!("{local:?}") };
    assert_eq!(control.system_identifier, answer.system_identifier);
    // As the seed's file has it: wal_keep_segments = 100.
    let kept = if node.instance.version().has_wal_keep_size() {
        ("wal_keep_size", "1600MB")
    } else {
        ("wal_keep_segments", "100")
    };
    assert_eq!(node.ask(&format!("SHOW {}", kept.0)).await, kept.1);
    assert_eq!(node.ask("SHOW data_checksums").await, "on");
    assert_eq!(node.ask("SHOW server_encoding").await, "UTF8");
    assert_eq!(node.ask("SHOW cluster_name").await, "otus");
    assert_eq!(node.ask("SELECT count(*) FROM pg_roles WHERE rolname IN ('replicator', 'rewinder')").await, "2");
    for file in ["data/postgresql.conf", "data/pg_hba.conf", "data.pgpass"] {
        let meta = std::fs::metadata(node.data.parent().unwrap().join(file)).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o600, "{file}");
        assert_eq!(meta.uid(), std::fs::metadata(&node.data).unwrap().uid(), "{file}");
    }

    let stopped = node.instance.stop(Stop::default()).await.unwrap();
    assert!(stopped.clean && !stopped.killed, "{stopped:?}");
    assert_eq!(node.processes(), Vec::<u32>::new());
    let local = node.instance.probe().await;
    assert_eq!((&local.process, &local.sql), (&Process::Stopped, &Sql::Down));
    let DataDir::Valid(control) = local.data else { panic!("{local:?}") };
    assert!(control.clean && !control.in_recovery);
    assert!(stopped.checkpoint.unwrap() > control.checkpoint);
    assert!(node.instance.stop(Stop::default()).await.unwrap().clean, "stopping twice is fine");
}

#[tokio::test]
async fn a_killed_postmaster_is_noticed_and_its_orphans_block_a_start() {
    let place = Place::new();
    let node = place.primary("pg1").await;
    let busy = node.client().await;
    let work = tokio::spawn(async move { busy.simple_query("DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$").await });
    let began = Clock::now();
    while node.titled(&["[local]", "DO"]).is_empty() {
        assert!(began.elapsed() < LONG);
        tokio::task::yield_now().await;
    }
    let pid = node.pid();
    let watcher = tokio::spawn({
        let instance = node.instance.clone();
        async move { instance.exited().await }
    });
    let began = Clock::now();
    send(pid, Signal::KILL);
    let exited = tokio::time::timeout(LONG, watcher).await.unwrap().unwrap();
    assert_eq!(exited.pid, pid);
    assert!(exited.status.unwrap().contains("signal: 9"));
    assert!(began.elapsed() < Duration::from_secs(1));

    node.wait_local("orphans", |l| l.process == Process::Orphans).await;
    let refused = node.instance.start(Start::Primary, &node.conf).await;
    assert!(matches!(refused, Err(Error::Alive { ref pids, .. }) if !pids.is_empty()), "{refused:?}");
    node.instance.kill().await.unwrap();
    assert_eq!(node.processes(), Vec::<u32>::new());
    assert!(work.await.unwrap().is_err());
    node.start(Start::Primary).await;
    assert!(node.wait("recovered", |a| !a.in_recovery).await.written.0 > 0);
}

#[tokio::test]
async fn another_agent_finds_the_running_server_again() {
    let place = Place::new();
    let node = place.primary("pg1").await;
    let pid = node.pid();
    let second = Instance::new(node.options.clone()).unwrap();
    let local = second.probe().await;
    assert!(matches!(local.process, Process::Running { pid: p, standby: false, .. } if p == pid), "{local:?}");
    assert!(matches!(local.sql, Sql::Up(_)), "{local:?}");
    let applied = second.apply(&node.conf).await.unwrap();
    assert!(!applied.needs_reload(), "{applied:?}");
    let stopped = node.instance.stop(Stop::default()).await.unwrap();
    assert!(stopped.clean);
    let exited = tokio::time::timeout(LONG, second.exited()).await.unwrap();
    assert_eq!(exited.pid, pid);
    assert_eq!(second.probe().await.process, Process::Stopped);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let place = Place::new();
    let node = place.node("pg1");
    node.instance.initialize(&seed_initdb(), &node.conf).await.unwrap();
    let other = TcpListener::bind(("127.0.0.1", node.port)).unwrap();
    let e = node.instance.start(Start::Primary, &node.conf).await.unwrap_err();
    assert!(matches!(e, Error::PortInUse { port, .. } if port == node.port));
    assert!(e.to_string().contains(&format!("port {} on 127.0.0.1 is in use", node.port)), "{e}");
    assert_eq!(node.processes(), Vec::<u32>::new());
    drop(other);
    node.start(Start::Primary).await;
}

#[tokio::test]
async fn what_a_crashed_host_left_is_gone_before_the_server_starts() {
    let place = Place::new();
    let mut node = place.node("pg1");
    node.instance.initialize(&seed_initdb(), &node.conf).await.unwrap();
    let file = node.data.join("postmaster.pid");
    // By the time PostgreSQL looks, this may be the number of some process or thread of its user.
    std::fs::write(&file, "4000000\n/data\n1700000000\n").unwrap();
    let refuse = format!("case \"$*\" in '-D '*) [ ! -e {} ] || exit 1;; esac", file.display());
    node.wrap("postgres", &format!("{refuse}\nexec $BIN/postgres \"$@\""));
    node.start(Start::Primary).await;
    assert_eq!(node.ask("SELECT 1").await, "1");
}

#[tokio::test]
async fn lock_files_that_a_crash_left_empty_do_not_keep_the_server_down() {
    let place = Place::new();
    let node = place.node("pg1");
    node.instance.initialize(&seed_initdb(), &node.conf).await.unwrap();
    let lock = node.socket_dir.join(format!(".s.PGSQL.{}.lock", node.port));
    for file in [&node.data.join("postmaster.pid"), &lock] {
        std::fs::write(file, "").unwrap();
        give(file);
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    node.start(Start::Primary).await;
    assert_eq!(node.ask("SELECT 1").await, "1");
}

#[tokio::test]
async fn a_server_that_does_not_come_up_says_why() {
    let place = Place::new();
    let node = place.node("pg1");
    node.instance.initialize(&seed_initdb(), &node.conf).await.unwrap();
    let mut conf = node.conf.clone();
    conf.parameters.insert("shared_preload_libraries".into(), "no_such_library".into());
    conf.parameters.insert("no_such_parameter".into(), "1".into());
    conf.parameters.insert("work_mem".into(), "lots".into());
    node.instance.start(Start::Primary, &conf).await.unwrap();
    let e = node.instance.wait_ready(LONG).await.unwrap_err();
    assert!(matches!(&e, Error::StartFailed(why) if why.contains("no_such_library")), "{e}");
    node.start(Start::Primary).await;
}

#[tokio::test]
async fn unusable_setups_are_refused_with_what_to_do() {
    let place = Place::new();
    let node = place.node("pg1");
    let refused = |options: instance::Options| match Instance::new(options) {
        Err(Error::Setup(text)) => text,
        other => panic!("{other:?}"),
    };
    std::fs::create_dir(&node.data).unwrap();
    std::fs::write(node.data.join("PG_VERSION"), "15\n").unwrap();
    give(&node.data);
    std::fs::set_permissions(&node.data, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused(node.options.clone()).contains("chmod 0700"));
    std::fs::set_permissions(&node.data, std::fs::Permissions::from_mode(0o700)).unwrap();
    if nix::unistd::Uid::effective().is_root() {
        std::os::unix::fs::chown(&node.data, Some(0), Some(0)).unwrap();
        assert!(refused(node.options.clone()).contains("chown -R postgres"));
        give(&node.data);
    }
    std::fs::write(node.data.join("PG_VERSION"), "9.6\n").unwrap();
    assert!(refused(node.options.clone()).contains("pg_upgrade"));
    std::fs::remove_dir_all(&node.data).unwrap();

    let mut options = node.options.clone();
    options.bin_dir = Some("/nonexistent".into());
    assert!(refused(options).contains("postgresql.bin_dir"));
    let mut options = node.options.clone();
    options.listen = "127.0.0.1:port".into();
    assert!(refused(options).contains("postgresql.listen"));
    let mut options = node.options.clone();
    options.data_dir = "data".into();
    assert!(refused(options).contains("postgresql.data_dir"));
}

#[tokio::test]
async fn data_is_removed_only_when_nothing_runs() {
    let place = Place::new();
    let node = place.primary("pg1").await;
    assert!(matches!(node.instance.remove_data("test").await, Err(Error::Alive { .. })));
    assert!(matches!(node.instance.clone_from(&node.upstream(), &[]).await, Err(Error::Alive { .. })));
    assert_eq!(node.ask("SELECT 1").await, "1");
    node.instance.stop(Stop::default()).await.unwrap();
    assert!(matches!(node.instance.clone_from(&node.upstream(), &[]).await, Err(Error::NotEmpty(_))));
    node.instance.remove_data("test").await.unwrap();
    assert_eq!(node.instance.probe().await.data, DataDir::Empty);
    let failed = node.instance.clone_from(&node.upstream(), &[]).await;
    assert!(matches!(failed, Err(Error::Program { .. })), "nobody listens there: {failed:?}");
    assert_eq!(node.instance.probe().await.data, DataDir::Empty);
    assert_eq!(
        std::fs::read_dir(node.data.parent().unwrap())
            .unwrap()
            .filter(|e| { e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().contains("pgherd-")) })
            .count(),
        0
    );
}
