//! Whether local data has gone past the point where a leader's timeline branched off. Pure; asking the leader is in
//! `upstream`.

use ha::Lsn;
use ha::local::ControlData;

/// How the local data relates to a leader's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Divergence {
    /// The local data is part of the leader's history: it can simply follow.
    None,
    /// The local data has WAL that the leader's history doesn't have.
    Diverged {
        /// Local timeline.
        timeline: u32,
        /// Local position.
        local: Lsn,
        /// The leader's timeline.
        upstream_timeline: u32,
        /// Where the leader's history left the local timeline, or how far the leader has come on the same timeline;
        /// `None` when the local timeline isn't in its history at all.
        switchpoint: Option<Lsn>,
    },
    /// Can't be told: the local server crashed, and how far its WAL goes takes crash recovery to know.
    Unknown(String),
}

/// What is known about the local data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Timeline.
    pub timeline: u32,
    /// Where the last known record *starts* after a clean shutdown as primary (the shutdown checkpoint), else the end
    /// of what is known to be there.
    pub position: Lsn,
    /// The position is the start of a record, not an end.
    pub starts_there: bool,
    /// WAL may go further than `position`.
    pub more: bool,
}

impl Local {
    /// From the control data of a server that isn't running.
    pub fn stopped(c: &ControlData) -> Local {
        if c.in_recovery {
            return Local { timeline: c.timeline, position: c.position(), starts_there: false, more: false };
        }
        Local { timeline: c.timeline, position: c.checkpoint, starts_there: true, more: !c.clean }
    }
}

/// What is known about a leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its timeline.
    pub timeline: u32,
    /// Its position.
    pub position: Lsn,
    /// Where each earlier timeline of its history ended.
    pub history: Vec<(u32, Lsn)>,
}

/// Compares local data with a leader's history.
pub fn compare(local: Local, leader: &Leader) -> Divergence {
    let diverged = |switchpoint| Divergence::Diverged {
        timeline: local.timeline,
        local: local.position,
        upstream_timeline: leader.timeline,
        switchpoint,
    };
    let end = if local.timeline == leader.timeline {
        if local.starts_there {
            // A timeline has one primary. Two members that never met can have taken the same number.
            return diverged(Some(leader.position));
        }
        leader.position
    } else {
        match leader.history.iter().find(|(timeline, _)| *timeline == local.timeline) {
            Some((_, end)) if local.timeline < leader.timeline => *end,
            _ => return diverged(None),
        }
    };
    // A record that starts at the switchpoint is not part of the new timeline; one that ends there is.
    let past = if local.starts_there { local.position >= end } else { local.position > end };
    if past {
        return diverged(Some(end));
    }
    if local.more {
        return Divergence::Unknown(format!(
            "PostgreSQL did not stop cleanly here, so its WAL on timeline {} may go past {end}, where timeline {} begins",
            local.timeline, leader.timeline
        ));
    }
    Divergence::None
}

/// Reads a timeline history file: lines of `timeline LSN reason` (PostgreSQL's `timeline.c`); others are comments.
pub fn parse_history(text: &str) -> Vec<(u32, Lsn)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(timeline: u32, history: &str) -> Leader {
        Leader { timeline, position: Lsn(0x9000000), history: parse_history(history) }
    }

    fn clean_primary(timeline: u32, checkpoint: u64) -> Local {
        let c = ControlData { clean: true, timeline, checkpoint: Lsn(checkpoint), ..ControlData::default() };
        Local::stopped(&c)
    }

    const HISTORY: &str = "1\t0/3000100\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n";

    #[test]
    fn history_files_are_read() {
        assert_eq!(parse_history(HISTORY), [(1, Lsn(0x3000100)), (2, Lsn(0x5000000))]);
        assert_eq!(parse_history("# nothing\n"), []);
    }

    #[test]
    fn a_shutdown_checkpoint_before_the_switchpoint_is_no_divergence() {
        assert_eq!(compare(clean_primary(1, 0x3000088), &leader(3, HISTORY)), Divergence::None);
        assert_eq!(compare(clean_primary(2, 0x4FFFF88), &leader(3, HISTORY)), Divergence::None);
    }

    #[test]
    fn a_shutdown_checkpoint_at_or_after_the_switchpoint_is() {
        for at in [0x3000100, 0x3000178] {
            let d = compare(clean_primary(1, at), &leader(3, HISTORY));
            assert!(matches!(d, Divergence::Diverged { switchpoint: Some(Lsn(0x3000100)), .. }), "{d:?}");
        }
    }

    #[test]
    fn a_replica_that_holds_wal_up_to_the_switchpoint_can_follow() {
        let at = |position| Local { timeline: 1, position: Lsn(position), starts_there: false, more: false };
        assert_eq!(compare(at(0x3000100), &leader(2, HISTORY)), Divergence::None);
        assert!(matches!(compare(at(0x3000101), &leader(2, HISTORY)), Divergence::Diverged { .. }));
    }

    #[test]
    fn an_unknown_or_later_timeline_is_divergence() {
        assert!(matches!(compare(clean_primary(4, 1), &leader(3, HISTORY)), Divergence::Diverged { .. }));
        let other = leader(3, "2\t0/5000000\tx\n");
        assert!(matches!(compare(clean_primary(1, 1), &other), Divergence::Diverged { switchpoint: None, .. }));
    }

    #[test]
    fn being_ahead_on_the_same_timeline_is_divergence() {
        let at = |position| Local { timeline: 3, position: Lsn(position), starts_there: false, more: false };
        assert_eq!(compare(at(0x8000000), &leader(3, HISTORY)), Divergence::None);
        assert!(matches!(compare(at(0x9000001), &leader(3, HISTORY)), Divergence::Diverged { .. }));
    }

    #[test]
    fn a_primary_of_the_timeline_that_another_member_leads_on_has_diverged() {
        assert!(matches!(compare(clean_primary(3, 0x8000000), &leader(3, HISTORY)), Divergence::Diverged { .. }));
        let crashed = ControlData { timeline: 3, checkpoint: Lsn(0x3000000), ..ControlData::default() };
        assert!(matches!(compare(Local::stopped(&crashed), &leader(3, HISTORY)), Divergence::Diverged { .. }));
    }

    #[test]
    fn a_crashed_primary_is_unknown_until_recovered() {
        let c = ControlData { timeline: 1, checkpoint: Lsn(0x3000000), ..ControlData::default() };
        assert!(matches!(compare(Local::stopped(&c), &leader(2, HISTORY)), Divergence::Unknown(_)));
        let c = ControlData { checkpoint: Lsn(0x3000100), ..c };
        assert!(matches!(compare(Local::stopped(&c), &leader(2, HISTORY)), Divergence::Diverged { .. }));
    }
}
