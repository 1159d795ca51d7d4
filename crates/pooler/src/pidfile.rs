//! The pid file: who holds it, writing it, leaving it to another process, removing it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// The file with this process's number; removed in the end.
#[derive(Debug)]
pub(crate) struct PidFile(Option<PathBuf>);

/// What an existing file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// There is no file.
    Nobody,
    /// The process that it names has ended.
    Dead,
    /// It names a process that lives, or none at all.
    Somebody,
}

/// Finds out who holds the file.
pub(crate) fn holder(path: &Path) -> io::Result<Holder> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Holder::Nobody),
        Err(e) => return Err(e),
    };
    let Some(pid) = text.trim().parse().ok().filter(|pid| *pid > 0) else { return Ok(Holder::Somebody) };
    let ended = kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH);
    // In a container every start has the same number.
    let own = u32::try_from(pid) == Ok(std::process::id());
    Ok(if ended || own { Holder::Dead } else { Holder::Somebody })
}

impl PidFile {
    /// Writes a file that mustn't exist.
    pub(crate) fn create(path: &Path) -> io::Result<PidFile> {
        PidFile::write(OpenOptions::new().write(true).create_new(true), path)
    }

    /// Writes over the file of the process that this one takes the place of.
    pub(crate) fn take(path: &Path) -> io::Result<PidFile> {
        PidFile::write(OpenOptions::new().write(true).create(true).truncate(true), path)
    }

    fn write(how: &OpenOptions, path: &Path) -> io::Result<PidFile> {
        how.open(path)?.write_all(own().as_bytes())?;
        Ok(PidFile(Some(path.to_owned())))
    }

    /// Leaves the file to another process.
    pub(crate) fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && fs::read_to_string(path).is_ok_and(|text| text == own())
        {
            // What can't be removed is found stale by the next start.
            let _ = fs::remove_file(path);
        }
    }
}

fn own() -> String {
    format!("{}\n", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_lives_as_long_as_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        assert_eq!(holder(&path).unwrap(), Holder::Nobody);
        let file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own());
        assert_eq!(PidFile::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_changed_hands_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        PidFile::create(&path).unwrap().leave();
        assert!(path.exists());
        let file = PidFile::take(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    #[test]
    fn living_and_unreadable_owners_are_respected_and_dead_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let held_by = |text: &str| {
            fs::write(&path, text).unwrap();
            holder(&path).unwrap()
        };
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(held_by(&format!("{}\n", child.id())), Holder::Somebody);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(held_by(&format!("{}\n", child.id())), Holder::Dead);
        assert_eq!(held_by(&own()), Holder::Dead);
        for text in ["", "garbage", "0", "-1"] {
            assert_eq!(held_by(text), Holder::Somebody, "{text:?}");
        }
    }
}
