//! Carrying out scenarios: poolers take turns within each, in another order each round, so that noise hits all alike.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use super::client;
use super::contender::{Contender, Running};
use super::idle;
use super::pgbench::{Pgbench, Traffic, Window};
use super::quiet;
use super::results::{Figures, Idle, IdleOutcome, Outcome, Row};
use super::scenario::{Auth, Mode, POOL, Protocol, Scenario};
use super::server::{Secrets, Server};
use super::site::Site;
use super::syscalls::Counter;
use crate::bench::cost::Cpu;

/// How long system calls are counted, in a load of so many seconds.
const COUNTING: Duration = Duration::from_millis(700);
const COUNTED_LOAD: u64 = 1;

/// How many runs there were, and how many of them began while something else was at work.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Runs {
    pub(super) all: u32,
    pub(super) disturbed: u32,
}

/// Everything that a scenario needs.
#[derive(Debug)]
pub(super) struct Runner<'a> {
    pub(super) site: &'a Site,
    pub(super) server: &'a Server,
    pub(super) contenders: &'a [Contender],
    pub(super) rounds: u32,
    /// How long a load is watched.
    pub(super) seconds: u64,
    pub(super) counter: Option<Counter>,
    /// Longest wait before each round of a pooler for other work on the machine to end.
    pub(super) patience: Duration,
    runs: Cell<Runs>,
    pgbench: Pgbench<'a>,
    secrets: Secrets,
}

