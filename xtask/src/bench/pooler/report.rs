//! The results as Markdown, for docs/benchmarks.md.

use std::fmt::Write as _;

use super::idle;
use super::results::{Figures, IdleOutcome, Metric, Outcome, Results, Row, Step};
use super::runner::Runs;
use super::targets::{NOISE, Target, Unit, Verdict};

/// How and on what it was measured.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// PostgreSQL's version line.
    pub(super) postgres: String,
    pub(super) rounds: u32,
    /// Seconds that each load was watched.
    pub(super) seconds: u64,
    pub(super) cores: usize,
    /// The processor's name.
    pub(super) processor: String,
    /// The kernel's release.
    pub(super) kernel: String,
    /// What counted system calls.
    pub(super) counter: Option<&'static str>,
    pub(super) runs: Runs,
}

/// A theme of the tables.
struct Theme {
    title: &'static str,
    intro: &'static str,
    metric: Metric,
    digits: usize,
}

const THEMES: &[Theme] = &[
    Theme {
        title: "CPU time of the pooler, microseconds per transaction",
        intro: "User and system time of all its threads; the figure that suffers least from a noisy machine.",
        metric: Metric::Cpu,
        digits: 1,
    },
    Theme {
        title: "Throughput, transactions per second",
        intro: "pgbench, the pooler and PostgreSQL share the cores.",
        metric: Metric::PerSecond,
        digits: 0,
    },
    Theme { title: "Mean latency, ms", intro: "", metric: Metric::Mean, digits: 3 },
    Theme { title: "Latency, 99th percentile, ms", intro: "", metric: Metric::P99, digits: 3 },
    Theme { title: "System calls per transaction", intro: "", metric: Metric::Syscalls, digits: 2 },
];

/// The whole page.
pub(super) fn markdown(setting: &Setting, results: &Results, targets: &[Target]) -> String {
    let mut text = String::from("# The pooler in numbers\n\n");
    introduce(&mut text, setting, results);
    goals(&mut text, targets);
    let steady: Vec<&Row> = results.steady().collect();
    if !steady.is_empty() {
        for theme in THEMES {
            let _ = write!(text, "\n## {}\n\n", theme.title);
            if !theme.intro.is_empty() {
                let _ = write!(text, "{}\n\n", theme.intro);
            }
            if theme.metric == Metric::Syscalls && setting.counter.is_none() {
                text.push_str("Not counted: neither perf nor strace could be used here.\n");
                continue;
            }
            compared(&mut text, results, &steady, theme);
            if theme.metric == Metric::Cpu {
                parts(&mut text, results, &steady);
            }
        }
    }
    connects(&mut text, results);
    idle_clients(&mut text, results);
    failures(&mut text, results);
    text
}

fn introduce(text: &mut String, setting: &Setting, results: &Results) {
    let Setting { postgres, rounds, seconds, cores, processor, kernel, counter, runs } = setting;
    let _ = write!(
        text,
        "Made by `cargo xtask bench pooler` on one machine with {cores} cores ({processor}, Linux {kernel}): {postgres}, fsync \
         off, `pgbench -S` with scale 10 and two threads, everything over TCP on loopback. Every pooler gets the same \
         configuration file (pgherd's names its number of workers besides) and is started afresh for each run; its pool is \
         filled, and a second passes, before {seconds} s are watched. The poolers take turns within each scenario, in another \
         order each round; figures are medians of {rounds} rounds, and figures in parentheses are multiples of pgbouncer's. \
         Session mode has a pool as large as the clients, transaction mode one of 16."
    );
    if let Some(counter) = counter {
        let _ = write!(text, " System calls are counted in a run of their own by `{counter}`.");
    }
    if let Some((middle, most)) = results.spread() {
        let _ = write!(
            text,
            " The rounds of one pooler in one scenario lie {:.0} % apart in CPU time (median; at most {:.0} %).",
            middle * 100.0,
            most * 100.0
        );
    }
    if runs.disturbed > 0 {
        let _ = write!(text, " Other work was going on when {} of {} runs began.", runs.disturbed, runs.all);
    }
    text.push_str("\n\n| pooler | version |\n|---|---|\n");
    for contender in &results.contenders {
        let _ = writeln!(text, "| {} | {} |", contender.label, contender.version);
    }
}

