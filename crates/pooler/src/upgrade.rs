//! Going over to another version of the program: once its file has been replaced, a reload starts the new one, which
//! takes this process's place as in an online restart. It's a child of this process, so that it belongs to the same
//! service.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use tokio::process::Command;

use crate::flags::Flags;

/// What the kernel appends to the name of a file that is gone (proc(5), `/proc/PID/exe`).
const DELETED: &[u8] = b" (deleted)";

/// The program that has taken the place of the one that runs, if another has.
pub(crate) fn program() -> Option<PathBuf> {
    let running = std::fs::read_link("/proc/self/exe").ok()?;
    let name = running.as_os_str().as_bytes().strip_suffix(DELETED)?;
    let program = PathBuf::from(std::ffi::OsStr::from_bytes(name));
    program.is_file().then_some(program)
}

/// How this process was started, but for what is over: the user that it has become, and the terminal that it has left.
pub(crate) fn arguments(flags: &Flags) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("-R")];
    if flags.quiet {
        arguments.push("-q".into());
    }
    arguments.extend((0..flags.verbose).map(|_| OsString::from("-v")));
    arguments.extend(flags.file.iter().map(|file| file.clone().into_os_string()));
    arguments
}

/// Runs the program to its end, which comes at once if it can't take over.
pub(crate) async fn run(program: &Path, arguments: &[OsString]) -> std::io::Result<ExitStatus> {
    let mut command = Command::new(program);
    // systemd's watchdog is fed by whoever is the main process.
    command.args(arguments).env_remove("WATCHDOG_PID").stdin(std::process::Stdio::null());
    command.status().await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_program_that_was_not_replaced_is_not_started_again() {
        assert_eq!(program(), None);
    }

    #[test]
    fn flags_that_are_over_are_left_out() {
        let flags = Flags::try_parse_from(["pgherd-pooler", "-dqR", "-vv", "-u", "postgres", "x.ini"]).unwrap();
        assert_eq!(arguments(&flags), ["-R", "-q", "-v", "-v", "x.ini"]);
    }
}
