//! pgherd-agent: runs the PostgreSQL of one node and takes part in leader election. This file builds the parts and runs
//! them; what they do is elsewhere.

mod adopt;
mod cli;
mod engine;
mod event;
mod jobs;
mod node;
mod orders;
mod peers;
mod perform;
mod publish;
mod rundir;
mod serve;
mod state;
mod upkeep;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use ha::Status;
use service::config::{self, Config, EXIT_CONFIG, Source};
use service::logging::{self, Logging};
use service::notify::Notifier;
use service::signals::{Signal, Signals};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::cli::Cli;
use crate::event::Event;
use crate::node::{Fault, Node};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|a| a == "guard") {
        return guard(arguments.into_iter().skip(2));
    }
    let cli = Cli::parse_from(arguments);
    let source = Source::new(cli.config.clone());
    let loaded = match config::load(&source, config::Role::Agent) {
        Ok(loaded) => loaded,
        Err(faults) => {
            eprintln!("{faults}");
            if cli.config.is_none() {
                eprintln!("No configuration file was named: give it as the argument.");
            }
            return exit_config();
        }
    };
    if cli.validate_config || cli.print_config {
        return show(&cli, &loaded);
    }
    let logging = match logging::init(&loaded.config.log, "pgherd-agent") {
        Ok(logging) => logging,
        Err(e) => {
            eprintln!("{e}");
            return exit_config();
        }
    };
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let code = run(loaded.config, source, logging.clone());
    logging.flush(Duration::from_secs(1));
    code
}

/// The guard process: started by the agent, never by hand.
fn guard(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match instance::guard::Args::parse(arguments) {
        Ok(args) => instance::guard::run(&args),
        Err(why) => {
            eprintln!("pgherd-agent guard: {why}");
            ExitCode::from(2)
        }
    }
}

fn exit_config() -> ExitCode {
    ExitCode::from(u8::try_from(EXIT_CONFIG).unwrap_or(64))
}

fn show(cli: &Cli, loaded: &config::Loaded) -> ExitCode {
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    if cli.print_config {
        use std::io::Write as _;
        // A closed pipe is the reader's choice.
        let _ = std::io::stdout().write_all(config::print_config(&loaded.config).as_bytes());
    }
    ExitCode::SUCCESS
}

fn run(config: Config, source: Source, logging: Logging) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            error!("start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let node = Node::build(config, source, logging).await?;
        live(Arc::new(node)).await
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fault::Configuration(why)) => {
            error!("{why}");
            exit_config()
        }
        Err(Fault::Other(e)) => {
            error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// From start to end.
async fn live(node: Arc<Node>) -> Result<(), Fault> {
    info!(
        "pgherd-agent {} starts: member {} of cluster {}",
        env!("CARGO_PKG_VERSION"),
        node.me.name,
        node.config().scope
    );
    let signals = Signals::new().context("catch signals").map_err(Fault::Other)?;
    let notifier = Arc::new(Notifier::from_env());
    let (status, published) = tokio::sync::watch::channel(Arc::new(Status::default()));
    let (sender, receiver) = mpsc::channel(256);
    let listeners = serve::serve(&node, published, sender.clone()).map_err(Fault::Other)?;
    let state = state::State::new(adopt::first_settings(&node), node.config());
    node.set_watchdog(state.settings.ttl);
    let state = adopt::adopt(&node, state).await;
    if state.lease.is_none() {
        watch::refuse_double(&node).await.map_err(Fault::Configuration)?;
    }
    let tasks = watch::start(&node, &sender, state.cluster.is_some(), status.subscribe(), notifier.clone());
    tasks.spawn("signals", forward_signals(signals, sender.clone(), notifier.clone()));
    notifier.ready("running");
    let engine = engine::Engine::new(node.clone(), state, (sender, receiver), status);
    let result = tokio::select! {
        result = engine.run() => result,
        () = tasks.cancelled() => Err(match tasks.cause() {
            Some(cause) => anyhow::anyhow!("{cause}"),
            None => anyhow::anyhow!("a task has ended"),
        }),
    };
    notifier.stopping("leaving");
    if let Ok(lease) = &result {
        leave(&node, *lease).await;
    }
    listeners.stop().await;
    // What doesn't stop in time ends with the process.
    let _ = tasks.shutdown(Duration::from_secs(1)).await;
    result.map(drop).map_err(Fault::Other)
}

/// The last steps of an orderly end: the guard, and the keys that hang on the lease.
async fn leave(node: &Node, lease: Option<i64>) {
    let limit = Duration::from_secs(2);
    if tokio::time::timeout(limit, node.guard.exit()).await.is_err() {
        warn!("the guard did not answer; it ends by itself");
    }
    node.clear_run_dir().await;
    if node.was_paused() {
        info!("maintenance mode: PostgreSQL goes on running, and the keys stay until the lease runs out");
        return;
    }
    if let Some(lease) = lease {
        match tokio::time::timeout(limit, node.dcs.revoke(lease)).await {
            Ok(Ok(())) => info!("left the cluster"),
            Ok(Err(e)) => warn!("the lease was not ended and runs out by itself: {e}"),
            Err(_) => warn!("the lease was not ended in time and runs out by itself"),
        }
    }
}

async fn forward_signals(mut signals: Signals, events: mpsc::Sender<Event>, notifier: Arc<Notifier>) {
    loop {
        let event = match signals.next().await {
            Signal::Stop(_) => Event::Stop,
            Signal::Reload => {
                notifier.reloading();
                Event::Reload
            }
        };
        if events.send(event).await.is_err() {
            // The engine has ended; this task is ended with the process.
            std::future::pending::<()>().await;
        }
        notifier.ready("running");
    }
}
