//! The guard as a process of its own, and this test binary started again as an agent that dies. The
//! guard's rules are unit-tested beside the code; recognising and killing processes in `tests/fence.rs`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fence_server;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use fence_server::{Server, holds_within, until};
use ha::{Term, Tick};
use instance::guard::{Client, Error, Options, State, now, watchdog};
use rustix::process::{Pid, Signal, kill_process};

const MINUTE: Duration = Duration::from_secs(60);

/// A socket's directory, and the client most tests need.
struct Rig {
    dir: tempfile::TempDir,
    data_dir: PathBuf,
    client: Client,
}

impl Rig {
    /// With a data directory in which no server runs.
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        std::fs::create_dir(&data_dir).unwrap();
        let client = Client::new(options(dir.path(), &data_dir));
        Rig { dir, data_dir, client }
    }

    fn of(server: &Server) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = server.data_dir();
        let client = Client::new(options(dir.path(), &data_dir));
        Rig { dir, data_dir, client }
    }

    fn options(&self) -> Options {
        options(self.dir.path(), &self.data_dir)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Ok(stream) = UnixStream::connect(self.dir.path().join("socket")) {
            let _ = kill_process(rustix::net::sockopt::socket_peercred(&stream).unwrap().pid, Signal::KILL);
        }
    }
}

fn options(dir: &Path, data_dir: &Path) -> Options {
    let program = env!("CARGO_BIN_EXE_instance-test-guard");
    let mut options = Options::new(program.into(), dir.join("socket"), data_dir.to_owned());
    options.command = Vec::new();
    options.log = Some(dir.join("log"));
    options
}

#[tokio::test]
#[ignore = "an agent's process, started by other tests"]
async fn act_as_agent() {
    let dir = PathBuf::from(std::env::var_os("AGENT_TEST_DIR").unwrap());
    let data_dir = PathBuf::from(std::env::var_os("AGENT_TEST_DATA_DIR").unwrap());
    let client = Client::new(options(&dir, &data_dir));
    client.ensure().await.unwrap();
    let deadline = now() + Duration::from_millis(1000);
    client.arm(term(5), deadline, None).await.unwrap();
    println!("\nDEADLINE {}", deadline.0);
    std::future::pending::<()>().await;
}

/// Another process, killed on drop.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        // It has ended otherwise.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An agent that has armed its guard, and the deadline.
fn agent(rig: &Rig) -> (Process, Tick) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "act_as_agent", "--nocapture", "--test-threads=1"])
        .env("AGENT_TEST_DIR", rig.dir.path())
        .env("AGENT_TEST_DATA_DIR", &rig.data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("DEADLINE")).expect("the agent armed its guard");
    (Process(child), Tick(line.split_once(' ').unwrap().1.parse().unwrap()))
}

fn term(revision: i64) -> Term {
    Term { dcs_id: 1, revision }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn is_fenced(state: State, expected: Term) -> bool {
    matches!(state, State::Fenced { term, .. } if term == expected)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> State {
    match result {
        Err(Error::Refused { report, .. }) => report.state,
        other => panic!("not refused: {other:?}"),
    }
}

/// The server lives up to the deadline and not after it.
fn is_killed_at(server: &Server, deadline: Tick) {
    assert!(!server.processes().is_empty() || now() >= deadline, "killed early");
    until("every process is gone", || server.processes().is_empty());
    assert!(now() >= deadline, "killed {:?} early", deadline.since(now()));
}

#[tokio::test]
async fn the_death_of_the_agent_is_the_death_of_the_primary_at_the_deadline() {
    let server = Server::start().with_writers(4);
    let rig = Rig::of(&server);
    let (mut agent, deadline) = agent(&rig);
    agent.kill();
    is_killed_at(&server, deadline);
    rig.client.ensure().await.unwrap();
    let report = rig.client.status().await.unwrap();
    assert!(is_fenced(report.state, term(5)), "it is the same guard: {report:?}");
}

#[tokio::test]
async fn a_stopped_agent_loses_the_primary_and_can_not_start_it_again() {
    let mut server = Server::start();
    let rig = Rig::of(&server);
    let (agent, deadline) = agent(&rig);
    signal(agent.0.id(), Signal::STOP);
    is_killed_at(&server, deadline);

    let pid = server.start_again();
    until("the late start is killed too", || has_ended(pid) && server.processes().is_empty());
    rig.client.ensure().await.unwrap();
    assert!(is_fenced(rig.client.disarm().await.unwrap().state, term(5)));
    server.start_again();
    until("the server answers", || server.sql("select 1"));
    assert!(is_fenced(refused(rig.client.arm(term(5), now() + MINUTE, None).await), term(5)));
}

fn has_ended(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists() || is_in_state(pid, 'Z')
}

/// By the letters of proc(5).
fn is_in_state(pid: u32, state: char) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(&format!(") {state} ")))
}

