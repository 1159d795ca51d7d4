//! What came out: figures of each round, medians over rounds, ratios to the base.

use super::scenario::Scenario;
use crate::bench::median;

/// One round of one pooler in one scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    /// Transactions, or connections, per second.
    pub(super) per_second: f64,
    pub(super) mean_ms: f64,
    pub(super) p99_ms: f64,
    /// CPU microseconds of the pooler per transaction.
    pub(super) user_us: f64,
    pub(super) system_us: f64,
}

impl Figures {
    /// User and system time.
    pub(super) fn cpu_us(&self) -> f64 {
        self.user_us + self.system_us
    }
}

/// All of one pooler in one scenario.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) rounds: Vec<Figures>,
    /// System calls per transaction.
    pub(super) syscalls: Option<f64>,
    /// Why there is nothing, or less than there should be.
    pub(super) failure: Option<String>,
}

/// A figure that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metric {
    Cpu,
    PerSecond,
    Mean,
    P99,
    Syscalls,
}

impl Outcome {
    /// The median over the rounds; nothing where a round failed.
    pub(super) fn value(&self, metric: Metric) -> Option<f64> {
        if self.failure.is_some() {
            return None;
        }
        match metric {
            Metric::Cpu => self.median(Figures::cpu_us),
            Metric::PerSecond => self.median(|f| f.per_second),
            Metric::Mean => self.median(|f| f.mean_ms),
            Metric::P99 => self.median(|f| f.p99_ms),
            Metric::Syscalls => self.syscalls,
        }
    }

    /// The median of anything over the rounds.
    pub(super) fn median(&self, figure: impl Fn(&Figures) -> f64) -> Option<f64> {
        median(self.rounds.iter().map(figure).collect())
    }
}

/// A scenario and its outcomes, one for each contender in their order. A contender that doesn't take part has an empty
/// one.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) scenario: Scenario,
    pub(super) outcomes: Vec<Outcome>,
}

impl Row {
    /// The contender that ratios refer to: pgbouncer, which is the first, else the first other one but pgherd that has
    /// figures.
    pub(super) fn base(&self, others: &[usize]) -> Option<usize> {
        others.iter().copied().find(|n| self.outcomes.get(*n).is_some_and(|o| o.value(Metric::Cpu).is_some()))
    }

    /// A contender's figure as a multiple of the base's.
    pub(super) fn ratio(&self, metric: Metric, contender: usize, others: &[usize]) -> Option<f64> {
        let base = self.outcomes.get(self.base(others)?)?.value(metric)?;
        let value = self.outcomes.get(contender)?.value(metric)?;
        (base > 0.0).then(|| value / base)
    }
}

/// What idle clients cost one pooler, in one round.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Idle {
    /// Resident memory with no client, MiB.
    pub(super) base_mib: f64,
    pub(super) steps: Vec<Step>,
}

/// A number of idle clients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) clients: usize,
    /// Private memory per client after the login, KiB.
    pub(super) connected_kib: f64,
    /// The same once each has run a query.
    pub(super) queried_kib: f64,
    /// CPU time while nothing happens, percent of a core.
    pub(super) cpu_percent: f64,
}

/// The rounds of one pooler, or why there are none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct IdleOutcome {
    pub(super) rounds: Vec<Idle>,
    pub(super) failure: Option<String>,
}

impl IdleOutcome {
    /// Median resident memory with no client, MiB.
    pub(super) fn base_mib(&self) -> Option<f64> {
        median(self.rounds.iter().map(|r| r.base_mib).collect())
    }

    /// Median of a step's figure, steps counted from 0.
    pub(super) fn step(&self, n: usize, figure: impl Fn(&Step) -> f64) -> Option<f64> {
        median(self.rounds.iter().filter_map(|r| r.steps.get(n)).map(figure).collect())
    }
}

/// What is known of a contender.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) name: String,
    pub(super) label: String,
    pub(super) workers: Option<u32>,
    pub(super) version: String,
}

/// Everything that was measured.
#[derive(Debug, Clone)]
pub(super) struct Results {
    /// The distribution's pgbouncer first.
    pub(super) contenders: Vec<Profile>,
    pub(super) rows: Vec<Row>,
    /// For each contender; empty where idle clients weren't asked for.
    pub(super) idle: Vec<IdleOutcome>,
    /// pgherd's number of workers where nothing else is said.
    pub(super) workers: u32,
}

