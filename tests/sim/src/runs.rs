//! Many seeds at once, with progress and a summary for a person.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Failure, Options, Report, run};

/// Runs `seeds` worlds from seed `first` on `jobs` threads, and prints progress and a summary. With `trace` every event
/// is printed (best with one seed). Fails on the first broken invariant, after printing the events that led to it.
#[allow(clippy::print_stdout, reason = "this is what a person runs and reads")]
pub fn main(seeds: u64, first: u64, trace: bool, jobs: usize) -> anyhow::Result<()> {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Report::default());
    let failed: Mutex<Option<Box<Failure>>> = Mutex::new(None);
    let jobs = if trace { 1 } else { jobs.max(1) };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= seeds {
                        break;
                    }
                    match run(first + i, Options { trace, mutation: None }) {
                        Ok(report) => {
                            let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            total.add(&report);
                            if total.runs % 200 == 0 && total.runs < seeds {
                                println!("{} of {seeds} seeds", total.runs);
                            }
                        }
                        Err(failure) => {
                            stop.store(true, Ordering::Relaxed);
                            let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            failed.get_or_insert(failure);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(failure) = failed {
        println!("{failure}");
        anyhow::bail!("seed {} breaks an invariant: {}", failure.seed, failure.what);
    }
    println!("{}", total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    Ok(())
}
