//! The guard's rules as a pure state machine: which requests are accepted in which state. No clock and no I/O.

use ha::{Term, Tick};

use super::protocol::State;

/// Whether a term was acquired later than another. Terms of different stores have no order; a term of another store is
/// another acquisition, and agents never go back to a store they left.
fn is_later(new: Term, old: Term) -> bool {
    new.dcs_id != old.dcs_id || new.revision > old.revision
}

impl State {
    /// Holds `deadline` for `term` from now on, also an earlier one than before.
    pub(super) fn arm(self, term: Term, deadline: Tick) -> Result<State, String> {
        match self {
            State::Fenced { term: old, .. } if !is_later(term, old) => {
                Err(format!("term {} has been fenced", old.revision))
            }
            State::Armed { term: held, .. } if held != term && !is_later(term, held) => {
                Err(format!("armed for the later term {}", held.revision))
            }
            _ => Ok(State::Armed { term, deadline }),
        }
    }

    /// Moves the deadline of `term` later; an earlier deadline changes nothing.
    pub(super) fn extend(self, term: Term, deadline: Tick) -> Result<State, String> {
        match self {
            State::Armed { term: held, deadline: old } if held == term => {
                Ok(State::Armed { term, deadline: deadline.max(old) })
            }
            State::Armed { term: held, .. } => Err(format!("armed for term {}", held.revision)),
            State::Fenced { term: old, .. } => Err(format!("term {} has been fenced", old.revision)),
            State::Idle | State::Disarmed => Err("not armed".to_owned()),
        }
    }

    /// There is nothing to guard any more, or the fencing was noticed.
    pub(super) fn disarm(self) -> State {
        match self {
            State::Fenced { term, .. } => State::Fenced { term, settled: true },
            _ => State::Disarmed,
        }
    }

    /// The instance is being killed.
    pub(super) fn fence(self) -> State {
        match self {
            State::Armed { term, .. } | State::Fenced { term, .. } => State::Fenced { term, settled: false },
            State::Idle | State::Disarmed => State::Fenced { term: Term::default(), settled: false },
        }
    }

    /// When to kill.
    pub(super) fn deadline(self) -> Option<Tick> {
        match self {
            State::Armed { deadline, .. } => Some(deadline),
            _ => None,
        }
    }

    /// Whether it is time to kill.
    pub(super) fn is_due(self, now: Tick) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Whether whatever appears in the data directory must be killed.
    pub(super) fn is_unsettled(self) -> bool {
        matches!(self, State::Fenced { settled: false, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(revision: i64) -> Term {
        Term { dcs_id: 1, revision }
    }

    fn armed(revision: i64, ms: u64) -> State {
        State::Armed { term: term(revision), deadline: Tick::from_millis(ms) }
    }

    #[test]
    fn an_extension_only_ever_postpones() {
        assert_eq!(armed(5, 100).extend(term(5), Tick::from_millis(200)), Ok(armed(5, 200)));
        assert_eq!(armed(5, 100).extend(term(5), Tick::from_millis(50)), Ok(armed(5, 100)));
    }

    #[test]
    fn an_extension_of_another_term_is_refused() {
        assert!(armed(5, 100).extend(term(6), Tick::NEVER).is_err());
        assert!(armed(5, 100).extend(term(4), Tick::NEVER).is_err());
        assert!(State::Idle.extend(term(5), Tick::NEVER).is_err());
        assert!(State::Disarmed.extend(term(5), Tick::NEVER).is_err());
    }

    #[test]
    fn arming_again_may_shorten_but_not_go_back_to_an_older_term() {
        assert_eq!(armed(5, 100).arm(term(5), Tick::from_millis(50)), Ok(armed(5, 50)));
        assert_eq!(armed(5, 100).arm(term(6), Tick::from_millis(50)), Ok(armed(6, 50)));
        assert!(armed(5, 100).arm(term(4), Tick::NEVER).is_err());
    }

    #[test]
    fn fenced_is_left_by_a_later_term_alone() {
        for fenced in [armed(5, 100).fence(), armed(5, 100).fence().disarm(), armed(5, 100).fence().disarm().fence()] {
            assert!(fenced.arm(term(5), Tick::NEVER).is_err());
            assert!(fenced.arm(term(4), Tick::NEVER).is_err());
            assert!(fenced.extend(term(5), Tick::NEVER).is_err());
            assert_eq!(fenced.arm(term(6), Tick::from_millis(1)), Ok(armed(6, 1)));
            assert!(fenced.arm(Term { dcs_id: 2, revision: 1 }, Tick::NEVER).is_ok());
        }
    }

    #[test]
    fn a_fence_is_unsettled_until_the_agent_noticed() {
        assert!(armed(5, 100).fence().is_unsettled());
        assert!(!armed(5, 100).fence().disarm().is_unsettled());
    }

    #[test]
    fn a_disarmed_term_can_be_armed_again() {
        assert_eq!(armed(5, 100).disarm(), State::Disarmed);
        assert_eq!(State::Disarmed.arm(term(5), Tick::from_millis(9)), Ok(armed(5, 9)));
    }

    #[test]
    fn only_an_armed_guard_has_a_deadline() {
        assert!(armed(5, 100).is_due(Tick::from_millis(100)));
        assert!(!armed(5, 100).is_due(Tick::from_millis(99)));
        for state in [State::Idle, State::Disarmed, armed(5, 100).fence()] {
            assert!(!state.is_due(Tick::NEVER));
        }
    }
}
