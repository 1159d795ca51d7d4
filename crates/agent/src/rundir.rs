//! The agent's own directory: where the guard's socket is, and what must survive the agent but not the machine.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The guard's socket.
pub(crate) const SOCKET: &str = "guard.sock";
/// How long a guard that was told to leave may take.
const PATIENCE: Duration = Duration::from_millis(300);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A directory for the guard's socket and the like: the same at every start with the same data directory, whatever the
/// version, so that an agent finds the guard of the one before it. systemd's RuntimeDirectory= where there is one.
pub(crate) fn make(data_dir: &Path) -> Result<PathBuf> {
    let uid = rustix::process::geteuid();
    let base = match std::env::var_os("RUNTIME_DIRECTORY") {
        Some(dir) => PathBuf::from(dir),
        None if uid.is_root() => PathBuf::from("/run/pgherd"),
        None => PathBuf::from(format!("/tmp/pgherd-{}", uid.as_raw())),
    };
    let dir = base.join(format!("{:016x}", fnv1a(data_dir.as_os_str().as_bytes())));
    for d in [&base, &dir] {
        make_private(d).with_context(|| format!("make the directory {}", d.display()))?;
    }
    Ok(dir)
}

/// The 64-bit FNV-1a hash: a short name for a long path. Socket paths may not be longer than 107 bytes.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Makes a directory that only its owner can enter, and refuses one that someone else has put there.
fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e.into()),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(dir)?;
    let mine = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0;
    anyhow::ensure!(mine, "it belongs to someone else or is writable for others: remove it");
    Ok(())
}

/// Removes the directory, unless a guard is still there or something else is kept in it. Nobody but the agent, which is
/// alone on its data directory, makes anything in it.
pub(crate) async fn clear(dir: &Path) {
    let lock = dir.join(format!("{SOCKET}.lock"));
    let begun = tokio::time::Instant::now();
    loop {
        match File::open(&lock).map(|file| file.try_lock().is_ok()) {
            // Held: that guard is still leaving.
            Ok(false) if begun.elapsed() < PATIENCE => tokio::time::sleep(LOOK_EVERY).await,
            Ok(false) => return,
            Ok(true) => {
                let _ = std::fs::remove_file(&lock);
                break;
            }
            Err(_) => break,
        }
    }
    // One that isn't empty stays.
    let _ = std::fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_directory_goes_with_its_last_guard() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("run");
        std::fs::create_dir(&dir).unwrap();
        let lock = File::create(dir.join("guard.sock.lock")).unwrap();
        lock.try_lock().unwrap();
        clear(&dir).await;
        assert!(dir.join("guard.sock.lock").exists(), "a guard is there");
        drop(lock);
        std::fs::write(dir.join("paused"), "").unwrap();
        clear(&dir).await;
        assert!(dir.join("paused").exists());
        std::fs::remove_file(dir.join("paused")).unwrap();
        clear(&dir).await;
        assert!(!dir.exists());
    }
}
