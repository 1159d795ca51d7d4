//! The pooler's life from its start to its end: signals, the log, statistics, systemd, giving its place to a new process.

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pool::config::Settings;
use pool::console::Shutdown;
use pool::listen::Listener;
use pool::listen::open::{self, Opened};
use pool::listen::unix::SocketFile;
use pool::pooler::Pooler;
use pool::takeover::{self, Door, Visitor};
use service::notify::Notifier;
use service::tasks::Tasks;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::changes;
use crate::follow;
use crate::log::Log;
use crate::metrics::{self, Metrics};
use crate::online;
use crate::pidfile::PidFile;
use crate::signals::{Signal, Signals};
use crate::start::Failure;
use crate::upgrade;

/// A pooler that takes clients.
pub(crate) struct Serving {
    /// The pooler.
    pub(crate) pooler: Arc<Pooler>,
    signals: Signals,
    notifier: Arc<Notifier>,
    log: Log,
    tasks: Tasks,
    metrics: Option<Metrics>,
    place: Option<Place>,
    pidfile: Option<PidFile>,
    /// Whether the old process has ended whose place this one took.
    old_ended: watch::Sender<bool>,
    /// Whether another process has taken the place of this one.
    replaced: bool,
    /// Where the clusters are kept that databases name.
    clusters: Option<follow::Place>,
    /// What another version of the program is started with.
    arguments: Vec<OsString>,
}

/// What makes this process the one that clients and new processes find. Listening ends when it's dropped.
struct Place {
    file: Option<SocketFile>,
    sockets: Arc<Vec<Listener>>,
    successor: Pin<Box<dyn Future<Output = (Option<Door>, Visitor)> + Send>>,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    End,
}

impl Serving {
    pub(crate) fn new(pooler: Pooler, signals: Signals, log: Log, opened: Opened, pidfile: Option<PidFile>) -> Serving {
        let place = Place::new(&pooler, opened);
        Serving {
            pooler: Arc::new(pooler),
            signals,
            notifier: Arc::new(Notifier::from_env()),
            log,
            tasks: Tasks::new(),
            metrics: None,
            place: Some(place),
            pidfile,
            old_ended: watch::Sender::new(true),
            replaced: false,
            clusters: None,
            arguments: Vec::new(),
        }
    }

    /// Tells what another version of the program is started with.
    pub(crate) fn upgrade_with(&mut self, arguments: Vec<OsString>) {
        self.arguments = arguments;
    }

    /// Tells where the clusters are kept that databases name.
    pub(crate) fn follow_clusters(&mut self, clusters: Option<follow::Place>) {
        self.clusters = clusters;
    }

    /// Runs what passes requests to cancel on to the old process while that lives.
    pub(crate) fn follow_old(&self, passing: impl Future<Output = ()> + Send + 'static) {
        let ended = self.old_ended.clone();
        ended.send_replace(false);
        self.tasks.spawn("old process", async move {
            passing.await;
            info!(target: "pooler", "the old process has ended");
            ended.send_replace(true);
            std::future::pending::<()>().await;
        });
    }

