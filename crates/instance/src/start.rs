//! Starting the server: configuration files, recovery signal, the postmaster's process, and waiting until it takes
//! connections.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::conf::{self, Managed};
use crate::error::Error;
use crate::files::{self, log_tail, read_if_exists, remove_if_exists, write_atomic};
use crate::instance::{Inner, Instance};
use crate::options::{Configuration, Upstream};
use crate::postmaster::{Postmaster, read_pid_file};
use crate::slot::slot_name;
use crate::work::{Permit, Step};

/// As what to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A primary. `synchronous_standby_names` stay as they were.
    Primary,
    /// A standby.
    Replica {
        /// Where to stream from; `None` only recovers what is there.
        upstream: Option<Upstream>,
    },
}

impl Instance {
    /// Writes the configuration, sets or removes standby.signal, and starts the postmaster in a session of its own.
    /// Returns its pid at once; [`Instance::wait_ready`] tells when it takes connections. Refused while any process of
    /// the instance lives.
    pub async fn start(&self, how: Start, conf: &Configuration) -> Result<u32, Error> {
        self.start_with(self.0.work.permit(), how, conf).await
    }

    pub(crate) async fn start_with(&self, permit: Permit, how: Start, conf: &Configuration) -> Result<u32, Error> {
        let conf = conf.clone();
        self.blocking(move |own| own.0.start(&own.0.work.step(permit)?, &how, &conf)).await
    }

    /// Returns once the server takes connections. Fails when it ends before, with the reason from its log.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), Error> {
        let postmaster = self.0.postmaster.borrow().clone().ok_or(Error::NotRunning)?;
        let ready = async {
            let mut pause = Duration::from_millis(10);
            loop {
                if !postmaster.alive() {
                    let offset = postmaster.log_offset;
                    return Err(self.blocking(move |own| Ok(own.0.why_ended(offset))).await?);
                }
                if postmaster.socket_dir.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                    let pid = postmaster.pid;
                    let file = self.blocking(|own| Ok(read_pid_file(own.0.data_dir()))).await?;
                    if file.pid == Some(pid) {
                        *postmaster.socket_dir.lock().unwrap_or_else(PoisonError::into_inner) = file.socket_dir;
                    }
                }
                match self.0.connect().await {
                    Ok(_) => return Ok(()),
                    // Starting up, or shutting down after a failure: its end or its readiness comes.
                    Err(e) if e.sqlstate().is_none_or(|s| s == "57P03") => {}
                    // All connections are taken: it is up.
                    Err(e) if e.sqlstate() == Some("53300") => return Ok(()),
                    Err(e) => return Err(e),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        };
        match tokio::time::timeout(timeout, ready).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { what: "the start of PostgreSQL".into(), limit: timeout }),
        }
    }
}

impl Inner {
    fn start(&self, step: &Step<'_>, how: &Start, conf: &Configuration) -> Result<u32, Error> {
        self.refuse_while_alive()?;
        let dir = self.data_dir();
        files::check_data_dir(dir, self.user(), self.programs.version.major())?;
        if files::rewind_mark(dir).exists() {
            return Err(Error::Setup(format!(
                "pg_rewind was interrupted or failed half way in {}: clone it again",
                dir.display()
            )));
        }
        let control = self.control_data()?;
        self.check_port()?;
        let standby = matches!(how, Start::Replica { .. });
        let required = standby.then_some(&control.required_parameters);
        let written = self.write_conf(conf, required, |managed| {
            if let Start::Replica { upstream } = how {
                self.aim(managed, upstream.as_ref(), conf.use_slots);
            }
        })?;
        self.write_access(conf)?;
        self.write_pgpass()?;
        let auto_conf = dir.join("postgresql.auto.conf");
        if let Some(text) = conf::without_overrides(&read_if_exists(&auto_conf)?.unwrap_or_default()) {
            write_atomic(&auto_conf, &text, self.user())?;
        }
        step.check()?;
        remove_if_exists(&dir.join("recovery.signal"))?;
        remove_if_exists(&dir.join("promote"))?;
        if standby {
            write_atomic(&dir.join("standby.signal"), "\n", self.user())?;
        } else {
            remove_if_exists(&dir.join("standby.signal"))?;
        }
        {
            let mut state = self.lock_state();
            state.conf = conf.clone();
            state.raised = written.raised;
        }
        self.drop_stale_lock_files()?;
        self.spawn(step, standby)
    }

