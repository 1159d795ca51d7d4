//! The numbers that pgherd has to reach, and whether it does.

use super::results::{Metric, Results, Row};
use super::scenario::Auth;

/// How far apart two runs of the same thing lie on a machine as ours.
pub(super) const NOISE: f64 = 0.05;

/// The bound of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// What a number is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// A multiple of pgbouncer's.
    Ratio,
    Kib,
    Mib,
}

/// A number to reach.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// What it is about; several scenarios may share it.
    pub(super) goal: String,
    /// The scenario.
    pub(super) scenario: String,
    pub(super) limit: Limit,
    pub(super) unit: Unit,
    /// `None` where it couldn't be measured.
    pub(super) value: Option<f64>,
}

/// How near a number is to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Met,
    /// Missed by less than the noise.
    Nearly,
    Missed,
    Unknown,
}

impl Target {
    pub(super) fn verdict(&self) -> Verdict {
        let Some(value) = self.value else { return Verdict::Unknown };
        let (met, nearly) = match self.limit {
            Limit::AtMost(limit) => (value <= limit, value <= limit * (1.0 + NOISE)),
            Limit::AtLeast(limit) => (value >= limit, value >= limit * (1.0 - NOISE)),
        };
        match (met, nearly) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::Nearly,
            (false, false) => Verdict::Missed,
        }
    }

    /// How much worse than its limit, as a factor; for finding the worst.
    pub(super) fn excess(&self) -> f64 {
        match (self.value, self.limit) {
            (None, _) => f64::INFINITY,
            (Some(value), Limit::AtMost(limit)) => value / limit,
            (Some(value), Limit::AtLeast(limit)) => limit / value,
        }
    }
}

impl Limit {
    /// The bound itself.
    pub(super) fn bound(self) -> f64 {
        match self {
            Limit::AtMost(bound) | Limit::AtLeast(bound) => bound,
        }
    }

    /// `<=` or `>=`.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Limit::AtMost(_) => "<=",
            Limit::AtLeast(_) => ">=",
        }
    }
}

/// A metric's bound with a number of clients.
struct Rule {
    what: &'static str,
    metric: Metric,
    clients: u32,
    /// One worker, else as many as pgherd has by default.
    one_worker: bool,
    limit: Limit,
}

const RULES: &[Rule] = &[
    cpu(8, true, 1.0),
    cpu(8, false, 1.05),
    cpu(64, true, 0.9),
    cpu(64, false, 0.9),
    cpu(500, true, 0.9),
    cpu(500, false, 0.9),
    throughput(8, 1.0),
    throughput(64, 1.1),
    p99(64),
    p99(500),
];

const fn cpu(clients: u32, one_worker: bool, limit: f64) -> Rule {
    Rule { what: "CPU per transaction", metric: Metric::Cpu, clients, one_worker, limit: Limit::AtMost(limit) }
}

const fn throughput(clients: u32, limit: f64) -> Rule {
    let (metric, limit) = (Metric::PerSecond, Limit::AtLeast(limit));
    Rule { what: "throughput", metric, clients, one_worker: false, limit }
}

const fn p99(clients: u32) -> Rule {
    Rule { what: "p99 latency", metric: Metric::P99, clients, one_worker: false, limit: Limit::AtMost(1.0) }
}

/// Memory per idle client, KiB, and with no client, MiB.
const IDLE_KIB: f64 = 2.0;
const BASE_MIB: f64 = 12.0;

/// Every number of what was measured.
pub(super) fn of(results: &Results) -> Vec<Target> {
    let others = results.others();
    let mut targets = Vec::new();
    for rule in RULES.iter().filter(|r| !r.one_worker || results.workers > 1) {
        let workers = if rule.one_worker { 1 } else { results.workers };
        let Some(pgherd) = results.pgherd(workers) else { continue };
        for row in results.steady().filter(|r| r.scenario.clients == rule.clients) {
            let plural = if workers == 1 { "" } else { "s" };
            targets.push(Target {
                goal: format!("{}, {} clients, {workers} worker{plural}", rule.what, rule.clients),
                scenario: row.scenario.name(),
                limit: rule.limit,
                unit: Unit::Ratio,
                value: row.ratio(rule.metric, pgherd, &others),
            });
        }
    }
    if let Some(pgherd) = results.pgherd(results.workers) {
        targets.extend(results.connects().flat_map(|row| connecting(row, pgherd, &others)));
        targets.extend(idle(results, pgherd));
    }
    targets
}

