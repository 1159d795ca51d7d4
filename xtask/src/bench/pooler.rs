//! `cargo xtask bench pooler`: pgherd's pooler beside the distribution's pgbouncer and any other that takes the same
//! configuration file, in one interleaved run. Prints Markdown and keeps it in docs/benchmarks.md.

mod client;
mod contender;
mod idle;
mod json;
mod pgbench;
mod quiet;
mod report;
mod results;
mod runner;
mod scenario;
mod server;
mod site;
mod syscalls;
mod targets;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::programs as installed;

use self::contender::{Contender, Named};
use self::report::Setting;
use self::results::{Profile, Results};
use self::runner::Runner;
use self::scenario::{Scenario, wanted};
use self::server::Server;
use self::site::Site;
use self::syscalls::Counter;
use crate::packages::{self, Need};
use crate::{checkout, programs, supervise};

/// Rounds and seconds of the numbers that are kept.
const ROUNDS: u32 = 3;
const SECONDS: u64 = 3;

/// The pattern that asks for idle clients.
const IDLE: &str = "idle";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Another pooler that takes the same configuration file; may be given again
    #[arg(long, value_name = "NAME=BINARY", value_parser = |text: &str| Named::parse(text).map_err(|e| e.to_string()))]
    against: Vec<Named>,
    /// Write the figures here too (xtask/src/bench/pooler/json.rs describes them)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Worker threads of pgherd; it is measured with one as well
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// How often each scenario is measured
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each load is watched
    #[arg(long, default_value_t = SECONDS, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Before each run, wait so many seconds at most until nothing else uses the processors
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    patience: u64,
    /// Only scenarios with this in their name, as in 'transaction-simple-64', 'connect-scram' or 'idle'; may be given
    /// again. The numbers are not kept
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// This program for pgherd's pooler, rather than one built now. The numbers are not kept
    #[arg(long, value_name = "BINARY")]
    pgherd: Option<PathBuf>,
    /// Build without optimisation; the numbers are not kept
    #[arg(long)]
    debug: bool,
}

impl Args {
    /// Why the numbers don't go to docs/.
    fn passing(&self) -> Option<&'static str> {
        match self {
            Args { debug: true, .. } => Some("built without optimisation"),
            Args { pgherd: Some(_), .. } => Some("pgherd's program was given by hand"),
            Args { only, .. } if !only.is_empty() => Some("not everything was measured"),
            Args { rounds, seconds, .. } if *rounds < ROUNDS || *seconds < SECONDS => Some("the run was short"),
            _ => None,
        }
    }

    fn scenarios(&self) -> Result<(Vec<Scenario>, bool)> {
        let scenarios: Vec<Scenario> = scenario::all().into_iter().filter(|s| wanted(&self.only, &s.name())).collect();
        let idle = wanted(&self.only, IDLE);
        if scenarios.is_empty() && !idle {
            let names: Vec<String> = scenario::all().iter().map(Scenario::name).collect();
            anyhow::bail!("no scenario is called so; there are {} and {IDLE}", names.join(", "));
        }
        Ok((scenarios, idle))
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (scenarios, idle) = args.scenarios()?;
    packages::ensure(&[Need::Postgres, Need::Pgbouncer])?;
    let named = contenders(args)?;
    let (result, left) = supervise::run(measure(args, &named, &scenarios, idle))?;
    let (setting, results) = result?;
    let targets = targets::of(&results);
    let text = report::markdown(&setting, &results, &targets);
    say!("\n{text}");
    if let Some(file) = &args.json {
        let document = serde_json::to_string_pretty(&json::document(&setting, &results, &targets))?;
        fs::write(file, document + "\n").with_context(|| format!("write {}", file.display()))?;
        say!("figures written to {}", file.display());
    }
    match args.passing() {
        None => {
            let path = checkout::root()?.join("docs/benchmarks.md");
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            say!("written to {}", path.display());
        }
        Some(why) => say!("docs/benchmarks.md is left as it is: {why}"),
    }
    ensure!(left.is_empty(), "processes were left behind: {}", left.join("; "));
    Ok(())
}

