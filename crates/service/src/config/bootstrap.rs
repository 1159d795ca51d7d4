//! Section `bootstrap`, and options for server programs in Patroni's list form. Running them is not here.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::model::{Bootstrap, BootstrapUser, Secret};
use super::read::{Reader, scalar};

/// Options of initdb that pgherd sets itself.
const INITDB_OWN: &[&str] = &["pgdata", "nosync", "pwfile", "sync-only", "version", "username", "pwprompt"];
/// Options of pg_basebackup that pgherd sets itself.
pub(super) const BASEBACKUP_OWN: &[&str] = &[
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "version",
    "compress",
    "dbname",
    "host",
    "port",
    "username",
    "password",
    "no-password",
];
/// Options of pg_rewind that pgherd sets itself.
pub(super) const REWIND_OWN: &[&str] = &["target-pgdata", "source-pgdata", "source-server", "dry-run", "version"];

pub(super) fn section(r: &mut Reader<'_>) -> Bootstrap {
    let dcs = match r.get("bootstrap.dcs") {
        Some(value @ Value::Object(_)) => value.clone(),
        Some(_) => {
            r.fault("bootstrap.dcs", "must be a mapping of settings");
            Value::Object(Map::new())
        }
        None => Value::Object(Map::new()),
    };
    Bootstrap {
        dcs,
        initdb: options(r, "bootstrap.initdb", INITDB_OWN),
        pg_hba: r.list("bootstrap.pg_hba").unwrap_or_default(),
        users: users(r),
    }
}

fn users(r: &mut Reader<'_>) -> BTreeMap<String, BootstrapUser> {
    let mut users = BTreeMap::new();
    let Some(map) = r.get("bootstrap.users").and_then(Value::as_object) else { return users };
    for (name, value) in map {
        let password = value.get("password").and_then(scalar).map(Secret::new);
        let options = match value.get("options") {
            Some(Value::Array(items)) => items.iter().filter_map(scalar).collect(),
            _ => Vec::new(),
        };
        for option in &options {
            if !is_attribute(option) {
                r.fault(&format!("bootstrap.users.{name}.options"), format!("\"{option}\" is not a role attribute"));
            }
        }
        users.insert(name.clone(), BootstrapUser { password, options });
    }
    users
}

/// Words that may follow CREATE ROLE ... WITH; anything else could smuggle SQL in.
fn is_attribute(option: &str) -> bool {
    let word = option.to_ascii_lowercase();
    let bare = word.strip_prefix("no").unwrap_or(&word);
    matches!(bare, "superuser" | "createdb" | "createrole" | "inherit" | "login" | "replication" | "bypassrls")
}

/// Command line arguments from a list of texts (`data-checksums`) and single-key mappings (`encoding: UTF8`), or from
/// one mapping. Options in `own` are pgherd's to set and a fault here.
pub(super) fn options(r: &mut Reader<'_>, path: &str, own: &[&str]) -> Vec<String> {
    let mut arguments = Vec::new();
    match r.get(path) {
        None => {}
        Some(Value::Object(map)) => {
            for (key, value) in map {
                one(r, path, key, Some(value), own, &mut arguments);
            }
        }
        Some(Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                let at = format!("{path}.{i}");
                match item {
                    Value::String(name) => one(r, &at, name, None, own, &mut arguments),
                    Value::Object(map) if map.len() == 1 => {
                        for (key, value) in map {
                            one(r, &at, key, Some(value), own, &mut arguments);
                        }
                    }
                    _ => {
                        r.fault(&at, "must be an option (\"data-checksums\") or one with a value (\"encoding: UTF8\")")
                    }
                }
            }
        }
        Some(_) => r.fault(path, "must be a list of options"),
    }
    arguments
}

fn one(r: &mut Reader<'_>, path: &str, name: &str, value: Option<&Value>, own: &[&str], out: &mut Vec<String>) {
    let bare = name.trim().trim_start_matches('-');
    let key = bare.split('=').next().unwrap_or(bare);
    if own.contains(&key) {
        r.fault(path, format!("the option \"{key}\" is set by pgherd itself: remove it"));
        return;
    }
    match value {
        None | Some(Value::Null | Value::Bool(true)) => out.push(format!("--{bare}")),
        Some(Value::Bool(false)) => {}
        Some(value) => match scalar(value) {
            Some(text) => out.push(format!("--{bare}={text}")),
            None => r.fault(path, format!("the option \"{key}\" needs a single value")),
        },
    }
}