impl<'a> Runner<'a> {
    pub(super) async fn new(
        site: &'a Site,
        server: &'a Server,
        contenders: &'a [Contender],
        postgres: &Path,
    ) -> Result<Runner<'a>> {
        let secrets = server.secrets().await?;
        let pgbench = Pgbench { site, program: postgres.join("pgbench") };
        Ok(Runner {
            site,
            server,
            contenders,
            rounds: 1,
            seconds: COUNTED_LOAD,
            counter: None,
            patience: Duration::ZERO,
            runs: Cell::default(),
            pgbench,
            secrets,
        })
    }

    /// The runs so far.
    pub(super) fn runs(&self) -> Runs {
        self.runs.get()
    }

    /// Looks for other work before a run.
    async fn look_around(&self) -> Result<()> {
        let quiet = quiet::wait(self.patience).await?;
        let Runs { all, disturbed } = self.runs.get();
        self.runs.set(Runs { all: all + 1, disturbed: disturbed + u32::from(!quiet) });
        Ok(())
    }

    /// All rounds of a scenario. A pooler that fails doesn't stop the others; PostgreSQL failing stops everything.
    pub(super) async fn scenario(&self, scenario: &Scenario, takes_part: impl Fn(&Contender) -> bool) -> Result<Row> {
        let mut outcomes = vec![Outcome::default(); self.contenders.len()];
        for (outcome, contender) in outcomes.iter_mut().zip(self.contenders) {
            outcome.failure = contender.excuse(scenario).filter(|_| takes_part(contender));
        }
        for round in 0..self.rounds {
            for n in self.turns(round) {
                let (contender, outcome) = (&self.contenders[n], &mut outcomes[n]);
                if !takes_part(contender) || outcome.failure.is_some() {
                    continue;
                }
                match self.watch(contender, scenario).await? {
                    Ok(figures) => {
                        say!("  {}: {}", contender.label(), shown(&figures));
                        outcome.rounds.push(figures);
                    }
                    Err(e) => {
                        say!("  {}: FAILED: {e:#}", contender.label());
                        outcome.failure = Some(first_line(&e));
                    }
                }
            }
        }
        if let Some(counter) = self.counter.as_ref().filter(|_| !scenario.reconnect) {
            for (contender, outcome) in self.contenders.iter().zip(&mut outcomes) {
                if takes_part(contender) && outcome.failure.is_none() {
                    outcome.syscalls = self.count(contender, scenario, counter).await?;
                }
            }
        }
        Ok(Row { scenario: *scenario, outcomes })
    }

    /// The contenders' order in a round.
    fn turns(&self, round: u32) -> Vec<usize> {
        let mut turns: Vec<usize> = (0..self.contenders.len()).collect();
        let by = round as usize % turns.len().max(1);
        turns.rotate_left(by);
        turns
    }

    /// A round of one pooler. The inner error is the pooler's.
    async fn watch(&self, contender: &Contender, scenario: &Scenario) -> Result<Result<Figures>> {
        self.look_around().await?;
        let watched = self.with_pooler(contender, scenario, async |pooler| {
            self.warm(contender, scenario).await?;
            let mut load = self.pgbench.start(contender.address(), scenario, self.seconds)?;
            let until = load.steady().await?;
            let (begin, cpu) = (SystemTime::now(), Cpu::read(pooler.pid)?);
            tokio::time::sleep_until(until.into()).await;
            let (end, later) = (SystemTime::now(), Cpu::read(pooler.pid)?);
            let traffic = load.finish(Window { begin, end }).await?;
            Ok(figures(traffic, cpu, later))
        });
        watched.await
    }

    /// System calls per transaction; `None`, with a word, where they couldn't be counted.
    async fn count(&self, contender: &Contender, scenario: &Scenario, counter: &Counter) -> Result<Option<f64>> {
        let counted = self.with_pooler(contender, scenario, async |pooler| {
            self.warm(contender, scenario).await?;
            let mut load = self.pgbench.start(contender.address(), scenario, COUNTED_LOAD)?;
            load.steady().await?;
            let rate = counter.rate(self.site, pooler.pid, COUNTING).await?;
            let traffic = load.finish(rate.window).await?;
            Ok(rate.per_second / traffic.per_second)
        });
        match counted.await? {
            Ok(calls) => {
                say!("  {}: {calls:.2} system calls a transaction", contender.label());
                Ok(Some(calls))
            }
            Err(e) => {
                say!("  {}: system calls couldn't be counted: {e:#}", contender.label());
                Ok(None)
            }
        }
    }

    /// Fills the pool. In session mode clients that hold their connections get it to its full size.
    async fn warm(&self, contender: &Contender, scenario: &Scenario) -> Result<()> {
        if scenario.mode == Mode::Session {
            let clients = client::connect(contender.address(), scenario.clients as usize).await?;
            let clients = client::query(clients).await.context("fill the pool")?;
            let servers = self.server.clients().await?;
            ensure!(servers >= scenario.clients, "{servers} server connections for {} clients", scenario.clients);
            client::leave(clients).await;
        }
        self.pgbench.warm(contender.address(), scenario).await
    }

    /// A round of idle clients of one pooler.
    async fn idle_round(&self, contender: &Contender) -> Result<Result<Idle>> {
        let scenario = Scenario {
            mode: Mode::Transaction,
            protocol: Protocol::Simple,
            auth: Auth::Md5,
            clients: POOL,
            reconnect: false,
        };
        self.with_pooler(contender, &scenario, async |pooler| idle::measure(pooler.pid, contender.address()).await)
            .await
    }

    /// All rounds of idle clients.
    pub(super) async fn idle(&self, takes_part: impl Fn(&Contender) -> bool) -> Result<Vec<IdleOutcome>> {
        let mut outcomes = vec![IdleOutcome::default(); self.contenders.len()];
        for round in 0..self.rounds {
            for n in self.turns(round) {
                let (contender, outcome) = (&self.contenders[n], &mut outcomes[n]);
                if !takes_part(contender) || outcome.failure.is_some() {
                    continue;
                }
                match self.idle_round(contender).await? {
                    Ok(idle) => {
                        let steps = idle.steps.iter().map(|s| {
                            format!(
                                "{} clients: {:.2} KiB each, {:.2} after a query",
                                s.clients, s.connected_kib, s.queried_kib
                            )
                        });
                        let steps = steps.collect::<Vec<_>>().join("; ");
                        say!("  {}: {:.1} MiB with no client; {steps}", contender.label(), idle.base_mib);
                        outcome.rounds.push(idle);
                    }
                    Err(e) => {
                        say!("  {}: FAILED: {e:#}", contender.label());
                        outcome.failure = Some(first_line(&e));
                    }
                }
            }
        }
        Ok(outcomes)
    }

    /// Starts a pooler for a piece of work and ends it. The work's error is the inner one.
    async fn with_pooler<T>(
        &self,
        contender: &Contender,
        scenario: &Scenario,
        work: impl AsyncFnOnce(&Running) -> Result<T>,
    ) -> Result<Result<T>> {
        let pooler = match contender.start(self.site, self.server, &self.secrets, scenario).await {
            Ok(pooler) => pooler,
            Err(e) => return Ok(Err(e)),
        };
        let done = work(&pooler).await;
        let words = if done.is_err() { pooler.last_words() } else { String::new() };
        let stopped = pooler.stop().await;
        self.server.wait_deserted().await?;
        Ok(match (done, stopped) {
            (Ok(done), stopped) => stopped.map(|()| done),
            (Err(e), _) => Err(anyhow::anyhow!("{e:#}{words}")),
        })
    }
}

fn figures(traffic: Traffic, before: Cpu, after: Cpu) -> Figures {
    let spent = after.since(before);
    let each = spent.total.as_secs_f64() * 1e6 / traffic.transactions as f64;
    Figures {
        per_second: traffic.per_second,
        mean_ms: traffic.mean.as_secs_f64() * 1e3,
        p99_ms: traffic.p99.as_secs_f64() * 1e3,
        user_us: each * spent.user_share,
        system_us: each * (1.0 - spent.user_share),
    }
}

fn shown(figures: &Figures) -> String {
    format!(
        "{:.0}/s, mean {:.3} ms, p99 {:.3} ms, CPU {:.1} us ({:.1} user)",
        figures.per_second,
        figures.mean_ms,
        figures.p99_ms,
        figures.cpu_us(),
        figures.user_us
    )
}

/// For a table: the pooler's log lines that follow are for the terminal.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
