//! `cargo xtask bench`: measurements whose results are kept in docs/. Each has a file of its own.

mod cost;
mod failover;
mod pooler;

use anyhow::Result;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Write outages and the cost of an agent
    Failover(failover::Args),
    /// The pooler beside pgbouncer and others that take its configuration file
    Pooler(pooler::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Failover(args) => failover::run(args),
        What::Pooler(args) => pooler::run(args),
    }
}
