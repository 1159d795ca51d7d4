//! Performs the console's commands, and what signals ask for, on all threads.

pub(crate) mod books;
pub(crate) mod clusters;
pub(crate) mod show;
pub(crate) mod talk;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::client::Order;
use crate::config::{Config, Faults};
use crate::console::{self, AdminVerb, Answer, Command, Error, Shutdown};
use crate::plan::Plan;
use crate::shared::{Database, Shared};
use crate::worker::Worker;

/// How often it's looked whether something that was ordered is done.
const LOOK: Duration = Duration::from_millis(10);

/// Performs a command.
pub(crate) async fn perform(shared: &Arc<Shared>, command: Command) -> Result<Answer, Error> {
    match command {
        Command::Show(what) => return Ok(Answer::Rows(show::table(shared, what).await)),
        Command::Set { key, value } => set(shared, &key, &value)?,
        Command::Reload => {
            reload(shared).map_err(|_| Error::ReloadFailed)?;
        }
        Command::Pause(name) => pause(shared, name.as_deref()).await?,
        Command::Resume(name) => resume(shared, name.as_deref())?,
        Command::Disable(name) => {
            named(shared, &name, AdminVerb::Disable)?.disabled.store(true, Ordering::Relaxed);
        }
        Command::Enable(name) => {
            named(shared, &name, AdminVerb::Enable)?.disabled.store(false, Ordering::Relaxed);
        }
        Command::Reconnect(name) => reconnect(shared, name.as_deref())?,
        Command::Kill(name) => kill(shared, name.as_deref()).await?,
        Command::KillClient(id) => kill_client(shared, id).await?,
        Command::Suspend => suspend(shared).await?,
        Command::Shutdown(how) => shut_down(shared, how),
        Command::WaitClose(name) => wait_close(shared, name.as_deref()).await?,
    }
    Ok(Answer::Done)
}

/// The database of that name, if there is or may be one.
fn named(shared: &Shared, name: &str, verb: AdminVerb) -> Result<Arc<Database>, Error> {
    if name == console::DATABASE {
        return Err(Error::AdminDatabase { verb, name: name.to_owned() });
    }
    if shared.config().database(name).is_none() {
        return Err(Error::NoSuchDatabase(name.to_owned()));
    }
    Ok(shared.database(name))
}

/// The database of that name, or all.
fn chosen(shared: &Shared, name: Option<&str>, verb: AdminVerb) -> Result<Vec<Arc<Database>>, Error> {
    match name {
        Some(name) => Ok(vec![named(shared, name, verb)?]),
        None => Ok(shared.databases()),
    }
}

fn is_among(databases: &[Arc<Database>], database: &Arc<Database>) -> bool {
    databases.iter().any(|d| Arc::ptr_eq(d, database))
}

/// Runs something for the pools of these databases on every thread.
fn for_pools(shared: &Shared, databases: Vec<Arc<Database>>, act: fn(&Rc<crate::pool::Pool>, &Rc<Worker>)) {
    shared.tell_all(move |worker| {
        for pool in worker.pools().iter().filter(|p| is_among(&databases, &p.shared.database)) {
            act(pool, worker);
        }
    });
}

/// Changes a setting.
fn set(shared: &Arc<Shared>, key: &str, value: &str) -> Result<(), Error> {
    let mut config = Config::clone(&shared.config());
    let warnings = config.set(key, value).map_err(|e| {
        tracing::warn!(target: "pooler", "{e}");
        Error::SetFailed
    })?;
    for warning in warnings {
        tracing::warn!(target: "pooler", "{warning}");
    }
    put_in_force(shared, config);
    Ok(())
}