#[tokio::test]
async fn an_extension_postpones_and_a_disarmed_guard_never_kills() {
    let server = Server::start();
    let rig = Rig::of(&server);
    rig.client.ensure().await.unwrap();
    let first = now() + Duration::from_millis(300);
    rig.client.arm(term(5), first, Some(server.postmaster())).await.unwrap();
    let second = first + Duration::from_millis(300);
    let report = rig.client.extend(term(5), second).await.unwrap();
    assert_eq!(report.state, State::Armed { term: term(5), deadline: second });
    assert!(!holds_within(Duration::from_millis(400), || server.processes().is_empty()), "killed at the old deadline");
    assert_eq!(rig.client.disarm().await.unwrap().state, State::Disarmed);
    assert!(!holds_within(Duration::from_millis(400), || server.processes().is_empty()), "killed though disarmed");
    assert!(server.sql("select 1"));
    let rearmed = rig.client.arm(term(5), now() + MINUTE, None).await.unwrap();
    assert!(matches!(rearmed.state, State::Armed { .. }), "a disarmed term may be armed again");
    let report = rig.client.fence_now().await.unwrap();
    assert_eq!((is_fenced(report.state, term(5)), report.left), (true, vec![]));
    assert_eq!(server.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn fenced_sticks_until_a_later_term() {
    let rig = Rig::new();
    rig.client.ensure().await.unwrap();
    assert_eq!(rig.client.status().await.unwrap().state, State::Idle);
    let report = rig.client.arm(term(5), Tick(1), None).await.unwrap();
    assert!(is_fenced(report.state, term(5)), "a deadline in the past fences at once: {report:?}");
    for old in [4, 5] {
        assert!(is_fenced(refused(rig.client.arm(term(old), now() + MINUTE, None).await), term(5)));
        assert!(is_fenced(refused(rig.client.extend(term(old), now() + MINUTE).await), term(5)));
    }
    let deadline = now() + MINUTE;
    let report = rig.client.arm(term(6), deadline, None).await.unwrap();
    assert_eq!(report.state, State::Armed { term: term(6), deadline });
}

#[tokio::test]
async fn signals_end_the_guard_only_when_nothing_is_armed() {
    let server = Server::start();
    let rig = Rig::of(&server);
    rig.client.ensure().await.unwrap();
    let report = rig.client.arm(term(5), now() + MINUTE, None).await.unwrap();
    for s in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::ALARM] {
        signal(report.pid, s);
    }
    assert_eq!(rig.client.status().await.unwrap(), report, "unmoved");
    refused(rig.client.exit().await);
    rig.client.disarm().await.unwrap();
    signal(report.pid, Signal::TERM);
    tokio::time::timeout(MINUTE, rig.client.lost()).await.unwrap();
    assert!(!rig.dir.path().join("socket").exists());
    assert!(rig.log().contains("a signal to end was ignored"), "{}", rig.log());
    assert!(server.sql("select 1"));
}

#[tokio::test]
async fn the_socket_of_a_dead_guard_is_replaced() {
    let rig = Rig::new();
    rig.client.ensure().await.unwrap();
    let first = rig.client.status().await.unwrap().pid;
    signal(first, Signal::KILL);
    tokio::time::timeout(MINUTE, rig.client.lost()).await.unwrap();
    assert!(rig.dir.path().join("socket").exists());
    assert!(matches!(rig.client.status().await, Err(Error::Unreachable(_))));
    rig.client.ensure().await.unwrap();
    let report = rig.client.status().await.unwrap();
    assert_ne!(report.pid, first);
    assert_eq!(report.state, State::Idle);
    rig.client.exit().await.unwrap();
}

#[tokio::test]
async fn a_second_guard_leaves_the_first_alone() {
    let rig = Rig::new();
    rig.client.ensure().await.unwrap();
    let report = rig.client.arm(term(5), now() + MINUTE, None).await.unwrap();
    let options = rig.options();
    let second = tokio::process::Command::new(&options.program)
        .args(&options.command)
        .arg("--socket")
        .arg(&options.socket)
        .arg("--data-dir")
        .arg(&options.data_dir)
        .stdout(Stdio::null())
        .status();
    let status: ExitStatus = tokio::time::timeout(MINUTE, second).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(2));
    assert_eq!(rig.client.status().await.unwrap(), report);
    let newcomer = Client::new(options);
    newcomer.ensure().await.unwrap();
    assert_eq!(newcomer.status().await.unwrap(), report, "another agent finds the same guard");
}

