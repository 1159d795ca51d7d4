//! Prometheus metrics and health, which only pgherd's pooler has.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use harness::pooler::raw::Batch;
use harness::pooler::{Row, Setup, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Columns of SHOW POOLS and the metrics that show the same.
const POOLS: &[(&str, &str)] = &[
    ("cl_active", "client_active_connections"),
    ("cl_waiting", "client_waiting_connections"),
    ("cl_active_cancel_req", "client_active_cancel_connections"),
    ("cl_waiting_cancel_req", "client_waiting_cancel_connections"),
    ("sv_active", "server_active_connections"),
    ("sv_active_cancel", "server_active_cancel_connections"),
    ("sv_being_canceled", "server_being_canceled_connections"),
    ("sv_idle", "server_idle_connections"),
    ("sv_used", "server_used_connections"),
    ("sv_tested", "server_testing_connections"),
    ("sv_login", "server_login_connections"),
];

/// Columns of SHOW STATS_TOTALS and the metrics that show the same; times are in microseconds there and in seconds here.
const TOTALS: &[(&str, &str)] = &[
    ("server_assignment_count", "pgbouncer_stats_totals_server_assignments_total"),
    ("xact_count", "pgbouncer_stats_totals_sql_transactions_pooled_total"),
    ("query_count", "pgbouncer_stats_totals_queries_pooled_total"),
    ("bytes_received", "pgbouncer_stats_totals_received_bytes_total"),
    ("bytes_sent", "pgbouncer_stats_totals_sent_bytes_total"),
    ("xact_time", "pgbouncer_stats_totals_server_in_transaction_seconds_total"),
    ("query_time", "pgbouncer_stats_totals_queries_duration_seconds_total"),
    ("wait_time", "pgbouncer_stats_totals_client_wait_seconds_total"),
    ("client_parse_count", "pgbouncer_stats_totals_client_parses_total"),
    ("server_parse_count", "pgbouncer_stats_totals_server_parses_total"),
    ("bind_count", "pgbouncer_stats_totals_binds_total"),
    ("client_login_count", "pgherd_pooler_client_logins_total"),
];

fn setup(servers: u32) -> Setup {
    Setup::transaction(servers).pgherd_only().set("metrics_listen", "{pooler}:9127")
}

fn port(world: &World) -> SocketAddr {
    SocketAddr::new(world.tcp().ip(), 9127)
}

/// Status line and body of an answer; `None` while nobody answers.
async fn get(world: &World, path: &str) -> Result<Option<(String, String)>> {
    // A process that hands the port over may close it with a connection in its queue.
    let Ok(answer) = ask(world, path).await else { return Ok(None) };
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return Ok(None) };
    Ok(Some((head.lines().next().unwrap_or_default().to_owned(), body.to_owned())))
}

