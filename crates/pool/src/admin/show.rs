//! Where the rows of each SHOW come from.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use jiff::tz::TimeZone;

use super::{books, clusters};
use crate::client::{self, Origin, Presence};
use crate::config::{PoolMode, Role, settings};
use crate::console::rows::{
    Buffers, ClientState, ConfigRow, Counters, DatabaseRow, Endpoint, ListCounts, MemRow, PeerRow, PoolRow,
    Replication, ServerState, Side, SocketRow, State, StatsRow, UserRow,
};
use crate::console::{self, Show, Table};
use crate::plan::Plan;
use crate::pool::Pool;
use crate::server::{self, Facts, Marks, Peer};
use crate::shared::{Key, Shared};
use crate::worker::Worker;

/// The table of a SHOW.
pub(super) async fn table(shared: &Arc<Shared>, what: Show) -> Table {
    let zone = TimeZone::system();
    match what {
        Show::Clients => SocketRow::listing(clients(shared).await, &zone),
        Show::Servers => SocketRow::listing(servers(shared).await, &zone),
        Show::Sockets | Show::ActiveSockets => {
            let (mut rows, servers) = (clients(shared).await, servers(shared).await);
            rows.extend(servers);
            if what == Show::ActiveSockets {
                rows.retain(|row| row.link.is_some());
            }
            SocketRow::table(rows, &zone)
        }
        Show::Clusters => {
            let waiting = shared.call_all(|worker| clusters::waiting(worker)).await;
            Table::of(clusters::rows(shared, waiting.into_iter().flatten()))
        }
        Show::Pools => Table::of(pools(shared).await),
        Show::Databases => Table::of(databases(shared)),
        Show::Users => Table::of(users(shared)),
        Show::Lists => lists(shared).await.table(),
        Show::Config => Table::of(config(shared)),
        Show::State => state(shared).table(),
        Show::Stats => StatsRow::table(books::stats(shared).await),
        Show::StatsTotals => StatsRow::totals(books::stats(shared).await),
        Show::StatsAverages => StatsRow::averages(books::stats(shared).await),
        Show::Totals => {
            let (total, average) = books::sums(shared).await;
            Counters::table(&total, &average)
        }
        Show::Mem => Table::of(memory(shared).await),
        Show::Peers => Table::of(peers(shared)),
        Show::DnsHosts | Show::DnsZones | Show::Fds | Show::PeerPools => {
            Table { columns: what.columns(), rows: Vec::new() }
        }
    }
}

async fn clients(shared: &Arc<Shared>) -> Vec<SocketRow> {
    let rows = shared.call_all(|worker| {
        let port = worker.config().settings.listen_port;
        let clients = worker.clients.borrow();
        clients.iter().map(|(_, c)| client_row(c, port)).collect::<Vec<_>>()
    });
    rows.await.into_iter().flatten().collect()
}

fn client_row(client: &Rc<Presence>, port: u16) -> SocketRow {
    let (database, user) = client.names.borrow().as_ref().map(|(d, u)| (d.to_string(), u.to_string())).unzip();
    let (addr, local_addr) = match client.origin {
        Origin::Tcp(peer, local) => (Endpoint::Tcp(peer), Endpoint::Tcp(local)),
        Origin::Unix(_) => (Endpoint::Unix(port), Endpoint::Unix(port)),
    };
    let state = match client.state.get() {
        // It has proved who it is, and waits for a server's parameters.
        client::State::Login if client.waits.get().is_some() => ClientState::Waiting,
        client::State::Login => ClientState::Login,
        client::State::Active => ClientState::Active,
        client::State::Waiting => ClientState::Waiting,
    };
    let application = client.application.borrow();
    SocketRow {
        side: Side::Client(state),
        user,
        database,
        replication: client.replication.get(),
        addr,
        local_addr,
        connect_time: client.connected,
        request_time: client.requested.get().map_or(client.connected, wall),
        wait: client.waits.get().map_or(Duration::ZERO, |since| since.elapsed()),
        close_needed: false,
        ptr: client.id,
        link: client.server.borrow().as_ref().map(|facts| facts.id),
        remote_pid: match client.origin {
            Origin::Unix(Some(pid)) => pid.unsigned_abs(),
            _ => 0,
        },
        tls: client.tls.borrow().to_string(),
        application_name: application.as_deref().map(|a| String::from_utf8_lossy(a).into_owned()).unwrap_or_default(),
        prepared_statements: client.statements.get(),
        id: client.id as u32,
        buffers: Buffers::default(),
    }
}