fn connecting(row: &Row, pgherd: usize, others: &[usize]) -> [Target; 2] {
    let method = match row.scenario.auth {
        Auth::Md5 => "md5",
        Auth::Scram => "scram",
    };
    let target = |what: &str, metric: Metric, limit: Limit| Target {
        goal: format!("{what}, {method}"),
        scenario: row.scenario.name(),
        limit,
        unit: Unit::Ratio,
        value: row.ratio(metric, pgherd, others),
    };
    [
        target("connects per second", Metric::PerSecond, Limit::AtLeast(1.0)),
        target("CPU per connect", Metric::Cpu, Limit::AtMost(1.0)),
    ]
}

fn idle(results: &Results, pgherd: usize) -> Vec<Target> {
    let Some(outcome) = results.idle.get(pgherd) else { return Vec::new() };
    let target = |goal: &str, limit: f64, unit: Unit, value: Option<f64>| Target {
        goal: goal.to_owned(),
        scenario: "idle".to_owned(),
        limit: Limit::AtMost(limit),
        unit,
        value,
    };
    let last = super::idle::STEPS.len() - 1;
    vec![
        target("memory per idle client", IDLE_KIB, Unit::Kib, outcome.step(last, |s| s.connected_kib)),
        target(
            "memory per idle client that has run a query",
            IDLE_KIB,
            Unit::Kib,
            outcome.step(last, |s| s.queried_kib),
        ),
        target("resident memory with no client", BASE_MIB, Unit::Mib, outcome.base_mib()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{outcome, results};
    use super::super::results::{Idle, IdleOutcome, Outcome, Step};
    use super::*;

    fn verdict(targets: &[Target], goal: &str, scenario: &str) -> Verdict {
        targets.iter().find(|t| t.goal == goal && t.scenario == scenario).unwrap().verdict()
    }

    #[test]
    fn each_number_has_its_own_bound() {
        // pgherd needs 0.95 of pgbouncer's CPU on one worker, 1.02 on two.
        let results = results(|_| vec![outcome(&[100.0]), outcome(&[95.0]), outcome(&[102.0]), outcome(&[500.0])]);
        let targets = of(&results);
        let cpu = |clients: u32, workers: &str| {
            let goal = format!("CPU per transaction, {clients} clients, {workers}");
            verdict(&targets, &goal, &format!("session-extended-{clients}"))
        };
        assert_eq!((cpu(8, "1 worker"), cpu(8, "2 workers")), (Verdict::Met, Verdict::Met));
        assert_eq!((cpu(64, "1 worker"), cpu(500, "2 workers")), (Verdict::Missed, Verdict::Missed));
        let throughput =
            |n: u32| verdict(&targets, &format!("throughput, {n} clients, 2 workers"), &format!("session-simple-{n}"));
        assert_eq!((throughput(8), throughput(64)), (Verdict::Nearly, Verdict::Missed));
        assert_eq!(verdict(&targets, "p99 latency, 500 clients, 2 workers", "session-simple-500"), Verdict::Met);
        assert_eq!(verdict(&targets, "CPU per connect, scram", "connect-scram"), Verdict::Nearly);
        assert_eq!(targets.len(), 10 * 6 + 4);
    }

    #[test]
    fn a_failure_is_not_met() {
        let failed = Outcome { failure: Some("no".to_owned()), ..outcome(&[1.0]) };
        let results = results(|_| vec![outcome(&[100.0]), failed.clone(), failed.clone(), outcome(&[1.0])]);
        assert!(of(&results).iter().all(|t| t.verdict() == Verdict::Unknown));
    }

    #[test]
    fn memory_is_bounded_with_the_most_clients() {
        let step = |connected_kib: f64| Step { clients: 1, connected_kib, queried_kib: 2.05, cpu_percent: 0.0 };
        let round = Idle { base_mib: 13.0, steps: vec![step(9.0), step(1.9)] };
        let idle = IdleOutcome { rounds: vec![round], failure: None };
        let results =
            Results { rows: Vec::new(), idle: vec![IdleOutcome::default(), idle.clone(), idle], ..results(|_| vec![]) };
        let verdicts: Vec<Verdict> = of(&results).iter().map(Target::verdict).collect();
        assert_eq!(verdicts, [Verdict::Met, Verdict::Nearly, Verdict::Missed]);
    }
}
