//! `pgherdctl`, the admin client: reads the command line, runs one verb and ends with an exit code that scripts can use.
//! The verbs are in the modules.

use clap::Parser as _;

use cli::{Cli, Verb};
use console::Console;
use context::Context;
use fault::{Fault, Result};

mod agent;
mod change;
mod cli;
mod clock;
mod console;
mod context;
mod diff;
mod edit;
mod fault;
mod list;
mod maintenance;
mod members;
mod rest;
mod restart;
mod setting;
mod show;
mod table;
mod yaml;

fn main() {
    let cli = Cli::parse();
    let console = Console::standard(cli.verbose);
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::failed(format!("can't start: {e}")))
        .map(|runtime| {
            let ended = runtime.block_on(until_interrupted(&cli, &console));
            // A thread that waits for an answer nobody will type must not hold up the end.
            runtime.shutdown_background();
            ended
        });
    let code = match ended.and_then(|ended| ended) {
        Ok(()) => 0,
        Err(fault) => {
            if let Some(words) = fault.last_words() {
                console.note(words);
            }
            fault.exit_code()
        }
    };
    std::process::exit(code);
}

/// Runs the verb; Ctrl-C ends it, unless another program has the terminal.
async fn until_interrupted(cli: &Cli, console: &Console) -> Result {
    let interrupted = async {
        loop {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            if !console.is_lent() {
                return;
            }
        }
    };
    tokio::select! {
        ended = Box::pin(run(cli, console)) => ended,
        () = interrupted => {
            console.note("");
            if console.is_order_out() {
                let text = "Aborted! The order was given already and goes on: look with `pgherdctl list`";
                return Err(Fault::Unknown(text.to_owned()));
            }
            Err(Fault::Aborted)
        }
    }
}

async fn run(cli: &Cli, console: &Console) -> Result {
    if let Verb::Version(options) = &cli.verb {
        console.say(show::own_version())?;
        if options.cluster.is_none() {
            return Ok(());
        }
    }
    let context = Context::load(cli, console.clone())?;
    let context = &context;
    match &cli.verb {
        Verb::List(options) => list::run(context, options).await,
        Verb::Switchover(options) => change::switchover(context, options).await,
        Verb::Failover(options) => change::failover(context, options).await,
        Verb::Restart(options) => restart::restart(context, options).await,
        Verb::Reload(options) => restart::reload(context, options).await,
        Verb::Reinit(options) => restart::reinit(context, options).await,
        Verb::EditConfig(options) => edit::run(context, options).await,
        Verb::ShowConfig(options) => show::config(context, options).await,
        Verb::Pause(options) => maintenance::toggle(context, options, true).await,
        Verb::Resume(options) => maintenance::resume(context, options).await,
        Verb::History(options) => show::history(context, options).await,
        Verb::Remove(options) => maintenance::remove(context, options).await,
        Verb::Version(options) => show::versions(context, options).await,
    }
}