#[tokio::test]
async fn a_guard_of_another_version_hands_its_deadline_over() {
    let server = Server::start();
    let rig = Rig::of(&server);
    rig.client.ensure().await.unwrap();
    let old = rig.client.arm(term(5), now() + MINUTE, Some(server.postmaster())).await.unwrap();
    let mut options = rig.options();
    options.version = "9.9.9".into();
    options.command = vec!["GUARD_TEST_VERSION=9.9.9".into(), options.program.to_str().unwrap().into()];
    options.program = "env".into();
    let newer = Client::new(options);
    newer.ensure().await.unwrap();
    let new = newer.status().await.unwrap();
    assert_eq!((new.version.as_str(), new.state, new.postmaster), ("9.9.9", old.state, old.postmaster));
    assert_ne!(new.pid, old.pid);
    tokio::time::timeout(MINUTE, rig.client.lost()).await.unwrap();
    assert!(server.sql("select 1"), "nothing was fenced");
    newer.fence_now().await.unwrap();
    assert_eq!(server.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_guard_that_does_not_answer_is_replaced() {
    let rig = Rig::new();
    rig.client.ensure().await.unwrap();
    let old = rig.client.arm(term(5), now() + MINUTE, None).await.unwrap();
    signal(old.pid, Signal::STOP);
    until("it is stopped", || is_in_state(old.pid, 'T'));
    assert!(matches!(rig.client.extend(term(5), now() + MINUTE).await, Err(Error::NoAnswer)));
    assert!(matches!(Client::new(rig.options()).ensure().await, Err(Error::NoAnswer)));
    rig.client.replace().await.unwrap();
    let new = rig.client.status().await.unwrap();
    assert_ne!(new.pid, old.pid);
    assert_eq!(new.state, State::Idle, "it holds nothing");
    assert!(has_ended(old.pid));
}

#[tokio::test]
async fn the_watchdog_is_fed_while_the_lease_is_extended() {
    use std::io::Read;
    let rig = Rig::new();
    let device = rig.dir.path().join("dog");
    nix::unistd::mkfifo(&device, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let config = |device: &Path| {
        let ttl = Duration::from_secs(30);
        watchdog::Config::new(watchdog::Mode::Required, device.to_owned(), ttl, 5, Duration::from_secs(2))
    };
    rig.client.ensure().await.unwrap();
    rig.client.set_watchdog(config(&rig.dir.path().join("absent")));
    assert_eq!(refused(rig.client.arm(term(5), now() + MINUTE, None).await), State::Idle);

    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&device).unwrap();
    rig.client.set_watchdog(config(&device));
    let report = rig.client.arm(term(5), now() + MINUTE, None).await.unwrap();
    assert_eq!((report.watchdog, report.trouble), (config(&device), None));
    rig.client.extend(term(5), now() + MINUTE).await.unwrap();
    rig.client.status().await.unwrap();
    refused(rig.client.extend(term(4), now() + MINUTE).await);
    rig.client.fence_now().await.unwrap();
    rig.client.arm(term(6), now() + MINUTE, None).await.unwrap();
    rig.client.disarm().await.unwrap();
    let mut bytes = [0; 5];
    reader.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"11V1V");
}

#[tokio::test]
async fn rubbish_ends_the_connection_and_nothing_else() {
    use std::io::{Read, Write};
    let rig = Rig::new();
    rig.client.ensure().await.unwrap();
    let report = rig.client.arm(term(5), now() + MINUTE, None).await.unwrap();
    for rubbish in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![b'x'; 100_000], b"{}\n".to_vec()] {
        let mut stream = UnixStream::connect(rig.dir.path().join("socket")).unwrap();
        // The guard may hang up before all is written.
        let _ = stream.write_all(&rubbish);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
    assert_eq!(rig.client.status().await.unwrap(), report);
}

/// Not a test: prints how long fencing takes. Run with
/// `cargo test -p instance --test guard -- --ignored --exact measure --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure() {
    for burners in [0, 2, 8] {
        let server = Server::start().with_writers(50);
        let rig = Rig::of(&server);
        rig.client.ensure().await.unwrap();
        // They end by themselves should this process be killed.
        let mut burning: Vec<Child> = (0..burners)
            .map(|_| Command::new("timeout").args(["10", "sh", "-c", "while :; do :; done"]).spawn().unwrap())
            .collect();
        let deadline = now() + Duration::from_millis(500);
        rig.client.arm(term(5), deadline, Some(server.postmaster())).await.unwrap();
        let scan = std::time::Instant::now();
        let processes = server.processes();
        let (scan, all) = (scan.elapsed(), std::fs::read_dir("/proc").unwrap().count());
        println!("\none look at {all} entries of /proc: {scan:?}");
        let last = processes.iter().map(|pid| {
            rustix::process::pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), rustix::process::PidfdFlags::empty())
                .unwrap()
        });
        let last: Vec<_> = last.collect();
        for fd in &last {
            let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
            while rustix::event::poll(&mut fds, None).is_err() {}
        }
        let took = now().since(deadline);
        println!("\n{} processes, {burners} burners: all gone {took:?} after the deadline", last.len());
        let mut late = Vec::new();
        for n in 6..106 {
            let deadline = now() + Duration::from_millis(30);
            rig.client.arm(term(n), deadline, None).await.unwrap();
            tokio::time::sleep(Duration::from_millis(45)).await;
        }
        rig.client.disarm().await.unwrap();
        until("the log is written", || rig.log().contains("disarmed"));
        for line in rig.log().lines().filter(|l| l.contains("deadline passed")) {
            let ms = line.split("passed ").nth(1).unwrap().split(' ').next().unwrap();
            late.push(ms.parse::<f64>().unwrap());
        }
        late.sort_by(f64::total_cmp);
        let (n, first) = (late.len(), rig.log().lines().find(|l| l.contains("fenced, because")).unwrap().to_owned());
        println!("timer late by ms, {n} times: median {:.3}, worst {:.3}\n{first}", late[n / 2], late[n - 1]);
        for child in &mut burning {
            child.wait().unwrap();
        }
    }
}
