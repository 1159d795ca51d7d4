//! The metrics by name: those of the common exporter for pgbouncer, whose names, labels and units are kept, and our own,
//! which begin with `pgherd_pooler_`.

use super::page::{Kind, Page};
use super::sample::{Sample, Whole};
use crate::console::rows::{ClusterRow, Counters, DatabaseRow, ListCounts, PoolRow, State};

/// Name, meaning and value of a metric that each row of a table has.
type Metric<R> = (&'static str, &'static str, fn(&R) -> f64);

const DATABASES: &[Metric<DatabaseRow>] = &[
    ("pgbouncer_databases_pool_size", "Most server connections of one of its pools.", |d| d.pool_size.into()),
    (
        "pgbouncer_databases_reserve_pool",
        "Server connections that a pool may have beyond its size when clients wait for long.",
        |d| d.reserve_pool_size.into(),
    ),
    ("pgbouncer_databases_max_connections", "Most server connections of the database, 0 if there is no limit.", |d| {
        d.max_connections.into()
    }),
    ("pgbouncer_databases_current_connections", "Server connections of the database.", |d| {
        d.current_connections.into()
    }),
    ("pgbouncer_databases_paused", "1 if the database is paused, else 0.", |d| f64::from(u8::from(d.paused))),
    ("pgbouncer_databases_disabled", "1 if the database takes no new clients, else 0.", |d| {
        f64::from(u8::from(d.disabled))
    }),
    ("pgherd_pooler_databases_min_pool_size", "Fewest server connections of a pool that is in use.", |d| {
        d.min_pool_size.into()
    }),
    ("pgherd_pooler_databases_max_client_connections", "Most clients of the database, 0 if there is no limit.", |d| {
        d.max_client_connections.into()
    }),
    ("pgherd_pooler_databases_current_client_connections", "Clients of the database.", |d| {
        d.current_client_connections.into()
    }),
];

const POOLS: &[Metric<PoolRow>] = &[
    ("pgbouncer_pools_client_active_connections", "Clients that hold a server or want none.", |p| p.cl_active.into()),
    ("pgbouncer_pools_client_waiting_connections", "Clients that wait for a server.", |p| p.cl_waiting.into()),
    ("pgbouncer_pools_client_active_cancel_connections", "Cancel requests sent on and not done yet.", |p| {
        p.cl_active_cancel_req.into()
    }),
    ("pgbouncer_pools_client_waiting_cancel_connections", "Cancel requests not sent on yet.", |p| {
        p.cl_waiting_cancel_req.into()
    }),
    ("pgbouncer_pools_server_active_connections", "Servers that a client holds.", |p| p.sv_active.into()),
    ("pgbouncer_pools_server_active_cancel_connections", "Server connections that carry a cancel request.", |p| {
        p.sv_active_cancel.into()
    }),
    (
        "pgbouncer_pools_server_being_canceled_connections",
        "Servers that wait until the cancel requests under way to them are done.",
        |p| p.sv_being_canceled.into(),
    ),
    ("pgbouncer_pools_server_idle_connections", "Servers free for a client at once.", |p| p.sv_idle.into()),
    ("pgbouncer_pools_server_used_connections", "Servers free for a client after a check.", |p| p.sv_used.into()),
    ("pgbouncer_pools_server_testing_connections", "Servers that run server_reset_query or server_check_query.", |p| {
        p.sv_tested.into()
    }),
    ("pgbouncer_pools_server_login_connections", "Servers that are being connected or logged in to.", |p| {
        p.sv_login.into()
    }),
    ("pgbouncer_pools_client_maxwait_seconds", "How long the client that waits longest has waited.", |p| {
        p.maxwait.as_secs_f64()
    }),
];

const TOTALS: &[Metric<Counters>] = &[
    ("pgbouncer_stats_totals_server_assignments_total", "How often a client was given a server.", |c| {
        c.server_assignment_count as f64
    }),
    ("pgbouncer_stats_totals_sql_transactions_pooled_total", "Transactions.", |c| c.xact_count as f64),
    ("pgbouncer_stats_totals_queries_pooled_total", "Queries.", |c| c.query_count as f64),
    ("pgbouncer_stats_totals_received_bytes_total", "Bytes received from clients.", |c| c.bytes_received as f64),
    ("pgbouncer_stats_totals_sent_bytes_total", "Bytes received from servers, to be sent to clients.", |c| {
        c.bytes_sent as f64
    }),
    (
        "pgbouncer_stats_totals_server_in_transaction_seconds_total",
        "Time that servers spent in transactions, whether busy or idle.",
        |c| c.xact_time.as_secs_f64(),
    ),
    ("pgbouncer_stats_totals_queries_duration_seconds_total", "Time that servers spent on queries.", |c| {
        c.query_time.as_secs_f64()
    }),
    ("pgbouncer_stats_totals_client_wait_seconds_total", "Time that clients spent waiting for a server.", |c| {
        c.wait_time.as_secs_f64()
    }),
    ("pgbouncer_stats_totals_client_parses_total", "Parse messages received from clients.", |c| {
        c.client_parse_count as f64
    }),
    ("pgbouncer_stats_totals_server_parses_total", "Parse messages sent to servers.", |c| c.server_parse_count as f64),
    ("pgbouncer_stats_totals_binds_total", "Bind messages received from clients.", |c| c.bind_count as f64),
    ("pgherd_pooler_client_logins_total", "Clients that logged in.", |c| c.client_login_count as f64),
];