/// The time of day at a moment of the past.
fn wall(at: Instant) -> SystemTime {
    SystemTime::now().checked_sub(at.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
}

async fn servers(shared: &Arc<Shared>) -> Vec<SocketRow> {
    let rows = shared.call_all(|worker| {
        let pools = worker.pools();
        let of_pool = |pool: &Rc<Pool>| -> Vec<SocketRow> {
            pool.servers().iter().map(|(facts, marks)| server_row(pool, facts, marks)).collect()
        };
        pools.iter().flat_map(of_pool).collect::<Vec<_>>()
    });
    rows.await.into_iter().flatten().collect()
}

fn server_row(pool: &Pool, facts: &Facts, marks: &Marks) -> SocketRow {
    let endpoint = match &facts.address.peer {
        Peer::Ip(address) => Endpoint::Tcp(*address),
        Peer::Unix(_) => Endpoint::Unix(facts.address.port),
    };
    let state = match marks.state.get() {
        server::State::Idle => ServerState::Idle,
        server::State::Active => ServerState::Active,
        server::State::Used => ServerState::Used,
        server::State::Tested => ServerState::Tested,
        server::State::BeingCanceled => ServerState::BeingCanceled,
    };
    SocketRow {
        side: Side::Server(state),
        user: Some(pool.plan().user.clone()),
        database: Some(pool.shared.database.name.to_string()),
        replication: Replication::None,
        addr: endpoint,
        local_addr: facts.local.map_or(endpoint, Endpoint::Tcp),
        connect_time: facts.connected,
        request_time: marks.requested.get().map_or(facts.connected, wall),
        wait: Duration::ZERO,
        close_needed: marks.outdated.get(),
        ptr: facts.id,
        link: marks.client.get(),
        remote_pid: facts.pid,
        tls: facts.tls.to_string(),
        application_name: String::new(),
        prepared_statements: marks.statements.get(),
        id: facts.id as u32,
        buffers: Buffers::default(),
    }
}

async fn pools(shared: &Arc<Shared>) -> Vec<PoolRow> {
    let parts = shared.call_all(|worker| pool_rows(worker)).await;
    sum_pools(shared, parts.into_iter().flatten())
}

/// A thread's part of every pool.
pub(crate) fn pool_rows(worker: &Worker) -> Vec<PoolRow> {
    let mut active: HashMap<Key, u32> = HashMap::new();
    for (_, client) in worker.clients.borrow().iter() {
        if client.state.get() != client::State::Active {
            continue;
        }
        if let Some(pool) = &*client.pool.borrow() {
            match active.get_mut(pool) {
                Some(count) => *count += 1,
                None => _ = active.insert(pool.clone(), 1),
            }
        }
    }
    worker.pools().iter().map(|pool| pool_row(worker, pool, &active)).collect()
}

/// The sums of all threads' parts, and the console's pool.
pub(crate) fn sum_pools(shared: &Shared, parts: impl IntoIterator<Item = PoolRow>) -> Vec<PoolRow> {
    let mut rows: BTreeMap<(String, String), PoolRow> = BTreeMap::new();
    for part in parts {
        match rows.entry((part.database.clone(), part.user.clone())) {
            Entry::Vacant(row) => _ = row.insert(part),
            Entry::Occupied(mut row) => add(row.get_mut(), &part),
        }
    }
    let consoles = shared.consoles.load(Ordering::Relaxed);
    let console = PoolRow { cl_active: consoles, ..empty(console::DATABASE, console::DATABASE, "statement") };
    rows.into_values().chain([console]).collect()
}

fn empty(database: &str, user: &str, pool_mode: &'static str) -> PoolRow {
    PoolRow {
        database: database.to_owned(),
        user: user.to_owned(),
        cl_active: 0,
        cl_waiting: 0,
        cl_active_cancel_req: 0,
        cl_waiting_cancel_req: 0,
        sv_active: 0,
        sv_active_cancel: 0,
        sv_being_canceled: 0,
        sv_idle: 0,
        sv_used: 0,
        sv_tested: 0,
        sv_login: 0,
        maxwait: Duration::ZERO,
        pool_mode,
        load_balance_hosts: None,
    }
}

fn pool_row(worker: &Worker, pool: &Pool, active: &HashMap<Key, u32>) -> PoolRow {
    let names = (pool.shared.database.name.clone(), pool.shared.user.name.clone());
    let (waiting, maxwait) = pool.waiting(worker);
    let mut row = empty(&names.0, &names.1, mode(pool.mode()));
    row.cl_active = active.get(&names).copied().unwrap_or(0);
    row.cl_waiting = count(waiting);
    row.maxwait = maxwait.unwrap_or_default();
    row.sv_login = pool.launching();
    for (_, marks) in pool.servers() {
        match marks.state.get() {
            server::State::Active => row.sv_active += 1,
            server::State::Idle => row.sv_idle += 1,
            server::State::Used => row.sv_used += 1,
            server::State::Tested => row.sv_tested += 1,
            server::State::BeingCanceled => row.sv_being_canceled += 1,
        }
        row.cl_active_cancel_req += marks.cancels.get();
    }
    let plan = pool.plan();
    row.load_balance_hosts = balance(plan.hosts.len(), plan.balance_hosts);
    row
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn balance(hosts: usize, balances: bool) -> Option<&'static str> {
    (hosts > 1).then_some(if balances { "round-robin" } else { "disable" })
}

fn add(row: &mut PoolRow, part: &PoolRow) {
    row.cl_active += part.cl_active;
    row.cl_waiting += part.cl_waiting;
    row.cl_active_cancel_req += part.cl_active_cancel_req;
    row.sv_active += part.sv_active;
    row.sv_being_canceled += part.sv_being_canceled;
    row.sv_idle += part.sv_idle;
    row.sv_used += part.sv_used;
    row.sv_tested += part.sv_tested;
    row.sv_login += part.sv_login;
    row.maxwait = row.maxwait.max(part.maxwait);
}

/// A pool mode's name.
pub(super) fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// Rows of SHOW DATABASES.
pub(crate) fn databases(shared: &Shared) -> Vec<DatabaseRow> {
    let config = shared.config();
    let mut names: Vec<String> = config.databases.keys().cloned().collect();
    for known in shared.databases() {
        if !names.iter().any(|n| **n == *known.name) && config.database(&known.name).is_some() {
            names.push(known.name.to_string());
        }
    }
    names.iter().filter_map(|name| database_row(shared, name)).chain([console_row(shared)]).collect()
}

fn database_row(shared: &Shared, name: &str) -> Option<DatabaseRow> {
    let config = shared.config();
    let entry = config.database(name)?;
    let state = shared.database(name);
    let plan = Plan::of(&config, &entry, entry.user.as_deref().unwrap_or_default());
    let leader =
        entry.target.as_ref().filter(|t| t.role == Role::Leader).and_then(|t| shared.cluster(&t.cluster).leader());
    let (host, port) = match leader {
        Some(leader) => (Some(leader.host), leader.port),
        None => (entry.host.clone(), plan.hosts.first().map_or(5432, |(_, port)| *port)),
    };
    let most = entry.max_db_client_connections.unwrap_or(config.settings.max_db_client_connections);
    Some(DatabaseRow {
        name: name.to_owned(),
        host,
        port,
        database: plan.dbname.clone(),
        force_user: entry.user.clone(),
        pool_size: plan.size,
        min_pool_size: plan.min_size,
        reserve_pool_size: plan.reserve_size,
        server_lifetime: plan.server_lifetime,
        pool_mode: entry.pool_mode.map(mode),
        load_balance_hosts: balance(entry.hosts.len(), entry.load_balance_hosts),
        max_connections: plan.max_db_connections,
        current_connections: state.servers.load(Ordering::Relaxed),
        max_client_connections: most,
        current_client_connections: state.clients.load(Ordering::Relaxed),
        paused: state.paused.load(Ordering::Relaxed),
        disabled: state.disabled.load(Ordering::Relaxed),
    })
}

fn console_row(shared: &Shared) -> DatabaseRow {
    let config = shared.config();
    DatabaseRow {
        name: console::DATABASE.to_owned(),
        host: None,
        port: config.settings.listen_port,
        database: console::DATABASE.to_owned(),
        force_user: Some(console::DATABASE.to_owned()),
        pool_size: 2,
        min_pool_size: 0,
        reserve_pool_size: 0,
        server_lifetime: config.settings.server_lifetime,
        pool_mode: Some("statement"),
        load_balance_hosts: None,
        max_connections: 0,
        current_connections: 0,
        max_client_connections: 0,
        current_client_connections: shared.consoles.load(Ordering::Relaxed),
        paused: false,
        disabled: false,
    }
}

fn users(shared: &Shared) -> Vec<UserRow> {
    let config = shared.config();
    let mut names: Vec<&str> = config.credentials.iter().map(|(name, _)| name).collect();
    names.extend(config.users.keys().map(String::as_str));
    let seen = shared.users();
    names.extend(seen.iter().map(|u| &*u.name));
    names.sort_unstable();
    names.dedup();
    let row = |name: &str| {
        let (own, state) = (config.users.get(name), shared.user(name));
        UserRow {
            name: name.to_owned(),
            pool_size: own.and_then(|u| u.pool_size),
            reserve_pool_size: own.and_then(|u| u.reserve_pool_size),
            pool_mode: own.and_then(|u| u.pool_mode).map(mode),
            max_user_connections: own
                .and_then(|u| u.max_user_connections)
                .unwrap_or(config.settings.max_user_connections),
            current_connections: state.servers.load(Ordering::Relaxed),
            max_user_client_connections: own
                .and_then(|u| u.max_user_client_connections)
                .unwrap_or(config.settings.max_user_client_connections),
            current_client_connections: state.clients.load(Ordering::Relaxed),
        }
    };
    names.into_iter().map(row).collect()
}

/// How many connections a thread has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    clients: u32,
    logging_in: u32,
    idle_servers: u32,
    busy_servers: u32,
}

