//! systemd's protocols: telling how the service is, and sockets that it opened.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::world::{Program, World};

fn manager(world: &World) -> UnixDatagram {
    let path = world.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let n = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..n].to_vec()).unwrap()
}

#[test]
fn the_manager_is_told_of_start_reload_and_end() {
    let world = World::new();
    let socket = manager(&world);
    let mut program = Program::of(world.command(&[]).env("NOTIFY_SOCKET", world.path("notify")));
    assert_eq!(told(&socket), "READY=1\nSTATUS=serving");
    program.signal(Signal::SIGHUP);
    assert!(told(&socket).starts_with("RELOADING=1\n"));
    assert_eq!(told(&socket), "READY=1\nSTATUS=serving");
    program.signal(Signal::SIGTERM);
    assert_eq!(told(&socket), "STOPPING=1\nSTATUS=shutting down");
    assert_eq!(program.exit().code(), Some(0));
}

#[test]
fn the_watchdog_is_fed_while_the_threads_answer() {
    let world = World::new();
    let socket = manager(&world);
    let mut command = world.command(&[]);
    let _program = Program::of(command.env("NOTIFY_SOCKET", world.path("notify")).env("WATCHDOG_USEC", "100000"));
    let mut fed = 0;
    while fed < 3 {
        fed += usize::from(told(&socket) == "WATCHDOG=1");
    }
}

#[test]
fn the_manager_learns_which_process_takes_over() {
    let world = World::new();
    let socket = manager(&world);
    let mut old = Program::of(world.command(&[]).env("NOTIFY_SOCKET", world.path("notify")));
    assert!(told(&socket).starts_with("READY=1"));
    let new = world.start(&["-R"]);
    assert_eq!(told(&socket), format!("MAINPID={}", new.pid()));
    assert_eq!(old.exit().code(), Some(0));
    // The new one speaks for the service now; this one had no more to say.
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err());
}

#[test]
fn sockets_that_the_manager_opened_are_used_in_the_place_of_the_configured_ones() {
    let world = World::new();
    let given = TcpListener::bind((world.host.as_str(), 0)).unwrap();
    let address = given.local_addr().unwrap();
    let user = if geteuid().is_root() { "-u nobody" } else { "" };
    let program = env!("CARGO_BIN_EXE_pgherd-pooler");
    let ini = world.ini();
    let script = format!("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec {program} {user} {}", ini.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::from(OwnedFd::from(given)));
    world.to_file(&mut command);
    let _program = Program::of(&mut command).up(&world);
    let log = world.log();
    for text in [
        "WARNING sockets passed from service manager, listen_addr ignored",
        "WARNING sockets passed from service manager, unix_socket_dir ignored",
        &format!("LOG listening on {address}"),
    ] {
        assert!(log.contains(text), "{text}: {log}");
    }
    TcpStream::connect(address).unwrap();
    assert!(TcpStream::connect((world.host.as_str(), world.port)).is_err() && !world.unix().exists());
}
