//! The dynamic configuration: patching it, checking it, and what follows from it together with the local file.
//! Storing it is the DCS's business, acting on it the agent's.

use std::collections::BTreeMap;

use ha::settings::Problem;
use serde_json::{Map, Value};

use super::hba;
use super::known;
use super::model::Config;
use super::read::{boolean, scalar};
use super::spelling;

/// Server parameters that all members must agree on. They come from the DCS only, with these values where it has none.
const SHARED: &[(&str, &str, Accepts)] = &[
    ("wal_level", "replica", Accepts::Words(&["replica", "logical", "hot_standby"])),
    ("hot_standby", "on", Accepts::Words(&["on"])),
    ("max_connections", "100", Accepts::AtLeast(25)),
    ("max_wal_senders", "10", Accepts::AtLeast(3)),
    ("max_prepared_transactions", "0", Accepts::AtLeast(0)),
    ("max_locks_per_transaction", "64", Accepts::AtLeast(32)),
    ("track_commit_timestamp", "off", Accepts::Words(&["on", "off"])),
    ("max_replication_slots", "10", Accepts::AtLeast(4)),
    ("max_worker_processes", "8", Accepts::AtLeast(2)),
    ("wal_log_hints", "on", Accepts::Words(&["on", "off"])),
];

/// Parameters that only the DCS may set but that have no single default.
const SHARED_WITHOUT_DEFAULT: &[&str] = &["wal_keep_segments", "wal_keep_size"];

/// Parameters that follow from the rest of the configuration. Whatever anyone sets for them has no effect.
const FORCED: &[&str] = &["listen_addresses", "port", "cluster_name", "data_directory"];

#[derive(Clone, Copy)]
enum Accepts {
    Words(&'static [&'static str]),
    AtLeast(i64),
}

/// What is in force: the file and the dynamic configuration together.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// HA settings; `postgresql.*` ones of the file win over the DCS's, but for `use_slots`.
    pub settings: ha::Settings,
    /// Server parameters as PostgreSQL writes them, the forced ones included (`wal_keep_segments` and `wal_keep_size`
    /// as they were given: which one a server wants depends on its version).
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf: the file's, else the DCS's, else `None`.
    pub pg_hba: Option<Vec<String>>,
    /// Lines of pg_ident.conf, likewise.
    pub pg_ident: Option<Vec<String>>,
    /// Values that can't be used and were replaced by defaults.
    pub problems: Vec<Problem>,
}

/// Merges a patch into a configuration as Patroni's PATCH /config does: mappings are merged, `null` deletes, anything
/// else replaces.
pub fn patch(base: &Value, changes: &Value) -> Value {
    let Value::Object(changes) = changes else { return changes.clone() };
    let mut merged = base.as_object().cloned().unwrap_or_default();
    for (key, change) in changes {
        if change.is_null() {
            merged.shift_remove(key);
        } else {
            let old = merged.get(key).unwrap_or(&Value::Null);
            let new = patch(old, change);
            merged.insert(key.clone(), new);
        }
    }
    Value::Object(merged)
}

/// What is wrong with a dynamic configuration, and what a person should know about it. Paths are relative to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checked {
    /// Values that can't be used and misspelt keys: refuse such a configuration.
    pub faults: Vec<Problem>,
    /// Unknown keys and settings that have no effect.
    pub warnings: Vec<Problem>,
}

/// Checks a dynamic configuration before it is stored.
pub fn check(dynamic: &Value) -> Checked {
    if !dynamic.is_object() {
        let message = "the configuration must be a mapping of settings".to_owned();
        return Checked { faults: vec![Problem { path: String::new(), message }], warnings: Vec::new() };
    }
    let spelt = spelling::check(dynamic, known::DYNAMIC);
    let problem = |(path, message): (String, String)| Problem { path, message };
    let mut faults: Vec<Problem> = spelt.faults.into_iter().map(problem).collect();
    let mut warnings: Vec<Problem> = spelt.warnings.into_iter().map(problem).collect();
    faults.extend(ha::Settings::from_json(dynamic).1);
    let postgresql = dynamic.get("postgresql").unwrap_or(&Value::Null);
    if let Some(value) = postgresql.get("parameters").filter(|v| !v.is_null()) {
        let (given, problems) = parameters(value);
        let under = |name: &str| match name {
            "" => "postgresql.parameters".to_owned(),
            name => format!("postgresql.parameters.{name}"),
        };
        faults.extend(problems.into_iter().map(|(name, message)| Problem { path: under(&name), message }));
        for name in FORCED.iter().filter(|name| given.contains_key(**name)) {
            let message = "has no effect: it follows from the node's own file".to_owned();
            warnings.push(Problem { path: under(name), message });
        }
        faults.extend(unacceptable(&given).map(|(name, message)| Problem { path: under(name), message }));
    }
    for key in ["pg_hba", "pg_ident"] {
        if let Some(value) = postgresql.get(key).filter(|v| !v.is_null())
            && lines(value).is_none()
        {
            let message = "must be a list of lines".to_owned();
            faults.push(Problem { path: format!("postgresql.{key}"), message });
        }
    }
    if let Some(message) = postgresql.get("pg_hba").and_then(lines).and_then(|lines| hba::fault(&lines)) {
        faults.push(Problem { path: "postgresql.pg_hba".to_owned(), message });
    }
    Checked { faults, warnings }
}