/// How many connections this thread has.
pub(crate) fn tally(worker: &Worker) -> Tally {
    let mut tally = Tally::default();
    for (_, client) in worker.clients.borrow().iter() {
        match client.state.get() {
            client::State::Login => tally.logging_in += 1,
            client::State::Active | client::State::Waiting => tally.clients += 1,
        }
    }
    for (_, marks) in worker.pools().iter().flat_map(|pool| pool.servers()) {
        match marks.state.get() {
            server::State::Idle => tally.idle_servers += 1,
            _ => tally.busy_servers += 1,
        }
    }
    tally
}

async fn lists(shared: &Arc<Shared>) -> ListCounts {
    let tallies = shared.call_all(|worker| tally(worker)).await;
    count_lists(shared, &tallies)
}

/// What SHOW LISTS counts, from all threads' tallies.
pub(crate) fn count_lists(shared: &Shared, tallies: &[Tally]) -> ListCounts {
    let sum = |of: fn(&Tally) -> u32| tallies.iter().map(of).sum();
    ListCounts {
        databases: count(databases(shared).len()),
        users: count(users(shared).len()),
        peers: count(shared.config().peers.len()),
        pools: count(shared.pools().len() + 1),
        peer_pools: 0,
        free_clients: 0,
        used_clients: sum(|t| t.clients),
        login_clients: sum(|t| t.logging_in),
        free_servers: sum(|t| t.idle_servers),
        used_servers: sum(|t| t.busy_servers),
        dns_names: 0,
        dns_zones: 0,
        dns_queries: 0,
        dns_pending: 0,
    }
}

