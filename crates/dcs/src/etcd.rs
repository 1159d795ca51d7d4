//! etcd through its v3 API. Which member is asked and what is tried again is in [`members`], what etcd's errors mean in
//! [`fault`], renewals in [`keeper`], the watch in [`watch`].

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, PutOptions, ResponseHeader, Txn, TxnOp};

use crate::{Condition, Dcs, Entry, Error, LeaseId, Snapshot, Write, check_writes};
use fault::Fault;
use keeper::Keeper;
use members::{Effect, Link, Members};
use watch::Watch;

mod fault;
mod keeper;
mod members;
mod watch;

/// How long the member in use is trusted to be alive after an answer, before a transaction is sent to it unprobed.
const FRESH: Duration = Duration::from_secs(1);

/// How to reach etcd.
#[derive(Clone, Default)]
pub struct Options {
    /// Client addresses of its members, `http://host:port` or `https://host:port`. The first is asked first.
    pub endpoints: Vec<String>,
    /// User name, if authentication is enabled.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<String>,
    /// PEM of the authorities that etcd's certificates are checked against.
    pub ca: Option<Vec<u8>>,
    /// PEM of the client certificate.
    pub cert: Option<Vec<u8>>,
    /// PEM of its key.
    pub key: Option<Vec<u8>>,
    /// Limit of one operation, trying other members included.
    pub timeout: Duration,
    /// What the cluster's keys begin with, such as `/service/otus/`.
    pub prefix: String,
}

impl Options {
    /// Takes authorities, client certificate and key from PEM files; the certificate's file may hold the key too.
    ///
    /// # Errors
    /// The file that can't be read, and why.
    pub fn with_files(mut self, files: [&Option<PathBuf>; 3]) -> Result<Options, (PathBuf, std::io::Error)> {
        let read = |path: &Option<PathBuf>| {
            let text = path.as_ref().map(|p| std::fs::read(p).map_err(|e| (p.clone(), e)));
            text.transpose()
        };
        let [ca, cert, key] = files;
        self.ca = read(ca)?;
        self.cert = read(cert)?;
        self.key = read(key)?.or_else(|| self.cert.clone());
        Ok(self)
    }
}

impl std::fmt::Debug for Options {
    /// Without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user)
            .field("timeout", &self.timeout)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// A client of etcd for the keys of one cluster. A lost member is replaced by another one unnoticed.
pub struct Etcd {
    members: Members,
    prefix: String,
    keeper: Mutex<Option<Keeper>>,
    /// The kept watch, while no call of `changed` uses it.
    watch: tokio::sync::Mutex<Option<Watch>>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Connects. [`Error::Refused`] when addresses, certificates, user or password can't work; that etcd is down at the
    /// moment is only logged.
    pub async fn connect(options: Options) -> Result<Etcd, Error> {
        let prefix = format!("{}/", options.prefix.trim_end_matches('/'));
        let members = Members::new(&options).await?;
        let etcd = Etcd { members, prefix, keeper: Mutex::default(), watch: tokio::sync::Mutex::default() };
        match etcd.try_out().await {
            Ok(()) => Ok(etcd),
            Err(e @ (Error::Refused(_) | Error::Protocol(_))) => Err(e),
            Err(e) => {
                tracing::warn!("etcd does not answer yet: {e}");
                Ok(etcd)
            }
        }
    }

    /// Finds a live member for a first time.
    async fn try_out(&self) -> Result<(), Error> {
        self.members.try_out(|link| self.answers(link)).await
    }

    /// Makes sure that a live member is in use.
    async fn probe(&self) -> Result<(), Error> {
        self.members.run(Effect::None, |link| self.answers(link)).await
    }

