//! The simulation itself is tested: it replays exactly, finds nothing in the real decisions, and finds every bug that is
//! put in.

use sim::{Mutation, Options, run};

/// The first seed that shows a bug, and what it shows.
fn first_failure(mutation: Mutation, seeds: u64) -> (u64, String) {
    let failure = (1..=seeds).find_map(|seed| run(seed, Options { mutation: Some(mutation), trace: false }).err());
    let failure = failure.unwrap_or_else(|| panic!("{mutation:?} is not found within {seeds} seeds"));
    assert!(failure.trace.len() > 10, "a failure comes with what led to it");
    (failure.seed, failure.what)
}

const TWO_WRITABLE: &str = "accept";
const COMMIT_LOST: &str = "acknowledged synchronous commit";

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 14, 159] {
        assert_eq!(run(seed, Options::default()).unwrap(), run(seed, Options::default()).unwrap());
    }
}

#[test]
fn the_decisions_keep_their_promises() {
    let mut total = sim::Report::default();
    for seed in 1..=300 {
        match run(seed, Options::default()) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    // What never happened was not tested.
    assert!(total.promotions > 300 && total.guard_fences > 100 && total.fences > 300, "{total}");
    assert!(total.adoptions > 50 && total.rewinds > 30 && total.acknowledged_sync > 50_000, "{total}");
}

#[test]
fn a_guard_that_ignores_its_deadline_is_found() {
    assert!(first_failure(Mutation::GuardSleeps, 100).1.contains(TWO_WRITABLE));
}

#[test]
fn a_lease_counted_from_the_answer_is_found() {
    assert!(first_failure(Mutation::LeaseFromAnswer, 2000).1.contains(TWO_WRITABLE));
}

#[test]
fn a_key_released_before_the_processes_are_gone_is_found() {
    assert!(first_failure(Mutation::ReleaseBeforeGone, 500).1.contains(TWO_WRITABLE));
}

#[test]
fn unseen_orphans_are_found() {
    assert!(first_failure(Mutation::OrphansUnseen, 500).1.contains(TWO_WRITABLE));
}

#[test]
fn an_election_that_ignores_the_sync_key_is_found() {
    assert!(first_failure(Mutation::ElectionIgnoresSync, 500).1.contains(COMMIT_LOST));
}

#[test]
fn a_sync_key_not_narrowed_before_promotion_is_found() {
    assert!(first_failure(Mutation::SyncNotNarrowed, 2000).1.contains(COMMIT_LOST));
}

#[test]
fn a_forgotten_write_of_the_sync_key_is_found() {
    assert!(first_failure(Mutation::LateWriteForgotten, 6000).1.contains(COMMIT_LOST));
}
