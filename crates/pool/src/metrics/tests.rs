//! Tests of the page of metrics: its text, that a parser of the format reads it back, and threads that don't answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::process::Process;
use super::sample::{self, Cancels, Clients, Sample, Thread, Whole};
use super::*;
use crate::config::Config;
use crate::console::Shutdown;
use crate::console::rows::{ClusterRow, Counters, DatabaseRow, ListCounts, PoolRow, State};
use crate::shared::Message;

/// A name with everything that a label's value has to escape, and what needn't be.
const AWKWARD: &str = "a\\b\"c\nd, {e}='é'";

const LONG: Duration = Duration::from_secs(60);

fn databases() -> Vec<DatabaseRow> {
    let app = DatabaseRow {
        name: "app".to_owned(),
        host: Some("10.0.0.1,10.0.0.2".to_owned()),
        port: 5432,
        database: "application".to_owned(),
        force_user: Some("owner".to_owned()),
        pool_size: 20,
        min_pool_size: 2,
        reserve_pool_size: 5,
        server_lifetime: Duration::from_secs(3600),
        pool_mode: Some("transaction"),
        load_balance_hosts: Some("round-robin"),
        max_connections: 50,
        current_connections: 7,
        max_client_connections: 1000,
        current_client_connections: 12,
        paused: true,
        disabled: false,
    };
    let awkward = DatabaseRow {
        name: AWKWARD.to_owned(),
        host: None,
        force_user: None,
        pool_mode: None,
        paused: false,
        disabled: true,
        ..app.clone()
    };
    vec![app, awkward]
}

fn pool() -> PoolRow {
    PoolRow {
        database: "app".to_owned(),
        user: "alice".to_owned(),
        cl_active: 1,
        cl_waiting: 2,
        cl_active_cancel_req: 3,
        cl_waiting_cancel_req: 4,
        sv_active: 5,
        sv_active_cancel: 6,
        sv_being_canceled: 7,
        sv_idle: 8,
        sv_used: 9,
        sv_tested: 10,
        sv_login: 11,
        maxwait: Duration::from_micros(1_250_000),
        pool_mode: "transaction",
        load_balance_hosts: None,
    }
}

fn counters() -> Counters {
    Counters {
        server_assignment_count: 1,
        xact_count: 2,
        query_count: 3,
        bytes_received: 5_000_000_000,
        bytes_sent: 5,
        xact_time: Duration::from_micros(6),
        query_time: Duration::from_millis(7_500),
        wait_time: Duration::from_secs(8),
        client_parse_count: 9,
        server_parse_count: 10,
        bind_count: 11,
        client_login_count: 12,
    }
}

fn clients(application: &str, state: &'static str) -> Clients {
    let text = str::to_owned;
    Clients { database: text("app"), user: text("alice"), application: text(application), state }
}

fn cluster(leader: Option<&str>, state: &'static str) -> ClusterRow {
    ClusterRow {
        cluster: if leader.is_some() { "otus" } else { "other" }.to_owned(),
        leader: leader.map(str::to_owned),
        state,
        epoch: 7,
        members: 3,
        replicas: 2,
        clients_held: 4,
        holds: 5,
        hold_time: Duration::from_millis(1_250),
        cuts: 6,
    }
}

fn whole() -> Whole {
    let lists = ListCounts {
        databases: 1,
        users: 2,
        pools: 3,
        free_clients: 0,
        used_clients: 5,
        login_clients: 6,
        free_servers: 7,
        used_servers: 8,
        ..ListCounts::default()
    };
    Whole {
        state: State::Paused,
        lists,
        consoles: 1,
        max_client_conn: 100,
        max_user_connections: 0,
        databases: databases(),
        pools: vec![pool()],
        totals: BTreeMap::from([("app".into(), counters())]),
        moves: BTreeMap::from([("app".into(), 4)]),
        clients: vec![(clients("", "active"), 3), (clients(AWKWARD, "waiting"), 2)],
        cancels: Cancels { forwarded: 1, passed_on: 2, unmatched: 3 },
        clusters: vec![cluster(Some("pg1"), "serving"), cluster(None, "no leader")],
    }
}