    /// Runs until the pooler is told to end, and has.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        self.spawn_tasks();
        self.notifier.ready("serving");
        let (pooler, tasks) = (self.pooler.clone(), self.tasks.clone());
        let listening_ended = pooler.listening_ended();
        tokio::pin!(listening_ended);
        let mut listens = true;
        loop {
            tokio::select! {
                signal = self.signals.next() => if self.obey(signal) == Then::End { break },
                (door, visitor) = successor(&mut self.place) => self.give_place(door, visitor).await,
                () = &mut listening_ended, if listens => {
                    listens = false;
                    self.place = None;
                    self.notifier.stopping("shutting down");
                }
                () = ended(&pooler, self.replaced.then(|| self.old_ended.subscribe())), if !listens => {
                    self.say_farewell();
                    break;
                }
                () = pooler.broken() => return Err(Failure::Other("a thread has ended unexpectedly".to_owned())),
                () = tasks.cancelled() => {
                    let cause = tasks.cause().map_or_else(|| "a task has ended".to_owned(), |c| c.to_string());
                    return Err(Failure::Other(cause));
                }
            }
        }
        // Members needn't wait for a pooler that is gone.
        let late = self.tasks.shutdown(Duration::from_secs(1)).await;
        late.or_else(|names| {
            warn!(target: "pooler", "still running at the end: {}", names.join(", "));
            Ok(())
        })
    }

    fn spawn_tasks(&mut self) {
        // A faulty address has been told of before anything began.
        let address = metrics::address(&self.pooler.config().settings).ok().flatten();
        self.metrics = address.map(|at| Metrics::start(self.pooler.clone(), at, &self.tasks));
        let sockets = self.place.as_ref().map(|place| Arc::downgrade(&place.sockets)).unwrap_or_default();
        self.tasks.spawn("changes", follow_changes(self.pooler.clone(), self.log.clone(), sockets));
        self.tasks.spawn("statistics", log_statistics(self.pooler.clone()));
        let (pooler, clusters) = (self.pooler.clone(), self.clusters.take());
        self.tasks.spawn_graceful("clusters", move |leave| follow::run(pooler, clusters, leave));
        if let Some(interval) = self.notifier.watchdog_interval() {
            self.tasks.spawn("watchdog", feed_watchdog(self.pooler.clone(), Arc::downgrade(&self.notifier), interval));
        }
    }

    /// Does what a signal asks for.
    fn obey(&self, signal: Signal) -> Then {
        match signal {
            Signal::Hangup => self.reload(),
            Signal::Terminate => return self.shut_down("SIGTERM", Shutdown::WaitForClients),
            Signal::Interrupt => return self.shut_down("SIGINT", Shutdown::WaitForServers),
            Signal::Quit => {
                info!(target: "pooler", "got SIGQUIT, fast exit");
                return Then::End;
            }
            Signal::User1 => {
                info!(target: "pooler", "got SIGUSR1, pausing all activity");
                let pooler = self.pooler.clone();
                tokio::spawn(async move {
                    if let Err(e) = pooler.pause().await {
                        warn!(target: "pooler", "pause: {e}");
                    }
                });
            }
            Signal::User2 => {
                info!(target: "pooler", "got SIGUSR2, continuing from PAUSE");
                if let Err(e) = self.pooler.resume() {
                    warn!(target: "pooler", "resume: {e}");
                }
            }
        }
        Then::GoOn
    }

    fn shut_down(&self, signal: &str, how: Shutdown) -> Then {
        if self.pooler.shutdown().is_some() {
            info!(target: "pooler", "got {signal} while shutting down, fast exit");
            return Then::End;
        }
        let waiting = match how {
            Shutdown::WaitForClients => "all clients disconnect",
            _ => "all servers connections to be released",
        };
        info!(target: "pooler", "got {signal}, shutting down, waiting for {waiting}");
        self.pooler.shut_down(how);
        Then::GoOn
    }

    fn say_farewell(&self) {
        match self.pooler.shutdown() {
            Some(Shutdown::WaitForClients) => info!(target: "pooler", "client connections dropped, exiting"),
            Some(Shutdown::WaitForServers) => info!(target: "pooler", "server connections dropped, exiting"),
            _ => info!(target: "pooler", "exiting"),
        }
    }

    fn reload(&self) {
        if let Some(program) = upgrade::program().filter(|_| self.place.is_some()) {
            return self.upgrade(program);
        }
        info!(target: "pooler", "got SIGHUP, re-reading config");
        self.notifier.reloading();
        if self.pooler.reload().is_err() {
            // The log may have been moved away all the same.
            follow_log(&self.log, &self.pooler.config().settings);
        }
        self.notifier.ready("serving");
    }

    /// Starts the program that has replaced the one that runs. It says itself what it does.
    fn upgrade(&self, program: PathBuf) {
        info!(target: "pooler", "got SIGHUP, and {} was replaced: going over to it", program.display());
        let arguments = self.arguments.clone();
        tokio::spawn(async move {
            match upgrade::run(&program, &arguments).await {
                Ok(status) => warn!(target: "pooler", "the new {} has ended: {status}", program.display()),
                Err(e) => error!(target: "pooler", "start {}: {e}", program.display()),
            }
        });
    }

    /// Leaves everything that this process is found by to the new one, and waits for its own clients to go.
    async fn give_place(&mut self, door: Option<Door>, visitor: Visitor) {
        info!(target: "pooler", "process {} takes over, waiting for all clients disconnect", visitor.pid());
        if let Some(file) = self.place.take().and_then(|place| place.file) {
            file.leave();
        }
        if let Some(door) = door {
            door.leave();
        }
        if let Some(pidfile) = self.pidfile.take() {
            pidfile.leave();
        }
        self.pooler.shut_down(Shutdown::WaitForClients);
        self.replaced = true;
        if let Ok(pid) = visitor.pid().try_into() {
            self.notifier.main_process(pid);
        }
        // From now on the new process speaks for the service.
        self.notifier = Arc::default();
        if let Some(metrics) = self.metrics.take() {
            metrics.stop().await;
        }
        // Before anything else: without clients this process ends at once.
        if let Err(e) = visitor.stopped().await {
            error!(target: "pooler", "tell the new process that it may take over: {e}");
        }
        self.tasks.spawn("new process", online::serve_successor(visitor, self.pooler.clone()));
    }
}

