//! Tells other processes that keys have changed: an inotify watch on a small file beside the store.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventStream, Inotify, WatchMask};
use tokio_stream::StreamExt;

use crate::Error;

/// How long a change stays unnoticed if its writer was killed between its commit and the signal, or the machine slept.
const FALLBACK: Duration = Duration::from_secs(1);

/// Waits for announcements.
pub(super) struct Signal {
    events: EventStream<[u8; 1024]>,
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signal")
    }
}

impl Signal {
    /// Announcements from now on are noticed.
    pub(super) fn open(store: &Path) -> Result<Signal, Error> {
        let fault = |e: std::io::Error| Error::Lost(format!("can't watch {} for changes: {e}", store.display()));
        let sidecar = sidecar(store);
        open(store, &sidecar).map_err(fault)?;
        let inotify = Inotify::init().map_err(fault)?;
        inotify.watches().add(&sidecar, WatchMask::MODIFY | WatchMask::DELETE_SELF).map_err(fault)?;
        Ok(Signal { events: inotify.into_event_stream([0; 1024]).map_err(fault)? })
    }

    /// Returns at the next announcement, when `at_most` has passed, or after a short while anyway.
    pub(super) async fn wait(&mut self, at_most: Option<Duration>) -> Result<(), Error> {
        let patience = at_most.map_or(FALLBACK, |d| d.min(FALLBACK));
        match tokio::time::timeout(patience, self.events.next()).await {
            Ok(Some(Err(e))) => Err(Error::Lost(format!("inotify failed: {e}"))),
            Ok(None) => Err(Error::Lost("inotify ended".to_owned())),
            Ok(Some(Ok(_))) | Err(_) => Ok(()),
        }
    }
}

/// Wakes everybody who waits. Waiters look by themselves too, so a failure only costs time.
pub(super) fn announce(store: &Path) {
    let touched = open(store, &sidecar(store)).and_then(|mut file| file.write_all(b"."));
    if let Err(e) = touched {
        tracing::warn!("can't announce a change beside {}: {e}", store.display());
    }
}

fn sidecar(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push("-changed");
    PathBuf::from(name)
}

/// Each announcement overwrites the one byte at the beginning. The file belongs to the store's owner, also where root
/// is the first to announce something.
fn open(store: &Path, sidecar: &Path) -> std::io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(sidecar)?;
    let (owner, mine) = (std::fs::metadata(store)?, file.metadata()?);
    if (owner.uid(), owner.gid()) != (mine.uid(), mine.gid()) {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(file)
}
