//! The handle of one PostgreSQL instance and what all its operations share: options, programs, the known postmaster.
//! The operations themselves are in the modules named after them.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ha::Tick;
use ha::local::ControlData;
use tokio::sync::watch;

use crate::clock::now;
use crate::controldata;
use crate::error::Error;
use crate::fence;
use crate::files;
use crate::options::{Configuration, Listen, Options};
use crate::postmaster::{self, Postmaster};
use crate::probe::Probes;
use crate::programs::{Programs, User};
use crate::storage::Storage;
use crate::version::Version;
use crate::work::{Permit, Work};

/// How long a server that is being spawned is waited for before a fencing.
const SPAWN_LIMIT: Duration = Duration::from_millis(500);

/// One PostgreSQL instance. Clones share it.
///
/// Operations that change it (start, stop, clone, rewind, ...) exclude each other by the caller's care; probing goes on
/// beside any of them.
#[derive(Debug, Clone)]
pub struct Instance(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) listen: Listen,
    pub(crate) programs: Programs,
    /// Finds the instance's processes without touching its storage.
    processes: Mutex<fence::Instance>,
    /// The postmaster started or found last, alive or not.
    pub(crate) postmaster: watch::Sender<Option<Arc<Postmaster>>>,
    pub(crate) state: Mutex<State>,
    /// Held, in blocking tasks, while configuration files are read and written.
    pub(crate) files: Mutex<()>,
    pub(crate) probes: Probes,
    pub(crate) storage: Storage,
    pub(crate) work: Work,
}

/// What is remembered between operations.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The configuration given last.
    pub(crate) conf: Configuration,
    /// Parameters held larger than configured since the last start: name, used, configured.
    pub(crate) raised: Vec<(String, String, String)>,
    /// pg_rewind runs.
    pub(crate) rewinding: bool,
    /// Control data read last.
    pub(crate) control: Option<ControlData>,
    /// When that was.
    pub(crate) control_at: Tick,
}

/// How a postmaster ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exited {
    /// Its pid.
    pub pid: u32,
    /// Exit status or signal in words; `None` for one that another process had started.
    pub status: Option<String>,
}

impl Instance {
    /// Checks everything that can be checked without touching data: programs and their version, the address to listen
    /// on, the data directory's owner, mode and version. A fault is [`Error::Setup`], whose text says what to do.
    pub fn new(options: Options) -> Result<Instance, Error> {
        let listen = Listen::parse(&options.listen)?;
        if !options.data_dir.is_absolute() || options.data_dir.file_name().is_none() {
            return Err(Error::Setup(format!(
                "postgresql.data_dir: {:?} is not an absolute path of a directory",
                options.data_dir.display().to_string()
            )));
        }
        if options.superuser.username.is_empty() || options.replication.username.is_empty() {
            return Err(Error::Setup(
                "postgresql.authentication: superuser and replication each need a username".to_owned(),
            ));
        }
        let user = User::choose(&options)?;
        let programs = Programs::find(&options, user)?;
        files::check_data_dir(&options.data_dir, programs.user.as_ref(), programs.version.major())?;
        let storage = Storage::new(&options.data_dir, programs.user.clone(), options.connect_check_every)
            .map_err(|e| Error::io("start the storage check", e))?;
        Ok(Instance(Arc::new(Inner {
            listen,
            programs,
            processes: Mutex::new(fence::Instance::at(&options.data_dir)),
            postmaster: watch::channel(None).0,
            state: Mutex::default(),
            files: Mutex::new(()),
            probes: Probes::default(),
            storage,
            work: Work::default(),
            options,
        })))
    }

