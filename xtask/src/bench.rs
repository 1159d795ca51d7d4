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

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