/// The numbers to reach, one line for each goal with the scenario that is worst.
fn goals(text: &mut String, targets: &[Target]) {
    let _ = write!(
        text,
        "\n## Targets\n\nOf pgherd, as multiples of pgbouncer's unless a unit is given. \"Nearly\" misses by less than the noise \
         of {:.0} %.\n\n| target | limit | reached in | worst | where | reached |\n|---|---:|---:|---:|---|---|\n",
        NOISE * 100.0
    );
    let mut goals: Vec<&str> = Vec::new();
    for target in targets {
        if !goals.contains(&target.goal.as_str()) {
            goals.push(&target.goal);
        }
    }
    for goal in goals {
        let all: Vec<&Target> = targets.iter().filter(|t| t.goal == goal).collect();
        let met = all.iter().filter(|t| t.verdict() == Verdict::Met).count();
        let Some(worst) = all.iter().copied().max_by(|a, b| a.excess().total_cmp(&b.excess())) else { continue };
        let verdict = all.iter().map(|t| t.verdict()).max().unwrap_or(Verdict::Unknown);
        let value = worst.value.map_or("not measured".to_owned(), |v| format!("{v:.2}{}", unit(worst.unit)));
        let (sign, bound) = (worst.limit.sign(), worst.limit.bound());
        let _ = writeln!(
            text,
            "| {goal} | {sign} {bound}{} | {met} of {} | {value} | {} | {} |",
            unit(worst.unit),
            all.len(),
            worst.scenario,
            word(verdict)
        );
    }
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Ratio => "",
        Unit::Kib => " KiB",
        Unit::Mib => " MiB",
    }
}

/// A verdict for people and for the JSON file.
pub(super) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "yes",
        Verdict::Nearly => "nearly",
        Verdict::Missed => "**no**",
        Verdict::Unknown => "not measured",
    }
}

/// The heading of a table with a column for each of these contenders.
fn header(text: &mut String, first: &[&str], results: &Results, columns: &[usize]) {
    let labels = columns.iter().map(|n| results.contenders[*n].label.as_str());
    let names: Vec<&str> = first.iter().copied().chain(labels).collect();
    let _ = writeln!(text, "| {} |", names.join(" | "));
    let _ = writeln!(text, "|{}{}|", "---|".repeat(first.len()), vec!["---:"; columns.len()].join("|"));
}

/// The contenders that took part in any of these rows.
fn columns(rows: &[&Row], results: &Results) -> Vec<usize> {
    (0..results.contenders.len()).filter(|n| rows.iter().any(|r| r.outcomes[*n] != Outcome::default())).collect()
}

fn load(row: &Row) -> String {
    let scenario = &row.scenario;
    format!("| {} | {} | {} |", scenario.mode.name(), scenario.protocol.name(), scenario.clients)
}

fn compared(text: &mut String, results: &Results, rows: &[&Row], theme: &Theme) {
    let columns = columns(rows, results);
    header(text, &["mode", "protocol", "clients"], results, &columns);
    for row in rows {
        text.push_str(&load(row));
        cells(text, results, row, &columns, theme.metric, theme.digits);
    }
}

/// The contenders' figures with their multiples of the base's.
fn cells(text: &mut String, results: &Results, row: &Row, columns: &[usize], metric: Metric, digits: usize) {
    let others = results.others();
    let base = row.base(&others);
    for n in columns.iter().copied() {
        let outcome = &row.outcomes[n];
        let _ = match (outcome.value(metric), row.ratio(metric, n, &others)) {
            (None, _) => write!(text, " {} |", nothing(outcome)),
            (Some(value), None) => write!(text, " {value:.digits$} |"),
            (Some(value), Some(_)) if base == Some(n) && n == 0 => write!(text, " {value:.digits$} |"),
            (Some(value), Some(_)) if base == Some(n) => write!(text, " {value:.digits$} (base) |"),
            (Some(value), Some(ratio)) => write!(text, " {value:.digits$} ({ratio:.2}) |"),
        };
    }
    text.push('\n');
}

fn nothing(outcome: &Outcome) -> &'static str {
    if outcome.failure.is_some() { "failed" } else { "–" }
}

fn parts(text: &mut String, results: &Results, rows: &[&Row]) {
    text.push_str("\nThe same as user + system time:\n\n");
    let columns = columns(rows, results);
    header(text, &["mode", "protocol", "clients"], results, &columns);
    for row in rows {
        text.push_str(&load(row));
        halves(text, row, &columns);
    }
}

fn halves(text: &mut String, row: &Row, columns: &[usize]) {
    for n in columns {
        let _ = write!(text, " {} |", user_and_system(&row.outcomes[*n]));
    }
    text.push('\n');
}

fn user_and_system(outcome: &Outcome) -> String {
    let user = outcome.median(|f| f.user_us);
    let system = outcome.median(|f: &Figures| f.system_us);
    match (user, system) {
        (Some(user), Some(system)) if outcome.failure.is_none() => format!("{user:.1} + {system:.1}"),
        _ => nothing(outcome).to_owned(),
    }
}

fn connects(text: &mut String, results: &Results) {
    let rows: Vec<&Row> = results.connects().collect();
    if rows.is_empty() {
        return;
    }
    let clients = rows.first().map_or(0, |r| r.scenario.clients);
    let _ = write!(
        text,
        "\n## A connection for each transaction\n\n`pgbench -C`, {clients} clients, simple protocol, transaction mode: connect, \
         log in, one query, close.\n\n"
    );
    let columns = columns(&rows, results);
    header(text, &["login", "figure"], results, &columns);
    for row in rows {
        let login = row.scenario.auth.setting();
        let _ = write!(text, "| {login} | connects per second |");
        cells(text, results, row, &columns, Metric::PerSecond, 0);
        let _ = write!(text, "| {login} | CPU microseconds per connect |");
        cells(text, results, row, &columns, Metric::Cpu, 1);
        let _ = write!(text, "| {login} | the same as user + system time |");
        halves(text, row, &columns);
    }
}

