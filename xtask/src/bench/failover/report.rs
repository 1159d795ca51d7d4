//! What clients felt of each event, as Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// One event, once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// Errors that clients saw.
    pub(super) errors: usize,
    /// How long they waited: the longest single write, or the longest time without any acknowledged write.
    pub(super) stall: Duration,
    /// Acknowledged rows that are gone.
    pub(super) lost: usize,
    /// Transactions a second before it.
    pub(super) rate: f64,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// By system and event, in the order of their first run.
    rows: Vec<(String, String, Vec<Run>)>,
}

impl Report {
    /// Adds a run.
    pub(super) fn add(&mut self, system: &str, event: &str, run: Run) {
        match self.rows.iter_mut().find(|(s, e, _)| s == system && e == event) {
            Some((_, _, runs)) => runs.push(run),
            None => self.rows.push((system.to_owned(), event.to_owned(), vec![run])),
        }
    }

    /// The document that docs/ keeps.
    pub(super) fn markdown(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut text = format!(
            "# Failover in numbers\n\n\
             Made by `cargo xtask bench failover` on one machine with {cores} cores: three nodes on loopback addresses and a \
             real three-member etcd. Everything shares these cores: PostgreSQL, etcd, poolers and clients.\n\n\
             ## Behind poolers\n\n\
             32 writers and 32 readers in transaction mode, each beginning a transaction every 150 ms, through three poolers \
             (pgherd: `role=leader` and `role=replica`; Patroni: pgbouncer on each node and HAProxy in front with the seed's \
             checks, `inter 3s fall 3 rise 2`). \"Stall\" is the longest time in which no write was acknowledged; of a \
             switchover the longest that any writer waited for one transaction, if that is longer. \"Errors\" are all errors \
             that any client saw, reconnecting included. \"Lost\" are acknowledged rows that are gone.\n\n\
             | event | system | runs | errors | stall, median s | max s | lost | transactions/s |\n\
             |---|---|---:|---:|---:|---:|---:|---:|\n"
        );
        let mut events: Vec<&str> = Vec::new();
        for (_, event, _) in &self.rows {
            if !events.contains(&event.as_str()) {
                events.push(event);
            }
        }
        for event in events {
            for (system, _, runs) in self.rows.iter().filter(|(_, e, _)| e == event) {
                let s = Summary::of(runs);
                let _ = writeln!(
                    text,
                    "| {event} | {system} | {} | {} | {:.2} | {:.2} | {} | {:.0} |",
                    runs.len(),
                    s.errors,
                    s.median,
                    s.max,
                    s.lost,
                    s.rate
                );
            }
        }
        text.push('\n');
        text
    }

    /// pgherd's figures by event, the words of it joined: `switchover`, `crash`, `host_death`, ...
    pub(super) fn json(&self) -> Value {
        let mut systems: BTreeMap<&str, serde_json::Map<String, Value>> = BTreeMap::new();
        for (system, event, runs) in &self.rows {
            let s = Summary::of(runs);
            let figures = json!({"runs": runs.len(), "errors": s.errors, "stall_median_s": s.median, "stall_max_s": s.max,
                "lost": s.lost, "transactions_per_s": s.rate});
            systems.entry(system).or_default().insert(key(event), figures);
        }
        let mut document = systems.remove(super::behind::PGHERD).unwrap_or_default();
        for (system, figures) in systems {
            document.insert(key(system), Value::Object(figures));
        }
        Value::Object(document)
    }
}

/// A name for scripts.
fn key(text: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let text: String = text.chars().map(word).collect();
    text.split('_').filter(|w| !w.is_empty()).collect::<Vec<_>>().join("_")
}

struct Summary {
    errors: usize,
    lost: usize,
    median: f64,
    max: f64,
    rate: f64,
}

impl Summary {
    fn of(runs: &[Run]) -> Summary {
        let mut stalls: Vec<Duration> = runs.iter().map(|r| r.stall).collect();
        stalls.sort();
        let at = |i: usize| stalls.get(i).copied().unwrap_or_default().as_secs_f64();
        Summary {
            errors: runs.iter().map(|r| r.errors).sum(),
            lost: runs.iter().map(|r| r.lost).sum(),
            median: at(stalls.len() / 2),
            max: at(stalls.len().saturating_sub(1)),
            rate: runs.iter().map(|r| r.rate).sum::<f64>() / runs.len().max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_pgherd_are_at_the_top() {
        let mut report = Report::default();
        let run = |ms, errors| Run { errors, stall: Duration::from_millis(ms), lost: 0, rate: 400.0 };
        for (ms, errors) in [(200, 0), (400, 1), (300, 0)] {
            report.add(super::super::behind::PGHERD, "host death", run(ms, errors));
        }
        report.add("Patroni", "host death", run(30_000, 64));
        let json = report.json();
        assert_eq!(json["host_death"]["stall_median_s"], 0.3);
        assert_eq!((&json["host_death"]["errors"], &json["host_death"]["runs"]), (&json!(1), &json!(3)));
        assert_eq!(json["patroni"]["host_death"]["stall_max_s"], 30.0);
        assert!(report.markdown().contains("| host death | pgherd | 3 | 1 | 0.30 | 0.40 | 0 | 400 |"));
    }
}
