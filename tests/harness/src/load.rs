//! Clients of a cluster behind poolers, as an application's are: they keep their connections, run short transactions, and
//! note each error and how long each transaction took. What the cluster did meanwhile is told by others.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, Error, NoTls, Statement};

/// A transaction that isn't answered for so long is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What clients do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where writers connect; a client tries them in turn.
    pub writers: Vec<Config>,
    /// Where readers connect.
    pub readers: Vec<Config>,
    /// How many writers.
    pub writing: usize,
    /// How many readers.
    pub reading: usize,
    /// Each begins a transaction so often.
    pub period: Duration,
    /// Statements are prepared, which an old pgbouncer can't do in transaction mode; else all is plain text.
    pub prepared: bool,
}

/// A transaction that was answered, or failed.
#[derive(Debug, Clone)]
pub struct Done {
    /// It wrote the row of this key.
    pub key: Option<i64>,
    /// When it began, from the start of the recording.
    pub began: Duration,
    /// When it was answered.
    pub ended: Duration,
    /// What went wrong.
    pub error: Option<Failure>,
}

/// An error that a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// SQLSTATE; empty where the connection broke without one.
    pub code: String,
    /// The error's text.
    pub text: String,
    /// While connecting, nothing was asked yet.
    pub connecting: bool,
}

/// Clients at work. They stop when this is dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    // A thread of its own, so that the measuring isn't measured.
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    stop: AtomicBool,
    next: AtomicI64,
    done: Mutex<Vec<Done>>,
}

/// Makes the table that the writers fill.
pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS load (key bigint PRIMARY KEY, at timestamptz DEFAULT now())";

impl Load {
    /// Starts the clients.
    ///
    /// # Errors
    /// When no runtime can be made.
    pub fn start(plan: &Plan) -> std::io::Result<Load> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            stop: AtomicBool::new(false),
            next: AtomicI64::new(1),
            done: Mutex::default(),
        });
        let kinds = [(plan.writing, &plan.writers, true), (plan.reading, &plan.readers, false)];
        for (count, configs, writes) in kinds {
            for n in 0..count {
                let client = Worker {
                    shared: shared.clone(),
                    configs: configs.clone(),
                    writes,
                    n,
                    period: plan.period,
                    prepared: plan.prepared,
                    delay: plan.period * n as u32 / count.max(1) as u32,
                };
                runtime.spawn(client.run());
            }
        }
        let watched = shared.clone();
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            runtime.block_on(async {
                while !watched.stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                // Transactions that run may end; clients that wait for a dead server don't hold this up.
                tokio::time::sleep(Duration::from_millis(500)).await;
            });
            runtime.shutdown_background();
        })?;
        Ok(Load { shared, thread: Some(thread) })
    }

    /// Time since the recording began.
    pub fn now(&self) -> Duration {
        self.shared.epoch.elapsed()
    }

    /// What was done since a moment.
    pub fn since(&self, moment: Duration) -> Vec<Done> {
        self.shared.lock().iter().filter(|d| d.ended >= moment).cloned().collect()
    }

    /// Whether a write that began after `moment` was acknowledged.
    pub fn wrote_after(&self, moment: Duration) -> bool {
        self.shared.lock().iter().rev().any(|d| d.began > moment && d.error.is_none() && d.key.is_some())
    }

    /// Keys whose rows were acknowledged.
    pub fn acknowledged(&self) -> BTreeSet<i64> {
        self.shared.lock().iter().filter(|d| d.error.is_none()).filter_map(|d| d.key).collect()
    }

    /// Stops the clients after the transactions under way, and returns what was done.
    pub fn stop(mut self) -> Vec<Done> {
        self.end();
        self.shared.lock().clone()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of a client shows in what it didn't do.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, began: Duration, key: Option<i64>, error: Option<Failure>) {
        self.lock().push(Done { key, began, ended: self.epoch.elapsed(), error });
    }
}

/// Errors among what was done.
pub fn errors(done: &[Done]) -> Vec<&Failure> {
    done.iter().filter_map(|d| d.error.as_ref()).collect()
}

/// The longest that any writer waited for an answer that was no error.
pub fn longest_write(done: &[Done]) -> Duration {
    let good = done.iter().filter(|d| d.key.is_some() && d.error.is_none());
    good.map(|d| d.ended.saturating_sub(d.began)).max().unwrap_or_default()
}

