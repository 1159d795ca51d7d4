//! A small disk for one directory, which can be filled without harm to the machine's own.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

/// A file system of a fixed size, seen only by the thread that made it and by what that thread starts. It is gone when
/// this is dropped by that thread, or when the last of these has ended.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// Puts one of so many megabytes over a directory, which keeps its owner and mode. `None` where this process may not
    /// mount anything: not root, or a container without that right.
    pub fn mount(directory: &Path, megabytes: u32) -> Result<Option<Disk>> {
        use std::os::unix::fs::MetadataExt;
        match unshare(CloneFlags::CLONE_NEWNS) {
            Ok(()) => {}
            Err(Errno::EPERM) => return Ok(None),
            Err(e) => return Err(e).context("make a mount namespace"),
        }
        let owner = fs::metadata(directory).context("look at the directory")?;
        let options =
            format!("size={megabytes}m,uid={},gid={},mode={:o}", owner.uid(), owner.gid(), owner.mode() & 0o777);
        let directory = directory.to_owned();
        // Nothing of it may reach the machine's own namespace.
        for arguments in [
            vec!["--make-rprivate", "/"],
            vec!["-t", "tmpfs", "-o", &options, "tmpfs", directory.to_str().context("a path is not UTF-8")?],
        ] {
            let output = Command::new("mount").args(&arguments).output().context("run mount")?;
            let message = String::from_utf8_lossy(&output.stderr);
            if message.contains("permission denied") {
                return Ok(None);
            }
            if !output.status.success() {
                bail!("mount {}: {message}", arguments.join(" "));
            }
        }
        Ok(Some(Disk { directory }))
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }

    /// Fills it to the last byte, as another program's files would.
    pub fn fill(&self) -> Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast()).context("open the ballast")?;
        for size in [1 << 20, 1 << 12] {
            let block = vec![b'x'; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(e) => return Err(e).context("write the ballast"),
                }
            }
        }
        Ok(())
    }

    /// Frees what filled it.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("remove the ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // One that can't be unmounted goes with the namespace.
        let _ = Command::new("umount").arg("--lazy").arg(&self.directory).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_filled_and_freed_and_nobody_else_sees_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let thread = std::thread::spawn(move || {
            let Some(disk) = Disk::mount(&path, 4).unwrap() else {
                println!("skipped: mounts are not permitted here");
                return;
            };
            disk.fill().unwrap();
            let full = fs::write(path.join("more"), [b'x'; 8192]).unwrap_err();
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
            disk.free().unwrap();
            fs::write(path.join("more"), [b'x'; 8192]).unwrap();
            drop(disk);
            assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        });
        thread.join().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
