//! Starting and ending: what is refused and with which exit code, the pid file, the background, reloading.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::world::{Daemon, Program, World, until};

#[test]
fn the_version_comes_first() {
    let world = World::new();
    let (code, printed) = world.run(&["-V"]);
    assert_eq!(code, 0);
    assert_eq!(printed.lines().next(), Some(concat!("pgherd-pooler ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn every_fault_of_the_configuration_is_named_with_its_line_and_the_code_is_64() {
    let world = World::new();
    fs::write(world.ini(), "[pgbouncer]\nlisten_port = abc\npool_mode = x\n").unwrap();
    let ini = world.ini().display().to_string();
    for flags in [&[][..], &["-q"], &["-d"]] {
        let (code, printed) = world.run(flags);
        assert_eq!(code, 64, "{printed}");
        for text in [
            format!("] ERROR invalid value \"abc\" for parameter listen_port in configuration ({ini}:2)"),
            format!("] ERROR invalid value \"x\" for parameter pool_mode in configuration ({ini}:3)"),
            "] FATAL cannot load config file".to_owned(),
        ] {
            assert!(printed.contains(&text), "{text}: {printed}");
        }
    }
    fs::remove_file(world.ini()).unwrap();
    let (code, printed) = world.run(&[]);
    assert!(code == 64 && printed.contains("could not load file"), "{printed}");
}

#[test]
fn a_configuration_is_judged_without_being_used() {
    let world = World::new();
    assert_eq!(world.run(&["--validate-config"]), (0, String::new()));
    fs::write(world.ini(), "[pgbouncer]\nlisten_port = abc\n").unwrap();
    let (code, printed) = world.run(&["--validate-config"]);
    assert!(code == 64 && printed.contains("invalid value \"abc\" for parameter listen_port"), "{printed}");
    fs::write(world.ini(), "[databases]\n* = cluster=x\n[pgbouncer]\ncluster_config = /nowhere.yml\n").unwrap();
    let (code, printed) = world.run(&["--validate-config"]);
    assert!(code == 64 && printed.contains("/nowhere.yml"), "{printed}");
}

#[test]
fn a_command_line_that_means_nothing_is_refused_with_64() {
    let world = World::new();
    assert_eq!(world.run(&["--nonsense"]).0, 64);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgherd-pooler"));
    world.to_file(&mut command);
    assert_eq!(Program::of(&mut command).exit().code(), Some(64));
    assert!(world.printed().contains("no configuration file specified"), "{}", world.printed());
}

#[test]
fn users_that_cannot_be_had_are_refused() {
    let world = World::new();
    let (code, printed) = world.run(&["-u", "no-such-user"]);
    assert!(code == 64 && printed.contains("FATAL could not find user 'no-such-user' to switch to"), "{printed}");
    if geteuid().is_root() {
        let (code, printed) = world.run(&["-u", "root"]);
        assert!(code == 1 && printed.contains("FATAL pgherd-pooler should not run as root"), "{printed}");
    }
    assert!(!world.path("log").exists(), "a log was made that the right user couldn't write");
}

#[test]
fn files_that_cannot_be_written_are_named() {
    let world = World::new();
    world.configure("logfile = /nowhere/log");
    let (code, printed) = world.run(&[]);
    assert!(code == 64 && printed.contains("FATAL Cannot open logfile: '/nowhere/log': No such file"), "{printed}");
    world.configure("pidfile = /nowhere/pid");
    let (code, printed) = world.run(&[]);
    assert!(code == 1 && printed.contains("FATAL could not open pidfile '/nowhere/pid': No such file"), "{printed}");
    assert!(!world.unix().exists());
}

#[test]
fn a_port_in_use_ends_the_start_and_leaves_nothing_behind() {
    let world = World::new();
    let taken = TcpListener::bind((world.host.as_str(), world.port)).unwrap();
    let (code, printed) = world.run(&[]);
    let warning = format!("WARNING cannot listen on {}:{}: bind(): Address already in use", world.host, world.port);
    let fatal = format!("FATAL failed to listen on any address in listen_addr list: {}", world.host);
    assert!(code == 1 && printed.contains(&warning) && printed.contains(&fatal), "{printed}");
    assert!(!world.unix().exists() && world.pidfile().is_none());
    drop(taken);
    world.start(&[]);
}

#[test]
fn a_second_process_is_refused_and_the_first_goes_on() {
    let world = World::new();
    let first = world.start(&[]);
    let (code, printed) = world.run(&[]);
    assert!(code == 1 && printed.contains("FATAL unix socket is in use, cannot continue"), "{printed}");
    world.configure("unix_socket_dir =");
    let (code, printed) = world.run(&[]);
    let text = format!("FATAL pidfile '{}' exists, another instance running?", world.path("pid").display());
    assert!(code == 1 && printed.contains(&text), "{printed}");
    assert!(world.unix().exists() && world.pidfile() == Some(first.pid()));
}

#[test]
fn what_a_killed_process_has_left_is_replaced() {
    let world = World::new();
    let killed = world.start(&[]);
    let old = killed.pid();
    drop(killed);
    assert!(world.unix().exists() && world.pidfile() == Some(old));
    let mut program = world.start(&[]);
    world.logged("stale pidfile, removing");
    assert_eq!(world.pidfile(), Some(program.pid()));
    program.signal(Signal::SIGINT);
    assert_eq!(program.exit().code(), Some(0));
    let names: Vec<_> = fs::read_dir(world.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().starts_with(".s.") || n == "pid"), "{names:?}");
}

#[test]
fn the_background_process_is_up_when_the_caller_goes_on() {
    let world = World::new();
    let (code, printed) = world.run(&["-d"]);
    let daemon = Daemon(world.pidfile().unwrap());
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("LOG process up"), "{printed}");
    assert!(world.unix().exists() && daemon.is_alive());
    // Neither the caller's terminal nor its pipes are held.
    for fd in ["0", "1", "2"] {
        let target = fs::read_link(format!("/proc/{}/fd/{fd}", daemon.0)).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon.0), Signal::SIGTERM).unwrap();
    until("it ends", || !daemon.is_alive());
    assert!(world.pidfile().is_none() && !world.unix().exists());
}

