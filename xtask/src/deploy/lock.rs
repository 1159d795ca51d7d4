//! Keeping two runs apart: each holds a lock on every host while it works. The lock belongs to a process on the host that
//! ends with the run's connection, so that none is left behind, whatever becomes of the run.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apply::At;
use super::remote::{quoted, understood};

/// Gone at the next boot; nothing else is changed on a host that is only looked at.
const FILE: &str = "/run/pgherd-deploy.lock";

/// A host's lock, until it's dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    child: Child,
}

/// Who has a host's lock now.
#[derive(Debug)]
pub(crate) enum Taken {
    /// This run.
    Ours(Lock),
    /// Another, which has said who it is.
    Theirs(String),
}

/// Takes a host's lock, or says who has it.
pub(crate) fn take(at: &At<'_>) -> Result<Taken> {
    let mut child = at.ssh.spawn(at.host, &script(FILE, &whose()), None)?;
    // sudo asks three times, and what follows a password that is wrong are its other tries.
    let preface = format!("{}\n", at.ssh.preface());
    let said = child.stdin.as_mut().map(|stdin| stdin.write_all(preface.as_bytes()));
    let mut first = String::new();
    let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut first));
    match first.trim().split_once(' ') {
        Some(("locked", _)) => Ok(Taken::Ours(Lock { child })),
        Some(("held", by)) => Ok(Taken::Theirs(by.to_owned())),
        _ => {
            let output = child.wait_with_output().context("wait for ssh")?;
            understood(&output, Duration::ZERO)?;
            said.context("write to ssh")?.context("write to ssh")?;
            read.context("read from ssh")?.context("read from ssh")?;
            bail!("the host answered {first:?}")
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// All locks of a run, by host.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<BTreeMap<String, Lock>>);

impl Locks {
    /// Keeps one until the end.
    pub(crate) fn keep(&self, host: &str, lock: Lock) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), lock);
    }

    /// An error if one is lost: another run may be at work then.
    pub(crate) fn held(&self) -> Result<()> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (host, lock) in locks.iter_mut() {
            if lock.child.try_wait().context("look after a lock")?.is_some() {
                bail!("the lock on {host} is lost with its connection, and another deployment could begin");
            }
        }
        Ok(())
    }
}

fn script(file: &str, whose: &str) -> String {
    let (file, whose) = (quoted(file), quoted(whose));
    format!(
        "exec 9>>{file} || exit 1\n\
         if ! flock -n 9; then echo \"held by $(cat {file})\"; exit; fi\n\
         echo {whose}\" since $(date '+%F %T')\" >{file}\n\
         echo 'locked by us'\n\
         cat >/dev/null\n"
    )
}

/// Who runs this, for the other one to read.
fn whose() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let user = user.map_or_else(|| "somebody".to_owned(), |user| user.name);
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{user}@{}, process {}", host.display(), std::process::id())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn first_line(child: &mut Child) -> String {
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn the_second_is_told_of_the_first_until_the_firsts_connection_ends() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lock");
        let start = |whose: &str| {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(script(&file.display().to_string(), whose));
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut first = start("it's me");
        assert_eq!(first_line(&mut first), "locked by us\n");
        let mut second = start("you");
        let told = first_line(&mut second);
        assert!(told.starts_with("held by it's me since 20"), "{told}");
        drop((first.stdin.take(), second.stdin.take()));
        first.wait().unwrap();
        second.wait().unwrap();
        let mut third = start("you");
        assert_eq!(first_line(&mut third), "locked by us\n");
        drop(Lock { child: third });
    }

    #[test]
    fn a_lock_that_ends_before_the_run_is_noticed() {
        let start = || Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let locks = Locks::default();
        locks.keep("pg1", Lock { child: start() });
        let mut lost = start();
        lost.kill().unwrap();
        lost.wait().unwrap();
        locks.held().unwrap();
        locks.keep("pg2", Lock { child: lost });
        let told = locks.held().unwrap_err().to_string();
        assert!(told.contains("pg2"), "{told}");
    }
}
