//! Online restart: no client is refused, what runs on the old process is finished and can be cancelled, and a new process
//! that fails leaves the old one as it was.

use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::world::{Daemon, World, until};

/// Runs something that waits; nothing else goes on meanwhile.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Connects, asks and leaves, again and again, until told to stop.
async fn hammer(world: &World, stop: &AtomicBool, count: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let client = world.client().await.unwrap();
        client.simple_query("x").await.unwrap();
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn nobody_is_refused_while_processes_replace_each_other() {
    let world = World::new();
    let mut running = world.start(&[]);
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| wait(hammer(&world, &stop, &count)))).collect();
        for _ in 0..5 {
            let before = count.load(Ordering::Relaxed);
            until("clients are at work", || {
                assert!(!clients.iter().any(thread::ScopedJoinHandle::is_finished), "a client has failed");
                count.load(Ordering::Relaxed) > before + 50
            });
            let new = world.start(&["-R"]);
            assert_eq!(world.pidfile(), Some(new.pid()));
            let mut old = std::mem::replace(&mut running, new);
            assert_eq!(old.exit().code(), Some(0));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(world.unix().exists());
    running.signal(Signal::SIGINT);
    assert_eq!(running.exit().code(), Some(0));
    assert!(!world.unix().exists() && world.pidfile().is_none());
}

#[test]
fn what_runs_on_old_processes_goes_on_and_is_cancelled_through_the_newest() {
    let world = World::new();
    let mut first = world.start(&[]);
    let mut second = wait(async {
        let client = world.client().await.unwrap();
        let canceller = client.cancel_token();
        let query = tokio::spawn(async move {
            let result = client.simple_query("wait").await;
            (client, result)
        });
        while world.postgres.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let second = world.start(&["-R"]);
        let _third = world.start(&["-R"]);
        canceller.cancel_query(NoTls).await.unwrap();
        let (client, result) = query.await.unwrap();
        assert_eq!(result.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
        client.simple_query("x").await.unwrap();
        second
    });
    assert_eq!(first.exit().code(), Some(0));
    // It had no client of its own, and stayed to pass the request on.
    assert_eq!(second.exit().code(), Some(0));
}

#[test]
fn a_process_that_takes_the_sockets_and_dies_changes_nothing() {
    let world = World::new();
    let program = world.start(&[]);
    let door = format!("{}.takeover", world.unix().display());
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    socket.connect(&SockAddr::unix(&door).unwrap()).unwrap();
    socket.send(b"sockets").unwrap();
    let mut packet = [std::mem::MaybeUninit::uninit(); 64];
    assert_eq!(socket.recv(&mut packet).unwrap(), b"socket".len());
    drop(socket);
    world.logged("online restart: the new process has gone, this one goes on");
    wait(async {
        world.client().await.unwrap().simple_query("x").await.unwrap();
    });
    assert_eq!(world.pidfile(), Some(program.pid()));
    world.start(&["-R"]);
}

#[test]
fn without_an_old_process_it_starts_as_usual() {
    let world = World::new();
    let _program = world.start(&["-R"]);
    world.logged("LOG old process not found, try to continue normally");
}

#[test]
fn somebody_else_at_the_unix_socket_is_not_replaced() {
    let world = World::new();
    let _pgbouncer = UnixListener::bind(world.unix()).unwrap();
    let (code, printed) = world.run(&["-R"]);
    assert!(code == 1 && printed.contains("so_reuseport = 1"), "{printed}");
    assert!(world.pidfile().is_none());
    world.configure("unix_socket_dir =\npidfile =");
    let (code, printed) = world.run(&["-R"]);
    assert!(code == 64 && printed.contains("an online restart needs unix_socket_dir or pidfile"), "{printed}");
}

#[test]
fn a_configuration_with_faults_leaves_the_old_process_alone() {
    let world = World::new();
    let program = world.start(&[]);
    world.configure("pool_mode = x");
    assert_eq!(world.run(&["-R"]).0, 64);
    world.configure("pidfile = /nowhere/pid");
    assert_eq!(world.pidfile(), Some(program.pid()));
    assert!(world.unix().exists());
    wait(async { world.client().await.map(drop) }).unwrap();
}

#[test]
fn a_daemon_is_replaced_by_a_daemon() {
    let world = World::new();
    assert_eq!(world.run(&["-d"]).0, 0);
    let old = Daemon(world.pidfile().unwrap());
    let (code, printed) = world.run(&["-d", "-R"]);
    assert_eq!(code, 0, "{printed}");
    let new = Daemon(world.pidfile().unwrap());
    assert!(new.0 != old.0 && new.is_alive());
    until("the old process ends", || !old.is_alive());
    assert!(world.unix().exists());
}
