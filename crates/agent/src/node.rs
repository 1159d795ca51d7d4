//! What one node is made of: the handles that everything shares, built from the configuration. Owns no loop.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dcs::{Dcs, layout};
use ha::access::{Access, Credentials as Basic};
use ha::cluster::tag_is_set;
use ha::decide::guard_margin;
use ha::view::Me;
use instance::fence;
use instance::guard;
use instance::{Instance, NewUser};
use service::config::{self, Config, VerifyClient, WatchdogMode};
use service::logging::Logging;
use service::tls;
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use crate::rundir;

/// The handles of one node.
pub(crate) struct Node {
    pub(crate) me: Me,
    pub(crate) instance: Instance,
    pub(crate) dcs: Arc<dyn Dcs>,
    pub(crate) guard: guard::Client,
    /// Asks for a look at PostgreSQL at once.
    pub(crate) looker: Arc<Notify>,
    config: RwLock<Arc<Config>>,
    source: config::Source,
    access: watch::Sender<Arc<Access>>,
    logging: Logging,
    tls: Option<tokio_rustls::TlsConnector>,
    /// The listeners' certificates, once they listen.
    pub(crate) certificates: OnceLock<tls::Server>,
    run_dir: PathBuf,
    paused: PathBuf,
    /// Why the last requested change of leader was refused.
    refusal: Mutex<Option<String>>,
    /// Held as long as the agent lives.
    _lock: File,
}

/// Why a node can't be built: what is wrong with the configuration is told apart, because it has its own exit code.
#[derive(Debug)]
pub(crate) enum Fault {
    Configuration(String),
    Other(anyhow::Error),
}

impl Node {
    pub(crate) async fn build(config: Config, source: config::Source, logging: Logging) -> Result<Node, Fault> {
        let instance = Instance::new(options(&config)).map_err(setup_fault)?;
        let run_dir = rundir::make(&config.postgresql.data_dir).map_err(Fault::Other)?;
        let lock = be_alone(&run_dir, &config.postgresql.data_dir)?;
        let dcs = connect(&config).await?;
        let program = std::env::current_exe().context("find the agent's own program").map_err(Fault::Other)?;
        let mut options =
            guard::Options::new(program, run_dir.join(rundir::SOCKET), config.postgresql.data_dir.clone());
        options.log = guard_log(&config);
        let guard = guard::Client::new(options);
        let tls = peer_tls(&config).map_err(|e| Fault::Configuration(format!("{e:#}")))?;
        let access = access(&config).map_err(Fault::Configuration)?;
        let me = Me { name: config.name.clone(), nofailover: tag_is_set(&config.tags, "nofailover") };
        Ok(Node {
            me,
            instance,
            dcs,
            guard,
            looker: Arc::default(),
            config: RwLock::new(Arc::new(config)),
            source,
            access: watch::Sender::new(Arc::new(access)),
            logging,
            tls,
            certificates: OnceLock::new(),
            paused: run_dir.join("paused"),
            run_dir,
            refusal: Mutex::default(),
            _lock: lock,
        })
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This member as configured now.
    pub(crate) fn me(&self) -> Me {
        Me { nofailover: tag_is_set(&self.config().tags, "nofailover"), ..self.me.clone() }
    }

    pub(crate) fn access(&self) -> watch::Receiver<Arc<Access>> {
        self.access.subscribe()
    }

    /// For questions to other members over HTTPS.
    pub(crate) fn client_tls(&self) -> Option<tokio_rustls::TlsConnector> {
        self.tls.clone()
    }

    /// Roles to create when the cluster is new.
    pub(crate) fn bootstrap_users(&self) -> Vec<NewUser> {
        let config = self.config();
        let user = |(name, u): (&String, &config::BootstrapUser)| NewUser {
            credentials: instance::Credentials {
                username: name.clone(),
                password: u.password.as_ref().map(|p| p.expose().to_owned()),
                ..instance::Credentials::default()
            },
            options: u.options.clone(),
        };
        config.bootstrap.users.iter().map(user).collect()
    }

    /// Gives up all work on PostgreSQL and ends every process of it, within the budget if the storage lets them go.
    pub(crate) async fn fence(&self, budget: Duration) -> fence::Outcome {
        let instance = self.instance.clone();
        match tokio::task::spawn_blocking(move || instance.fence(budget)).await {
            Ok(outcome) => outcome,
            Err(e) => {
                // Nothing is known: count the instance as not fenced.
                error!("killing PostgreSQL failed: {e}");
                fence::Outcome { left: vec![0], ..fence::Outcome::default() }
            }
        }
    }

    /// Reads the configuration file again. What can't change while the agent runs keeps its value, with a warning.
    pub(crate) fn reload(&self) -> Result<()> {
        let loaded = config::load(&self.source, config::Role::Agent)?;
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let (old, new) = (self.config(), loaded.config);
        let access = access(&new).map_err(anyhow::Error::msg)?;
        if let Some(what) = unchangeable(&old, &new) {
            anyhow::bail!("{what} can't be changed while the agent runs: restart it");
        }
        self.logging.reload(&new.log).context("change logging")?;
        let changes = config::changes(&old, &new);
        if changes.is_empty() {
            info!("No local configuration items changed.");
        }
        for change in changes {
            info!("changed in the configuration file: {change}");
        }
        for what in waits_for_restart(&old.postgresql, &new.postgresql) {
            warn!("postgresql.{what} takes effect when the agent is started again");
        }
        if let (Some(server), Some(files)) = (self.certificates.get(), tls::ServerFiles::of(&new.restapi)) {
            server.reload(files).context("read the certificates again")?;
        }
        self.access.send_replace(Arc::new(access));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }

    /// A file beside a new data directory that says that its users are still to be made, however often the agent is
    /// killed before they are.
    fn users_wanted(&self) -> PathBuf {
        let mut path = self.config().postgresql.data_dir.clone().into_os_string();
        path.push(".users-wanted");
        path.into()
    }

    /// Notes that the data directory about to be made wants users.
    pub(crate) async fn want_users(&self) -> Result<(), String> {
        let marker = self.users_wanted();
        tokio::fs::write(&marker, b"").await.map_err(|e| format!("{}: {e}", marker.display()))
    }

    /// Makes the users of a new cluster on the running primary, if that is still to be done.
    pub(crate) async fn make_wanted_users(&self) -> Result<(), String> {
        let marker = self.users_wanted();
        if !tokio::fs::try_exists(&marker).await.unwrap_or(false) {
            return Ok(());
        }
        self.instance.create_users(&self.bootstrap_users()).await.map_err(|e| e.to_string())?;
        tokio::fs::remove_file(&marker).await.map_err(|e| format!("{}: {e}", marker.display()))
    }

    /// Tells the guard which watchdog device to use, for leases of this length.
    pub(crate) fn set_watchdog(&self, ttl: Duration) {
        let w = self.config().watchdog.clone();
        let mode = match w.mode {
            WatchdogMode::Off => guard::watchdog::Mode::Off,
            WatchdogMode::Automatic => guard::watchdog::Mode::Automatic,
            WatchdogMode::Required => guard::watchdog::Mode::Required,
        };
        let margin = w.safety_margin.and_then(|m| i64::try_from(m.as_secs()).ok()).unwrap_or(-1);
        let config = guard::watchdog::Config::new(mode, w.device, ttl, margin, guard_margin(ttl));
        self.guard.set_watchdog(config);
    }

    /// Remembers over a restart that a person is in charge, for when the DCS can't be asked.
    pub(crate) fn mark_pause(&self, pause: bool) {
        let result = if pause { std::fs::write(&self.paused, b"") } else { remove(&self.paused) };
        if let Err(e) = result {
            warn!("{}: {e}", self.paused.display());
        }
    }

    /// Remembers why a requested change of leader was refused, for whoever has requested it. Returns what was remembered.
    pub(crate) fn remember_refusal(&self, why: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.refusal.lock().unwrap_or_else(PoisonError::into_inner), why)
    }