fn sample() -> Sample {
    let process = Process {
        cpu: Duration::from_millis(1_500),
        began: 1_700_000_000.25,
        resident: Some(12 << 20),
        virt: Some(1 << 30),
        virt_limit: None,
        fds: Some(20),
        fds_limit: Some(1024),
    };
    let thread = |clients| Thread { clients, cpu: Some(Duration::from_millis(250)) };
    Sample { threads: vec![thread(3), thread(4)], process, shutting_down: false, whole: Some(whole()) }
}

/// A sample's name and labels.
type Series = (String, BTreeMap<String, String>);

/// Reads a page as the text format 0.0.4 defines it. Panics where the page breaks the format.
fn parse(page: &str) -> BTreeMap<Series, f64> {
    assert!(page.ends_with('\n'), "the last line must end");
    let (mut series, mut seen, mut family) = (BTreeMap::new(), BTreeSet::new(), None);
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(seen.insert(name.to_owned()), "family twice: {name}");
            assert!(!help.contains('\\') && help.ends_with('.'), "{line}");
            family = Some((name.to_owned(), None));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            let (known, known_kind) = family.as_mut().expect(line);
            assert!(known == name && known_kind.is_none() && ["counter", "gauge"].contains(&kind), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            *known_kind = Some(kind.to_owned());
        } else {
            let (key, value) = parse_sample(line);
            let (name, kind) = family.as_ref().expect(line);
            assert!(*name == key.0 && kind.is_some(), "outside its family: {line}");
            assert_eq!(series.insert(key, value), None, "twice: {line}");
        }
    }
    series
}