/// Reads the files again, and logs what is wrong or doubtful in them. With faults everything stays as it was.
pub(crate) fn reload(shared: &Arc<Shared>) -> Result<(), Faults> {
    let loaded = shared.config().reload().inspect_err(|faults| {
        for fault in &faults.0 {
            tracing::error!(target: "pooler", "{fault}");
        }
        tracing::warn!(target: "pooler", "config file loading failed");
    })?;
    for warning in &loaded.warnings {
        tracing::warn!(target: "pooler", "{warning}");
    }
    put_in_force(shared, loaded.config);
    Ok(())
}

fn put_in_force(shared: &Arc<Shared>, config: Config) {
    let encrypts_anew = shared.tls.reload(&config.settings).unwrap_or_else(|e| {
        tracing::error!(target: "pooler", "TLS stays as it was: {e}");
        false
    });
    shared.secrets.reload(&config);
    let config = Arc::new(config);
    shared.set_config(config.clone());
    let (mut moved, mut removed) = (Vec::new(), Vec::new());
    for pool in shared.pools() {
        let (name, user) = (&pool.database.name, &pool.user.name);
        let Some(entry) = config.database(name) else {
            tracing::info!(target: "pooler", "dropping database '{name}' as it does not exist anymore or inactive auto-database");
            removed.push(name.clone());
            moved.push(pool.database.clone());
            continue;
        };
        let plan = Plan::of(&config, &entry, user);
        if plan.leads_elsewhere(&pool.plan()) || encrypts_anew {
            moved.push(pool.database.clone());
            pool.forget_welcome();
        }
        pool.set_plan(plan);
    }
    shared.tell_all(|worker| worker.reload());
    drop_clients(shared, removed);
    for_pools(shared, moved, |pool, _| pool.outdate("database configuration changed"));
}

