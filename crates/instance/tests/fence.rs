//! Fencing of real PostgreSQL servers. Recognising processes is unit-tested beside the code.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fence_server;

use std::process::{Command, Stdio};
use std::time::Duration;

use fence_server::{Server, until};
use instance::fence::{self, Instance};

const BUDGET: Duration = Duration::from_secs(10);

#[test]
fn a_busy_server_is_gone() {
    let server = Server::start().with_writers(10);
    let outcome = fence::fence(&server.data_dir(), Some(server.postmaster()), BUDGET);
    assert_eq!(server.processes(), Vec::<u32>::new());
    assert_eq!(outcome.left, Vec::<u32>::new());
    assert!(outcome.killed > 10, "{outcome:?}");
}

#[test]
fn backends_that_lost_their_postmaster_are_gone() {
    let mut server = Server::start().with_deaf_backends(2);
    server.kill_postmaster();
    assert!(server.processes().len() >= 2, "backends outlive the postmaster");
    let outcome = fence::fence(&server.data_dir(), None, BUDGET);
    assert!(outcome.killed >= 2);
    assert_eq!(outcome.left, Vec::<u32>::new());
    assert_eq!(server.processes(), Vec::<u32>::new());
}

#[test]
fn commands_of_the_server_go_with_it_and_a_persons_shell_stays() {
    let mut server = Server::start();
    let mut shell =
        Command::new("sleep").arg("100").current_dir(server.data_dir()).stdin(Stdio::null()).spawn().unwrap();
    let pid_file = server.dir().join("pid");
    let program = format!("cd /; echo $$ > {}; exec sleep 1000", pid_file.display());
    server.sql_in_background(&format!("copy (select 1) to program '{program}'"));
    let pid = || std::fs::read_to_string(&pid_file).ok()?.strip_suffix('\n')?.parse::<u32>().ok();
    until("the command runs", || pid().is_some_and(|pid| server.processes().contains(&pid)));
    let command = pid().unwrap();

    fence::fence(&server.data_dir(), Some(server.postmaster()), BUDGET);
    assert!(!is_alive(command));
    assert_eq!(server.processes(), Vec::<u32>::new());
    assert_eq!(shell.try_wait().unwrap(), None, "a shell in the directory is a person's");
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn a_server_whose_directory_was_renamed_is_gone_if_its_postmaster_was_adopted() {
    let server = Server::start();
    let mut instance = Instance::at(&server.data_dir());
    assert!(instance.adopt(server.postmaster()));
    let elsewhere = server.dir().join("elsewhere");
    std::fs::rename(server.data_dir(), &elsewhere).unwrap();
    let renamed = Instance::at(&elsewhere);
    assert!(renamed.processes().len() > 1);
    assert_eq!(instance.fence(BUDGET).left, Vec::<u32>::new());
    assert_eq!(renamed.processes(), Vec::<u32>::new());
}

#[test]
fn root_without_the_ptrace_capability_sees_the_same() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let server = Server::start();
    let output = Command::new("setpriv")
        .args(["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "print_processes", "--nocapture"])
        .env("FENCE_TEST_DIR", server.data_dir())
        .output()
        .unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains(&format!("found {:?}", sorted(server.processes()))), "{output}");
}

#[test]
#[ignore = "a helper process of another test"]
fn print_processes() {
    let dir = std::env::var_os("FENCE_TEST_DIR").unwrap();
    let link = std::fs::read_link(format!("/proc/{}/cwd", fence::processes(dir.as_ref())[0]));
    assert!(link.is_err(), "the capability was not dropped");
    println!("found {:?}", sorted(fence::processes(dir.as_ref())));
}

fn sorted(mut pids: Vec<u32>) -> Vec<u32> {
    pids.sort_unstable();
    pids
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}
