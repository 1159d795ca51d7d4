//! One suite for every store, and what only one of them can show: etcd's lost members, users and certificates; the
//! embedded store's other processes.

#![allow(clippy::unwrap_used, reason = "clippy's exception covers test functions only, not what they call")]

use std::sync::Arc;
use std::time::Duration;

use dcs::etcd::Options;
use dcs::{Dcs, Embedded, Etcd, Memory};

mod embedded;
mod etcd;
mod server;
mod suite;

/// A store under test, and clients of it.
#[async_trait::async_trait]
trait Store: Send + Sync {
    /// A client for the keys under a prefix.
    async fn client(&self, prefix: &str) -> Arc<dyn Dcs>;

    /// The shortest lease.
    fn ttl(&self) -> Duration;
}

struct InMemory(Memory);

#[async_trait::async_trait]
impl Store for InMemory {
    async fn client(&self, prefix: &str) -> Arc<dyn Dcs> {
        Arc::new(self.0.scoped(prefix))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }
}

struct InFile(tempfile::TempDir);

#[async_trait::async_trait]
impl Store for InFile {
    async fn client(&self, prefix: &str) -> Arc<dyn Dcs> {
        Arc::new(Embedded::open(&self.0.path().join("dcs"), prefix).unwrap())
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// One handle per prefix, shared by all its clients.
struct InFileShared(InFile, std::sync::Mutex<std::collections::BTreeMap<String, Embedded>>);

#[async_trait::async_trait]
impl Store for InFileShared {
    async fn client(&self, prefix: &str) -> Arc<dyn Dcs> {
        let open = || Embedded::open(&self.0.0.path().join("dcs"), prefix).unwrap();
        Arc::new(self.1.lock().unwrap().entry(prefix.to_owned()).or_insert_with(open).clone())
    }

    fn ttl(&self) -> Duration {
        self.0.ttl()
    }
}

struct InEtcd(server::Server);

#[async_trait::async_trait]
impl Store for InEtcd {
    async fn client(&self, prefix: &str) -> Arc<dyn Dcs> {
        Arc::new(Etcd::connect(options(&[self.0.client.as_str()], prefix)).await.unwrap())
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }
}

fn options(endpoints: &[&str], prefix: &str) -> Options {
    let endpoints = endpoints.iter().map(|e| (*e).to_owned()).collect();
    Options { endpoints, timeout: Duration::from_secs(10), prefix: prefix.to_owned(), ..Options::default() }
}

fn in_memory() -> InMemory {
    InMemory(Memory::new(7))
}

fn in_file() -> InFile {
    InFile(tempfile::tempdir().unwrap())
}

fn in_file_shared() -> InFileShared {
    InFileShared(in_file(), std::sync::Mutex::default())
}

fn in_etcd() -> InEtcd {
    InEtcd(server::Server::single())
}

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() { crate::suite::$case(&crate::in_memory()).await })*
        }
        mod embedded_handles {
            $(#[tokio::test] async fn $case() { crate::suite::$case(&crate::in_file()).await })*
        }
        mod embedded_shared {
            $(#[tokio::test] async fn $case() { crate::suite::$case(&crate::in_file_shared()).await })*
        }
        mod real_etcd {
            $(#[tokio::test] async fn $case() { crate::suite::$case(&crate::in_etcd()).await })*
        }
    };
}

conformance!(
    a_commit_is_read_by_every_client,
    conditions_decide,
    a_keys_lease_is_a_condition,
    a_transaction_is_all_or_nothing,
    no_key_is_written_twice,
    an_ended_lease_deletes_its_keys_and_wakes_watchers,
    keep_alive_extends,
    a_gone_lease_is_told,
    revoke_deletes_keys,
    revisions_grow_and_creation_is_told,
    watch_returns_at_once_for_the_past,
    watch_waits_for_changes_of_its_prefix,
    watch_survives_being_dropped,
    several_watches_of_one_client_wake,
    no_change_is_missed,
    one_of_many_wins,
    prefixes_are_apart,
);
