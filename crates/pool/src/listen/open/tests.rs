//! Tests of opening sockets, at addresses of 127/8 and in directories of their own.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::*;
use crate::config::FileMode;

/// An address that no other test process uses.
fn own_address() -> String {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    format!("127.{}.{middle}.{low}", 64 + high % 64)
}

/// Settings with a free port at this process's address.
fn settings(dir: &Path) -> Settings {
    let address = own_address();
    let port = TcpListener::bind((address.as_str(), 0)).unwrap().local_addr().unwrap().port();
    Settings {
        listen_addr: vec![address].into(),
        listen_port: port,
        unix_socket_dir: Some(dir.to_owned()),
        unix_socket_mode: FileMode(0o707),
        ..Settings::default()
    }
}

fn names(opened: &Opened) -> Vec<String> {
    opened.listeners.iter().map(ToString::to_string).collect()
}

#[test]
fn tcp_and_unix_sockets_take_connections_and_the_file_goes_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let opened = open(&settings, Vec::new()).unwrap();
    let path = dir.path().join(format!(".s.PGSQL.{}", settings.listen_port));
    let port = settings.listen_port;
    assert_eq!(names(&opened), [format!("{}:{port}", own_address()), format!("unix:{}", path.display())]);
    TcpStream::connect((own_address(), port)).unwrap();
    UnixStream::connect(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o707);
    drop(opened);
    assert!(!path.exists());
}

#[test]
fn a_taken_port_or_socket_is_refused_with_a_text_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    let first = open(&settings, Vec::new()).unwrap();
    let error = open(&settings, Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), format!("failed to listen on any address in listen_addr list: {}", own_address()));
    settings.listen_addr.clear();
    assert!(unix::in_use(&settings));
    assert!(matches!(open(&settings, Vec::new()), Err(Error::SocketInUse)));
    drop(first);
    assert!(!unix::in_use(&settings));
    open(&settings, Vec::new()).unwrap();
}

#[test]
fn all_addresses_need_more_than_ipv6() {
    let mut settings = settings(Path::new("@pgherd-all-test"));
    settings.unix_socket_dir = None;
    let _taken = TcpListener::bind((own_address(), settings.listen_port)).unwrap();
    settings.listen_addr = vec!["*".to_owned()].into();
    assert!(matches!(open(&settings, Vec::new()), Err(Error::NoAddress(_))));
}

#[test]
fn a_stale_socket_file_is_replaced_and_other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    let path = dir.path().join(format!(".s.PGSQL.{}", settings.listen_port));
    drop(UnixListener::bind(&path).unwrap());
    let old = path.metadata().unwrap().ino();
    let opened = open(&settings, Vec::new()).unwrap();
    assert!(opened.listeners.len() == 2 && path.exists());
    // Somebody else's socket in its place survives the end.
    std::fs::rename(&path, dir.path().join("ours")).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(opened);
    assert!(path.exists());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, format!("{old}")).unwrap();
    assert_eq!(open(&settings, Vec::new()).unwrap().listeners.len(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{old}"));
    settings.listen_addr.clear();
    assert!(matches!(open(&settings, Vec::new()), Err(Error::Nowhere)));
}

#[test]
fn an_abstract_socket_has_no_file() {
    let mut settings = settings(Path::new("@pgherd-listen-test"));
    settings.listen_addr.clear();
    let opened = open(&settings, Vec::new()).unwrap();
    assert_eq!(names(&opened), [format!("unix:@pgherd-listen-test/.s.PGSQL.{}", settings.listen_port)]);
    assert!(opened.file.is_none() && unix::in_use(&settings));
    assert!(matches!(open(&settings, Vec::new()), Err(Error::SocketInUse)));
}

#[test]
fn an_address_that_this_machine_lacks_costs_only_that_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    // 192.0.2.0/24 is nobody's (RFC 5737).
    settings.listen_addr.push("192.0.2.1".to_owned());
    assert_eq!(open(&settings, Vec::new()).unwrap().listeners.len(), 2);
    settings.listen_addr = vec!["nosuch.invalid".to_owned()].into();
    let error = open(&settings, Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with("listen_addr: nosuch.invalid: "), "{error}");
}

#[test]
fn every_address_is_opened_once() {
    let mut settings = settings(Path::new("/nowhere"));
    settings.listen_addr = ["127.0.0.1", "*", "127.0.0.1", "[::1]", "0.0.0.0"].map(str::to_owned).into();
    let port = settings.listen_port;
    let found: Vec<(String, bool)> =
        addresses(&settings).unwrap().into_iter().map(|(a, optional)| (a.to_string(), optional)).collect();
    let expected = [("127.0.0.1", false), ("0.0.0.0", false), ("[::]", true), ("[::1]", false)];
    assert_eq!(found, expected.map(|(a, optional)| (format!("{a}:{port}"), optional)));
}

#[test]
fn passed_sockets_are_kept_where_the_settings_still_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    let old = open(&settings, Vec::new()).unwrap();
    let passed = old.listeners.iter().map(|l| l.try_clone().unwrap()).collect();
    let new = open(&settings, passed).unwrap();
    assert_eq!(names(&new), names(&old));
    // Two processes have the same file; the old one leaves it.
    old.file.unwrap().leave();
    drop(old.listeners);
    TcpStream::connect((own_address(), settings.listen_port)).unwrap();
    let passed = new.listeners.iter().map(|l| l.try_clone().unwrap()).collect();
    settings.listen_addr = vec!["127.0.0.2".to_owned()].into();
    let moved = open(&settings, passed).unwrap();
    assert_eq!(names(&moved)[0], format!("127.0.0.2:{}", settings.listen_port));
    assert_eq!(names(&moved)[1], names(&new)[1]);
}

#[test]
fn several_processes_share_a_port_where_both_say_so() {
    let mut settings = settings(Path::new("@pgherd-reuseport-test"));
    settings.unix_socket_dir = None;
    settings.so_reuseport = true;
    let _first = open(&settings, Vec::new()).unwrap();
    let _second = open(&settings, Vec::new()).unwrap();
    settings.so_reuseport = false;
    assert!(matches!(open(&settings, Vec::new()), Err(Error::NoAddress(_))));
}
