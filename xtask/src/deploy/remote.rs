//! Running commands on a host: the system's ssh, and sudo where the user isn't root.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use super::inventory::{Host, Inventory};

/// How long a host may take to answer, in seconds.
const CONNECT_TIMEOUT: u64 = 10;
/// What ends the lines that sudo may or may not have read from standard input.
const MARK: &str = "--- pgherd deploy ---";
/// How long a command on a host may take unless another limit is given.
const LIMIT: Duration = Duration::from_secs(300);
/// The exit code of timeout(1) when it has ended a command.
const TIMED_OUT: i32 = 124;
/// ssh's exit code when ssh itself failed.
const SSH_FAILED: i32 = 255;

/// What the names of directories with sockets begin with; a run's process id follows.
const SOCKETS: &str = "pgherd-ssh-";

/// How all hosts are reached.
#[derive(Debug)]
pub(crate) struct Ssh {
    user: Option<String>,
    config: Option<PathBuf>,
    password: Option<String>,
    /// Where the sockets of shared connections are.
    sockets: TempDir,
}

impl Ssh {
    /// From the inventory.
    pub(crate) fn new(inventory: &Inventory) -> Result<Ssh> {
        let ssh = &inventory.ssh;
        let password = ssh.sudo_password.as_ref().map(|p| p.resolve("ssh.sudo_password")).transpose()?;
        clear_up();
        let prefix = format!("{SOCKETS}{}-", std::process::id());
        let sockets = tempfile::Builder::new().prefix(&prefix).tempdir().context("make a directory")?;
        Ok(Ssh { user: ssh.user.clone(), config: ssh.config.clone(), password, sockets })
    }

