//! The results as JSON, for programs:
//!
//! ```text
//! {"machine": {"postgres", "rounds", "seconds", "cores", "processor", "kernel", "runs",
//!   "disturbed_runs"},
//!  "poolers": [{"name", "workers", "version"}],
//!  "scenarios": [{"name", "mode", "protocol", "clients", "workers", "poolers": {NAME: FIGURES}}],
//!  "connect": [{"name", "auth", "clients", "workers", "poolers": {NAME: FIGURES}}],
//!  "idle": [{"workers", "poolers": {NAME: {"base_mib", "failure", "steps": [{"clients", "connected_kib", "queried_kib", "cpu_percent"}]}}}],
//!  "targets": [{"name", "scenario", "sign", "limit", "unit", "value", "met", "within_noise"}]}
//! ```
//!
//! `workers` of a scenario is pgherd's number of worker threads; the other poolers stand in each of a scenario's entries
//! with the same figures, since all ran in the same rounds. FIGURES are medians: `{"tps", "latency_mean_ms",
//! "latency_p99_ms", "cpu_us", "user_us", "system_us", "syscalls", "failure", "rounds": [...]}`, in `connect` with
//! `connects_per_second` for `tps`; what wasn't measured is null. A target that wasn't measured isn't met.

use serde_json::{Map, Value, json};

use super::report::Setting;
use super::results::{Figures, IdleOutcome, Metric, Outcome, Results, Row};
use super::targets::{Target, Unit, Verdict};

pub(super) fn document(setting: &Setting, results: &Results, targets: &[Target]) -> Value {
    let poolers =
        results.contenders.iter().map(|c| json!({"name": c.name, "workers": c.workers, "version": c.version}));
    json!({
        "machine": {
            "postgres": setting.postgres, "rounds": setting.rounds, "seconds": setting.seconds, "cores": setting.cores,
            "processor": setting.processor, "kernel": setting.kernel,
            "runs": setting.runs.all, "disturbed_runs": setting.runs.disturbed,
        },
        "poolers": poolers.collect::<Vec<Value>>(),
        "scenarios": results.steady().flat_map(|row| entries(results, row)).collect::<Vec<Value>>(),
        "connect": results.connects().flat_map(|row| entries(results, row)).collect::<Vec<Value>>(),
        "idle": idle(results),
        "targets": targets.iter().map(target).collect::<Vec<Value>>(),
    })
}

/// A row as one entry for each number of workers that took part.
fn entries(results: &Results, row: &Row) -> Vec<Value> {
    let scenario = &row.scenario;
    let entry = |workers: u32| {
        let mut poolers = Map::new();
        for (contender, outcome) in results.contenders.iter().zip(&row.outcomes) {
            if contender.workers.is_none_or(|w| w == workers) {
                poolers.insert(contender.name.clone(), figures(outcome, scenario.reconnect));
            }
        }
        if scenario.reconnect {
            return json!({"name": scenario.name(), "auth": scenario.auth.setting(), "clients": scenario.clients,
                          "workers": workers, "poolers": poolers});
        }
        json!({"name": scenario.name(), "mode": scenario.mode.name(), "protocol": scenario.protocol.name(),
               "clients": scenario.clients, "workers": workers, "poolers": poolers})
    };
    let took_part = |o: &Outcome| !o.rounds.is_empty() || o.failure.is_some();
    let workers = results.contenders.iter().zip(&row.outcomes).filter(|(_, o)| took_part(o));
    workers.filter_map(|(c, _)| c.workers).map(entry).collect()
}

fn figures(outcome: &Outcome, reconnect: bool) -> Value {
    let name = if reconnect { "connects_per_second" } else { "tps" };
    let round = |f: &Figures| {
        json!({name: f.per_second, "latency_mean_ms": f.mean_ms, "latency_p99_ms": f.p99_ms, "cpu_us": f.cpu_us(),
               "user_us": f.user_us, "system_us": f.system_us})
    };
    json!({
        name: outcome.value(Metric::PerSecond),
        "latency_mean_ms": outcome.value(Metric::Mean),
        "latency_p99_ms": outcome.value(Metric::P99),
        "cpu_us": outcome.value(Metric::Cpu),
        "user_us": outcome.median(|f| f.user_us),
        "system_us": outcome.median(|f| f.system_us),
        "syscalls": outcome.syscalls,
        "failure": outcome.failure,
        "rounds": outcome.rounds.iter().map(round).collect::<Vec<Value>>(),
    })
}

fn idle(results: &Results) -> Vec<Value> {
    if results.idle.is_empty() {
        return Vec::new();
    }
    let mut poolers = Map::new();
    for (contender, outcome) in results.contenders.iter().zip(&results.idle) {
        if contender.workers.is_none_or(|w| w == results.workers) {
            poolers.insert(contender.name.clone(), idle_figures(outcome));
        }
    }
    vec![json!({"workers": results.workers, "poolers": poolers})]
}

fn idle_figures(outcome: &IdleOutcome) -> Value {
    let step = |(n, clients): (usize, &usize)| {
        json!({
            "clients": clients,
            "connected_kib": outcome.step(n, |s| s.connected_kib),
            "queried_kib": outcome.step(n, |s| s.queried_kib),
            "cpu_percent": outcome.step(n, |s| s.cpu_percent),
        })
    };
    json!({
        "base_mib": outcome.base_mib(),
        "failure": outcome.failure,
        "steps": super::idle::STEPS.iter().enumerate().map(step).collect::<Vec<Value>>(),
    })
}

fn target(target: &Target) -> Value {
    let verdict = target.verdict();
    let unit = match target.unit {
        Unit::Ratio => "ratio",
        Unit::Kib => "KiB",
        Unit::Mib => "MiB",
    };
    json!({
        "name": target.goal,
        "scenario": target.scenario,
        "sign": target.limit.sign(),
        "limit": target.limit.bound(),
        "unit": unit,
        "value": target.value,
        "met": verdict == Verdict::Met,
        "within_noise": matches!(verdict, Verdict::Met | Verdict::Nearly),
    })
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{outcome, results};
    use super::*;

    #[test]
    fn each_number_of_workers_has_an_entry_with_the_same_other_poolers() {
        let results = results(|s| {
            let one = if s.reconnect { Outcome::default() } else { outcome(&[8.0]) };
            vec![outcome(&[10.0]), one, outcome(&[12.0]), outcome(&[20.0])]
        });
        let first = &results.rows[0];
        let entries = |row: &Row| super::entries(&results, row);
        let both = entries(first);
        let cpu = |v: &Value, name: &str| v["poolers"][name]["cpu_us"].as_f64();
        assert_eq!(both.len(), 2);
        assert_eq!((both[0]["workers"].as_u64(), cpu(&both[0], "pgherd")), (Some(1), Some(8.0)));
        assert_eq!((both[1]["workers"].as_u64(), cpu(&both[1], "pgherd")), (Some(2), Some(12.0)));
        assert_eq!((cpu(&both[0], "pgbouncer"), cpu(&both[1], "pgbouncer")), (Some(10.0), Some(10.0)));
        let connect = entries(results.connects().next().unwrap());
        assert_eq!(connect.len(), 1);
        assert!(connect[0]["poolers"]["other"]["connects_per_second"].is_f64());
    }
}