/// pgbouncer, pgherd with one worker and with as many as asked for, and the others.
fn contenders(args: &Args) -> Result<Vec<(Named, Option<u32>)>> {
    let named = |name: &str, binary: PathBuf| Named { name: name.to_owned(), binary };
    let pgherd = match &args.pgherd {
        Some(binary) => binary.clone(),
        None => programs::compile_only(&["pooler"], args.debug)?.join("pgherd-pooler"),
    };
    let mut contenders = vec![(named("pgbouncer", installed::require("pgbouncer", "pgbouncer")?), None)];
    if args.workers > 1 {
        contenders.push((named("pgherd", pgherd.clone()), Some(1)));
    }
    contenders.push((named("pgherd", pgherd), Some(args.workers)));
    contenders.extend(args.against.iter().map(|other| (other.clone(), None)));
    for (n, other) in args.against.iter().enumerate() {
        let again = args.against.iter().skip(n + 1).any(|o| o.name == other.name);
        ensure!(!again, "two poolers are called {}", other.name);
    }
    Ok(contenders)
}

async fn measure(
    args: &Args,
    named: &[(Named, Option<u32>)],
    scenarios: &[Scenario],
    idle: bool,
) -> Result<(Setting, Results)> {
    let began = Instant::now();
    let site = Site::make()?;
    let mut contenders = Vec::new();
    for (n, (named, workers)) in named.iter().enumerate() {
        contenders.push(Contender::find(&site, n, named, *workers).await?);
    }
    let postgres = installed::postgres_directory()?;
    say!("starting PostgreSQL");
    let server = Server::start(&site, &postgres).await?;
    let mut runner = Runner::new(&site, &server, &contenders, &postgres).await?;
    runner.rounds = args.rounds;
    runner.seconds = args.seconds;
    runner.patience = Duration::from_secs(args.patience);
    if scenarios.iter().any(|s| !s.reconnect) {
        match Counter::find(&site).await {
            Ok(counter) => runner.counter = Some(counter),
            Err(e) => say!("system calls are not counted: {e:#}"),
        }
    }
    // One worker is for comparing queries; everything else is measured with pgherd as it is meant to run.
    let usual = |c: &Contender| c.workers.is_none_or(|w| w == args.workers);
    let count = scenarios.len() + usize::from(idle);
    let mut rows = Vec::new();
    for (n, scenario) in scenarios.iter().enumerate() {
        say!("[{} of {count}, {}] {}", n + 1, elapsed(began), scenario.name());
        rows.push(runner.scenario(scenario, |c| !scenario.reconnect || usual(c)).await?);
    }
    let mut idle_outcomes = Vec::new();
    if idle {
        say!("[{count} of {count}, {}] {IDLE}", elapsed(began));
        idle_outcomes = runner.idle(usual).await?;
    }
    let setting = setting(args, &server, &runner);
    drop(runner);
    server.stop().await?;
    say!("took {}", elapsed(began));
    if setting.runs.disturbed > 0 {
        say!("other work disturbed {} of {} runs: see --patience", setting.runs.disturbed, setting.runs.all);
    }
    Ok((
        setting,
        Results {
            contenders: contenders.iter().map(profile).collect(),
            rows,
            idle: idle_outcomes,
            workers: args.workers,
        },
    ))
}

fn profile(contender: &Contender) -> Profile {
    Profile {
        name: contender.name.clone(),
        label: contender.label(),
        workers: contender.workers,
        version: contender.version.clone(),
    }
}

fn setting(args: &Args, server: &Server, runner: &Runner<'_>) -> Setting {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = information.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(':'));
    Setting {
        postgres: server.version.clone(),
        rounds: args.rounds,
        seconds: args.seconds,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        processor: processor.map_or("unknown processor", |(_, name)| name.trim()).to_owned(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        counter: runner.counter.as_ref().map(Counter::name),
        runs: runner.runs(),
    }
}

fn elapsed(since: Instant) -> String {
    let seconds = since.elapsed().as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
