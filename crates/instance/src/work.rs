//! Work on the instance that can be given up half way. Aborting a task doesn't stop the blocking code that it waits for,
//! so every step that can't be taken back asks here whether its work still counts. Who gives work up is the caller's
//! business.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Clock};

use crate::error::Error;

/// How often the end of a spawn is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What all work shares.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Counts how often work was given up.
    epoch: AtomicU64,
    /// Held during a step.
    step: Mutex<()>,
    /// The epoch in which a server is being spawned at this moment, plus one; zero for none.
    spawning: AtomicU64,
}

/// The right to work until work is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permit(u64);

/// A step under way. No other one is.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    work: &'a Work,
    permit: Permit,
    _alone: MutexGuard<'a, ()>,
}

/// The moment in which a server comes into being.
#[derive(Debug)]
pub(crate) struct Spawning<'a>(&'a Work);

impl Work {
    /// Begins work.
    pub(crate) fn permit(&self) -> Permit {
        Permit(self.epoch.load(Ordering::SeqCst))
    }

    /// Gives up all work begun before. Never blocks.
    pub(crate) fn revoke(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Begins a step, once no other one is under way. Blocking.
    pub(crate) fn step(&self, permit: Permit) -> Result<Step<'_>, Error> {
        let step = Step { work: self, permit, _alone: self.step.lock().unwrap_or_else(PoisonError::into_inner) };
        step.check()?;
        Ok(step)
    }

    /// A server is being spawned by work that was given up.
    pub(crate) fn spawns_unwanted(&self) -> bool {
        let spawning = self.spawning.load(Ordering::SeqCst);
        spawning != 0 && spawning <= self.epoch.load(Ordering::SeqCst)
    }

    /// Waits until no server is being spawned, at most this long. Blocking.
    pub(crate) fn await_spawn(&self, at_most: Duration) {
        let began = Clock::now();
        while self.spawning.load(Ordering::SeqCst) != 0 && began.elapsed() < at_most {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl<'a> Step<'a> {
    /// Fails when the work was given up meanwhile.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.work.permit() == self.permit { Ok(()) } else { Err(Error::GivenUp) }
    }

    /// Announces a spawn, then looks whether it is still wanted. Whoever gives work up does the opposite, so one of both
    /// sees the other.
    pub(crate) fn spawning(&self) -> Result<Spawning<'a>, Error> {
        self.work.spawning.store(self.permit.0 + 1, Ordering::SeqCst);
        let spawning = Spawning(self.work);
        self.check()?;
        Ok(spawning)
    }
}

impl Drop for Spawning<'_> {
    fn drop(&mut self) {
        self.0.spawning.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn work_that_was_given_up_takes_no_step() {
        let work = Work::default();
        let old = work.permit();
        let step = work.step(old).unwrap();
        work.revoke();
        assert!(matches!(step.check(), Err(Error::GivenUp)));
        assert!(matches!(step.spawning(), Err(Error::GivenUp)));
        assert!(!work.spawns_unwanted());
        drop(step);
        assert!(matches!(work.step(old), Err(Error::GivenUp)));
        work.step(work.permit()).unwrap().spawning().unwrap();
    }

    #[test]
    fn a_spawn_in_the_moment_of_giving_up_is_waited_for() {
        let work = Work::default();
        let spawned = AtomicBool::new(false);
        std::thread::scope(|s| {
            let step = work.step(work.permit()).unwrap();
            let spawning = step.spawning().unwrap();
            assert!(!work.spawns_unwanted());
            work.revoke();
            assert!(work.spawns_unwanted());
            work.await_spawn(Duration::from_millis(1));
            assert!(work.spawns_unwanted(), "the wait is bounded");
            let waiting = s.spawn(|| {
                work.await_spawn(Duration::from_secs(60));
                assert!(spawned.load(Ordering::SeqCst));
            });
            spawned.store(true, Ordering::SeqCst);
            drop(spawning);
            waiting.join().unwrap();
        });
        assert!(!work.spawns_unwanted());
    }
}
