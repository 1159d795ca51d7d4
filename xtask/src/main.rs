//! `cargo xtask`: builds, runs and tests pgherd from a checkout. This file reads the command line; each task has a file
//! of its own.

// What a task prints is what it is run for.
#![allow(clippy::print_stdout)]

mod checkout;
mod down;
mod packages;
mod place;
mod programs;
mod supervise;
mod test;
mod tidy;
mod up;

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
    /// Check what rustc and clippy can't: dependencies between crates, opening lines, file lengths
    Tidy,
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Build { debug } => {
            let built = programs::build(debug)?;
            println!("built {}", built.join(", "));
            Ok(())
        }
        Task::Up(args) => up::run(&args),
        Task::Down { wipe } => down::run(wipe),
        Task::Test(args) => test::run(&args),
        Task::Tidy => tidy::run(),
    }
}
