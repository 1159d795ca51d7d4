//! Writers that try every node all the time and record each acknowledged row. Each has a thread of its own, so that
//! nothing else in the process delays its clock readings. What the record proves is in `history`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, NoTls, Statement};

use crate::history::Write;
use crate::netns;
use crate::node::Node;
use crate::sql;

/// A write that isn't answered for so long is given up, its fate unknown.
const PATIENCE: Duration = Duration::from_secs(3);

/// Keys of one writer are below the next one's.
const KEYS_PER_WRITER: i64 = 1 << 40;

/// The node and the timeline come from the server that took the row.
const INSERT: &str = "INSERT INTO probe VALUES ($1) RETURNING \
    host(inet_server_addr()), substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";

/// One writer a node, and one that follows the leader. They stop when this is dropped.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    stop: AtomicBool,
    writes: Mutex<Vec<Write>>,
}

/// Makes the table that the writers fill. Call it on the leader.
pub async fn create_table(leader: Ipv4Addr) -> Result<()> {
    sql::query(leader, "postgres", "CREATE TABLE IF NOT EXISTS probe (key bigint PRIMARY KEY)").await.map(drop)
}

/// The rows that a node has.
pub async fn rows(node: Ipv4Addr) -> Result<BTreeSet<i64>> {
    let rows = sql::query(node, "postgres", "SELECT key FROM probe").await?;
    rows.iter().map(|r| r.first().context("read a key")?.parse().context("read a key")).collect()
}

impl Writers {
    /// Starts them. Each tries to write every `period`.
    pub fn start(nodes: &[Node], period: Duration) -> Result<Writers> {
        let shared = Arc::new(Shared { epoch: Instant::now(), stop: AtomicBool::new(false), writes: Mutex::default() });
        let mut plans: Vec<Plan> = nodes
            .iter()
            .map(|n| Plan { targets: vec![n.address], netns: n.netns.clone(), first_key: 0, period })
            .collect();
        plans.push(Plan { targets: nodes.iter().map(|n| n.address).collect(), netns: None, first_key: 0, period });
        let mut threads = Vec::new();
        for (plan, index) in plans.into_iter().zip(1..) {
            let plan = Plan { first_key: index * KEYS_PER_WRITER, ..plan };
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("writer {index}"));
            threads.push(builder.spawn(move || plan.run(&shared)).context("start a writer")?);
        }
        Ok(Writers { shared, threads })
    }

    /// Time since the recording began.
    pub fn now(&self) -> Duration {
        self.shared.epoch.elapsed()
    }

    /// Acknowledged writes so far.
    pub fn writes(&self) -> Vec<Write> {
        self.shared.lock().clone()
    }

    /// Address of the node that acknowledged a write begun after `since`.
    pub fn accepted_after(&self, since: Duration) -> Option<String> {
        self.shared.lock().iter().rev().find(|w| w.begun > since).map(|w| w.node.clone())
    }

    /// Ends the writers; an error if one of them panicked.
    pub fn stop(mut self) -> Result<Vec<Write>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            if thread.join().is_err() {
                bail!("a writer panicked");
            }
        }
        Ok(self.writes())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Write>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What one writer does.
struct Plan {
    targets: Vec<Ipv4Addr>,
    netns: Option<String>,
    first_key: i64,
    period: Duration,
}

impl Plan {
    fn run(self, shared: &Shared) {
        if let Some(name) = &self.netns {
            netns::enter(name).expect("the node's namespace exists while its writer runs");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(self.write_until_stopped(shared));
    }

    async fn write_until_stopped(&self, shared: &Shared) {
        let mut session = None;
        let mut key = self.first_key;
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !shared.stopped() {
            ticks.tick().await;
            key += 1;
            let attempt = tokio::time::timeout(PATIENCE, self.attempt(session.take(), key, shared));
            session = attempt.await.ok().flatten();
        }
    }

    /// Writes one row. Returns the session if it can be used again.
    async fn attempt(&self, session: Option<Session>, key: i64, shared: &Shared) -> Option<Session> {
        let session = match session {
            Some(session) => session,
            None => self.connect().await?,
        };
        let begun = shared.epoch.elapsed();
        match session.client.query_one(&session.insert, &[&key]).await {
            Ok(row) => {
                let acked = shared.epoch.elapsed();
                let (node, timeline): (String, String) = (row.get(0), row.get(1));
                let timeline = u32::from_str_radix(&timeline, 16).expect("a WAL file name begins with its timeline");
                shared.lock().push(Write { key, node, timeline, begun, acked });
                Some(session)
            }
            // Read-only, or recovering: the same session can write after a promotion. But one that follows the leader
            // must look for it anew.
            Err(e) if e.as_db_error().is_some() && !session.client.is_closed() && self.targets.len() == 1 => {
                Some(session)
            }
            Err(_) => None,
        }
    }

    async fn connect(&self) -> Option<Session> {
        let mut config = tokio_postgres::Config::new();
        for target in &self.targets {
            config.host(target.to_string());
        }
        config.port(5432).user("postgres").password(sql::PASSWORD).dbname("postgres").application_name("probe");
        config.connect_timeout(Duration::from_secs(1));
        if self.targets.len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let (client, connection) = config.connect(NoTls).await.ok()?;
        tokio::spawn(connection);
        let insert = client.prepare(INSERT).await.ok()?;
        Some(Session { client, insert })
    }
}

struct Session {
    client: Client,
    insert: Statement,
}
