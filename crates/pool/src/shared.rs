//! What all threads of a pooler share: configuration, mailboxes, the state of databases, users and pools, and the limits
//! that hold over all threads. Nothing here is locked on the way of a query.

pub(crate) mod limits;
pub(crate) mod pool;

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::books::Books;
use crate::config::{Config, Settings, SslMode};
use crate::plan::Plan;
use crate::route::Cluster;
use crate::secrets::Secrets;
use crate::takeover::Canceller;
use crate::tls;
use crate::vars::Tracked;
use crate::worker::Worker;
pub(crate) use limits::{Database, Slot, User};
pub(crate) use pool::Pool as SharedPool;

/// Something to run on a thread.
pub(crate) type Act = Box<dyn FnOnce(&Rc<Worker>) + Send>;

/// Something for another thread to do.
pub(crate) enum Message {
    /// Run this there.
    Call(Act),
    /// A connection was accepted for that thread.
    Client(crate::listen::Accepted),
    /// A free server connection for clients that wait there.
    Server(Arc<SharedPool>, Box<crate::server::Moved>),
}

/// Name of a pool: database and user.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// TLS on both sides.
pub(crate) struct Tls {
    /// With clients.
    pub(crate) accepts: tls::Server,
    /// With servers.
    pub(crate) connects: tls::Client,
}

impl Tls {
    fn load(settings: &Settings) -> Result<Tls, tls::Error> {
        let (clients, servers) = options(settings);
        Ok(Tls { accepts: tls::Server::load(&clients)?, connects: tls::Client::load(&servers)? })
    }

    /// Reads settings and files again. Whether connections to servers have to be made anew.
    pub(crate) fn reload(&self, settings: &Settings) -> Result<bool, tls::Error> {
        let (clients, servers) = options(settings);
        self.accepts.reload(&clients)?;
        self.connects.reload(&servers)
    }
}

/// The settings of TLS with clients, and with servers.
fn options(settings: &Settings) -> (tls::Options, tls::Options) {
    let clients = tls::Options {
        sslmode: mode(settings.client_tls_sslmode),
        key_file: settings.client_tls_key_file.clone(),
        cert_file: settings.client_tls_cert_file.clone(),
        ca_file: settings.client_tls_ca_file.clone(),
        protocols: settings.client_tls_protocols.clone(),
        ciphers: settings.client_tls_ciphers.clone(),
        tls13_ciphers: settings.client_tls13_ciphers.clone(),
        ecdhcurve: settings.client_tls_ecdhcurve.clone(),
        dheparams: settings.client_tls_dheparams.clone(),
    };
    let servers = tls::Options {
        sslmode: mode(settings.server_tls_sslmode),
        key_file: settings.server_tls_key_file.clone(),
        cert_file: settings.server_tls_cert_file.clone(),
        ca_file: settings.server_tls_ca_file.clone(),
        protocols: settings.server_tls_protocols.clone(),
        ciphers: settings.server_tls_ciphers.clone(),
        tls13_ciphers: settings.server_tls13_ciphers.clone(),
        ..tls::Options::default()
    };
    (clients, servers)
}

fn mode(mode: SslMode) -> tls::SslMode {
    match mode {
        SslMode::Disable => tls::SslMode::Disable,
        SslMode::Allow => tls::SslMode::Allow,
        SslMode::Prefer => tls::SslMode::Prefer,
        SslMode::Require => tls::SslMode::Require,
        SslMode::VerifyCa => tls::SslMode::VerifyCa,
        SslMode::VerifyFull => tls::SslMode::VerifyFull,
    }
}

/// The part of a pooler that all threads see.
pub(crate) struct Shared {
    config: watch::Sender<Arc<Config>>,
    /// Where requests to cancel go that nobody here has the key of: an old process after an online restart.
    pub(crate) old: OnceLock<Canceller>,
    /// Parameters that follow clients.
    pub(crate) tracked: Tracked,
    /// Start of the process; times in atomics are nanoseconds since then.
    pub(crate) started: Instant,
    /// Start of the process, for people.
    pub(crate) began: SystemTime,
    workers: OnceLock<Vec<mpsc::UnboundedSender<Message>>>,
    /// Clients on each thread.
    pub(crate) clients: Box<[AtomicU32]>,
    /// Numbers clients and servers.
    pub(crate) next_id: AtomicU64,
    /// All databases are paused (PAUSE without a name).
    pub(crate) paused: AtomicBool,
    /// SUSPEND is in force.
    pub(crate) suspended: AtomicBool,
    /// A shutdown has begun: 1 waits for clients, 2 waits for servers, 3 waits for nothing.
    pub(crate) shutdown: AtomicU32,
    /// Console sessions among the clients.
    pub(crate) consoles: AtomicU32,
    /// What became of cancel requests.
    pub(crate) cancels: crate::cancel::Counts,
    /// Whether new connections are accepted.
    pub(crate) listening: watch::Sender<bool>,
    /// Whether the last one has been accepted.
    pub(crate) closed: watch::Sender<bool>,
    /// What was counted at the ends of the last periods.
    pub(crate) books: Mutex<Books>,
    /// Users' secrets.
    pub(crate) secrets: Secrets,
    /// TLS on both sides.
    pub(crate) tls: Tls,
    databases: Mutex<HashMap<Arc<str>, Arc<Database>>>,
    users: Mutex<HashMap<Arc<str>, Arc<User>>>,
    pools: Mutex<HashMap<Key, Arc<SharedPool>>>,
    clusters: Mutex<HashMap<Arc<str>, Arc<Cluster>>>,
}

impl Shared {
    /// A bit of a pool stands for each thread.
    pub(crate) const MOST_THREADS: usize = 64;