/// The longest time between two acknowledged writes, by whichever writer, within a stretch of time.
pub fn outage(done: &[Done], from: Duration, to: Duration) -> Duration {
    let mut moments: Vec<Duration> =
        done.iter().filter(|d| d.key.is_some() && d.error.is_none()).map(|d| d.ended).collect();
    moments.retain(|m| (from..to).contains(m));
    moments.extend([from, to]);
    moments.sort();
    moments.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default()
}

struct Worker {
    shared: Arc<Shared>,
    configs: Vec<Config>,
    writes: bool,
    n: usize,
    period: Duration,
    prepared: bool,
    delay: Duration,
}

struct Session {
    client: Client,
    statement: Option<Statement>,
}

impl Worker {
    async fn run(self) {
        tokio::time::sleep(self.delay).await;
        let mut session = None;
        let mut round = self.n;
        let mut ticks = tokio::time::interval(self.period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.shared.stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            let began = self.shared.epoch.elapsed();
            let mut open = match session.take() {
                Some(open) => open,
                None => match self.connect(round).await {
                    Ok(open) => open,
                    Err(e) => {
                        self.shared.note(began, None, Some(failure(&e, true)));
                        round += 1;
                        continue;
                    }
                },
            };
            round += 1;
            let began = self.shared.epoch.elapsed();
            let key = self.writes.then(|| self.shared.next.fetch_add(1, Ordering::Relaxed));
            let result = tokio::time::timeout(PATIENCE, self.attempt(&mut open, key, round)).await;
            let error = match result {
                Ok(Ok(())) => None,
                Ok(Err(e)) => Some(failure(&e, false)),
                Err(_) => Some(Failure { code: String::new(), text: "no answer".to_owned(), connecting: false }),
            };
            if error.is_none() && !open.client.is_closed() {
                session = Some(open);
            }
            self.shared.note(began, key, error);
        }
    }

    async fn connect(&self, round: usize) -> Result<Session, Error> {
        let config = &self.configs[round % self.configs.len()];
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(Session { client, statement: None })
    }

    /// A transaction, and before the first of a session what it executes is prepared: that asks the server for something,
    /// so a server that dies may be told of.
    async fn attempt(&self, session: &mut Session, key: Option<i64>, round: usize) -> Result<(), Error> {
        if self.prepared && session.statement.is_none() {
            let sql = if self.writes {
                "INSERT INTO load (key) VALUES ($1)"
            } else {
                "SELECT count(*) FROM load WHERE key > $1 AND key < $1 + 10"
            };
            session.statement = Some(session.client.prepare(sql).await?);
        }
        self.transaction(session, key, round).await
    }

    /// Writes in turn by a prepared statement, in a block, and as plain text.
    async fn transaction(&self, session: &Session, key: Option<i64>, round: usize) -> Result<(), Error> {
        let client = &session.client;
        let Some(key) = key else {
            return match &session.statement {
                Some(read) => client.query(read, &[&1_i64]).await.map(drop),
                None => client.batch_execute("SELECT count(*) FROM load WHERE key > 1 AND key < 11").await,
            };
        };
        let plain = format!("INSERT INTO load (key) VALUES ({key})");
        match (round % 3, &session.statement) {
            (0, Some(write)) => client.execute(write, &[&key]).await.map(drop),
            (1, write) => {
                client.batch_execute("BEGIN").await?;
                match write {
                    Some(write) => client.execute(write, &[&key]).await.map(drop)?,
                    None => client.batch_execute(&plain).await?,
                }
                client.batch_execute("COMMIT").await
            }
            _ => client.batch_execute(&plain).await,
        }
    }
}

fn failure(error: &Error, connecting: bool) -> Failure {
    let code = error.code().map(|c| c.code().to_owned()).unwrap_or_default();
    let text = error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned());
    Failure { code, text, connecting }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(began: u64, ended: u64) -> Done {
        let (began, ended) = (Duration::from_millis(began), Duration::from_millis(ended));
        Done { key: Some(1), began, ended, error: None }
    }

    #[test]
    fn an_outage_is_the_longest_time_without_an_acknowledgement() {
        let done = [write(0, 10), write(10, 20), write(15, 220), write(225, 230)];
        assert_eq!(outage(&done, Duration::ZERO, Duration::from_millis(300)), Duration::from_millis(200));
        assert_eq!(longest_write(&done), Duration::from_millis(205));
        assert_eq!(outage(&[], Duration::ZERO, Duration::from_millis(300)), Duration::from_millis(300));
    }
}
