//! Tests of the handover: a door and a visitor in one process.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use super::*;
use crate::config::FileMode;
use crate::listen::Listener;

fn place(dir: &Path) -> Address {
    Address::File(dir.join("door"))
}

fn sockets(dir: &Path) -> Vec<Listener> {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = std::os::unix::net::UnixListener::bind(dir.join("clients")).unwrap();
    vec![Listener::Tcp(tcp), Listener::Unix(unix)]
}

async fn pair(dir: &Path) -> (Visitor, Old) {
    let door = Door::open(&place(dir)).unwrap();
    let old = meet(&place(dir)).unwrap().unwrap();
    (door.visitor().await.unwrap(), old)
}

#[tokio::test]
async fn sockets_change_hands_and_keep_the_connections_that_wait_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let (visitor, old) = pair(dir.path()).await;
    assert_eq!((visitor.pid(), old.pid()), (rustix::process::getpid().as_raw_nonzero().get(), visitor.pid()));
    let given = sockets(dir.path());
    let names: Vec<String> = given.iter().map(ToString::to_string).collect();
    let mut client = TcpStream::connect(&names[0]).unwrap();
    let (taken, ()) = tokio::join!(old.sockets(), async {
        assert_eq!(visitor.request().await.unwrap(), Request::Sockets);
        visitor.give(&given).await.unwrap();
    });
    drop(given);
    let taken = taken.unwrap();
    assert_eq!(taken.iter().map(ToString::to_string).collect::<Vec<_>>(), names);
    let Listener::Tcp(tcp) = &taken[0] else { panic!("{:?}", taken[0]) };
    let (accepted, _) = tcp.accept().unwrap();
    drop(accepted);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn cancel_requests_reach_the_old_process_and_several_are_under_way_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (visitor, old) = pair(dir.path()).await;
    let (stopped, ()) = tokio::join!(old.stop(), async {
        assert_eq!(visitor.request().await.unwrap(), Request::Stop);
        visitor.stopped().await.unwrap();
    });
    let (canceller, passing) = stopped.unwrap();
    let passing = tokio::spawn(passing);
    let first = tokio::spawn({
        let canceller = canceller.clone();
        async move { canceller.cancel(7, &[0, 255, 16]).await }
    });
    assert_eq!(visitor.request().await.unwrap(), Request::Cancel { id: 0, pid: 7, key: vec![0, 255, 16] });
    let second = tokio::spawn({
        let canceller = canceller.clone();
        async move { canceller.cancel(u32::MAX, &[1; 32]).await }
    });
    assert_eq!(visitor.request().await.unwrap(), Request::Cancel { id: 1, pid: u32::MAX, key: vec![1; 32] });
    visitor.cancelled(1).await.unwrap();
    second.await.unwrap();
    assert!(!first.is_finished());
    // The old process ends, and its clients with it.
    drop(visitor);
    first.await.unwrap();
    passing.await.unwrap();
    canceller.cancel(7, &[0]).await;
}

#[tokio::test]
async fn nobody_at_the_door_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    assert!(meet(&place(dir.path())).unwrap().is_none());
    // As a killed process leaves it.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("door")).unwrap());
    assert!(meet(&Address::File(dir.path().join("missing"))).unwrap().is_none());
    Door::open(&place(dir.path())).unwrap();
}

#[tokio::test]
async fn a_door_in_use_is_left_alone_and_one_that_is_left_keeps_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let door = Door::open(&place(dir.path())).unwrap();
    assert_eq!(Door::open(&place(dir.path())).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    door.leave();
    assert!(dir.path().join("door").exists());
    drop(Door::open(&place(dir.path())).unwrap());
    assert!(!dir.path().join("door").exists());
}

#[tokio::test]
async fn what_is_not_understood_is_an_error_and_not_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    let (visitor, old) = pair(dir.path()).await;
    let (result, ()) = tokio::join!(old.stop(), async {
        visitor.request().await.unwrap();
        visitor.cancelled(3).await.unwrap();
    });
    assert!(matches!(result.err(), Some(Error::Unknown(text)) if text == "done 3"));
    assert!(matches!(visitor.request().await, Err(Error::Gone)));
}

#[test]
fn the_door_is_beside_the_unix_socket_or_the_pid_file() {
    let mut settings = Settings { unix_socket_mode: FileMode(0o700), ..Settings::default() };
    settings.unix_socket_dir = Some("/run/x".into());
    settings.pidfile = Some("/run/x.pid".into());
    assert_eq!(address(&settings), Some(Address::File("/run/x/.s.PGSQL.6432.takeover".into())));
    settings.unix_socket_dir = Some("@x".into());
    assert_eq!(address(&settings), Some(Address::Abstract("x/.s.PGSQL.6432.takeover".into())));
    settings.unix_socket_dir = None;
    assert_eq!(address(&settings), Some(Address::File("/run/x.pid.takeover".into())));
    settings.pidfile = None;
    assert_eq!(address(&settings), None);
}
