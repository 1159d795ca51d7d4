//! Reading of single settings with Patroni's tolerance for strings, units and YAML booleans.

use std::time::Duration;

use serde_json::Value;

use super::{Problem, Settings};

struct Reader<'a> {
    config: &'a Value,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn get(&self, path: &str) -> Option<&Value> {
        let value = path.split('.').try_fold(self.config, |v, key| v.get(key))?;
        (!value.is_null()).then_some(value)
    }

    fn problem(&mut self, path: &str, message: String) {
        self.problems.push(Problem { path: path.to_owned(), message });
    }

    fn read<T: Copy>(&mut self, path: &str, default: T, wants: &str, parse: impl Fn(&Value) -> Option<T>) -> T {
        let Some(value) = self.get(path) else { return default };
        match parse(value) {
            Some(parsed) => parsed,
            None => {
                let message = format!("{value} is not {wants}");
                self.problem(path, message);
                default
            }
        }
    }

    fn bool(&mut self, path: &str, default: bool) -> bool {
        self.read(path, default, "a boolean (true or false)", bool)
    }

    fn seconds(&mut self, path: &str, default: Duration, least: u64) -> Duration {
        let wants = format!("a time of at least {least} s");
        self.read(path, default, &wants, |v| duration(v).filter(|d| d.as_secs() >= least))
    }

    fn count(&mut self, path: &str, default: u32, least: u32) -> u32 {
        let wants = format!("a whole number of at least {least}");
        self.read(path, default, &wants, |v| integer(v)?.try_into().ok().filter(|n| *n >= least))
    }
}

/// A boolean, or one of the words that Patroni takes for one (`on`, `no`, `1`).
pub fn bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::String(s) => match s.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Some(true),
            "off" | "false" | "no" | "0" => Some(false),
            _ => None,
        },
        Value::Number(n) => match n.as_i64() {
            Some(1) => Some(true),
            Some(0) => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

/// Seconds as a number, or PostgreSQL's time units (`30s`, `5min`, `500ms`, `1h`, `1d`).
pub fn duration(value: &Value) -> Option<Duration> {
    if let Some(n) = integer(value) {
        return u64::try_from(n).ok().map(Duration::from_secs);
    }
    let (number, unit) = split_unit(value.as_str()?)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

/// Bytes as a number, or PostgreSQL's memory units (`10MB`).
pub fn bytes(value: &Value) -> Option<u64> {
    if let Some(n) = integer(value) {
        return u64::try_from(n).ok();
    }
    let (number, unit) = split_unit(value.as_str()?)?;
    let shift = match unit {
        "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

pub(super) fn settings(config: &Value) -> (Settings, Vec<Problem>) {
    let mut r = Reader { config, problems: Vec::new() };
    let d = Settings::default();
    let start_path = match r.get("primary_start_timeout") {
        Some(_) => "primary_start_timeout",
        None => "master_start_timeout",
    };
    let stop_path = match r.get("primary_stop_timeout") {
        Some(_) => "primary_stop_timeout",
        None => "master_stop_timeout",
    };
    let sync = r.read("synchronous_mode", false, "on, off or quorum", |v| match v.as_str() {
        Some(s) if s.eq_ignore_ascii_case("quorum") => Some(true),
        _ => bool(v),
    });
    let mut s = Settings {
        ttl: r.seconds("ttl", d.ttl, 2),
        loop_wait: r.seconds("loop_wait", d.loop_wait, 1),
        retry_timeout: r.seconds("retry_timeout", d.retry_timeout, 1),
        maximum_lag_on_failover: r.read(
            "maximum_lag_on_failover",
            d.maximum_lag_on_failover,
            "a size in bytes (1048576 or 1MB)",
            bytes,
        ),
        primary_start_timeout: r.seconds(start_path, d.primary_start_timeout, 0),
        primary_stop_timeout: r.seconds(stop_path, d.primary_stop_timeout, 0),
        pause: r.bool("pause", d.pause),
        synchronous_mode: sync,
        synchronous_mode_strict: r.bool("synchronous_mode_strict", d.synchronous_mode_strict),
        synchronous_node_count: r.count("synchronous_node_count", d.synchronous_node_count, 1),
        check_timeline: r.bool("check_timeline", d.check_timeline),
        use_pg_rewind: r.bool("postgresql.use_pg_rewind", d.use_pg_rewind),
        use_slots: r.bool("postgresql.use_slots", d.use_slots),
        remove_data_directory_on_rewind_failure: r.bool("postgresql.remove_data_directory_on_rewind_failure", false),
        remove_data_directory_on_diverged_timelines: r
            .bool("postgresql.remove_data_directory_on_diverged_timelines", false),
        max_timelines_history: r.count("max_timelines_history", 0, 0),
        member_slots_ttl: r.seconds("member_slots_ttl", d.member_slots_ttl, 0),
        switchover_drain_timeout: r.seconds("switchover_drain_timeout", d.switchover_drain_timeout, 0),
    };
    check_timings(&mut r, &mut s);
    (s, r.problems)
}

/// A leader that misses one renewal must be able to try again before its lease ends.
fn check_timings(r: &mut Reader<'_>, s: &mut Settings) {
    let explicit = ["ttl", "loop_wait", "retry_timeout"].iter().any(|p| r.get(p).is_some());
    if s.loop_wait + 2 * s.retry_timeout > s.ttl && explicit {
        let message = format!(
            "loop_wait {} + 2 * retry_timeout {} must not exceed ttl {}: lower loop_wait or retry_timeout, or raise ttl",
            s.loop_wait.as_secs(),
            s.retry_timeout.as_secs(),
            s.ttl.as_secs()
        );
        r.problem("ttl", message);
        let d = Settings::default();
        if s.ttl < d.ttl {
            s.retry_timeout = (s.ttl / 4).max(Duration::from_secs(1));
            s.loop_wait = (s.ttl / 4).max(Duration::from_secs(1));
        } else {
            (s.loop_wait, s.retry_timeout) = (d.loop_wait, d.retry_timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn seed_configuration_is_read() {
        let (s, problems) = Settings::from_json(&json!({
            "ttl": 30, "loop_wait": 10, "retry_timeout": 10, "maximum_lag_on_failover": 1048576,
            "postgresql": {"use_pg_rewind": true, "use_slots": true, "parameters": {"wal_keep_segments": 100}}
        }));
        assert_eq!(problems, []);
        assert!(s.use_pg_rewind && s.use_slots);
        assert_eq!(s.ttl, Duration::from_secs(30));
    }

    #[test]
    fn timings_that_do_not_fit_are_named() {
        let (_, problems) = Settings::from_json(&json!({"ttl": 20, "loop_wait": 10, "retry_timeout": 10}));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("must not exceed ttl 20"), "{}", problems[0].message);
    }

    #[test]
    fn units_and_words_are_understood() {
        let (s, problems) = Settings::from_json(&json!({
            "ttl": "30s", "primary_start_timeout": "5min", "maximum_lag_on_failover": "1MB", "synchronous_mode": "on"
        }));
        assert_eq!(problems, []);
        assert_eq!((s.primary_start_timeout.as_secs(), s.maximum_lag_on_failover), (300, 1 << 20));
        assert!(s.synchronous_mode);
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let (_, problems) = Settings::from_json(&json!({"ttl": "soon", "pause": 7, "maximum_lag_on_failover": -1}));
        let paths: Vec<_> = problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, ["ttl", "maximum_lag_on_failover", "pause"]);
    }
}
