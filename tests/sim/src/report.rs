//! What a run did: shows that the faults and reactions that matter really happened.

use std::collections::BTreeMap;
use std::fmt;

/// Counts of what happened in one run, or in several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Report {
    pub runs: u64,
    pub decisions: u64,
    pub bootstraps: u64,
    pub acquisitions: u64,
    pub promotions: u64,
    pub fences: u64,
    pub guard_fences: u64,
    pub adoptions: u64,
    pub switchovers_asked: u64,
    pub leaves: u64,
    pub clones: u64,
    pub rewinds: u64,
    pub reinitialized: u64,
    pub dcs_timeouts: u64,
    pub acknowledged: u64,
    pub acknowledged_sync: u64,
    /// Injected faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often each reason was newly given.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Longest time from the end of the faults to a leader, in milliseconds.
    pub slowest_leader_ms: u64,
    /// Longest time until every replica was level.
    pub slowest_level_ms: u64,
}

impl Report {
    pub(crate) fn count_reason(&mut self, label: &'static str) {
        *self.reasons.entry(label).or_default() += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Report) {
        self.runs += other.runs;
        self.decisions += other.decisions;
        self.bootstraps += other.bootstraps;
        self.acquisitions += other.acquisitions;
        self.promotions += other.promotions;
        self.fences += other.fences;
        self.guard_fences += other.guard_fences;
        self.adoptions += other.adoptions;
        self.switchovers_asked += other.switchovers_asked;
        self.leaves += other.leaves;
        self.clones += other.clones;
        self.rewinds += other.rewinds;
        self.reinitialized += other.reinitialized;
        self.dcs_timeouts += other.dcs_timeouts;
        self.acknowledged += other.acknowledged;
        self.acknowledged_sync += other.acknowledged_sync;
        for (kind, n) in &other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
        for (label, n) in &other.reasons {
            *self.reasons.entry(label).or_default() += n;
        }
        self.slowest_leader_ms = self.slowest_leader_ms.max(other.slowest_leader_ms);
        self.slowest_level_ms = self.slowest_level_ms.max(other.slowest_level_ms);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |m: &BTreeMap<&str, u64>| m.iter().map(|(k, n)| format!("{k} {n}")).collect::<Vec<_>>().join(", ");
        writeln!(f, "{} runs, {} decisions, {} DCS requests lost", self.runs, self.decisions, self.dcs_timeouts)?;
        writeln!(
            f,
            "bootstraps {}, leader keys {}, promotions {}, switchovers asked {}, leaves {}, re-adoptions {}",
            self.bootstraps, self.acquisitions, self.promotions, self.switchovers_asked, self.leaves, self.adoptions
        )?;
        writeln!(
            f,
            "fences by agents {}, by guards {}; clones {}, rewinds {}, reinitializations {}",
            self.fences, self.guard_fences, self.clones, self.rewinds, self.reinitialized
        )?;
        writeln!(f, "commits acknowledged {}, of them synchronous {}", self.acknowledged, self.acknowledged_sync)?;
        writeln!(
            f,
            "after the faults: a leader within {} ms, all replicas level within {} ms",
            self.slowest_leader_ms, self.slowest_level_ms
        )?;
        writeln!(f, "faults: {}", list(&self.faults))?;
        write!(f, "reasons: {}", list(&self.reasons))
    }
}