    /// For this many threads.
    pub(crate) fn new(config: Config, threads: usize) -> io::Result<Shared> {
        let tracked = Tracked::new(&config.settings.track_extra_parameters);
        let secrets = Secrets::new(&config).map_err(io::Error::other)?;
        let tls = Tls::load(&config.settings).map_err(io::Error::other)?;
        Ok(Shared {
            secrets,
            tls,
            config: watch::Sender::new(Arc::new(config)),
            old: OnceLock::new(),
            tracked,
            started: Instant::now(),
            began: SystemTime::now(),
            workers: OnceLock::new(),
            clients: (0..threads).map(|_| AtomicU32::new(0)).collect(),
            next_id: AtomicU64::new(1),
            paused: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            shutdown: AtomicU32::new(0),
            consoles: AtomicU32::new(0),
            cancels: crate::cancel::Counts::default(),
            listening: watch::Sender::new(true),
            closed: watch::Sender::new(false),
            books: Mutex::new(Books::new()),
            databases: Mutex::default(),
            users: Mutex::default(),
            pools: Mutex::default(),
            clusters: Mutex::default(),
        })
    }

    /// Tells where the threads listen. Once, before any runs.
    pub(crate) fn set_workers(&self, workers: Vec<mpsc::UnboundedSender<Message>>) {
        assert!(self.workers.set(workers).is_ok(), "threads are started once");
    }

    /// Number of threads.
    pub(crate) fn threads(&self) -> usize {
        self.clients.len()
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    /// Puts another configuration in force; threads take it over when they're told.
    pub(crate) fn set_config(&self, config: Arc<Config>) {
        self.config.send_replace(config);
    }

    /// Shows each configuration that is put in force.
    pub(crate) fn configs(&self) -> watch::Receiver<Arc<Config>> {
        self.config.subscribe()
    }

    /// Hands something to a thread. A thread that has ended takes nothing any more.
    pub(crate) fn send(&self, thread: usize, message: Message) {
        if let Some(sender) = self.workers.get().and_then(|w| w.get(thread)) {
            // The process is on its way out when a mailbox is closed.
            let _ = sender.send(message);
        }
    }

    /// Runs something on a thread and waits for what it returns. `None` when the thread has ended.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        thread: usize,
        act: impl FnOnce(&Rc<Worker>) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.send(
            thread,
            Message::Call(Box::new(move |worker| {
                // Whoever asked may have gone.
                let _ = answer.send(act(worker));
            })),
        );
        answered.await.ok()
    }

    /// Runs something on every thread; the answers in the threads' order.
    pub(crate) async fn call_all<T: Send + 'static>(
        &self,
        act: impl Fn(&Rc<Worker>) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let mut answers = Vec::new();
        for thread in 0..self.threads() {
            let act = act.clone();
            answers.extend(self.call(thread, move |worker| act(worker)).await);
        }
        answers
    }

    /// Runs something on every thread, without waiting.
    pub(crate) fn tell_all(&self, act: impl Fn(&Rc<Worker>) + Clone + Send + 'static) {
        for thread in 0..self.threads() {
            let act = act.clone();
            self.send(thread, Message::Call(Box::new(move |worker| act(worker))));
        }
    }

    /// Clients of all threads.
    pub(crate) fn client_count(&self) -> u32 {
        self.clients.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }

    /// A number that nothing else of this process has.
    pub(crate) fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Nanoseconds since the start.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The state of a database by the name that clients use.
    pub(crate) fn database(&self, name: &str) -> Arc<Database> {
        let mut databases = lock(&self.databases);
        if let Some(known) = databases.get(name) {
            return known.clone();
        }
        let made = Arc::new(Database::new(name, self.paused.load(Ordering::Relaxed)));
        databases.insert(made.name.clone(), made.clone());
        made
    }

    /// The state of a cluster.
    pub(crate) fn cluster(&self, name: &str) -> Arc<Cluster> {
        let mut clusters = lock(&self.clusters);
        if let Some(known) = clusters.get(name) {
            return known.clone();
        }
        let made = Arc::new(Cluster::new(name));
        clusters.insert(made.name.clone(), made.clone());
        made
    }

    /// All clusters that were ever named.
    pub(crate) fn clusters(&self) -> Vec<Arc<Cluster>> {
        lock(&self.clusters).values().cloned().collect()
    }

    /// All databases that were ever used or named.
    pub(crate) fn databases(&self) -> Vec<Arc<Database>> {
        lock(&self.databases).values().cloned().collect()
    }

    /// The state of a user.
    pub(crate) fn user(&self, name: &str) -> Arc<User> {
        let mut users = lock(&self.users);
        if let Some(known) = users.get(name) {
            return known.clone();
        }
        let made = Arc::new(User::new(name));
        users.insert(made.name.clone(), made.clone());
        made
    }

    /// All users that were ever seen.
    pub(crate) fn users(&self) -> Vec<Arc<User>> {
        lock(&self.users).values().cloned().collect()
    }

    /// The pool of a database for a user; `plan` says what applies to it if it has to be made.
    pub(crate) fn pool(
        &self,
        database: &Arc<Database>,
        user: &Arc<User>,
        plan: impl FnOnce() -> Plan,
    ) -> Arc<SharedPool> {
        let key: Key = (database.name.clone(), user.name.clone());
        let mut pools = lock(&self.pools);
        if let Some(known) = pools.get(&key) {
            return known.clone();
        }
        let made = Arc::new(SharedPool::new(database.clone(), user.clone(), plan(), self.threads()));
        pools.insert(key, made.clone());
        made
    }

    /// All pools.
    pub(crate) fn pools(&self) -> Vec<Arc<SharedPool>> {
        lock(&self.pools).values().cloned().collect()
    }
}

/// Nothing that is locked here is left half changed by a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