#[test]
fn a_background_process_that_fails_tells_its_caller() {
    let world = World::new();
    let _taken = UnixListener::bind(world.unix()).unwrap();
    let (code, printed) = world.run(&["-d"]);
    assert!(code == 1 && printed.contains("FATAL unix socket is in use, cannot continue"), "{printed}");
    world.configure("pidfile =");
    let (code, printed) = world.run(&["-d"]);
    assert!(code == 64 && printed.contains("FATAL daemon needs pidfile configured"), "{printed}");
}

#[test]
fn a_reload_logs_what_changes_and_a_bad_file_changes_nothing() {
    let world = World::new();
    let program = world.start(&[]);
    world.configure("default_pool_size = 7");
    program.signal(Signal::SIGHUP);
    world.logged("LOG got SIGHUP, re-reading config");
    world.logged("LOG default_pool_size changed from '20' to '7'");
    world.configure("default_pool_size = many");
    // The log is moved away at the same time, and has to be opened anew all the same.
    fs::rename(world.path("log"), world.path("log.1")).unwrap();
    program.signal(Signal::SIGHUP);
    until("a new log begins", || world.path("log").exists());
    let logs = || fs::read_to_string(world.path("log.1")).unwrap() + &world.log();
    until("the fault is logged", || {
        logs().contains("ERROR invalid value \"many\" for parameter default_pool_size")
            && logs().contains("WARNING config file loading failed")
    });
    world.configure("default_pool_size = 8");
    program.signal(Signal::SIGHUP);
    world.logged("LOG default_pool_size changed from '7' to '8'");
}
