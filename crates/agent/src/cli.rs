//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Runs PostgreSQL on this node as a member of a highly available cluster.
#[derive(Debug, Parser)]
#[command(
    name = "pgherd-agent",
    version,
    after_help = "Exit codes: 0 stopped, 1 failed, 64 bad configuration.\n\
    SIGTERM stops PostgreSQL and leaves the cluster, SIGHUP reads the configuration again."
)]
pub(crate) struct Cli {
    /// The configuration: Patroni's YAML (a file, or a directory of *.yml). PATRONI_CONFIGURATION may hold it instead.
    pub(crate) config: Option<PathBuf>,
    /// Check the configuration and exit.
    #[arg(long)]
    pub(crate) validate_config: bool,
    /// Print the configuration in force with secrets masked and exit.
    #[arg(long)]
    pub(crate) print_config: bool,
}