const LISTS: &[Metric<ListCounts>] = &[
    ("pgbouncer_databases", "Databases, the console's among them.", |l| l.databases.into()),
    ("pgbouncer_users", "Users known by name.", |l| l.users.into()),
    ("pgbouncer_pools", "Pools, the console's among them.", |l| l.pools.into()),
    ("pgbouncer_free_clients", "Client objects kept for reuse, of which this pooler has none.", |l| {
        l.free_clients.into()
    }),
    ("pgbouncer_used_clients", "Clients that have logged in.", |l| l.used_clients.into()),
    ("pgbouncer_login_clients", "Clients that are logging in.", |l| l.login_clients.into()),
    ("pgbouncer_free_servers", "Server connections that are free.", |l| l.free_servers.into()),
    ("pgbouncer_used_servers", "Server connections that aren't free.", |l| l.used_servers.into()),
    ("pgbouncer_cached_dns_names", "Host names in the DNS cache.", |l| l.dns_names.into()),
    ("pgbouncer_cached_dns_zones", "Zones in the DNS cache.", |l| l.dns_zones.into()),
    ("pgbouncer_in_flight_dns_queries", "DNS queries under way.", |l| l.dns_queries.into()),
];

const CLUSTERS: &[Metric<ClusterRow>] = &[
    ("pgherd_pooler_cluster_epoch", "Epoch of the leadership.", |c| c.epoch as f64),
    ("pgherd_pooler_cluster_serving", "1 if clients of the leader are served, 0 while they're held.", |c| {
        f64::from(u8::from(c.state == "serving"))
    }),
    ("pgherd_pooler_cluster_replicas", "Replicas that may be read from.", |c| c.replicas.into()),
    ("pgherd_pooler_cluster_clients_held", "Clients that are held.", |c| c.clients_held.into()),
];

const HOLDS: &[Metric<ClusterRow>] = &[
    ("pgherd_pooler_cluster_holds_total", "Times that clients of the leader were held.", |c| c.holds as f64),
    ("pgherd_pooler_cluster_hold_seconds_total", "Time for which they were held.", |c| c.hold_time.as_secs_f64()),
    ("pgherd_pooler_cluster_cuts_total", "Transactions that were cut.", |c| c.cuts as f64),
];

/// The page of metrics for a sample.
pub(super) fn render(sample: &Sample) -> String {
    let mut page = Page::default();
    let up = u8::from(sample.whole.is_some());
    page.gauge("pgbouncer_up", "1 if all threads of the pooler answer, else 0.", up);
    let info = "pgbouncer_version_info";
    page.family(Kind::Gauge, info, "What SHOW VERSION tells.").add(&[("version", crate::BANNER)], 1);
    let info = "pgherd_pooler_build_info";
    page.family(Kind::Gauge, info, "Version of this program.").add(&[("version", crate::VERSION)], 1);
    process(&mut page, sample);
    threads(&mut page, sample);
    page.gauge(
        "pgherd_pooler_shutting_down",
        "1 if no new clients are taken any more, else 0.",
        u8::from(sample.shutting_down),
    );
    if let Some(whole) = &sample.whole {
        lists(&mut page, whole);
        databases(&mut page, whole);
        pools(&mut page, whole);
        totals(&mut page, whole);
        clients(&mut page, whole);
        own(&mut page, whole);
        clusters(&mut page, whole);
    }
    page.into_text()
}

fn process(page: &mut Page, sample: &Sample) {
    let process = &sample.process;
    let spent = process.cpu.as_secs_f64();
    page.counter("pgbouncer_process_cpu_seconds_total", "Processor time spent, user and system.", spent);
    page.gauge("pgbouncer_process_start_time_seconds", "When the process began, in seconds since 1970.", process.began);
    let mut gauge = |name, help, value: Option<u64>| {
        if let Some(value) = value {
            page.gauge(name, help, value as f64);
        }
    };
    gauge("pgbouncer_process_resident_memory_bytes", "Memory in RAM.", process.resident);
    gauge("pgbouncer_process_virtual_memory_bytes", "Address space.", process.virt);
    let unlimited = |limit: Option<u64>| Some(limit.unwrap_or(u64::MAX));
    gauge("pgbouncer_process_virtual_memory_max_bytes", "Most address space.", unlimited(process.virt_limit));
    gauge("pgbouncer_process_open_fds", "File descriptors in use.", process.fds);
    gauge("pgbouncer_process_max_fds", "Most file descriptors.", unlimited(process.fds_limit));
}