    /// Sets where a replica streams from.
    pub(crate) fn aim(&self, managed: &mut Managed, upstream: Option<&Upstream>, use_slots: bool) {
        let own_name = self.options.name.as_str();
        managed.primary_conninfo = upstream.map_or_else(String::new, |up| {
            let passfile = self.pgpass().display().to_string();
            let name = [("application_name", own_name)];
            conf::upstream_conninfo(up, &self.options.replication, &passfile, &name, self.programs.version)
        });
        let slot = upstream.filter(|_| use_slots).map(|_| slot_name(own_name));
        managed.primary_slot_name = slot.unwrap_or_default();
    }

    /// Path of the password file.
    pub(crate) fn pgpass(&self) -> PathBuf {
        self.options.pgpass.clone().unwrap_or_else(|| files::sibling(self.data_dir(), ".pgpass"))
    }

    /// Writes the password file for all users that pgherd logs in as.
    pub(crate) fn write_pgpass(&self) -> Result<(), Error> {
        let o = &self.options;
        let text = conf::pgpass([&o.replication, &o.superuser].into_iter().chain(&o.rewind));
        files::make_parents(&self.pgpass())?;
        write_atomic(&self.pgpass(), &text, self.user()).map_err(|e| match e {
            Error::Io { context, source } => Error::Setup(format!(
                "{context}: {source}; set postgresql.pgpass to a file that this agent can write and PostgreSQL can read"
            )),
            other => other,
        })?;
        Ok(())
    }

    /// Refuses when another program has the port.
    fn check_port(&self) -> Result<(), Error> {
        let port = self.listen.port;
        for host in &self.listen.hosts {
            let address = if host == "*" { "0.0.0.0" } else { host.as_str() };
            match TcpListener::bind((address, port)) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::AddrInUse => {
                    return Err(Error::PortInUse { address: address.to_owned(), port });
                }
                Err(e) if e.kind() == ErrorKind::AddrNotAvailable => {
                    return Err(Error::Setup(format!(
                        "postgresql.listen: {address} is not an address of this machine (`ip address` shows those that are)"
                    )));
                }
                // PostgreSQL itself gives the reason where there is one that matters.
                Err(e) => tracing::debug!("can't try port {port} on {address}: {e}"),
            }
        }
        Ok(())
    }

    fn spawn(&self, step: &Step<'_>, standby: bool) -> Result<u32, Error> {
        let (log, log_offset) = self.open_log()?;
        let err = log.try_clone().map_err(|e| Error::io("open the server's log", e))?;
        let mut command = self.programs.command_in_session("postgres");
        command.arg("-D").arg(self.data_dir());
        command.arg(format!("--config-file={}", self.data_dir().join("postgresql.conf").display()));
        command.stdin(Stdio::null()).stdout(log).stderr(err);
        let spawning = step.spawning()?;
        let mut child = command.spawn().map_err(|e| Error::io("start PostgreSQL", e))?;
        let pid = child.id();
        let postmaster = Postmaster::hold(pid, Some(standby), log_offset)
            .map(Arc::new)
            .ok_or_else(|| Error::StartFailed("its process can't be watched (pidfd_open failed)".into()));
        let postmaster = match postmaster {
            Ok(p) => p,
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(e);
            }
        };
        self.postmaster.send_replace(Some(postmaster.clone()));
        drop(spawning);
        let reaped = std::thread::Builder::new().name("postmaster-wait".into()).spawn(move || {
            let status = child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
            postmaster.set_status(status);
        });
        reaped.map_err(|e| Error::io("watch PostgreSQL's process", e))?;
        tracing::info!("started PostgreSQL with pid {pid} as {}", if standby { "a replica" } else { "the primary" });
        Ok(pid)
    }

    /// Path of the server's log.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.options.log_file.clone().unwrap_or_else(|| files::sibling(self.data_dir(), ".log"))
    }

    fn open_log(&self) -> Result<(File, u64), Error> {
        let path = self.log_file();
        let open = || -> std::io::Result<(File, u64)> {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            if let Some(user) = self.user() {
                user.own(&file)?;
            }
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        open().map_err(|e| {
            Error::Setup(format!("can't open the server's log {}: {e}; set another place for it", path.display()))
        })
    }

    /// Why a server that was to start has ended.
    fn why_ended(&self, log_offset: u64) -> Error {
        let tail = log_tail(&self.log_file(), log_offset);
        if tail.contains("Address already in use") {
            let address = self.listen.hosts.join(",");
            return Error::PortInUse { address, port: self.listen.port };
        }
        if tail.contains("No space left on device") {
            return Error::DiskFull(self.data_dir().to_owned());
        }
        Error::StartFailed(tail)
    }
}