/// Holds databases; returns when their servers are closed, or when they aren't held any more.
pub(crate) async fn pause(shared: &Arc<Shared>, name: Option<&str>) -> Result<(), Error> {
    let databases = chosen(shared, name, AdminVerb::Pause)?;
    if name.is_none() && shared.paused.swap(true, Ordering::SeqCst) {
        return Err(Error::AlreadyPaused);
    }
    for database in &databases {
        database.paused.store(true, Ordering::SeqCst);
    }
    for_pools(shared, databases.clone(), |pool, _| pool.close_idle("pause mode"));
    let held = |d: &Arc<Database>| d.paused.load(Ordering::SeqCst) && d.servers.load(Ordering::SeqCst) > 0;
    while databases.iter().any(held) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Lets databases go on.
pub(crate) fn resume(shared: &Arc<Shared>, name: Option<&str>) -> Result<(), Error> {
    if shared.shutdown.load(Ordering::SeqCst) > 0 {
        return Err(Error::ShuttingDown);
    }
    let databases = chosen(shared, name, AdminVerb::Pause)?;
    match name {
        Some(name) => {
            if !databases.iter().any(|d| d.paused.load(Ordering::SeqCst)) {
                return Err(Error::DatabaseNotPaused(name.to_owned()));
            }
        }
        None => {
            let paused = shared.paused.swap(false, Ordering::SeqCst);
            let suspended = shared.suspended.swap(false, Ordering::SeqCst);
            if !paused && !suspended && !databases.iter().any(|d| d.paused.load(Ordering::SeqCst)) {
                return Err(Error::NotPaused);
            }
            if suspended {
                shared.tell_all(|worker| worker.set_suspended(false));
            }
        }
    }
    for database in &databases {
        database.paused.store(false, Ordering::SeqCst);
    }
    for_pools(shared, databases, |pool, worker| pool.seek(worker));
    Ok(())
}

/// Has servers replaced as they become free.
fn reconnect(shared: &Arc<Shared>, name: Option<&str>) -> Result<(), Error> {
    let databases = chosen(shared, name, AdminVerb::Reconnect)?;
    for_pools(shared, databases, |pool, _| pool.outdate("RECONNECT command issued"));
    Ok(())
}

/// Drops every client and server of a database, and holds it.
async fn kill(shared: &Arc<Shared>, name: Option<&str>) -> Result<(), Error> {
    let databases = chosen(shared, name, AdminVerb::Kill)?;
    if name.is_none() && shared.paused.swap(true, Ordering::SeqCst) {
        return Err(Error::AlreadyPaused);
    }
    for database in &databases {
        database.paused.store(true, Ordering::SeqCst);
    }
    let names: Vec<Arc<str>> = databases.iter().map(|d| d.name.clone()).collect();
    drop_clients(shared, names);
    for_pools(shared, databases.clone(), |pool, _| pool.outdate("admin forced disconnect"));
    while databases.iter().any(|d| d.servers.load(Ordering::SeqCst) > 0 && d.paused.load(Ordering::SeqCst)) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Disconnects the clients of databases that are no more, or are killed.
fn drop_clients(shared: &Shared, names: Vec<Arc<str>>) {
    shared.tell_all(move |worker| {
        let order = Order::Close("database removed".into());
        let of_these = |names: &Option<crate::shared::Key>, all: &[Arc<str>]| {
            names.as_ref().is_some_and(|(database, _)| all.contains(database))
        };
        worker.tell_clients(&order, |client| of_these(&client.names.borrow(), &names));
    });
}

async fn kill_client(shared: &Arc<Shared>, id: u64) -> Result<(), Error> {
    let found = shared.call_all(move |worker| {
        let order = Order::Close("admin forced disconnect".into());
        let exists = worker.clients.borrow().iter().any(|(_, c)| c.id == id);
        worker.tell_clients(&order, |client| client.id == id);
        exists
    });
    if found.await.contains(&true) { Ok(()) } else { Err(Error::NoSuchClient) }
}

/// Stops all traffic where it is.
async fn suspend(shared: &Arc<Shared>) -> Result<(), Error> {
    if shared.databases().iter().any(|d| d.paused.load(Ordering::SeqCst)) && !shared.paused.load(Ordering::SeqCst) {
        return Err(Error::DatabasesPaused);
    }
    if shared.paused.load(Ordering::SeqCst) || shared.suspended.swap(true, Ordering::SeqCst) {
        return Err(Error::AlreadyPaused);
    }
    shared.call_all(|worker| worker.set_suspended(true)).await;
    Ok(())
}

/// Begins a shutdown.
pub(crate) fn shut_down(shared: &Arc<Shared>, how: Shutdown) {
    let level = match how {
        Shutdown::WaitForClients => 1,
        Shutdown::WaitForServers => 2,
        Shutdown::Immediate => 3,
    };
    if shared.shutdown.fetch_max(level, Ordering::SeqCst) >= level {
        return;
    }
    shared.listening.send_replace(false);
    if how == Shutdown::WaitForServers {
        for database in shared.databases() {
            database.paused.store(true, Ordering::SeqCst);
        }
        for_pools(shared, shared.databases(), |pool, _| pool.close_idle("server shutdown"));
    }
}

/// Waits until what a shutdown waits for is so.
pub(crate) async fn wait_ended(shared: &Arc<Shared>) {
    loop {
        let over = match shared.shutdown.load(Ordering::SeqCst) {
            0 => false,
            1 => shared.client_count() == shared.consoles.load(Ordering::SeqCst),
            2 => shared.databases().iter().all(|d| d.servers.load(Ordering::SeqCst) == 0),
            _ => true,
        };
        if over {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until no server of before a RECONNECT or RELOAD is left.
async fn wait_close(shared: &Arc<Shared>, name: Option<&str>) -> Result<(), Error> {
    let databases = chosen(shared, name, AdminVerb::Wait)?;
    loop {
        let these = databases.clone();
        let old = shared.call_all(move |worker| {
            let pools = worker.pools();
            let mut old = pools.iter().filter(|p| is_among(&these, &p.shared.database)).flat_map(|p| p.servers());
            old.any(|(_, marks)| marks.outdated.get())
        });
        if !old.await.contains(&true) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}