fn idle_clients(text: &mut String, results: &Results) {
    if results.idle.is_empty() {
        return;
    }
    text.push_str(
        "\n## Idle clients\n\nLogged in by MD5, transaction mode. Memory per client is what the pooler's private memory has \
         grown by, divided by the clients; sockets live in the kernel and aren't counted.\n\n",
    );
    let took_part = |n: &usize| results.idle[*n] != IdleOutcome::default();
    let columns: Vec<usize> = (0..results.idle.len()).filter(took_part).collect();
    header(text, &["figure"], results, &columns);
    let mut line = |name: &str, digits: usize, figure: &dyn Fn(&IdleOutcome) -> Option<f64>| {
        let _ = write!(text, "| {name} |");
        let base = results.idle.first().and_then(figure);
        for n in columns.iter().copied() {
            let outcome = &results.idle[n];
            let value = figure(outcome).filter(|_| outcome.failure.is_none());
            let ratio = value.zip(base).filter(|(_, b)| n > 0 && *b > 0.0).map(|(v, b)| v / b);
            let _ = match (value, ratio) {
                (Some(value), Some(ratio)) => write!(text, " {value:.digits$} ({ratio:.2}) |"),
                (Some(value), None) => write!(text, " {value:.digits$} |"),
                (None, _) => write!(text, " failed |"),
            };
        }
        text.push('\n');
    };
    line("resident with no client, MiB", 1, &|o| o.base_mib());
    for (n, clients) in idle::STEPS.iter().enumerate() {
        let mut step = |name: &str, figure: fn(&Step) -> f64| {
            line(&format!("{clients} clients: {name}"), 2, &move |o| o.step(n, figure));
        };
        step("KiB each after login", |s| s.connected_kib);
        step("KiB each after a query", |s| s.queried_kib);
        step("CPU while idle, % of a core", |s| s.cpu_percent);
    }
}

fn failures(text: &mut String, results: &Results) {
    let mut lines = String::new();
    for row in &results.rows {
        for (contender, outcome) in results.contenders.iter().zip(&row.outcomes) {
            if let Some(failure) = &outcome.failure {
                let _ = writeln!(lines, "- {}, {}: {failure}", row.scenario.name(), contender.label);
            }
        }
    }
    for (contender, outcome) in results.contenders.iter().zip(&results.idle) {
        if let Some(failure) = &outcome.failure {
            let _ = writeln!(lines, "- idle clients, {}: {failure}", contender.label);
        }
    }
    if !lines.is_empty() {
        let _ = write!(text, "\n## What failed\n\nRatios then refer to the next pooler that isn't pgherd.\n\n{lines}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{outcome, results};
    use super::super::targets;
    use super::*;

    fn setting() -> Setting {
        Setting {
            postgres: "postgres (PostgreSQL) 15".to_owned(),
            rounds: 3,
            seconds: 3,
            cores: 2,
            processor: "cpu".to_owned(),
            kernel: "6".to_owned(),
            counter: Some("perf stat"),
            runs: Runs { all: 9, disturbed: 1 },
        }
    }

    #[test]
    fn tables_hold_figures_and_multiples_of_the_base() {
        let results = results(|s| {
            let first = if s.clients == 500 {
                Outcome { failure: Some("no such thing".to_owned()), ..Outcome::default() }
            } else {
                outcome(&[10.0])
            };
            vec![first, outcome(&[9.0]), outcome(&[12.0]), outcome(&[20.0])]
        });
        let text = markdown(&setting(), &results, &targets::of(&results));
        assert!(text.contains("| session | simple | 8 | 10.0 | 9.0 (0.90) | 12.0 (1.20) | 20.0 (2.00) |"), "{text}");
        assert!(
            text.contains("| session | simple | 500 | failed | 9.0 (0.45) | 12.0 (0.60) | 20.0 (base) |"),
            "{text}"
        );
        assert!(text.contains("| scram-sha-256 | CPU microseconds per connect | 10.0 | 9.0 (0.90) |"), "{text}");
        assert!(text.contains("| CPU per transaction, 8 clients, 2 workers | <= 1.05 | 0 of 6 | 1.20 |"), "{text}");
        assert!(text.contains("- session-simple-500, pgbouncer: no such thing"), "{text}");
        let widths = |l: &str| l.matches('|').count();
        let mut width = None;
        for line in text.lines() {
            let here = line.starts_with('|').then(|| widths(line));
            assert!(here.is_none() || width.is_none() || here == width, "a table's lines differ in columns: {line}");
            width = here;
        }
    }
}