fn config(shared: &Shared) -> Vec<ConfigRow> {
    let config = shared.config();
    let row = |(setting, value): (&'static settings::Setting, Option<String>)| ConfigRow {
        key: setting.name,
        value,
        default: setting.default.map(str::to_owned),
        changeable: setting.change == settings::Change::Live,
    };
    settings::show(&config.settings).map(row).collect()
}

/// What SHOW STATE tells.
pub(crate) fn state(shared: &Shared) -> State {
    if shared.suspended.load(Ordering::Relaxed) {
        State::Suspended
    } else if shared.paused.load(Ordering::Relaxed) {
        State::Paused
    } else {
        State::Active
    }
}

async fn memory(shared: &Arc<Shared>) -> Vec<MemRow> {
    let (clients, servers) = (clients(shared).await.len(), servers(shared).await.len());
    let row = |name: &'static str, size: usize, used: usize| MemRow {
        name,
        size: count(size),
        used: count(used),
        free: 0,
        memtotal: count(size * used),
    };
    vec![
        row("client_cache", crate::session::SIZE + size_of::<Presence>(), clients),
        row("server_cache", size_of::<server::Server>() + size_of::<Facts>(), servers),
        row("pool_cache", size_of::<Pool>(), shared.pools().len() * shared.threads()),
    ]
}

fn peers(shared: &Shared) -> Vec<PeerRow> {
    let config = shared.config();
    let row = |peer: &crate::config::Peer| PeerRow {
        peer_id: peer.id,
        host: Some(peer.host.to_string()),
        port: peer.port,
        pool_size: peer.pool_size.unwrap_or(config.settings.default_pool_size),
    };
    config.peers.values().map(row).collect()
}
