//! What the writers saw, and what may never be in it: two nodes that took writes at the same time, and acknowledged rows
//! that are gone. How it is recorded is in `writers`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// One write and its fate. Times count from the start of the recording, on CLOCK_MONOTONIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The row's key, never used twice.
    pub key: i64,
    /// Address of the node that took it.
    pub node: String,
    /// Timeline it was written on.
    pub timeline: u32,
    /// Before it was sent.
    pub begun: Duration,
    /// After the acknowledgement came.
    pub acked: Duration,
}

/// A node's writes on one timeline. A node that leads again after another has led does so on a new timeline, so all
/// writes of a reign lie between two changes of leader.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reign {
    node: String,
    timeline: u32,
    /// The first acknowledgement: a write was certainly accepted before it.
    first_acked: Duration,
    /// The last beginning: a write was certainly accepted after it.
    last_begun: Duration,
}

/// Two nodes that took writes at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Addresses.
    pub nodes: [String; 2],
    /// Timelines.
    pub timelines: [u32; 2],
    /// When it began.
    pub from: Duration,
    /// How long it certainly lasted.
    pub lasted: Duration,
}

/// Every pair of reigns of different nodes that certainly overlapped: each accepted a write after the other had
/// acknowledged one.
pub fn overlaps(writes: &[Write]) -> Vec<Overlap> {
    let reigns = reigns(writes);
    let mut found = Vec::new();
    for (i, a) in reigns.iter().enumerate() {
        for b in reigns[i + 1..].iter().filter(|b| b.node != a.node) {
            if a.first_acked < b.last_begun && b.first_acked < a.last_begun {
                let from = a.first_acked.max(b.first_acked);
                found.push(Overlap {
                    nodes: [a.node.clone(), b.node.clone()],
                    timelines: [a.timeline, b.timeline],
                    from,
                    lasted: a.last_begun.min(b.last_begun).saturating_sub(from),
                });
            }
        }
    }
    found
}

fn reigns(writes: &[Write]) -> Vec<Reign> {
    let mut reigns: BTreeMap<(&str, u32), Reign> = BTreeMap::new();
    for w in writes {
        let new = Reign { node: w.node.clone(), timeline: w.timeline, first_acked: w.acked, last_begun: w.begun };
        let reign = reigns.entry((&w.node, w.timeline)).or_insert(new);
        reign.first_acked = reign.first_acked.min(w.acked);
        reign.last_begun = reign.last_begun.max(w.begun);
    }
    reigns.into_values().collect()
}

/// Acknowledged rows that are not among `present`.
pub fn lost<'a>(writes: &'a [Write], present: &BTreeSet<i64>) -> Vec<&'a Write> {
    writes.iter().filter(|w| !present.contains(&w.key)).collect()
}

/// The longest time without an acknowledgement that touches the time after `since`, up to `until`.
pub fn outage(writes: &[Write], since: Duration, until: Duration) -> Duration {
    let mut acks: Vec<Duration> = writes.iter().map(|w| w.acked).filter(|a| *a <= until).collect();
    acks.push(until);
    acks.sort();
    acks.windows(2).filter(|w| w[1] > since).map(|w| w[1] - w[0]).max().unwrap_or_default()
}

/// The history as lines of text, in the order of acknowledgement.
pub fn to_text(writes: &[Write]) -> String {
    let mut sorted: Vec<&Write> = writes.iter().collect();
    sorted.sort_by_key(|w| w.acked);
    let mut text = String::from("begun_s acked_s node timeline key\n");
    for w in sorted {
        let (begun, acked) = (w.begun.as_secs_f64(), w.acked.as_secs_f64());
        let _ = writeln!(text, "{begun:.4} {acked:.4} {} {} {}", w.node, w.timeline, w.key);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn write(key: i64, node: &str, timeline: u32, begun: u64, acked: u64) -> Write {
        Write { key, node: node.into(), timeline, begun: ms(begun), acked: ms(acked) }
    }

    #[test]
    fn leaders_one_after_the_other_do_not_overlap() {
        let history = [
            write(1, "a", 1, 0, 10),
            write(2, "a", 1, 20, 30),
            write(3, "b", 2, 25, 60),
            write(4, "b", 2, 70, 80),
            write(5, "a", 3, 90, 100),
        ];
        assert_eq!(overlaps(&history), []);
    }

    #[test]
    fn a_write_that_hung_and_was_then_acknowledged_proves_nothing() {
        // Sent at 20 and committed there, the acknowledgement delayed until the next leader had begun.
        let history = [write(1, "a", 1, 0, 10), write(2, "a", 1, 20, 90), write(3, "b", 2, 40, 50)];
        assert_eq!(overlaps(&history), []);
    }

    #[test]
    fn two_nodes_writing_alternately_overlap() {
        let history =
            [write(1, "a", 1, 0, 10), write(2, "b", 2, 20, 30), write(3, "a", 1, 40, 50), write(4, "b", 2, 60, 70)];
        let found = overlaps(&history);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].from, found[0].lasted), (ms(30), ms(10)));
    }

    #[test]
    fn an_old_leader_that_writes_again_on_its_timeline_overlaps() {
        let history =
            [write(1, "a", 1, 0, 10), write(2, "b", 2, 20, 30), write(3, "b", 2, 35, 36), write(4, "a", 1, 40, 50)];
        assert_eq!(overlaps(&history).len(), 1);
    }

    #[test]
    fn acknowledged_rows_that_are_gone_are_lost() {
        let history = [write(1, "a", 1, 0, 10), write(2, "a", 1, 20, 30)];
        let lost = lost(&history, &BTreeSet::from([1]));
        assert_eq!(lost.iter().map(|w| w.key).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn an_outage_is_the_longest_gap_after_the_fault() {
        let history =
            [write(1, "a", 1, 0, 10), write(2, "a", 1, 0, 900), write(3, "a", 1, 0, 1000), write(4, "b", 2, 0, 1500)];
        assert_eq!(outage(&history, ms(1000), ms(1600)), ms(500));
        assert_eq!(outage(&history, ms(1000), ms(3000)), ms(1500));
        assert_eq!(outage(&history, ms(0), ms(1600)), ms(890));
    }
}