impl Place {
    /// Waits for new processes where the settings allow it.
    fn new(pooler: &Pooler, opened: Opened) -> Place {
        let door = takeover::address(&pooler.config().settings).and_then(|address| {
            let opened = Door::open(&address);
            opened.inspect_err(|e| warn!(target: "pooler", "no online restart is possible: {address}: {e}")).ok()
        });
        let sockets = Arc::new(opened.listeners);
        let offered = sockets.clone();
        let successor = async move {
            match door {
                Some(door) => {
                    let (door, visitor) = online::receive(door, &offered).await;
                    (Some(door), visitor)
                }
                None => std::future::pending().await,
            }
        };
        Place { file: opened.file, sockets, successor: Box::pin(successor) }
    }
}

/// Waits for the end of a shutdown. A process that was replaced stays until the one that it replaced has ended: requests
/// to cancel go from the newest by way of all others.
async fn ended(pooler: &Pooler, old_ended: Option<watch::Receiver<bool>>) {
    pooler.wait_ended().await;
    if let Some(mut old_ended) = old_ended {
        // An error means that this process ends.
        let _ = old_ended.wait_for(|ended| *ended).await;
    }
}

/// Waits for the new process that takes this one's place.
async fn successor(place: &mut Option<Place>) -> (Option<Door>, Visitor) {
    match place {
        Some(place) => place.successor.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Logs each change of the configuration, and applies it to the log, whose file RELOAD opens anew, and to the listening
/// sockets.
async fn follow_changes(pooler: Arc<Pooler>, log: Log, sockets: Weak<Vec<Listener>>) {
    let mut configs = pooler.configs();
    let mut known = pooler.config();
    while configs.changed().await.is_ok() {
        let new = configs.borrow_and_update().clone();
        follow_log(&log, &new.settings);
        changes::log(&known, &new);
        if known.settings.tcp_defer_accept != new.settings.tcp_defer_accept
            && let Some(sockets) = sockets.upgrade()
        {
            defer_accept(&sockets, new.settings.tcp_defer_accept);
        }
        known = new;
    }
}

fn follow_log(log: &Log, settings: &Settings) {
    if let Err(e) = log.follow(settings) {
        error!(target: "pooler", "{e}: the log stays where it was");
    }
}

fn defer_accept(sockets: &[Listener], wait: bool) {
    for socket in sockets {
        if let Err(e) = open::defer_accept(socket, wait) {
            warn!(target: "pooler", "set tcp_defer_accept on {socket}: {e}");
        }
    }
}

/// Ends a period of the statistics every `stats_period`, and logs it.
async fn log_statistics(pooler: Arc<Pooler>) {
    loop {
        tokio::time::sleep(pooler.config().settings.stats_period.max(SHORTEST)).await;
        let line = pooler.end_period().await;
        if pooler.config().settings.log_stats {
            info!(target: "pooler", "{line}");
        }
    }
}

/// A `stats_period` of zero would keep a core busy.
const SHORTEST: Duration = Duration::from_secs(1);

/// Tells systemd that this process lives, as long as all its threads do.
async fn feed_watchdog(pooler: Arc<Pooler>, notifier: Weak<Notifier>, interval: Duration) {
    loop {
        pooler.answer().await;
        if let Some(notifier) = notifier.upgrade() {
            notifier.watchdog();
        }
        tokio::time::sleep(interval).await;
    }
}