    fn command(&self, host: &Host) -> Command {
        let mut ssh = Command::new("ssh");
        if let Some(config) = &self.config {
            ssh.arg("-F").arg(config);
        }
        if let Some(user) = &self.user {
            ssh.args(["-l", user]);
        }
        ssh.args(["-T", "-o", "BatchMode=yes", "-o", &format!("ConnectTimeout={CONNECT_TIMEOUT}")]);
        // One login a host serves every command of a run.
        let socket = self.sockets.path().join("%C");
        ssh.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]);
        ssh.arg("-o").arg(format!("ControlPath={}", socket.display()));
        ssh.args(["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]);
        let destination = host
            .ssh
            .clone()
            .unwrap_or_else(|| if self.config.is_some() { host.name.clone() } else { host.address.to_string() });
        ssh.arg("--").arg(destination);
        ssh
    }

    /// Runs a script as root on a host, with `input` on its standard input, and returns what it printed.
    pub(crate) fn run(&self, host: &Host, script: &str, input: &[u8]) -> Result<String> {
        self.run_for(host, script, input, LIMIT)
    }

    /// The same with another limit to the time that it takes.
    pub(crate) fn run_for(&self, host: &Host, script: &str, input: &[u8], limit: Duration) -> Result<String> {
        let mut child = self.spawn(host, script, Some(limit))?;
        let mut stdin = child.stdin.take().context("write to ssh")?;
        let fed = [self.preface().as_bytes(), input].concat();
        // A command that failed doesn't read on; what it says counts then.
        let writer = std::thread::spawn(move || stdin.write_all(&fed));
        let output = child.wait_with_output().context("wait for ssh")?;
        let written = writer.join().map_err(|_| anyhow!("write to ssh"))?;
        let text = understood(&output, limit)?;
        written.context("write to ssh")?;
        Ok(text)
    }

    /// Starts a script as root on a host. Its standard input is to begin with [`Ssh::preface`].
    pub(crate) fn spawn(&self, host: &Host, script: &str, limit: Option<Duration>) -> Result<Child> {
        let script = format!("while IFS= read -r line; do [ \"$line\" = '{MARK}' ] && break; done\n{script}");
        let limit = limit.map(|l| format!("timeout -k 10 {} ", l.as_secs())).unwrap_or_default();
        let shell = format!("{limit}sh -c {}", quoted(&script));
        // With -k a password is asked for each time that one is needed at all: nothing depends on what sudo remembers.
        let sudo = if self.password.is_some() { "sudo -k -S -p ''" } else { "sudo -n" };
        let line = format!("if [ \"$(id -u)\" = 0 ]; then exec {shell}; else exec {sudo} -- {shell}; fi");
        let mut ssh = self.command(host);
        ssh.arg(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ssh.spawn().context("run ssh: is it installed?")
    }

    /// What a script gets to read first: sudo's password, if sudo asks, and what ends it.
    pub(crate) fn preface(&self) -> String {
        let password = self.password.as_ref().map(|p| format!("{p}\n")).unwrap_or_default();
        format!("{password}{MARK}\n")
    }

    /// The same until it succeeds, for as long as `patience`.
    pub(crate) fn wait(&self, host: &Host, script: &str, patience: Duration) -> Result<String> {
        let begun = std::time::Instant::now();
        loop {
            match self.run(host, script, b"") {
                Ok(text) => return Ok(text),
                Err(e) if begun.elapsed() >= patience => {
                    return Err(e.context(format!("not after {} s", patience.as_secs())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(500)),
            }
        }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        // Shared connections end with the run.
        let Ok(entries) = std::fs::read_dir(self.sockets.path()) else { return };
        for socket in entries.flatten() {
            let control = format!("ControlPath={}", socket.path().display());
            let mut ssh = Command::new("ssh");
            ssh.args(["-O", "exit", "-o", &control, "none"]).stdin(Stdio::null());
            let _ = ssh.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Removes what runs have left behind that were killed.
fn clear_up() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let of = name.to_str().and_then(|n| n.strip_prefix(SOCKETS)).and_then(|n| n.split_once('-'));
        if of.is_some_and(|(run, _)| !std::path::Path::new("/proc").join(run).exists()) {
            // Another user's stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// What a finished command means.
pub(crate) fn understood(output: &Output, limit: Duration) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or("the connection broke").to_owned();
    if output.status.code() == Some(TIMED_OUT) {
        bail!("not done after {} s: does a disk or a mount of the host hang?", limit.as_secs());
    }
    if output.status.code() == Some(SSH_FAILED) {
        bail!("the host can't be reached: {last}");
    }
    for (sign, meaning) in [
        ("incorrect password", "sudo refuses the password of ssh.sudo_password"),
        ("a password is required", "sudo asks for a password: name it by ssh.sudo_password"),
        ("is not in the sudoers", "the user may not use sudo"),
        ("may not run sudo", "the user may not use sudo"),
        ("sudo: not found", "the user isn't root, and sudo isn't installed"),
    ] {
        if said.contains(sign) {
            bail!("{meaning} ({last})");
        }
    }
    let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
    if lines.is_empty() {
        bail!("a command on the host ended with {} and said nothing", output.status);
    }
    bail!("{}", lines[lines.len().saturating_sub(8)..].join("\n"))
}

/// A word that a shell takes as it is.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn told(code: i32, said: &str) -> String {
        let output = Output { status: ExitStatus::from_raw(code << 8), stdout: Vec::new(), stderr: said.into() };
        understood(&output, LIMIT).unwrap_err().to_string()
    }

    #[test]
    fn a_shell_gets_back_what_was_quoted() {
        let text = "it's $HOME \"x\"\n`id`";
        let output = Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(text))).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
    }

    #[test]
    fn failures_of_ssh_and_sudo_are_told_apart_from_those_of_commands() {
        let unreachable = "ssh: connect to host 10.0.0.9 port 22: Connection timed out\n";
        assert!(told(255, unreachable).contains("can't be reached: ssh: connect to host 10.0.0.9"));
        assert!(told(1, "sudo: 3 incorrect password attempts\n").contains("refuses the password"));
        assert!(told(1, "sudo: a password is required\n").contains("name it by ssh.sudo_password"));
        assert!(told(1, "").contains("exit status: 1 and said nothing"));
        assert!(told(255, "").contains("the connection broke") && told(124, "").contains("not done after 300 s"));
        assert_eq!(told(1, "cat: write error: No space left on device\n"), "cat: write error: No space left on device");
    }
}
