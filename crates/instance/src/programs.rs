//! PostgreSQL's programs: where they are, as which user they run, and running them to their end. The postmaster itself is
//! started in `start`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{Gid, Uid};

use crate::error::Error;
use crate::options::Options;
use crate::version::Version;

/// The operating-system user that owns the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) name: Option<String>,
    pub(crate) home: Option<PathBuf>,
}

impl User {
    fn by_uid(uid: u32, gid: u32) -> User {
        let known = nix::unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten();
        match known {
            Some(u) => User { uid, gid: u.gid.as_raw(), name: Some(u.name), home: Some(u.dir) },
            None => User { uid, gid, name: None, home: None },
        }
    }

    /// Whom to run PostgreSQL as: `None` when this process isn't root and so has no choice.
    pub(crate) fn choose(options: &Options) -> Result<Option<User>, Error> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        if let Ok(meta) = std::fs::metadata(&options.data_dir)
            && meta.uid() != 0
        {
            return Ok(Some(User::by_uid(meta.uid(), meta.gid())));
        }
        let name = options.run_as.as_deref().unwrap_or("postgres");
        match nix::unistd::User::from_name(name) {
            Ok(Some(u)) if u.uid.is_root() => Err(Error::Setup(
                "PostgreSQL refuses to run as root: name another user to run it as, or chown the data directory to one"
                    .into(),
            )),
            Ok(Some(u)) => {
                Ok(Some(User { uid: u.uid.as_raw(), gid: u.gid.as_raw(), name: Some(u.name), home: Some(u.dir) }))
            }
            _ => Err(Error::Setup(format!(
                "PostgreSQL refuses to run as root and there is no user {name:?}: create it (`useradd --system {name}`), \
                 or chown the data directory to the user that shall run PostgreSQL"
            ))),
        }
    }

    /// Gives a file to this user.
    pub(crate) fn own(&self, file: &std::fs::File) -> std::io::Result<()> {
        nix::unistd::fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid))).map_err(Into::into)
    }

    /// Gives a path to this user.
    pub(crate) fn own_path(&self, path: &Path) -> std::io::Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
    }
}

/// Where the programs are and how they are run.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    dir: Option<PathBuf>,
    names: BTreeMap<String, String>,
    pub(crate) user: Option<User>,
    pub(crate) version: Version,
    /// This process has capabilities that its children would inherit.
    privileged: bool,
}

/// What the service manager tells the agent alone, and what would lead PostgreSQL's programs elsewhere.
const NOT_INHERITED: [&str; 14] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "PGDATA",
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGDATABASE",
    "PGOPTIONS",
    "PGSERVICE",
];

const NEEDED: [&str; 6] = ["postgres", "initdb", "pg_controldata", "pg_basebackup", "pg_rewind", "psql"];

impl Programs {
    /// Finds the programs and their version; a missing one is reported with what to do.
    pub(crate) fn find(options: &Options, user: Option<User>) -> Result<Programs, Error> {
        let dir = options.bin_dir.clone().or_else(find_dir);
        let names = options.bin_names.clone();
        let privileged = has_ambient_capabilities();
        let mut programs = Programs { dir, names, user, version: Version::OLDEST, privileged };
        let missing: Vec<String> = NEEDED
            .into_iter()
            .filter(|p| !programs.path(p).is_file())
            .map(|p| programs.path(p).display().to_string())
            .collect();
        if !missing.is_empty() {
            return Err(Error::Setup(format!(
                "PostgreSQL's programs are missing: {}; install PostgreSQL's server and client packages, or set \
                 postgresql.bin_dir to the directory that has them",
                missing.join(", ")
            )));
        }
        let mut command = programs.command("postgres");
        let output = command.arg("--version").output().map_err(|e| Error::io("run postgres --version", e))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = Version::parse(&text).ok_or_else(|| {
            Error::Setup(format!(
                "{} --version printed {:?} and {:?} instead of a version: check postgresql.bin_dir",
                programs.path("postgres").display(),
                text.trim(),
                String::from_utf8_lossy(&output.stderr).trim()
            ))
        })?;
        programs.version = version.check()?;
        Ok(programs)
    }

    /// Path of a program.
    pub(crate) fn path(&self, program: &str) -> PathBuf {
        let name = self.names.get(program).map_or(program, String::as_str);
        match &self.dir {
            Some(dir) => dir.join(name),
            None => PathBuf::from(name),
        }
    }