    pub(crate) fn was_paused(&self) -> bool {
        self.paused.exists()
    }

    /// Removes the directory of the guard's socket after the last one has left it.
    pub(crate) async fn clear_run_dir(&self) {
        rundir::clear(&self.run_dir).await;
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn setup_fault(e: instance::Error) -> Fault {
    match e {
        instance::Error::Setup(why) => Fault::Configuration(why),
        other => Fault::Other(other.into()),
    }
}

/// The instance's options out of the configuration.
fn options(config: &Config) -> instance::Options {
    let pg = &config.postgresql;
    let credentials = |c: &config::Credentials| instance::Credentials {
        username: c.username.clone(),
        password: c.password.as_ref().map(|p| p.expose().to_owned()),
        settings: c.options.clone(),
    };
    let sockets = pg.parameters.get("unix_socket_directories");
    let mut o = instance::Options::new(&config.scope, &config.name, &pg.data_dir, &pg.listen.to_string());
    o.bin_dir = pg.bin_dir.clone();
    o.bin_names = pg.bin_name.clone();
    o.connect_address = (pg.connect_address.host.clone(), pg.connect_address.port);
    o.socket_dir = sockets.and_then(|s| s.split(',').next()).map(|s| PathBuf::from(s.trim()));
    o.pgpass = pg.pgpass.clone();
    o.custom_conf = pg.custom_conf.clone();
    o.run_as = pg.run_as.clone();
    o.superuser = credentials(&pg.authentication.superuser);
    o.replication = credentials(&pg.authentication.replication);
    o.rewind = pg.authentication.rewind.as_ref().map(credentials);
    o
}

/// A changed setting that a running agent can't follow.
fn unchangeable(old: &Config, new: &Config) -> Option<&'static str> {
    let fixed = [
        ("scope", old.scope != new.scope),
        ("name", old.name != new.name),
        ("namespace", old.namespace != new.namespace),
        ("the DCS", old.dcs != new.dcs),
        ("postgresql.data_dir", old.postgresql.data_dir != new.postgresql.data_dir),
        ("restapi.listen", old.restapi.listen != new.restapi.listen),
        ("control.listen", old.control.listen != new.control.listen),
    ];
    fixed.into_iter().find(|(_, changed)| *changed).map(|(what, _)| what)
}

/// Changed settings of PostgreSQL that the instance was built with.
fn waits_for_restart(old: &config::Postgresql, new: &config::Postgresql) -> Vec<&'static str> {
    let kept = [
        ("listen", old.listen != new.listen),
        ("connect_address", old.connect_address != new.connect_address),
        ("bin_dir", old.bin_dir != new.bin_dir || old.bin_name != new.bin_name),
        ("pgpass", old.pgpass != new.pgpass),
        ("custom_conf", old.custom_conf != new.custom_conf),
        ("run_as", old.run_as != new.run_as),
        ("authentication", old.authentication != new.authentication),
    ];
    kept.into_iter().filter(|(_, changed)| *changed).map(|(what, _)| what).collect()
}