/// What is in force with this file and this dynamic configuration.
pub fn effective(config: &Config, dynamic: &Value) -> Effective {
    let shared = dynamic.get("postgresql").unwrap_or(&Value::Null);
    let mut merged = dynamic.clone();
    let local = config.merged.0.get("postgresql").and_then(Value::as_object);
    for key in
        ["use_pg_rewind", "remove_data_directory_on_rewind_failure", "remove_data_directory_on_diverged_timelines"]
    {
        if let Some(value) = local.and_then(|map| map.get(key)).filter(|v| !v.is_null()) {
            merged = patch(&merged, &serde_json::json!({"postgresql": {key: value}}));
        }
    }
    let (settings, mut problems) = ha::Settings::from_json(&merged);
    let (given, faulty) = shared.get("parameters").map(parameters).unwrap_or_default();
    problems.extend(
        faulty.into_iter().map(|(name, message)| Problem { path: format!("postgresql.parameters.{name}"), message }),
    );
    Effective {
        settings,
        parameters: server_parameters(config, given, &mut problems),
        pg_hba: config.postgresql.pg_hba.clone().or_else(|| shared.get("pg_hba").and_then(lines)),
        pg_ident: config.postgresql.pg_ident.clone().or_else(|| shared.get("pg_ident").and_then(lines)),
        problems,
    }
}

fn server_parameters(
    config: &Config,
    dynamic: BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let bad: Vec<(&str, String)> = unacceptable(&dynamic).collect();
    let mut parameters = dynamic;
    for (name, message) in bad {
        parameters.remove(name);
        let message = format!("{message}: the default is used instead");
        problems.push(Problem { path: format!("postgresql.parameters.{name}"), message });
    }
    for (name, default, _) in SHARED {
        parameters.entry((*name).to_owned()).or_insert_with(|| (*default).to_owned());
    }
    for (name, value) in &config.postgresql.parameters {
        if !is_shared(name) {
            parameters.insert(name.clone(), value.clone());
        }
    }
    // Patroni's own default, in the older spelling that every version's can be derived from.
    if !SHARED_WITHOUT_DEFAULT.iter().any(|name| parameters.contains_key(*name)) {
        parameters.insert("wal_keep_segments".to_owned(), "8".to_owned());
    }
    parameters.insert("listen_addresses".to_owned(), config.postgresql.listen.host.clone());
    parameters.insert("port".to_owned(), config.postgresql.listen.port.to_string());
    parameters.insert("cluster_name".to_owned(), config.scope.clone());
    parameters
}

/// Whether a parameter comes from the DCS only, because all members must agree on it.
pub fn is_shared(name: &str) -> bool {
    SHARED.iter().any(|(known, _, _)| *known == name) || SHARED_WITHOUT_DEFAULT.contains(&name)
}

/// Parameters in a node's own file that have no effect there, each with the reason.
pub(super) fn without_effect(local: &BTreeMap<String, String>) -> Vec<(String, &'static str)> {
    let reason = |name: &String| match name {
        name if is_shared(name) => Some("has no effect here: all members must agree on it, so it comes from the DCS"),
        name if FORCED.contains(&name.as_str()) => Some("has no effect: it follows from other settings"),
        _ => None,
    };
    local.keys().filter_map(|name| Some((name.clone(), reason(name)?))).collect()
}

fn unacceptable(given: &BTreeMap<String, String>) -> impl Iterator<Item = (&'static str, String)> {
    SHARED.iter().filter_map(|(name, _, accepts)| {
        let value = given.get(*name)?;
        let wants = match accepts {
            Accepts::Words(words) => {
                let lower = value.to_ascii_lowercase();
                let word = match boolean(&Value::String(lower.clone())) {
                    Some(true) => "on",
                    Some(false) => "off",
                    None => &lower,
                };
                (!words.contains(&word)).then(|| words.join(" or "))
            }
            Accepts::AtLeast(least) => {
                let fits = value.parse::<i64>().is_ok_and(|n| n >= *least);
                (!fits).then(|| format!("a whole number of at least {least}"))
            }
        }?;
        Some((*name, format!("\"{value}\" is not {wants}")))
    })
}

/// A mapping of server parameters as texts that PostgreSQL understands, and what can't be one (name and message).
/// `null` leaves a parameter out.
pub(super) fn parameters(value: &Value) -> (BTreeMap<String, String>, Vec<(String, String)>) {
    let empty = Map::new();
    let mut problems = Vec::new();
    let map = match value {
        Value::Object(map) => map,
        Value::Null => &empty,
        _ => {
            problems.push((String::new(), "must be a mapping of server parameters".to_owned()));
            &empty
        }
    };
    let mut parameters = BTreeMap::new();
    for (name, value) in map {
        let valid =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$');
        if !valid {
            problems.push((name.clone(), "is not the name of a server parameter".to_owned()));
            continue;
        }
        if let Some(meant) = misspelt(name) {
            problems.push((name.clone(), format!("PostgreSQL has no such parameter: did you mean \"{meant}\"?")));
            continue;
        }
        match parameter(value) {
            Some(text) if text.contains(['\n', '\r', '\0']) => {
                problems.push((name.clone(), "must be one line".to_owned()));
            }
            Some(text) => _ = parameters.insert(name.to_ascii_lowercase(), text),
            None if value.is_null() => {}
            None => problems.push((name.clone(), "must be a single value".to_owned())),
        }
    }
    (parameters, problems)
}

/// The shared parameter that a name is one slip away from. PostgreSQL wouldn't start with such a name.
fn misspelt(name: &str) -> Option<&'static str> {
    let shared = SHARED.iter().map(|(known, _, _)| *known).chain(SHARED_WITHOUT_DEFAULT.iter().copied());
    let lower = name.to_ascii_lowercase();
    shared.into_iter().find(|known| lower != **known && spelling::is_slip(&lower, known))
}

fn parameter(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        Value::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>().map(|texts| texts.join(", ")),
        other => scalar(other),
    }
}

fn lines(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(scalar).collect(),
        Value::String(text) => Some(text.lines().map(str::to_owned).collect()),
        _ => None,
    }
}