    async fn answers(&self, link: Link) -> Result<(), Fault> {
        quorum_header(&link, &self.prefix).await.map(drop)
    }
}

/// The header of a linearizable read, which only a live quorum can answer.
async fn quorum_header(link: &Link, prefix: &str) -> Result<ResponseHeader, Fault> {
    let options = GetOptions::new().with_prefix().with_count_only();
    let mut answer = link.client.kv_client().get(prefix, Some(options)).await?;
    answer.take_header().ok_or_else(no_header)
}

fn no_header() -> Fault {
    Fault::Final(Error::Protocol("etcd's answer has no header".to_owned()))
}

fn snapshot(prefix: &str, mut answer: GetResponse) -> Result<Snapshot, Fault> {
    let header = answer.take_header().ok_or_else(no_header)?;
    let mut snapshot = Snapshot { dcs_id: header.cluster_id(), revision: header.revision(), ..Snapshot::default() };
    for kv in answer.take_kvs() {
        let key = std::str::from_utf8(kv.key()).ok().and_then(|k| k.strip_prefix(prefix));
        let Some(key) = key.map(str::to_owned) else { continue };
        let (created, modified, lease) = (kv.create_revision(), kv.mod_revision(), kv.lease());
        let (_, value) = kv.into_key_value();
        snapshot.entries.insert(key, Entry { value, created, modified, lease });
    }
    Ok(snapshot)
}

fn compare(prefix: &str, condition: &Condition) -> Vec<Compare> {
    let exists = |key: &str| Compare::version(format!("{prefix}{key}"), CompareOp::Greater, 0);
    match condition {
        Condition::Absent(key) => vec![Compare::create_revision(format!("{prefix}{key}"), CompareOp::Equal, 0)],
        Condition::ValueIs(key, value) => {
            vec![Compare::value(format!("{prefix}{key}"), CompareOp::Equal, value.clone())]
        }
        Condition::ModifiedAt(key, at) => {
            vec![exists(key), Compare::mod_revision(format!("{prefix}{key}"), CompareOp::Equal, *at)]
        }
        Condition::OnLease(key, lease) => {
            vec![exists(key), Compare::lease(format!("{prefix}{key}"), CompareOp::Equal, *lease)]
        }
        Condition::CreatedAt(key, at) => {
            vec![exists(key), Compare::create_revision(format!("{prefix}{key}"), CompareOp::Equal, *at)]
        }
    }
}

fn operation(prefix: &str, write: &Write) -> TxnOp {
    match write {
        Write::Put { key, value, lease } => {
            TxnOp::put(format!("{prefix}{key}"), value.clone(), Some(PutOptions::new().with_lease(*lease)))
        }
        Write::Delete(key) => TxnOp::delete(format!("{prefix}{key}"), None),
    }
}

#[async_trait::async_trait]
impl Dcs for Etcd {
    async fn read(&self) -> Result<Snapshot, Error> {
        let prefix = &self.prefix;
        let call = |link: Link| async move {
            let options = GetOptions::new().with_prefix();
            snapshot(prefix, link.client.kv_client().get(prefix.as_str(), Some(options)).await?)
        };
        self.members.run(Effect::None, call).await
    }

    /// The time to live is rounded up to whole seconds, and to what etcd allows at least (2 s by default). A grant
    /// whose answer is lost leaves a lease behind that ends by itself.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        let call = |link: Link| async move {
            let answer = link.client.lease_client().grant(seconds, None).await?;
            if answer.ttl() < seconds {
                let fault = format!("etcd granted a lease of {} s instead of {seconds} s", answer.ttl());
                return Err(Fault::Final(Error::Protocol(fault)));
            }
            Ok(answer.id())
        };
        self.members.run(Effect::None, call).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.members.run(Effect::None, |link| keeper::renew(link, lease, &self.prefix, &self.keeper)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let call = |link: Link| async move {
            match link.client.lease_client().revoke(lease).await.map_err(Fault::from) {
                Ok(_) | Err(Fault::Final(Error::LeaseGone)) => Ok(()),
                Err(e) => Err(e),
            }
        };
        self.members.run(Effect::Repeatable, call).await
    }

    /// A transaction is sent a second time only when the first one certainly was not carried out.
    async fn commit(&self, conditions: &[Condition], writes: &[Write]) -> Result<Option<i64>, Error> {
        check_writes(writes)?;
        if !self.members.answered_within(FRESH) {
            self.probe().await?;
        }
        let compares: Vec<Compare> = conditions.iter().flat_map(|c| compare(&self.prefix, c)).collect();
        let operations: Vec<TxnOp> = writes.iter().map(|w| operation(&self.prefix, w)).collect();
        let txn = Txn::new().when(compares).and_then(operations);
        let call = |link: Link| {
            let txn = txn.clone();
            async move {
                let answer = link.client.kv_client().txn(txn).await?;
                let header = answer.header().ok_or_else(no_header)?;
                Ok(answer.succeeded().then_some(header.revision()))
            }
        };
        self.members.run(Effect::Once, call).await
    }

    /// The watch stays open between calls, so that nothing is set up anew for each.
    async fn changed(&self, revision: i64) -> Result<(), Error> {
        // One call at a time uses the kept watch; others, which are rare, open their own.
        match self.watch.try_lock() {
            Ok(mut kept) => watch::follow(&self.members, &self.prefix, &mut kept, revision).await,
            Err(_) => watch::follow(&self.members, &self.prefix, &mut None, revision).await,
        }
    }
}
