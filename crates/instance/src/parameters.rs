//! Which server parameters go into postgresql.conf: configured, forced and defaulted ones. Pure; how the file is written
//! is in `conf`.

use std::collections::BTreeMap;

use crate::options::{Configuration, Listen, Options};
use crate::version::Version;

/// Parameters that pgherd sets itself; configured values are ignored.
const OWN: [&str; 11] = [
    "listen_addresses",
    "port",
    "cluster_name",
    "hot_standby",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target_timeline",
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
];

/// Values for what isn't configured, the ones that Patroni's documentation states (section "Dynamic configuration"); and
/// a standby that tries its new leader again sooner than after PostgreSQL's 5 s, because synchronous commits wait for it.
const DEFAULTS: [(&str, &str); 10] = [
    ("max_connections", "100"),
    ("max_wal_senders", "10"),
    ("max_worker_processes", "8"),
    ("max_prepared_transactions", "0"),
    ("max_locks_per_transaction", "64"),
    ("max_replication_slots", "10"),
    ("track_commit_timestamp", "off"),
    ("wal_level", "replica"),
    ("wal_log_hints", "on"),
    ("wal_retrieve_retry_interval", "500ms"),
];

/// The default of `wal_keep_size`, and of `wal_keep_segments` in segments of 16 MB.
const WAL_KEEP_MB: u64 = 128;

/// What goes into postgresql.conf.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Effective {
    /// Every parameter with its value.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Parameters that a replica must have larger than configured until its primary has replayed the smaller value:
    /// name, value used, value configured.
    pub(crate) raised: Vec<(String, String, String)>,
}

/// The parameters of a server. `required` are the control data's least values, given for replicas.
pub(crate) fn effective(
    options: &Options,
    listen: &Listen,
    version: Version,
    conf: &Configuration,
    required: Option<&BTreeMap<String, i64>>,
) -> Effective {
    let mut p: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &conf.parameters {
        let lower = name.to_ascii_lowercase();
        if !OWN.contains(&lower.as_str()) {
            p.insert(lower, value.clone());
        }
    }
    wal_keep(&mut p, version);
    for (name, value) in DEFAULTS {
        p.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    if p["wal_level"].eq_ignore_ascii_case("minimal") {
        p.insert("wal_level".into(), "replica".into());
    }
    p.insert("listen_addresses".into(), listen.hosts.join(","));
    p.insert("port".into(), listen.port.to_string());
    p.insert("cluster_name".into(), options.scope.clone());
    p.insert("hot_standby".into(), "on".into());
    if let Some(dir) = &options.socket_dir {
        p.insert("unix_socket_directories".into(), dir.display().to_string());
    }
    let mut raised = Vec::new();
    for (name, least) in required.into_iter().flatten() {
        let configured = p.get(name).and_then(|v| v.trim().parse::<i64>().ok());
        if configured.is_some_and(|c| c < *least) {
            let was = p.insert(name.clone(), least.to_string()).unwrap_or_default();
            raised.push((name.clone(), least.to_string(), was));
        }
    }
    Effective { parameters: p, raised }
}

/// Keeps the one of `wal_keep_segments` and `wal_keep_size` that this version knows, converting the other.
fn wal_keep(p: &mut BTreeMap<String, String>, version: Version) {
    let segments = p.remove("wal_keep_segments");
    let size = p.remove("wal_keep_size");
    let (name, value) = if version.has_wal_keep_size() {
        let from_segments = || Some(format!("{}MB", segments.as_deref()?.trim().parse::<u64>().ok()? * 16));
        ("wal_keep_size", size.or_else(from_segments).unwrap_or(format!("{WAL_KEEP_MB}MB")))
    } else {
        let from_size = || Some(megabytes(size.as_deref()?)?.div_ceil(16).to_string());
        ("wal_keep_segments", segments.or_else(from_size).unwrap_or((WAL_KEEP_MB / 16).to_string()))
    };
    p.insert(name.into(), value);
}

/// A size such as `2GB` or a plain number of megabytes.
fn megabytes(text: &str) -> Option<u64> {
    let t = text.trim();
    let end = t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
    let n: u64 = t[..end].parse().ok()?;
    match t[end..].trim() {
        "" | "MB" => Some(n),
        "kB" => Some(n.div_ceil(1024)),
        "GB" => Some(n * 1024),
        "TB" => Some(n * 1024 * 1024),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: u32, given: &[(&str, &str)], required: Option<&BTreeMap<String, i64>>) -> Effective {
        let options = Options::new("otus", "pg1", "/data", "0.0.0.0:5432");
        let listen = Listen::parse(&options.listen).unwrap();
        let conf = Configuration {
            parameters: given.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Configuration::default()
        };
        effective(&options, &listen, Version(version), &conf, required)
    }

    #[test]
    fn the_seeds_wal_keep_segments_becomes_what_the_version_knows() {
        let new = of(150_000, &[("wal_keep_segments", "100")], None).parameters;
        assert_eq!(new["wal_keep_size"], "1600MB");
        assert!(!new.contains_key("wal_keep_segments"));
        let old = of(120_000, &[("wal_keep_segments", "100")], None).parameters;
        assert_eq!(old["wal_keep_segments"], "100");
        assert_eq!(of(120_000, &[("wal_keep_size", "1GB")], None).parameters["wal_keep_segments"], "64");
        assert_eq!(of(150_000, &[], None).parameters["wal_keep_size"], "128MB");
    }

    #[test]
    fn own_parameters_win_and_defaults_fill() {
        let p = of(150_000, &[("port", "1"), ("wal_level", "minimal"), ("Max_Connections", "50")], None).parameters;
        assert_eq!(p["port"], "5432");
        assert_eq!(p["wal_level"], "replica");
        assert_eq!(p["max_connections"], "50");
        assert_eq!(p["wal_log_hints"], "on");
        assert_eq!(p["cluster_name"], "otus");
        assert!(!p.contains_key("unix_socket_directories"));
    }

    #[test]
    fn a_replica_takes_the_larger_of_configured_and_required() {
        let required = BTreeMap::from([("max_connections".to_owned(), 200), ("max_wal_senders".to_owned(), 5)]);
        let e = of(150_000, &[("max_connections", "50")], Some(&required));
        assert_eq!(e.parameters["max_connections"], "200");
        assert_eq!(e.parameters["max_wal_senders"], "10");
        assert_eq!(e.raised, [("max_connections".into(), "200".into(), "50".into())]);
    }
}
