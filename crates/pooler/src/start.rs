//! The way from the command line to a pooler that takes clients, in pgbouncer's order: configuration, user, log, the
//! process that may be running already, sockets, pid file.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use listenfd::ListenFd;
use pool::config::{Config, Settings};
use pool::listen::open::{self, Opened};
use pool::listen::{Listener, unix};
use pool::pooler::Pooler;
use tracing::{debug, info, warn};

use crate::flags::Flags;
use crate::log::{Log, Severity};
use crate::pidfile::{self, Holder, PidFile};
use crate::serve::Serving;
use crate::signals::Signals;
use crate::{EXIT_CONFIG, daemon, follow, metrics, online, privileges, upgrade};

/// Why the program ends with an error.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration has to be changed.
    Configuration(String),
    /// Something else.
    Other(String),
}

impl Failure {
    /// For the log.
    pub(crate) fn text(&self) -> &str {
        match self {
            Failure::Configuration(text) | Failure::Other(text) => text,
        }
    }
}

/// Makes an error out of another one, with what was tried.
pub(crate) fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Failure {
    move |e| Failure::Other(format!("{what}: {e}"))
}

/// An error in the system's words.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// Runs the pooler to its end.
pub(crate) fn run(flags: &Flags, file: &Path, log: &Log) -> Result<(), Failure> {
    if flags.background {
        daemon::detach().map_err(failed("leave the session"))?;
    }
    let config = configuration(flags, file, log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed("start the runtime"))?;
    runtime.block_on(async {
        let serving = Box::pin(start(flags, config, log)).await?;
        Box::pin(serving.run()).await
    })
}

