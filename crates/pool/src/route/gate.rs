//! The gate before each member: until one connection has proved that the member serves, only one attempt at a time is
//! under way to it from the whole pooler; then all pools go through at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Cluster, Topology};

/// Time between a failure and the next attempt, at first.
const FIRST_WAIT: Duration = Duration::from_millis(20);

/// And at most: it doubles.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// The same for a leader that isn't writable yet, which is a matter of moments.
const UNPROMOTED_WAIT: Duration = Duration::from_millis(15);

/// Failures for longer than this are worth a line in the log that a person reads, once in this time.
const WORRYING: Duration = Duration::from_secs(10);

/// A member, as the leader of an epoch or to read from.
pub(crate) type Door = (Arc<str>, Option<i64>);

#[derive(Debug, Default)]
struct Gate {
    open: bool,
    /// An attempt is under way, or waits for its time.
    busy: bool,
    wait: Duration,
    failing: Option<Instant>,
    told: Option<Instant>,
}

/// The gates of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Gates(HashMap<Door, Gate>);

/// What a gate says to somebody who wants to connect.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Go.
    Open,
    /// Go alone, and tell how it went.
    First(Turn),
    /// Somebody is trying already; everybody is told when that has succeeded.
    Busy,
}

/// The right to try alone; ends when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(super) cluster: Arc<Cluster>,
    pub(super) door: Door,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.cluster.gates(|gates| gates.leave(&self.door));
    }
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setback {
    /// Time until the next attempt.
    pub(crate) wait: Duration,
    /// It's the first since the member was last known to serve.
    pub(crate) is_first: bool,
    /// It has gone on for this long, and nobody was told for a while.
    pub(crate) worrying: Option<Duration>,
}

impl Gates {
    /// Whether one may go now; `true` with a turn that has begun.
    pub(super) fn enter(&mut self, door: &Door) -> Option<bool> {
        let gate = self.0.entry(door.clone()).or_default();
        if gate.open {
            return Some(false);
        }
        (!std::mem::replace(&mut gate.busy, true)).then_some(true)
    }

    fn leave(&mut self, door: &Door) {
        if let Some(gate) = self.0.get_mut(door) {
            gate.busy = false;
        }
    }

    /// A connection has proved that the member serves. Whether that's news.
    pub(super) fn proved(&mut self, door: &Door) -> bool {
        let gate = self.0.entry(door.clone()).or_default();
        (gate.wait, gate.failing, gate.told) = (Duration::ZERO, None, None);
        !std::mem::replace(&mut gate.open, true)
    }

    /// A connection couldn't be made: the next one goes alone.
    pub(super) fn failed(&mut self, door: &Door, unpromoted: bool, now: Instant) -> Setback {
        let gate = self.0.entry(door.clone()).or_default();
        gate.open = false;
        let since = *gate.failing.get_or_insert(now);
        let (lasts, is_first) = (now - since, gate.wait.is_zero() && gate.told.is_none());
        gate.wait = if unpromoted && lasts < WORRYING {
            UNPROMOTED_WAIT
        } else {
            (gate.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)
        };
        let due = now - *gate.told.get_or_insert(now) >= WORRYING;
        if due {
            gate.told = Some(now);
        }
        Setback { wait: gate.wait, is_first, worrying: due.then_some(lasts) }
    }

    /// Another topology: what is known of doors that don't exist any more is forgotten, and nobody waits long for the next
    /// attempt.
    pub(super) fn renew(&mut self, topology: &Topology) {
        self.0.retain(|(member, epoch), gate| {
            gate.wait = Duration::ZERO;
            match (epoch, &topology.leader) {
                (Some(epoch), Some(leader)) => leader == member && *epoch == topology.epoch,
                (Some(_), None) => true,
                (None, _) => topology.members.iter().any(|m| m.name == *member),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_first_and_opens_it_for_all() {
        let (mut gates, door) = (Gates::default(), Door::from(("pg1".into(), Some(1))));
        assert_eq!(gates.enter(&door), Some(true));
        assert_eq!(gates.enter(&door), None);
        gates.leave(&door);
        assert_eq!(gates.enter(&door), Some(true));
        assert!(gates.proved(&door));
        assert!(!gates.proved(&door));
        assert_eq!(gates.enter(&door), Some(false));
    }

    #[test]
    fn failures_close_it_and_make_the_next_wait_longer_up_to_a_limit() {
        let (mut gates, door, now) = (Gates::default(), Door::from(("pg1".into(), None)), Instant::now());
        gates.proved(&door);
        let waits: Vec<u128> = (0..6).map(|_| gates.failed(&door, false, now).wait.as_millis()).collect();
        assert_eq!(waits, [20, 40, 80, 160, 250, 250]);
        assert_eq!(gates.enter(&door), Some(true));
        gates.proved(&door);
        let setback = gates.failed(&door, true, now);
        assert_eq!(setback, Setback { wait: UNPROMOTED_WAIT, is_first: true, worrying: None });
        let setback = gates.failed(&door, true, now + WORRYING);
        assert_eq!(setback, Setback { wait: UNPROMOTED_WAIT * 2, is_first: false, worrying: Some(WORRYING) });
    }

    #[test]
    fn gates_of_an_older_leadership_are_forgotten_and_kept_while_there_is_none() {
        let mut gates = Gates::default();
        let (old, reader): (Door, Door) = (("pg1".into(), Some(1)), ("pg1".into(), None));
        gates.proved(&old);
        gates.proved(&reader);
        gates.renew(&Topology::default());
        assert_eq!((gates.enter(&old), gates.0.contains_key(&reader)), (Some(false), false));
        gates.renew(&Topology { leader: Some("pg1".into()), epoch: 2, ..Topology::default() });
        assert_eq!(gates.enter(&old), Some(true));
    }
}