async fn ask(world: &World, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(port(world)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The page of metrics, once it is served.
async fn page(world: &World) -> Result<String> {
    let (status, body) = world.until("metrics are served", async || get(world, "/metrics").await).await?;
    ensure!(status == "HTTP/1.1 200 OK", "{status}");
    Ok(body)
}

/// The value of a series.
fn value(page: &str, series: &str) -> Result<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.with_context(|| format!("find {series}"))?.parse().with_context(|| format!("read {series}"))
}

async fn only(world: &World, command: &str, column: &str, name: &str) -> Result<Row> {
    let rows = world.console(command).await?;
    rows.into_iter().find(|r| &r[column] == name).with_context(|| format!("find {name} in {command}"))
}

#[test]
fn metrics_tell_what_the_console_tells() -> Result<()> {
    setup(1).run(async |world| {
        let (mut one, mut two, _three) = (world.session().await?, world.session().await?, world.session().await?);
        two.roundtrip(Batch::new().unnamed("SELECT 2").sync()).await?;
        one.firsts("BEGIN").await?;
        two.batch(Batch::new().query("SELECT 3")).await?;
        let waiting = async || Ok((world.pool("alice", "app").await?.number("cl_waiting") == 1).then_some(()));
        world.until("a client waits", waiting).await?;

        let page = page(world).await?;
        let pool = world.pool("alice", "app").await?;
        ensure!((pool.number("cl_active"), pool.number("sv_active")) == (2, 1), "{pool:?}");
        for (column, metric) in POOLS {
            let series = format!("pgbouncer_pools_{metric}{{database=\"app\",user=\"alice\"}}");
            ensure!(value(&page, &series)? == pool.number(column) as f64, "{series}: {pool:?}");
        }
        let total = only(world, "SHOW STATS_TOTALS", "database", "app").await?;
        ensure!(total.number("bind_count") == 1 && total.number("bytes_sent") > 0, "{total:?}");
        for (column, metric) in TOTALS {
            let expected = total.number(column) as f64 * if column.ends_with("_time") { 1e-6 } else { 1.0 };
            let found = value(&page, &format!("{metric}{{database=\"app\"}}"))?;
            ensure!((found - expected).abs() < 1e-6, "{metric} is {found}, {column} is {expected}");
        }
        for (list, metric) in [("pools", "pools"), ("databases", "databases"), ("used_servers", "used_servers")] {
            let items = only(world, "SHOW LISTS", "list", list).await?.number("items") as f64;
            ensure!(value(&page, &format!("pgbouncer_{metric}"))? == items, "{metric}");
        }
        // A console's client that has just left may be among them.
        ensure!(value(&page, "pgbouncer_up")? == 1.0 && value(&page, "pgbouncer_used_clients")? >= 3.0, "{page}");
        one.firsts("COMMIT").await?;
        two.until_ready().await?;
        Ok(())
    })
}

#[test]
fn readiness_follows_pause_and_shutdown() -> Result<()> {
    setup(1).run(async |world| {
        let ready = async |path| world.until("health is told", async || get(world, path).await).await;
        let expect = async |path, status: &str| {
            let (line, body) = ready(path).await?;
            ensure!(line.split(' ').nth(1) == Some(status), "{path}: {line}: {body}");
            Ok(())
        };
        expect("/ready", "200").await?;
        world.console("PAUSE").await?;
        expect("/ready", "503").await?;
        expect("/health", "200").await?;
        world.console("RESUME").await?;
        expect("/ready", "200").await?;
        let mut session = world.session().await?;
        world.console("SHUTDOWN WAIT_FOR_CLIENTS").await?;
        expect("/health", "503").await?;
        session.batch(Batch::new().terminate()).await?;
        ensure!(world.exit_code().await? == 0);
        Ok(())
    })
}

#[test]
fn clients_are_served_while_another_program_has_the_port() -> Result<()> {
    setup(1).without_pooler().run(async |world| {
        let listener = TcpListener::bind(port(world)).context("take the port")?;
        world.allow("metrics_listen: can't listen on");
        world.start_pooler(&[]).await?;
        world.logged("serving clients without metrics, trying again").await?;
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        drop(listener);
        page(world).await?;
        let warnings = world.log().lines().filter(|l| l.contains("WARNING metrics_listen")).count();
        ensure!(warnings == 1, "told {warnings} times");
        Ok(())
    })
}

#[test]
fn the_new_process_serves_metrics_after_an_online_restart() -> Result<()> {
    setup(1).run(async |world| {
        let before = value(&page(world).await?, "pgbouncer_process_start_time_seconds")?;
        let mut session = world.session().await?;
        session.value("SELECT 1").await?;
        let mut old = world.take_pooler()?;
        world.start_pooler(&["-R"]).await?;
        let after = page(world).await?;
        ensure!(value(&after, "pgbouncer_process_start_time_seconds")? > before, "the old process answers");
        ensure!(value(&after, "pgbouncer_used_clients")? == 0.0, "the old process answers");
        session.batch(Batch::new().terminate()).await?;
        ensure!(old.exit().await?.code() == Some(0));
        Ok(())
    })
}
