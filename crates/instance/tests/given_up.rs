//! Work that is given up half way, by a fencing or otherwise.

mod cluster;

use std::time::Duration;

use cluster::{Gate, Node, Place, send};
use ha::local::{DataDir, Process};
use instance::{Error, Start, Stop};
use rustix::process::Signal;

/// How long a fencing may take.
const BUDGET: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_aborted_start_starts_nothing_after_the_fence() {
    let place = Place::new();
    let mut node = place.primary("pg1").await;
    node.instance.stop(Stop::default()).await.unwrap();
    let gate = Gate::new(node.data.parent().unwrap());
    node.wrap("postgres", &format!("case \"$*\" in *'-C port'*) {};; esac\nexec $BIN/postgres \"$@\"", gate.wait()));
    node.conf.parameters.insert("work_mem".into(), "5MB".into());
    let starting = tokio::spawn({
        let (instance, conf) = (node.instance.clone(), node.conf.clone());
        async move { instance.start(Start::Primary, &conf).await }
    });
    gate.reached().await;
    starting.abort();
    assert!(starting.await.unwrap_err().is_cancelled());
    assert_eq!(fence(&node).await, (0, vec![]));
    assert_eq!(node.instance.probe().await.process, Process::Stopped);
    gate.open();
    // Takes its turn after the blocking code that was left behind, and would be refused beside a server.
    node.instance.remove_data("test").await.unwrap();
    assert_eq!((node.instance.pid(), node.processes()), (None, vec![]));
}

#[tokio::test]
async fn a_start_that_was_given_up_says_so() {
    let place = Place::new();
    let mut node = place.primary("pg1").await;
    node.instance.stop(Stop::default()).await.unwrap();
    let gate = Gate::new(node.data.parent().unwrap());
    node.wrap("postgres", &format!("case \"$*\" in *'-C port'*) {};; esac\nexec $BIN/postgres \"$@\"", gate.wait()));
    node.conf.parameters.insert("work_mem".into(), "5MB".into());
    let starting = tokio::spawn({
        let (instance, conf) = (node.instance.clone(), node.conf.clone());
        async move { instance.start(Start::Replica { upstream: None }, &conf).await }
    });
    gate.reached().await;
    node.instance.revoke_work();
    gate.open();
    assert!(matches!(starting.await.unwrap(), Err(Error::GivenUp)));
    assert!(!node.data.join("standby.signal").exists(), "the role on disk is as it was");
    node.start(Start::Primary).await;
}

#[tokio::test]
async fn a_postmaster_that_is_not_in_its_data_directory_yet_is_fenced() {
    let place = Place::new();
    let mut node = place.primary("pg1").await;
    node.instance.stop(Stop::default()).await.unwrap();
    let gate = Gate::new(node.data.parent().unwrap());
    let script =
        format!("case \"$*\" in *'-C port'*|*--version*) ;; *) {};; esac\nexec $BIN/postgres \"$@\"", gate.wait());
    node.wrap("postgres", &script);
    let pid = node.instance.start(Start::Primary, &node.conf).await.unwrap();
    gate.reached().await;
    assert!(!node.processes().contains(&pid), "it can't be told by its directory");
    let (killed, left) = fence(&node).await;
    assert!(killed > 0 && left.is_empty());
    gate.open();
    assert_eq!(tokio::time::timeout(BUDGET, node.instance.exited()).await.unwrap().pid, pid);
    assert_eq!(node.instance.probe().await.process, Process::Stopped);
}

#[tokio::test]
async fn a_clone_that_was_given_up_takes_no_place() {
    let place = Place::new();
    let pg1 = place.primary("pg1").await;
    let mut pg2 = place.node("pg2");
    let gate = Gate::new(pg2.data.parent().unwrap());
    pg2.wrap("pg_basebackup", &format!("$BIN/pg_basebackup \"$@\" || exit 1\n{}", gate.wait()));
    let cloning = tokio::spawn({
        let (instance, from) = (pg2.instance.clone(), pg1.upstream());
        async move { instance.clone_from(&from, &["no-sync".into()]).await }
    });
    gate.reached().await;
    pg2.instance.revoke_work();
    gate.open();
    assert!(matches!(cloning.await.unwrap(), Err(Error::GivenUp)));
    assert_eq!(pg2.instance.probe().await.data, DataDir::Empty);
}

#[tokio::test]
async fn a_rewind_that_ends_during_recovery_costs_nothing() {
    let place = Place::new();
    let mut pg1 = place.primary("pg1").await;
    let pg2 = place.replica("pg2", &pg1).await;
    pg1.ask("CREATE TABLE t (v text)").await;
    pg2.instance.follow(None).await.unwrap();
    pg1.ask("INSERT INTO t VALUES ('lost')").await;
    pg2.instance.promote().await.unwrap();
    send(pg1.pid(), Signal::KILL);
    pg1.instance.kill().await.unwrap();
    // A single-user server works until its input ends.
    let fifo = pg1.data.with_file_name("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    cluster::give(&fifo);
    let script = format!(
        "case \"$*\" in *--single*) exec $BIN/postgres \"$@\" < {};; esac\nexec $BIN/postgres \"$@\"",
        fifo.display()
    );
    pg1.wrap("postgres", &script);
    let mark = pg1.data.with_file_name("data.pgherd-rewinding");
    let rewind = || {
        let (instance, from) = (pg1.instance.clone(), pg2.upstream());
        tokio::spawn(async move { instance.rewind(&from, &["no-sync".into()]).await })
    };
    for interrupted in [true, false] {
        let input = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        let rewinding = rewind();
        wait_for_single(&pg1).await;
        for _ in 0..3 {
            let local = pg1.instance.probe().await;
            assert_eq!(local.process, Process::Stopped, "they are no orphans");
            assert!(matches!(local.data, DataDir::Valid(_)), "{local:?}");
        }
        assert!(!mark.exists());
        if interrupted {
            rewinding.abort();
            assert!(rewinding.await.unwrap_err().is_cancelled());
            assert_eq!(fence(&pg1).await.1, Vec::<u32>::new());
            let local = pg1.instance.probe().await;
            assert!(matches!(local.data, DataDir::Valid(_)) && local.process == Process::Stopped, "{local:?}");
            assert!(pg1.processes().is_empty() && !mark.exists());
        } else {
            drop(input);
            assert!(rewinding.await.unwrap().unwrap().changed);
        }
    }
    pg2.instance.sync_slots(&["pg1".to_owned()], true, &[]).await.unwrap();
    pg1.start(Start::Replica { upstream: Some(pg2.upstream()) }).await;
    let written = pg2.wait("up", |_| true).await.written;
    assert_eq!(pg1.wait("caught up", |a| a.replayed >= written).await.timeline, 2);
}

async fn wait_for_single(node: &Node) {
    let began = std::time::Instant::now();
    while node.titled(&["--single"]).is_empty() {
        assert!(began.elapsed() < cluster::LONG, "no single-user server");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fences as the agent does: how many processes were killed, and which are left.
async fn fence(node: &Node) -> (usize, Vec<u32>) {
    let instance = node.instance.clone();
    let outcome = tokio::task::spawn_blocking(move || instance.fence(BUDGET)).await.expect("the fencing ends");
    (outcome.killed, outcome.left)
}