fn threads(page: &mut Page, sample: &Sample) {
    let threads = &sample.threads;
    let names: Vec<String> = (0..threads.len()).map(|index| index.to_string()).collect();
    page.gauge("pgherd_pooler_workers", "Threads that serve clients.", threads.len() as f64);
    let mut up = page.family(Kind::Gauge, "pgherd_pooler_worker_up", "1 if the thread answers, else 0.");
    for (name, thread) in names.iter().zip(threads) {
        up.add(&[("worker", name)], u8::from(thread.cpu.is_some()));
    }
    let mut clients = page.family(Kind::Gauge, "pgherd_pooler_worker_clients", "Clients of the thread.");
    for (name, thread) in names.iter().zip(threads) {
        clients.add(&[("worker", name)], thread.clients);
    }
    let help = "Processor time spent by the thread, user and system.";
    let mut spent = page.family(Kind::Counter, "pgherd_pooler_worker_cpu_seconds_total", help);
    for (name, thread) in names.iter().zip(threads) {
        if let Some(cpu) = thread.cpu {
            spent.add(&[("worker", name)], cpu.as_secs_f64());
        }
    }
}

fn lists(page: &mut Page, whole: &Whole) {
    for (name, help, value) in LISTS {
        page.gauge(name, help, value(&whole.lists));
    }
    let clients = whole.max_client_conn;
    page.gauge("pgbouncer_config_max_client_connections", "Setting max_client_conn.", clients);
    let servers = whole.max_user_connections;
    page.gauge(
        "pgbouncer_config_max_user_connections",
        "Setting max_user_connections, 0 if there is no limit.",
        servers,
    );
}

fn databases(page: &mut Page, whole: &Whole) {
    for (name, help, value) in DATABASES {
        let mut family = page.family(Kind::Gauge, name, help);
        for row in &whole.databases {
            let labels = [
                ("name", row.name.as_str()),
                ("host", row.host.as_deref().unwrap_or_default()),
                ("port", &row.port.to_string()),
                ("database", &row.database),
                ("force_user", row.force_user.as_deref().unwrap_or_default()),
                ("pool_mode", row.pool_mode.unwrap_or_default()),
            ];
            family.add(&labels, value(row));
        }
    }
}

fn pools(page: &mut Page, whole: &Whole) {
    for (name, help, value) in POOLS {
        let mut family = page.family(Kind::Gauge, name, help);
        for row in &whole.pools {
            family.add(&[("database", &row.database), ("user", &row.user)], value(row));
        }
    }
}

fn totals(page: &mut Page, whole: &Whole) {
    for (name, help, value) in TOTALS {
        let mut family = page.family(Kind::Counter, name, help);
        for (database, counters) in &whole.totals {
            family.add(&[("database", database)], value(counters));
        }
    }
}

fn clients(page: &mut Page, whole: &Whole) {
    let help = "Clients that have logged in, consoles among them.";
    let mut family = page.family(Kind::Gauge, "pgbouncer_client_connections", help);
    for (clients, count) in &whole.clients {
        let labels = [
            ("database", clients.database.as_str()),
            ("user", &clients.user),
            ("application_name", &clients.application),
            ("state", clients.state),
        ];
        family.add(&labels, *count);
    }
}

fn clusters(page: &mut Page, whole: &Whole) {
    if whole.clusters.is_empty() {
        return;
    }
    let help = "The leader that clients are routed to; no series while there is none.";
    let mut family = page.family(Kind::Gauge, "pgherd_pooler_cluster_leader_info", help);
    for row in &whole.clusters {
        if let Some(leader) = &row.leader {
            family.add(&[("cluster", &row.cluster), ("leader", leader)], 1);
        }
    }
    let gauges = CLUSTERS.iter().map(|metric| (Kind::Gauge, metric));
    for (kind, (name, help, value)) in gauges.chain(HOLDS.iter().map(|metric| (Kind::Counter, metric))) {
        let mut family = page.family(kind, name, help);
        for row in &whole.clusters {
            family.add(&[("cluster", &row.cluster)], value(row));
        }
    }
}

fn own(page: &mut Page, whole: &Whole) {
    let is = |state| u8::from(whole.state == state);
    page.gauge("pgherd_pooler_paused", "1 if all databases are paused, else 0.", is(State::Paused));
    page.gauge("pgherd_pooler_suspended", "1 if all traffic is suspended, else 0.", is(State::Suspended));
    page.gauge("pgherd_pooler_console_clients", "Clients of the admin console.", whole.consoles);
    let help = "How often a server connection went to another thread.";
    let mut moves = page.family(Kind::Counter, "pgherd_pooler_servers_moved_total", help);
    for (database, count) in &whole.moves {
        moves.add(&[("database", database)], *count as f64);
    }
    let help = "Cancel requests that were sent to a server, left to the process before an online restart, or dropped.";
    let mut cancels = page.family(Kind::Counter, "pgherd_pooler_cancel_requests_total", help);
    let outcomes = &whole.cancels;
    cancels.add(&[("outcome", "forwarded")], outcomes.forwarded as f64);
    cancels.add(&[("outcome", "passed_on")], outcomes.passed_on as f64);
    cancels.add(&[("outcome", "unmatched")], outcomes.unmatched as f64);
}