/// Says on stderr what is wrong with a configuration; nothing unless something is.
pub(crate) fn validate(file: &Path) -> ExitCode {
    let loaded = match Config::load(file) {
        Ok(loaded) => loaded,
        Err(faults) => {
            faults.0.iter().for_each(|fault| eprintln!("{fault}"));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    loaded.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let usable = metrics::address(&loaded.config.settings).map(drop);
    if let Err(fault) = usable.and_then(|()| follow::place(&loaded.config).map(drop)) {
        eprintln!("{fault}");
        return ExitCode::from(EXIT_CONFIG);
    }
    ExitCode::SUCCESS
}

/// Reads the configuration, becomes the user that it names, and opens the log.
fn configuration(flags: &Flags, file: &Path, log: &Log) -> Result<Config, Failure> {
    let loaded = Config::load(file).map_err(|faults| {
        for fault in &faults.0 {
            log.line(Severity::Error, &fault.to_string());
        }
        Failure::Configuration("cannot load config file".to_owned())
    })?;
    let settings = &loaded.config.settings;
    metrics::address(settings).map_err(Failure::Configuration)?;
    let user = flags.user.as_deref().or(settings.user.as_deref()).filter(|name| !name.is_empty());
    if let Some(user) = user {
        privileges::become_user(user).map_err(Failure::Configuration)?;
    }
    if privileges::is_root() {
        return Err(Failure::Other("pgherd-pooler should not run as root: name a user by -u or user=".to_owned()));
    }
    log.open(settings, flags.quiet).map_err(Failure::Configuration)?;
    let (databases, users) = (loaded.config.databases.len(), loaded.config.credentials.len());
    debug!(target: "pooler", "read {}: {databases} databases, {users} users in auth_file", file.display());
    for warning in &loaded.warnings {
        log.line(Severity::Warning, &warning.to_string());
    }
    if flags.daemon && settings.pidfile.is_none() {
        return Err(Failure::Configuration("daemon needs pidfile configured".to_owned()));
    }
    if flags.daemon && settings.logfile.is_none() {
        warn!(target: "pooler", "daemon without logfile: nothing will be logged");
    }
    Ok(loaded.config)
}

/// Begins to take clients, in the place of a process that runs already or where there is none.
async fn start(flags: &Flags, config: Config, log: &Log) -> Result<Serving, Failure> {
    let mut signals = Signals::new().map_err(failed("catch signals"))?;
    let settings = config.settings.clone();
    let clusters = follow::place(&config).map_err(Failure::Configuration)?;
    let old = if flags.reboot { online::meet(&settings).await? } else { None };
    let mut serving = match old {
        Some((old, passed)) => {
            let (pooler, opened) = begin(config, passed)?;
            let passing = online::replace(old, &pooler, &mut signals).await?;
            let serving = Serving::new(pooler, signals, log.clone(), opened, take_pidfile(&settings));
            if let Some(passing) = passing {
                serving.follow_old(passing);
            }
            serving
        }
        None => {
            let pidfile = refuse_a_second(&settings)?;
            let (pooler, opened) = begin(config, Vec::new())?;
            Serving::new(pooler, signals, log.clone(), opened, pidfile)
        }
    };
    serving.follow_clusters(clusters);
    serving.upgrade_with(upgrade::arguments(flags));
    info!(target: "pooler", "process up: {}, threads: {}, tls: rustls", pool::BANNER, serving.pooler.threads());
    if flags.background {
        log.flush();
        log.quiet();
        daemon::up().map_err(failed("let go of the terminal"))?;
    }
    Ok(serving)
}

/// Opens the sockets, but for those that were passed on, and takes clients from them.
fn begin(config: Config, passed: Vec<Listener>) -> Result<(Pooler, Opened), Failure> {
    privileges::raise_file_limit(&config);
    let given = from_service_manager()?;
    let opened = if given.is_empty() {
        open::open(&config.settings, passed).map_err(|e| Failure::Other(e.to_string()))?
    } else {
        open::adopt(&config.settings, given)
    };
    let clones: Result<Vec<Listener>, _> = opened.listeners.iter().map(Listener::try_clone).collect();
    let pooler = Pooler::start(config, clones.map_err(failed("share the listening sockets"))?);
    let pooler = pooler.map_err(|e| match e.kind() {
        std::io::ErrorKind::Other => Failure::Configuration(e.to_string()),
        _ => Failure::Other(format!("start the threads: {e}")),
    })?;
    Ok((pooler, opened))
}

/// The sockets that systemd has opened for this process (`man 3 sd_listen_fds`).
fn from_service_manager() -> Result<Vec<Listener>, Failure> {
    let mut given = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..given.len() {
        let listener = match given.take_unix_listener(index) {
            Ok(listener) => listener.map(Listener::Unix),
            Err(_) => given.take_tcp_listener(index).map_err(failed("use systemd's socket"))?.map(Listener::Tcp),
        };
        listeners.extend(listener);
    }
    Ok(listeners)
}

/// Makes the pid file, unless another process runs with these settings.
fn refuse_a_second(settings: &Settings) -> Result<Option<PidFile>, Failure> {
    if unix::in_use(settings) {
        return Err(Failure::Other(open::Error::SocketInUse.to_string()));
    }
    let Some(path) = &settings.pidfile else { return Ok(None) };
    let failed = |e: io::Error| Failure::Other(format!("could not open pidfile '{}': {}", path.display(), reason(&e)));
    match pidfile::holder(path).map_err(failed)? {
        Holder::Nobody => {}
        Holder::Somebody => {
            let text = format!("pidfile '{}' exists, another instance running?", path.display());
            return Err(Failure::Other(text));
        }
        Holder::Dead => {
            info!(target: "pooler", "stale pidfile, removing");
            std::fs::remove_file(path).map_err(failed)?;
        }
    }
    PidFile::create(path).map(Some).map_err(failed)
}

/// Writes over the pid file of the old process. It is too late to give up: the old one takes no more clients.
fn take_pidfile(settings: &Settings) -> Option<PidFile> {
    let path = settings.pidfile.as_ref()?;
    let taken = PidFile::take(path);
    taken.inspect_err(|e| warn!(target: "pooler", "could not open pidfile '{}': {}", path.display(), reason(e))).ok()
}
