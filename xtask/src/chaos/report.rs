//! What a run measured, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::fault::Kind;

/// Write outages by fault.
#[derive(Debug, Default)]
pub(super) struct Report {
    outages: BTreeMap<Kind, Vec<Duration>>,
}

impl Report {
    pub(super) fn add(&mut self, kind: Kind, outage: Duration) {
        self.outages.entry(kind).or_default().push(outage);
    }

    /// Number of faults so far.
    pub(super) fn count(&self) -> usize {
        self.outages.values().map(Vec::len).sum()
    }

    /// A line for each kind of fault, in Markdown.
    pub(super) fn table(&self) -> String {
        let mut text = String::from("| fault | times | no writes, median s | max s |\n|---|---:|---:|---:|\n");
        for (kind, outages) in &self.outages {
            let mut sorted = outages.clone();
            sorted.sort();
            let seconds = |d: Option<&Duration>| d.copied().unwrap_or_default().as_secs_f64();
            let (median, max) = (seconds(sorted.get(sorted.len() / 2)), seconds(sorted.last()));
            let _ = writeln!(text, "| {kind} | {} | {median:.2} | {max:.2} |", sorted.len());
        }
        text
    }
}
