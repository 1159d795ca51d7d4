//! Settings out of environment variables, by Patroni's names. The order of the layers is in the parent module.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::faults::{Fault, Place};
use super::known::{self, Kind};
use super::spelling;

/// Variables whose name doesn't follow from the setting's path, with the path.
const SPECIAL: &[(&str, &str)] = &[
    ("RESTAPI_USERNAME", "restapi.authentication.username"),
    ("RESTAPI_PASSWORD", "restapi.authentication.password"),
    ("CTL_USERNAME", "ctl.authentication.username"),
    ("CTL_PASSWORD", "ctl.authentication.password"),
];

/// Variables of pgherd's programs that are no settings.
const OTHER: &[&str] = &["PATRONI_CONFIGURATION", "PGHERD_CONFIGURATION", "PGHERD_LOG", "PGHERD_CONFIG"];

/// What the environment says.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// In the form of the file.
    pub(super) value: Value,
    /// Variable of each setting.
    pub(super) places: BTreeMap<String, Place>,
    /// Variables that look like settings and are none.
    pub(super) warnings: Vec<Fault>,
}

/// Reads all variables that begin with `prefix` (`PATRONI_` or `PGHERD_`).
pub(super) fn layer(environment: &[(String, String)], prefix: &str) -> Layer {
    let names = names();
    let mut layer = Layer { value: Value::Object(Map::new()), ..Layer::default() };
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(prefix) else { continue };
        if OTHER.contains(&variable.as_str()) {
            continue;
        }
        match names.get(name) {
            Some((path, kind)) => {
                insert(&mut layer.value, path, parse(text, *kind));
                layer.places.insert(path.clone(), Place::Environment(variable.clone()));
            }
            None => layer.warnings.extend(unknown(variable, name, &names, prefix)),
        }
    }
    layer
}

fn unknown(variable: &str, name: &str, names: &BTreeMap<String, (String, Kind)>, prefix: &str) -> Option<Fault> {
    let known: Vec<&str> = names.keys().map(String::as_str).collect();
    let near = spelling::nearest(
        name,
        &known.iter().map(|n| n.to_lowercase()).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .map(str::to_uppercase);
    let message = match near {
        Some(near) => format!("no such setting, ignored: did you mean {prefix}{near}?"),
        None if prefix == "PATRONI_" => "no such setting, ignored".to_owned(),
        None => return None,
    };
    Some(Fault { path: String::new(), place: Some(Place::Environment(variable.to_owned())), message })
}

/// Variable name (without prefix) to path and kind. `postgresql.authentication.superuser.username` is
/// `SUPERUSER_USERNAME`; all others are the path in capitals with `_` between its parts.
fn names() -> BTreeMap<String, (String, Kind)> {
    let mut names = BTreeMap::new();
    for (path, kind) in known::LOCAL {
        if *kind != Kind::Section {
            names.insert(path.to_uppercase().replace('.', "_"), ((*path).to_owned(), *kind));
        }
    }
    for role in ["superuser", "replication", "rewind"] {
        for (key, kind) in known::CREDENTIALS {
            let path = format!("postgresql.authentication.{role}.{key}");
            names.insert(format!("{role}_{key}").to_uppercase(), (path, *kind));
        }
    }
    for (name, path) in SPECIAL {
        if let Some(kind) = known::kind(path) {
            names.insert((*name).to_owned(), ((*path).to_owned(), kind));
        }
    }
    names
}

fn parse(text: &str, kind: Kind) -> Value {
    let plain = || Value::String(text.to_owned());
    match kind {
        Kind::Text | Kind::Secret | Kind::Section => plain(),
        Kind::Scalar | Kind::Free | Kind::Unsupported => serde_yaml_ng::from_str(text).unwrap_or_else(|_| plain()),
        Kind::List if text.trim_start().starts_with(['[', '-']) => {
            serde_yaml_ng::from_str(text).unwrap_or_else(|_| plain())
        }
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
    }
}

fn insert(root: &mut Value, path: &str, value: Value) {
    let mut at = root;
    for part in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(map) = at else { return };
        at = map.entry(part).or_insert(Value::Null);
    }
    *at = value;
}
