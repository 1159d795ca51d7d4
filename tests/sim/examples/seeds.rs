//! Runs a range of seeds: `seeds FIRST COUNT [trace]`, or `seeds FIRST COUNT survey` to see every broken invariant.

use std::collections::BTreeMap;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let first = args.next().map_or(Ok(1), |a| a.parse())?;
    let count = args.next().map_or(Ok(1), |a| a.parse())?;
    match args.next().as_deref() {
        Some("survey") => survey(first, count),
        how => return sim::main(count, first, how == Some("trace"), 2),
    }
    Ok(())
}

#[allow(clippy::print_stdout)]
fn survey(first: u64, count: u64) {
    let mut kinds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for seed in first..first + count {
        if let Err(failure) = sim::run(seed, sim::Options::default()) {
            let kind: String = failure.what.chars().filter(|c| !c.is_ascii_digit()).collect();
            kinds.entry(kind).or_default().push(seed);
        }
    }
    println!("{count} seeds from {first}");
    for (kind, seeds) in kinds {
        println!("{:>5} {kind}: {:?}", seeds.len(), &seeds[..seeds.len().min(12)]);
    }
}