impl Results {
    /// The contenders that pgherd is compared with.
    pub(super) fn others(&self) -> Vec<usize> {
        (0..self.contenders.len()).filter(|n| self.contenders[*n].workers.is_none()).collect()
    }

    /// pgherd with so many workers.
    pub(super) fn pgherd(&self, workers: u32) -> Option<usize> {
        self.contenders.iter().position(|c| c.workers == Some(workers))
    }

    /// Rows of queries over connections that stay.
    pub(super) fn steady(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|r| !r.scenario.reconnect)
    }

    /// Rows of connections for a query each.
    pub(super) fn connects(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|r| r.scenario.reconnect)
    }

    /// How far the rounds of one pooler in one scenario lie apart in CPU time, as a part of their median: the median of
    /// all, and the largest.
    pub(super) fn spread(&self) -> Option<(f64, f64)> {
        let spreads = |row: &Row| {
            let of = |o: &Outcome| {
                let cpu = || o.rounds.iter().map(Figures::cpu_us);
                let (least, most) = (cpu().fold(f64::INFINITY, f64::min), cpu().fold(0.0, f64::max));
                (o.rounds.len() > 1).then(|| (most - least) / o.median(Figures::cpu_us).unwrap_or(f64::NAN))
            };
            row.outcomes.iter().filter_map(of).collect::<Vec<f64>>()
        };
        let all: Vec<f64> = self.rows.iter().flat_map(spreads).filter(|s| s.is_finite()).collect();
        Some((median(all.clone())?, all.into_iter().fold(0.0, f64::max)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::pooler::scenario;

    /// Rounds that took so many microseconds each.
    pub(in crate::bench::pooler) fn outcome(cpu: &[f64]) -> Outcome {
        let round = |us: &f64| Figures {
            per_second: 1e6 / us,
            mean_ms: 1.0,
            p99_ms: 2.0,
            user_us: us / 4.0,
            system_us: us * 0.75,
        };
        Outcome { rounds: cpu.iter().map(round).collect(), syscalls: Some(4.0), failure: None }
    }

    /// pgbouncer, pgherd with one and two workers, and another.
    pub(in crate::bench::pooler) fn results(outcomes: impl Fn(&Scenario) -> Vec<Outcome>) -> Results {
        let profile = |name: &str, workers: Option<u32>| Profile {
            name: name.to_owned(),
            label: name.to_owned(),
            workers,
            version: format!("{name} 1"),
        };
        Results {
            contenders: vec![
                profile("pgbouncer", None),
                profile("pgherd", Some(1)),
                profile("pgherd", Some(2)),
                profile("other", None),
            ],
            rows: scenario::all().into_iter().map(|s| Row { outcomes: outcomes(&s), scenario: s }).collect(),
            idle: Vec::new(),
            workers: 2,
        }
    }

    #[test]
    fn ratios_refer_to_pgbouncer_and_where_it_failed_to_the_next() {
        let failed = Outcome { failure: Some("no".to_owned()), ..outcome(&[10.0]) };
        let results = results(|s| {
            let first = if s.clients == 500 { failed.clone() } else { outcome(&[10.0, 12.0, 11.0]) };
            vec![first, outcome(&[22.0]), Outcome::default(), outcome(&[44.0])]
        });
        let others = results.others();
        assert_eq!(others, [0, 3]);
        let ratio = |clients: u32| {
            let row = results.rows.iter().find(|r| r.scenario.clients == clients).unwrap();
            (row.base(&others), row.ratio(Metric::Cpu, 1, &others), row.ratio(Metric::Cpu, 2, &others))
        };
        assert_eq!(ratio(8), (Some(0), Some(2.0), None));
        assert_eq!(ratio(500), (Some(3), Some(0.5), None));
    }

    #[test]
    fn the_spread_is_what_lies_between_rounds() {
        let results = results(|_| vec![outcome(&[9.0, 10.0, 11.0]), outcome(&[5.0])]);
        let (median, most) = results.spread().unwrap();
        assert!((median - 0.2).abs() < 1e-9 && (most - 0.2).abs() < 1e-9, "{median} {most}");
    }
}
