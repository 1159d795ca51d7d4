//! `cargo xtask`: builds, runs and tests pgherd from a checkout. This file reads the command line; each task has a file
//! of its own.

/// Prints a line. A reader that has gone (`| head`) doesn't stop the task.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

mod bench;
mod chaos;
mod checkout;
mod deploy;
mod dist;
mod down;
mod lab;
mod packages;
mod place;
mod poolers;
mod programs;
mod shared_memory;
mod supervise;
mod test;
mod tidy;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, runs and tests pgherd from this checkout.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the programs into dist/
    Build {
        /// Without optimisation: faster to build, slower and larger
        #[arg(long)]
        debug: bool,
    },
    /// Set up and start a cluster of three nodes on this machine, or resume it
    Up(up::Args),
    /// Stop that cluster
    Down {
        /// Delete its data too
        #[arg(long)]
        wipe: bool,
    },
    /// Build and run every test; with FILTER only the tests or sections of these names
    Test(test::Args),
    /// Simulate whole clusters in virtual time
    Sim {
        /// How many clusters; 2000, or 1 where --seed is given
        #[arg(long)]
        seeds: Option<u64>,
        /// The first one's seed
        #[arg(long)]
        seed: Option<u64>,
        /// Print every event; for one seed
        #[arg(long)]
        trace: bool,
    },
    /// Hurt a real cluster at random and prove that nothing was lost; needs root
    Chaos(chaos::Args),
    /// Bring hosts that ssh reaches into the state that an inventory describes
    Deploy(deploy::Args),
    /// Four real hosts on this machine, to deploy to; needs root
    Lab(lab::Args),
    /// Make Debian packages and a tarball for other distributions in dist/
    Dist(dist::Args),
    /// Measure failovers, or the pooler beside others
    Bench(bench::Args),
    /// Check what rustc and clippy can't: dependencies between crates, opening lines, file lengths
    Tidy,
}

fn main() -> ExitCode {
    match carry_out(Cli::parse().task) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(task: Task) -> Result<ExitCode> {
    if matches!(task, Task::Test(_) | Task::Chaos(_) | Task::Bench(_))
        && let Some(code) = supervise::parent()?
    {
        return Ok(code);
    }
    match task {
        Task::Build { debug } => programs::build(debug).map(|built| say!("built {}", built.join(", "))),
        Task::Up(args) => up::run(&args),
        Task::Down { wipe } => down::run(wipe),
        Task::Test(args) => test::run(&args),
        Task::Sim { seeds, seed, trace } => {
            let jobs = std::thread::available_parallelism().map_or(1, usize::from);
            let seeds = seeds.unwrap_or(if seed.is_some() { 1 } else { 2000 });
            sim::main(seeds, seed.unwrap_or(0), trace, jobs)
        }
        Task::Chaos(args) => chaos::run(&args),
        Task::Deploy(args) => deploy::run(&args),
        Task::Lab(args) => lab::run(&args),
        Task::Dist(args) => dist::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Tidy => tidy::run(),
    }?;
    Ok(ExitCode::SUCCESS)
}