/// The store that the configuration names.
async fn connect(config: &Config) -> Result<Arc<dyn Dcs>, Fault> {
    let prefix = layout::prefix(&config.namespace, &config.scope);
    let result: Result<Arc<dyn Dcs>, dcs::Error> = match &config.dcs {
        config::Dcs::Embedded(e) => match dcs::Embedded::open(&e.path, &prefix) {
            Err(dcs::Error::Refused(why) | dcs::Error::Protocol(why)) => {
                return Err(Fault::Configuration(format!("embedded.path: {why}")));
            }
            other => other.map(|d| Arc::new(d) as Arc<dyn Dcs>),
        },
        config::Dcs::Etcd(e) => {
            let options = dcs::etcd::Options {
                endpoints: e.endpoints.clone(),
                user: e.username.clone(),
                password: e.password.as_ref().map(|p| p.expose().to_owned()),
                timeout: ha::Settings::from_json(&config.bootstrap.dcs).0.retry_timeout,
                prefix,
                ..dcs::etcd::Options::default()
            };
            let options = options
                .with_files([&e.cacert, &e.cert, &e.key])
                .map_err(|(path, e)| Fault::Configuration(format!("etcd: {}: {e}", path.display())))?;
            dcs::Etcd::connect(options).await.map(|d| Arc::new(d) as Arc<dyn Dcs>)
        }
    };
    result.map_err(|e| match e {
        dcs::Error::Refused(_) => Fault::Configuration(e.to_string()),
        other => Fault::Other(other.into()),
    })
}

/// Two agents on one data directory would end each other's PostgreSQL without end. The lock is beside the data directory,
/// where agents of other users and under other names of the path find it too; else in the agent's own directory.
fn be_alone(run_dir: &Path, data_dir: &Path) -> Result<File, Fault> {
    let mut beside = data_dir.as_os_str().to_owned();
    beside.push(".agent.lock");
    let file = open_lock(Path::new(&beside)).or_else(|_| open_lock(&run_dir.join("agent.lock")));
    let file = file.context("make a file to lock").map_err(Fault::Other)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Fault::Configuration(format!(
            "another pgherd-agent runs the PostgreSQL of {}: stop it, or give this node a data_dir and a name of its own",
            data_dir.display()
        ))),
        Err(TryLockError::Error(e)) => Err(Fault::Other(anyhow::Error::new(e).context("lock the data directory"))),
    }
}

/// Opened for reading where it is another user's: that is enough for a lock.
fn open_lock(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let made = File::options().write(true).create(true).truncate(false).custom_flags(flags).open(path);
    made.or_else(|_| File::options().read(true).custom_flags(flags).open(path))
}

fn guard_log(config: &Config) -> Option<PathBuf> {
    config.log.dir.as_ref().map(|d| d.join("pgherd-guard.log"))
}

/// Who may give orders.
fn access(config: &Config) -> Result<Access, String> {
    let r = &config.restapi;
    let allowlist = r.allowlist.iter().map(|n| n.parse()).collect::<Result<Vec<_>, String>>();
    Ok(Access {
        credentials: r
            .authentication
            .as_ref()
            .map(|b| Basic { user: b.username.clone(), password: b.password.expose().to_owned() }),
        client_certificate: r.verify_client != VerifyClient::None,
        allowlist: allowlist.map_err(|e| format!("restapi.allowlist: {e}"))?,
        allow_members: r.allowlist_include_members,
    })
}

/// For GET on members' `api_url` where that is HTTPS: their certificates are checked as the admin client checks them.
fn peer_tls(config: &Config) -> Result<Option<tokio_rustls::TlsConnector>> {
    if config.restapi.certfile.is_none() {
        return Ok(None);
    }
    let files = tls::ClientFiles::of(&config.ctl, &config.restapi);
    let client = tls::client(&files)?;
    Ok(Some(tokio_rustls::TlsConnector::from(Arc::new(client))))
}
