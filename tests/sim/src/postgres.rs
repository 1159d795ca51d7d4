//! The model PostgreSQL of one node: what is on disk, and the processes that run on it. Streaming between nodes is in
//! `stream`; who starts and stops servers is in `perform` and `faults`.

use ha::Lsn;
use ha::local::{ControlData, DataDir};

use crate::store::Us;

/// Bytes of WAL that every record takes.
pub(crate) const RECORD: u64 = 16 << 10;
/// Where WAL begins.
const ORIGIN: u64 = 0x0100_0000;

/// The WAL position after this many records.
pub(crate) fn lsn(records: usize) -> Lsn {
    Lsn(ORIGIN + records as u64 * RECORD)
}

/// A data directory. It outlives every process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    /// Whether there is a cluster in it.
    pub(crate) exists: bool,
    pub(crate) system_identifier: String,
    /// Identities of all flushed records.
    pub(crate) wal: Vec<u64>,
    pub(crate) timeline: u32,
    /// Where earlier timelines ended, in records.
    pub(crate) history: Vec<(u32, usize)>,
    pub(crate) clean: bool,
    /// Whether the server last ran in recovery.
    pub(crate) in_recovery: bool,
    pub(crate) standby_signal: bool,
    /// Records before the latest checkpoint.
    pub(crate) checkpoint: usize,
    /// synchronous_standby_names as configured.
    pub(crate) sync_names: String,
    /// primary_conninfo: index of the node.
    pub(crate) upstream: Option<usize>,
}

/// How one data directory's history relates to another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// It can follow.
    Ancestor,
    /// It went its own way after this many records.
    Diverged(usize),
}

impl Disk {
    pub(crate) fn position(&self) -> Lsn {
        lsn(self.wal.len())
    }

    /// Compares as PostgreSQL can: by timelines and positions, without reading records.
    pub(crate) fn relation_to(&self, leader: &Disk) -> Relation {
        let mine = self.wal.len();
        let end = if self.timeline == leader.timeline {
            Some(leader.wal.len())
        } else {
            leader.history.iter().find(|(t, _)| *t == self.timeline).map(|(_, end)| *end)
        };
        match end {
            Some(end) if mine <= end => Relation::Ancestor,
            _ => Relation::Diverged(self.common_with(leader)),
        }
    }

    /// How many records both have in common, from the beginning.
    pub(crate) fn common_with(&self, other: &Disk) -> usize {
        self.wal.iter().zip(&other.wal).take_while(|(a, b)| a == b).count()
    }

    /// The timeline that the record before this position belongs to.
    pub(crate) fn timeline_at(&self, records: usize) -> u32 {
        self.history.iter().find(|(_, end)| records <= *end).map_or(self.timeline, |(t, _)| *t)
    }

    /// Becomes a copy of another data directory, as a base backup or pg_rewind leaves it.
    pub(crate) fn copy_from(&mut self, source: &Disk, upstream: usize) {
        *self = Disk {
            exists: true,
            clean: false,
            in_recovery: true,
            standby_signal: true,
            sync_names: self.sync_names.clone(),
            upstream: Some(upstream),
            ..source.clone()
        };
    }

    pub(crate) fn data_dir(&self) -> DataDir {
        if !self.exists {
            return DataDir::Empty;
        }
        let minimum_recovery = if self.in_recovery { self.position() } else { Lsn(0) };
        DataDir::Valid(ControlData {
            system_identifier: self.system_identifier.clone(),
            clean: self.clean,
            in_recovery: self.in_recovery,
            timeline: self.timeline,
            checkpoint: lsn(self.checkpoint),
            redo: lsn(self.checkpoint),
            minimum_recovery,
            ..ControlData::default()
        })
    }
}

/// What the processes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Down,
    Starting,
    Up,
    Stopping,
    /// The postmaster is dead, its children live.
    Orphans,
}

/// A commit that waits for standbys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// Records up to and including it.
    pub(crate) position: usize,
    pub(crate) id: u64,
}

/// The processes of one server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Grows with every change of processes, so that late events of old ones are dropped.
    pub(crate) epoch: u32,
    pub(crate) phase: Phase,
    /// Out of recovery.
    pub(crate) primary: bool,
    /// Stopped by SIGSTOP until then.
    pub(crate) frozen_until: Us,
    pub(crate) since: Us,
    pub(crate) pid: u32,
    pub(crate) waiting: Vec<Waiting>,
    /// synchronous_standby_names as every process has read it.
    pub(crate) sync: Required,
    /// Whose WAL senders a shutdown waits for; `None` for all.
    pub(crate) wait_for: Option<Vec<String>>,
    pub(crate) stopping_since: Us,
}

