//! When the lease is renewed, and the margins that keep its end safe.

use std::time::Duration;

use super::Step;
use crate::action::Action;
use crate::time::Tick;

/// How long before the lease's deadline the guard kills PostgreSQL. Covers the kill itself (tens of milliseconds), a
/// late timer on a busy machine, and drift between this clock and the DCS's: at 500 ppm, 15 ms in 30 s.
pub fn guard_margin(ttl: Duration) -> Duration {
    (ttl / 20).max(Duration::from_millis(500))
}

/// How long before the lease's deadline the agent itself demotes: earlier than the guard, so that the guard is only
/// needed when the agent is dead or stuck.
pub fn agent_margin(ttl: Duration) -> Duration {
    guard_margin(ttl) + (ttl / 15).max(Duration::from_millis(400))
}

impl Step<'_> {
    /// Gets a lease, or renews it when it is due.
    pub(super) fn keep_lease(&mut self) {
        let s = &self.view.settings;
        let retry = (s.ttl / 30).clamp(Duration::from_millis(200), Duration::from_secs(1));
        let earliest = self.memory.renewed_at + retry;
        let ready = self.memory.renewed_at == Tick::default() || self.now >= earliest;
        let Some(lease) = self.view.lease else {
            if self.view.wants.leave {
                return;
            }
            if ready {
                self.memory.renewed_at = self.now;
                self.act(Action::Grant);
            }
            self.wake(self.memory.renewed_at + retry);
            return;
        };
        let every = s.loop_wait.min(s.ttl / 3);
        let due = lease.deadline.before(s.ttl) + every;
        if self.now >= due && ready {
            self.memory.renewed_at = self.now;
            self.act(Action::Renew);
        }
        self.wake(due.max(self.memory.renewed_at + retry));
    }

    /// Whether the lease lasts long enough to begin to lead on it.
    pub(super) fn lease_is_fresh(&self) -> bool {
        let ttl = self.view.settings.ttl;
        self.view.lease.is_some_and(|l| self.now + agent_margin(ttl) + ttl / 10 < l.deadline)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_agent_acts_before_the_guard_and_the_guard_before_the_lease_ends(ms in 2_000u64..600_000) {
            let ttl = Duration::from_millis(ms);
            prop_assert!(agent_margin(ttl) >= guard_margin(ttl) + Duration::from_millis(400));
            prop_assert!(guard_margin(ttl) >= Duration::from_millis(300));
            // A lease that is renewed every third of its life is never close to its margin.
            prop_assert!(ttl / 3 + agent_margin(ttl) + ttl / 10 < ttl);
        }

        #[test]
        fn the_guards_margin_covers_drifting_clocks_and_a_kill(ms in 2_000u64..600_000) {
            // 500 ppm on either side over the whole lease, and a tenth of a second for a late timer and the kill.
            let ttl = Duration::from_millis(ms);
            prop_assert!(guard_margin(ttl) > ttl / 1000 + Duration::from_millis(100));
        }
    }
}
