//! A store in one SQLite file, shared by all processes of one machine. The SQL is in [`store`], the wait for other
//! processes' changes in [`signal`].
//!
//! Leases end by CLOCK_BOOTTIME and with the boot they were granted in. There is no server: whoever reads or writes
//! first after a lease has ended deletes its keys, and whoever waits for changes wakes up to do so. A process that is
//! stopped while it holds SQLite's write lock holds up all writers; their calls then fail as
//! [`Error::Unavailable`], so that deadlines still hold.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{Condition, Dcs, Error, LeaseId, Snapshot, Write, check_writes};
use signal::Signal;
use store::Store;

mod signal;
mod store;

/// How long an operation waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// A client of the store in a file, for the keys under one prefix.
#[derive(Debug, Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Readers don't wait for writers: each has a connection of its own.
    reader: Mutex<Store>,
    writer: Mutex<Store>,
    path: PathBuf,
    prefix: String,
    /// The kept inotify descriptor, while no call of `changed` uses it.
    signal: tokio::sync::Mutex<Option<Signal>>,
}

impl Embedded {
    /// Opens the store, or creates it with mode 0600, for the keys under `prefix` (such as `/service/otus/`). Blocks
    /// for a short time.
    pub fn open(path: &Path, prefix: &str) -> Result<Embedded, Error> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|e| Error::Refused(format!("can't read /proc/sys/kernel/random/boot_id: {e}")))?;
        Embedded::open_as_booted(path, prefix, boot.trim())
    }

    /// The same as if the machine's boot id were this one.
    pub fn open_as_booted(path: &Path, prefix: &str, boot: &str) -> Result<Embedded, Error> {
        let reader = Mutex::new(Store::open(path, boot)?);
        let writer = Mutex::new(Store::open(path, boot)?);
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        let inner = Inner { reader, writer, path: path.to_owned(), prefix, signal: tokio::sync::Mutex::default() };
        Ok(Embedded { inner: Arc::new(inner) })
    }

    /// Runs blocking work away from the asynchronous threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.map_err(|e| Error::Unknown(format!("the store's thread ended: {e}")))?
    }

    /// Writes, and tells the other processes when keys have changed.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store, &str) -> Result<(T, bool), Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.blocking(move |inner| inner.write(work)).await
    }
}

impl Inner {
    fn write<T>(&self, work: impl FnOnce(&mut Store, &str) -> Result<(T, bool), Error>) -> Result<T, Error> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, changed) = work(&mut writer, &self.prefix)?;
        if changed {
            signal::announce(&self.path);
        }
        Ok(answer)
    }

    /// Ends leases whose time has come, if there are any.
    fn expire(&self) -> Result<(), Error> {
        self.write(|store, _| store.expire().map(|changed| ((), changed)))
    }

    fn read<T>(&self, work: impl Fn(&mut Store, &str) -> Result<store::Reading<T>, Error>) -> Result<T, Error> {
        let reading = || work(&mut self.reader.lock().unwrap_or_else(PoisonError::into_inner), &self.prefix);
        loop {
            match reading()? {
                store::Reading::Now(answer) => return Ok(answer),
                store::Reading::LeaseDue => self.expire()?,
            }
        }
    }
}

#[async_trait::async_trait]
impl Dcs for Embedded {
    async fn read(&self) -> Result<Snapshot, Error> {
        self.blocking(|inner| inner.read(Store::snapshot)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.write(move |store, _| store.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        let alive = self.write(move |store, _| store.keep_alive(lease)).await?;
        if alive { Ok(()) } else { Err(Error::LeaseGone) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.write(move |store, _| store.revoke(lease).map(|changed| ((), changed))).await
    }

    async fn commit(&self, conditions: &[Condition], writes: &[Write]) -> Result<Option<i64>, Error> {
        check_writes(writes)?;
        let (conditions, writes) = (conditions.to_vec(), writes.to_vec());
        self.write(move |store, prefix| store.commit(prefix, &conditions, &writes)).await?
    }

    async fn changed(&self, revision: i64) -> Result<(), Error> {
        // One call at a time uses the kept descriptor; others, which are rare, open their own.
        match self.inner.signal.try_lock() {
            Ok(mut kept) => {
                if kept.is_none() {
                    *kept = Some(Signal::open(&self.inner.path)?);
                }
                match kept.as_mut() {
                    Some(signal) => self.wait(signal, revision).await,
                    None => Err(Error::Lost("no inotify descriptor".to_owned())),
                }
            }
            Err(_) => self.wait(&mut Signal::open(&self.inner.path)?, revision).await,
        }
    }
}

impl Embedded {
    async fn wait(&self, signal: &mut Signal, revision: i64) -> Result<(), Error> {
        loop {
            let (last, next_end) = self.blocking(|inner| inner.read(Store::last_change)).await?;
            if last > revision {
                return Ok(());
            }
            signal.wait(next_end).await?;
        }
    }
}