impl Server {
    pub(crate) fn new() -> Server {
        Server {
            epoch: 0,
            phase: Phase::Down,
            primary: false,
            frozen_until: 0,
            since: 0,
            pid: 1000,
            waiting: Vec::new(),
            sync: Required::default(),
            wait_for: None,
            stopping_since: 0,
        }
    }

    pub(crate) fn is_frozen(&self, now: Us) -> bool {
        now < self.frozen_until
    }

    /// Every process is gone.
    pub(crate) fn vanish(&mut self) {
        self.epoch += 1;
        self.phase = Phase::Down;
        self.primary = false;
        self.frozen_until = 0;
        self.waiting.clear();
    }
}

/// Whom a commit waits for, out of synchronous_standby_names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Required {
    #[default]
    Nobody,
    Any,
    /// The first `n` connected of these.
    First(usize, Vec<String>),
}

impl Required {
    /// Reads the forms `*`, `"a"` and `k ("a","b")`.
    pub(crate) fn parse(text: &str) -> Required {
        let names = |list: &str| list.split(',').map(|n| n.trim().trim_matches('"').to_owned()).collect::<Vec<_>>();
        match text.split_once('(') {
            _ if text.is_empty() => Required::Nobody,
            _ if text == "*" => Required::Any,
            Some((k, list)) => Required::First(k.trim().parse().unwrap_or(1), names(list.trim_end_matches(')'))),
            None => Required::First(1, names(text)),
        }
    }

    /// Whether standbys that have flushed this much (name, records) satisfy a commit at `position`.
    pub(crate) fn satisfied(&self, flushed: &[(&str, usize)], position: usize) -> bool {
        match self {
            Required::Nobody => true,
            Required::Any => flushed.iter().any(|(_, f)| *f >= position),
            Required::First(k, names) => {
                let sync: Vec<usize> = names
                    .iter()
                    .filter_map(|n| flushed.iter().find(|(f, _)| f == n))
                    .map(|(_, f)| *f)
                    .take(*k)
                    .collect();
                sync.len() == *k && sync.iter().all(|f| *f >= position)
            }
        }
    }

    /// Whether this standby's acknowledgement counts (pg_stat_replication.sync_state = sync).
    pub(crate) fn counts(&self, name: &str) -> bool {
        match self {
            Required::Nobody => false,
            Required::Any => true,
            Required::First(_, names) => names.iter().any(|n| n == name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_in_the_cores_own_spelling_are_understood() {
        let names = |n: &[&str]| ha::decide::standby_names(&n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(Required::parse(&names(&[])), Required::Nobody);
        assert_eq!(Required::parse("*"), Required::Any);
        assert_eq!(Required::parse(&names(&["n1"])), Required::First(1, vec!["n1".into()]));
        assert_eq!(Required::parse(&names(&["n1", "n2"])), Required::First(2, vec!["n1".into(), "n2".into()]));
    }

    #[test]
    fn all_of_a_list_must_have_flushed() {
        let both = Required::First(2, vec!["n1".into(), "n2".into()]);
        assert!(both.satisfied(&[("n1", 5), ("n2", 6)], 5));
        assert!(!both.satisfied(&[("n1", 5), ("n2", 4)], 5));
        assert!(!both.satisfied(&[("n1", 9)], 5));
        assert!(Required::Any.satisfied(&[("n3", 5)], 5) && !Required::Any.satisfied(&[], 5));
    }

    #[test]
    fn divergence_is_told_by_timelines_and_positions() {
        let leader = Disk { timeline: 2, history: vec![(1, 3)], wal: vec![1, 2, 3, 9, 9], ..Disk::default() };
        let at = |timeline, wal: &[u64]| Disk { timeline, wal: wal.to_vec(), ..Disk::default() };
        assert_eq!(at(1, &[1, 2, 3]).relation_to(&leader), Relation::Ancestor);
        assert_eq!(at(1, &[1, 2, 3, 4]).relation_to(&leader), Relation::Diverged(3));
        assert_eq!(at(3, &[1]).relation_to(&leader), Relation::Diverged(1));
    }
}
