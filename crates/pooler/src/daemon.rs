//! Going into the background. The program starts itself once more, in a session of its own, and waits until that process
//! is up: whoever started it learns whether it listens, and sees on the terminal why it doesn't.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::process::{Command, ExitCode, Stdio};

/// What the background process writes to its standard input, a pipe, when it is up.
const UP: u8 = b'+';

/// Starts the background process with the same arguments and waits until it's up or has ended.
///
/// # Errors
/// When it can't be started.
pub(crate) fn start() -> io::Result<ExitCode> {
    let (mut reports, report) = io::pipe()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg(OsStr::new("--background"));
    let mut child = command.stdin(Stdio::from(report)).stdout(Stdio::null()).spawn()?;
    // This process's end of the pipe has to close for the reading to end.
    drop(command);
    let mut said = Vec::new();
    if reports.read_to_end(&mut said).is_ok() && said == [UP] {
        return Ok(ExitCode::SUCCESS);
    }
    let code = child.wait()?.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code.max(1)))
}

/// Leaves the terminal's session. To be called by the background process, first thing.
pub(crate) fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Tells the process that waits that this one is up, and lets go of the terminal.
pub(crate) fn up() -> io::Result<()> {
    // It may have been ended meanwhile.
    let _ = rustix::io::write(rustix::stdio::stdin(), &[UP]);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
