//! Unit tests of recognising processes. Real servers are fenced in `tests/fence.rs`.

use std::process::{Command, Stdio};

use super::*;

#[test]
fn stat_is_parsed_whatever_the_command_is_called() {
    let line = "42 (a) R (b) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1 2";
    let expected = Process { pid: 42, parent: 7, group: 8, session: 9, start: 12345, comm: "a) R (b".into() };
    assert_eq!(Process::parse(line), Some(expected));
}

#[test]
fn zombies_are_not_living() {
    assert_eq!(Process::parse("42 (postgres) Z 7 8 9 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 12345 0 0"), None);
}

#[test]
fn servers_are_told_from_their_neighbours() {
    for yes in ["postgres", "postmaster", "postgres15", "edb-postgres", ".postgres-wrapped", "postgres (deleted)"] {
        assert!(is_postgres_file(&Path::new("/usr/bin").join(yes)), "{yes}");
    }
    for no in ["bash", "postgres_exporter", "pgbackrest", "postgresql_top", "psql", "pg_basebackup"] {
        assert!(!is_postgres_file(&Path::new("/usr/lib/postgresql").join(no)), "{no}");
    }
}

#[test]
fn a_deleted_directory_is_still_the_same() {
    let dir = Path::new("/data/pg");
    assert!(is_path(Path::new("/data/pg"), dir));
    assert!(is_path(Path::new("/data/pg (deleted)"), dir));
    assert!(!is_path(Path::new("/data/pg2"), dir));
    assert!(!is_path(Path::new("/data/pg/base"), dir));
}

#[test]
fn a_reused_pid_is_not_taken_for_the_process_seen() {
    let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let seen = look_at(child.id()).unwrap();
    assert!(Target::open(&seen).is_some());
    let earlier = Process { start: seen.start - 1, ..seen.clone() };
    assert!(Target::open(&earlier).is_none(), "the pid is another process's now");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(Target::open(&seen).is_none());
}

#[test]
fn a_shell_in_the_data_directory_is_nobodys_business() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new("sleep").arg("60").current_dir(dir.path()).stdin(Stdio::null()).spawn().unwrap();
    let instance = Instance::at(dir.path());
    assert_eq!(instance.processes(), Vec::<u32>::new());
    assert_eq!(instance.fence(Duration::from_secs(1)).killed, 0);
    assert_eq!(child.try_wait().unwrap(), None, "it must live");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn only_a_server_of_this_instance_is_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let mut instance = Instance::at(dir.path());
    assert!(!instance.adopt(1));
    assert!(!instance.adopt(std::process::id()));
    assert_eq!(instance.postmaster(), None);
}