    /// A command that runs a program as the right user, in `/`, with messages in English. `exec` all the way: the pid
    /// is the program's own.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.command_after(&[], program)
    }

    /// The same in a session of its own, so that no terminal's signal and no fencing by session reaches others.
    pub(crate) fn command_in_session(&self, program: &str) -> Command {
        self.command_after(&["setsid"], program)
    }

    fn command_after(&self, before: &[&str], program: &str) -> Command {
        let mut words: Vec<std::ffi::OsString> = before.iter().map(Into::into).collect();
        if let Some(user) = &self.user {
            let who = user.name.clone().unwrap_or(user.uid.to_string());
            let groups = if user.name.is_some() { "--init-groups" } else { "--clear-groups" };
            let set = [format!("--reuid={who}"), format!("--regid={}", user.gid), groups.into(), "--".into()];
            words.push("setpriv".into());
            words.extend(set.into_iter().map(Into::into));
        } else if self.privileged {
            // They are for the guard. A change of user takes them away by itself.
            words.extend(["setpriv", "--ambient-caps=-all", "--inh-caps=-all", "--"].map(Into::into));
        }
        words.push(self.path(program).into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir("/").stdin(Stdio::null()).env("LC_MESSAGES", "C");
        if let Some(home) = self.user.as_ref().and_then(|u| u.home.as_ref()) {
            command.env("HOME", home);
        }
        for inherited in NOT_INHERITED {
            command.env_remove(inherited);
        }
        command
    }

    /// Runs pg_controldata, blocking.
    pub(crate) fn control_data(&self, data_dir: &Path) -> Result<String, Error> {
        let mut command = self.command("pg_controldata");
        let output = command
            .env("LC_ALL", "C")
            .arg("-D")
            .arg(data_dir)
            .output()
            .map_err(|e| Error::io("run pg_controldata", e))?;
        if !output.status.success() {
            return Err(Error::Program {
                program: "pg_controldata".into(),
                message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What a program printed, and whether it succeeded.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) success: bool,
    /// How it ended: `exit status: 1`, `signal: 9 (SIGKILL)`.
    pub(crate) status: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Whether a signal ended it.
    pub(crate) fn is_killed(&self) -> bool {
        self.status.starts_with("signal")
    }
}

/// Runs a command to its end, at most for `limit`. Dropping the future ends the program and its children.
pub(crate) async fn run(name: &str, command: Command, limit: Duration) -> Result<Finished, Error> {
    let mut command = tokio::process::Command::from(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
    let child = command.spawn().map_err(|e| Error::io(format!("run {name}"), e))?;
    let _group = Group(child.id());
    match tokio::time::timeout(limit, child.wait_with_output()).await {
        Ok(Ok(output)) => Ok(Finished {
            status: output.status.to_string(),
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
        Ok(Err(e)) => Err(Error::io(format!("wait for {name}"), e)),
        Err(_) => Err(Error::TimedOut { what: name.to_owned(), limit }),
    }
}

/// Kills a process group when dropped, so that no helper of an abandoned program is left. After the program has ended
/// this reaches only children that it left behind: they keep the group's id from being given to others.
pub(crate) struct Group(pub(crate) Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|p| i32::try_from(p).ok()).and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Whether programs that this process starts get capabilities of it (capabilities(7), "Thread capability sets").
fn has_ambient_capabilities() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|l| l.strip_prefix("CapAmb:")).unwrap_or_default();
    set.trim().chars().any(|digit| digit != '0')
}

/// The directory with all of PostgreSQL's programs: on PATH, else the newest where distributions put it.
fn find_dir() -> Option<PathBuf> {
    // A directory may have some of them only, as links.
    let complete = |dir: &PathBuf| NEEDED.iter().all(|p| dir.join(p).is_file());
    let on_path = std::env::var_os("PATH").and_then(|path| std::env::split_paths(&path).find(complete));
    if on_path.is_some() {
        return on_path;
    }
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    let debian = list("/usr/lib/postgresql").into_iter().map(|p| (p.clone(), p));
    let redhat = list("/usr").into_iter().filter_map(|p| {
        let version = p.file_name()?.to_str()?.strip_prefix("pgsql-")?.to_owned();
        Some((PathBuf::from(version), p))
    });
    for (named, dir) in debian.chain(redhat) {
        let major = named.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u32>().ok());
        let bin = dir.join("bin");
        if let Some(major) = major
            && complete(&bin)
        {
            found.push((major, bin));
        }
    }
    found.into_iter().max().map(|(_, dir)| dir)
}

fn list(dir: &str) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(privileged: bool, user: Option<User>) -> Vec<String> {
        let programs =
            Programs { dir: Some("/bin".into()), names: BTreeMap::new(), user, version: Version::OLDEST, privileged };
        let command = programs.command_in_session("postgres");
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert!(removed.contains(&std::ffi::OsStr::new("NOTIFY_SOCKET")), "PostgreSQL would talk to systemd");
        [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|a| a.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn nothing_of_the_agents_privileges_reaches_postgresql() {
        assert_eq!(arguments(false, None), ["setsid", "/bin/postgres"]);
        assert_eq!(
            arguments(true, None),
            ["setsid", "setpriv", "--ambient-caps=-all", "--inh-caps=-all", "--", "/bin/postgres"]
        );
    }
}