fn parse_sample(line: &str) -> (Series, f64) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = line.find(|c| !is_name(c)).expect(line);
    let (name, mut rest) = line.split_at(end);
    assert!(name.starts_with(|c: char| c.is_ascii_alphabetic()), "{line}");
    let mut labels = BTreeMap::new();
    while let Some(pair) = rest.strip_prefix(['{', ',']) {
        let (label, quoted) = pair.split_once("=\"").expect(line);
        assert!(!label.is_empty() && label.chars().all(is_name), "{line}");
        let (mut value, mut chars) = (String::new(), quoted.char_indices());
        let end = loop {
            match chars.next().expect(line) {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().expect(line).1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("\\{c} in {line}"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert_eq!(labels.insert(label.to_owned(), value), None, "label twice: {line}");
        rest = &quoted[end + 1..];
    }
    let value = rest.strip_prefix(if labels.is_empty() { " " } else { "} " }).expect(line);
    ((name.to_owned(), labels), value.parse().expect(line))
}

/// The one value of a series with these labels.
fn value(page: &BTreeMap<Series, f64>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels = labels.iter().map(|(l, v)| ((*l).to_owned(), (*v).to_owned())).collect();
    *page.get(&(name.to_owned(), labels)).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_page_is_the_one_on_file() {
    let version = format!("version=\"{}\"", crate::VERSION);
    let page = families::render(&sample()).replace(&version, "version=\"0.0.0\"");
    let page = page.replace(crate::BANNER, "pgherd-pooler 0.0.0");
    let expected: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(page.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_parser_of_the_format_reads_every_value_back() {
    let page = parse(&families::render(&sample()));
    let of_pool = [("database", "app"), ("user", "alice")];
    assert_eq!(value(&page, "pgbouncer_pools_client_maxwait_seconds", &of_pool), 1.25);
    let app = [("database", "app")];
    assert_eq!(value(&page, "pgbouncer_stats_totals_server_in_transaction_seconds_total", &app), 6e-6);
    assert_eq!(value(&page, "pgbouncer_stats_totals_received_bytes_total", &app), 5e9);
    assert_eq!(value(&page, "pgbouncer_process_virtual_memory_max_bytes", &[]), u64::MAX as f64);
    let awkward = [("database", "app"), ("user", "alice"), ("application_name", AWKWARD), ("state", "waiting")];
    assert_eq!(value(&page, "pgbouncer_client_connections", &awkward), 2.0);
}

#[test]
fn sums_are_left_out_while_a_thread_does_not_answer() {
    let mut sample = sample();
    sample.whole = None;
    sample.threads[1].cpu = None;
    let page = parse(&families::render(&sample));
    assert_eq!(value(&page, "pgbouncer_up", &[]), 0.0);
    assert_eq!(value(&page, "pgherd_pooler_worker_up", &[("worker", "0")]), 1.0);
    assert_eq!(value(&page, "pgherd_pooler_worker_up", &[("worker", "1")]), 0.0);
    assert_eq!(value(&page, "pgherd_pooler_worker_clients", &[("worker", "1")]), 4.0);
    assert!(!page.keys().any(|(name, _)| name.starts_with("pgbouncer_pools") || name.contains("stats_totals")));
}

#[test]
fn applications_beyond_the_limit_are_counted_together() {
    let mut groups: BTreeMap<Clients, u32> = (0..10).map(|i| (clients(&format!("job {i}"), "active"), 1)).collect();
    groups.insert(clients("web", "active"), 30);
    groups.insert(clients("cron", "waiting"), 5);
    assert_eq!(sample::bounded(groups.clone(), 12).len(), 12);
    let kept = sample::bounded(groups, 2);
    let expected = [("(other)", "active", 10), ("cron", "waiting", 5), ("web", "active", 30)];
    assert_eq!(kept, expected.map(|(application, state, count)| (clients(application, state), count)));
}

#[test]
fn applications_whose_names_look_alike_as_text_are_one() {
    let group = |bytes: &[u8]| ((Some(("app".into(), "alice".into())), Some(Arc::from(bytes)), "active"), 1);
    let groups = sample::named(vec![group(b"x\xff"), group(b"x\xfe"), group(b"y")]);
    assert_eq!(groups, BTreeMap::from([(clients("x\u{fffd}", "active"), 2), (clients("y", "active"), 1)]));
}

fn start() -> Pooler {
    let mut config = Config::default();
    config.settings.workers = 2;
    Pooler::start(config, Vec::new()).unwrap()
}

#[tokio::test]
async fn a_pooler_without_clients_has_metrics() {
    let pooler = start();
    let page = parse(&pooler.metrics().await);
    assert_eq!(value(&page, "pgbouncer_up", &[]), 1.0);
    assert_eq!(value(&page, "pgherd_pooler_workers", &[]), 2.0);
    assert_eq!(value(&page, "pgbouncer_config_max_client_connections", &[]), 100.0);
    assert_eq!(value(&page, "pgbouncer_used_clients", &[]), 0.0);
    let console = [("database", "pgbouncer"), ("user", "pgbouncer")];
    assert_eq!(value(&page, "pgbouncer_pools_client_active_connections", &console), 0.0);
}

#[tokio::test]
async fn health_tells_of_pause_suspend_and_shutdown() {
    let pooler = start();
    assert_eq!(pooler.health().await, Health::Serving);
    pooler.pause().await.unwrap();
    assert_eq!(pooler.health().await, Health::Paused);
    pooler.resume().unwrap();
    pooler.shared.suspended.store(true, Ordering::SeqCst);
    assert_eq!(pooler.health().await, Health::Suspended);
    pooler.shut_down(Shutdown::WaitForClients);
    assert_eq!(pooler.health().await, Health::ShuttingDown);
    let page = parse(&pooler.metrics().await);
    assert_eq!(value(&page, "pgherd_pooler_shutting_down", &[]), 1.0);
}

#[test]
fn only_a_pooler_that_serves_is_ready_and_one_that_ends_is_not_alive() {
    let is = |health: Health| (health.is_alive(), health.is_ready());
    assert_eq!(is(Health::Serving), (true, true));
    assert_eq!(is(Health::Paused), (true, false));
    assert_eq!(is(Health::Suspended), (true, false));
    assert_eq!(is(Health::ShuttingDown), (false, false));
    assert_eq!(is(Health::Stuck), (false, false));
}

#[tokio::test]
async fn a_stuck_thread_is_told_of_in_time_and_forgiven() {
    let pooler = start();
    let (release, held) = std::sync::mpsc::channel::<()>();
    // Blocks the thread until the sender goes.
    let block = move |_: &std::rc::Rc<crate::worker::Worker>| _ = held.recv();
    pooler.shared.send(1, Message::Call(Box::new(block)));
    let short = Duration::from_millis(50);
    assert_eq!(pooler.health_within(short).await, Health::Stuck);
    let sample = sample::take(&pooler.shared, short).await;
    assert!(sample.whole.is_none() && sample.threads[0].cpu.is_some() && sample.threads[1].cpu.is_none());
    drop(release);
    assert_eq!(pooler.health_within(LONG).await, Health::Serving);
    assert!(sample::take(&pooler.shared, LONG).await.whole.is_some());
}