    /// The version of the programs.
    pub fn version(&self) -> Version {
        self.0.programs.version
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Pid of the living postmaster, as far as known; see [`Instance::probe`] and [`Instance::adopt`].
    pub fn pid(&self) -> Option<u32> {
        self.0.alive().map(|p| p.pid)
    }

    /// Looks for a running postmaster that another process started, and remembers it. Blocking, without touching storage.
    pub fn adopt(&self) -> Option<u32> {
        self.0.find().ok().flatten().map(|p| p.pid)
    }

    /// Gives up all operations under way: none of them starts a server, moves or removes data, or writes what decides how
    /// the server starts, from now on; they fail with [`Error::GivenUp`]. Their futures are to be dropped too, which ends
    /// the programs that they run. Never blocks; operations that begin later aren't concerned.
    pub fn revoke_work(&self) {
        self.0.work.revoke();
    }

    /// Gives up all operations under way ([`Instance::revoke_work`]) and ends every process of the instance, whose own
    /// start may be under way. Blocking, for `budget` and half a second at most, and without touching storage.
    pub fn fence(&self, budget: Duration) -> fence::Outcome {
        self.revoke_work();
        self.0.work.await_spawn(SPAWN_LIMIT);
        let mut outcome = self.0.fencing().fence(budget);
        if self.0.work.spawns_unwanted() {
            outcome.left.push(0);
        }
        outcome
    }

    /// Resolves when the known postmaster ends, whoever started it, once for each; waits while none is known.
    pub async fn exited(&self) -> Exited {
        let mut known = self.0.postmaster.subscribe();
        loop {
            let current = known.borrow_and_update().clone();
            let Some(postmaster) = current.filter(|p| !p.reported.load(Ordering::SeqCst)) else {
                if known.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                continue;
            };
            if let Err(e) = postmaster.ended().await {
                tracing::error!("can't watch PostgreSQL's process {}: {e}", postmaster.pid);
                while postmaster.alive() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            // The thread that reaps a child learns its status a moment after the pidfd tells its end.
            for _ in 0..20 {
                if postmaster.status().is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if !postmaster.reported.swap(true, Ordering::SeqCst) {
                return Exited { pid: postmaster.pid, status: postmaster.status() };
            }
        }
    }

    /// What needs a person: full or failing storage, a password that PostgreSQL refuses.
    pub fn trouble(&self) -> Option<String> {
        self.0.storage.failure().or_else(|| self.0.probes.trouble())
    }

    /// Runs blocking work without blocking the caller's thread.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Instance) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let own = self.clone();
        match tokio::task::spawn_blocking(move || work(&own)).await {
            Ok(result) => result,
            Err(e) => Err(Error::io("run a blocking task", std::io::Error::other(e))),
        }
    }
}

impl Instance {
    /// Runs blocking work that can't be taken back, alone, unless it was given up.
    pub(crate) async fn step<T: Send + 'static>(
        &self,
        permit: Permit,
        work: impl FnOnce(&Instance) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.blocking(move |own| {
            let _step = own.0.work.step(permit)?;
            work(own)
        })
        .await
    }
}

impl Inner {
    /// The instance's processes, with the known postmaster, to be ended.
    pub(crate) fn fencing(&self) -> fence::Instance {
        let mut processes = self.processes();
        if let Some(postmaster) = self.alive() {
            processes.adopt_own(postmaster.pid);
        }
        processes
    }

    /// Finds the instance's processes without touching its storage.
    pub(crate) fn processes(&self) -> fence::Instance {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the links of the data directory's path anew, unless processes live where it led before. Blocking.
    pub(crate) fn resolve(&self) {
        let fresh = fence::Instance::at(self.data_dir());
        let known = self.processes();
        if fresh.dir() != known.dir() && self.alive().is_none() && known.processes().is_empty() {
            tracing::info!("the data directory {} is in {}", self.data_dir().display(), fresh.dir().display());
            *self.processes.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    pub(crate) fn user(&self) -> Option<&User> {
        self.programs.user.as_ref()
    }

    pub(crate) fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The known postmaster, if it lives.
    pub(crate) fn alive(&self) -> Option<Arc<Postmaster>> {
        self.postmaster.borrow().clone().filter(|p| p.alive())
    }

    /// The living postmaster, known or found among the processes. `Err` holds processes without a postmaster. Blocking,
    /// without touching storage.
    pub(crate) fn find(&self) -> Result<Option<Arc<Postmaster>>, Vec<u32>> {
        if let Some(known) = self.alive() {
            return Ok(Some(known));
        }
        let pids = self.processes().processes();
        if pids.is_empty() {
            return Ok(None);
        }
        let Some(found) = postmaster::among(&pids).and_then(|pid| Postmaster::hold(pid, None, u64::MAX)) else {
            return Err(pids);
        };
        tracing::info!("found PostgreSQL running with pid {}", found.pid);
        let found = Arc::new(found);
        self.postmaster.send_replace(Some(found.clone()));
        Ok(Some(found))
    }

    /// Reads the control data and remembers it. Blocking.
    pub(crate) fn control_data(&self) -> Result<ControlData, Error> {
        let began = now();
        let text = self.programs.control_data(self.data_dir())?;
        let mut control = controldata::parse(&text)
            .map_err(|message| Error::Program { program: "pg_controldata".into(), message })?;
        if self.data_dir().join("backup_label").exists() {
            // A base backup that was never started: the state in it is that of the server it was taken from. Recovering
            // it as a crashed primary would write WAL of its own.
            control.in_recovery = true;
        }
        self.remember(control.clone(), began);
        Ok(control)
    }

    /// Remembers control data, and since when it holds.
    pub(crate) fn remember(&self, control: ControlData, at: Tick) {
        let mut state = self.lock_state();
        state.control = Some(control);
        state.control_at = at;
    }

    /// Refuses while any process of the instance lives. Blocking.
    pub(crate) fn refuse_while_alive(&self) -> Result<(), Error> {
        self.resolve();
        self.still_alive()
    }

    /// The same without touching storage.
    pub(crate) fn still_alive(&self) -> Result<(), Error> {
        let mut pids = self.processes().processes();
        if let Some(p) = self.alive()
            && !pids.contains(&p.pid)
        {
            pids.push(p.pid);
        }
        if pids.is_empty() { Ok(()) } else { Err(Error::Alive { dir: self.data_dir().to_owned(), pids }) }
    }
}
