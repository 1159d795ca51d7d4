//! Showing a configuration and what changed in it, secrets masked.

use std::collections::BTreeMap;

use serde_json::Value;

use super::known::{self, Kind};
use super::model::Config;

const MASK: &str = "********";

/// The merged configuration as YAML, secrets masked.
pub fn print_config(config: &Config) -> String {
    let mut shown = config.merged.0.clone();
    mask(&mut shown, "");
    serde_yaml_ng::to_string(&shown).unwrap_or_else(|e| format!("# can't be shown: {e}\n"))
}

/// What differs between two configurations, one line each: `restapi.listen: 0.0.0.0:8008 -> 0.0.0.0:8009`.
pub fn changes(old: &Config, new: &Config) -> Vec<String> {
    let flat = |config: &Config| {
        let mut flat = BTreeMap::new();
        flatten(&config.merged.0, String::new(), &mut flat);
        flat
    };
    let (old, new) = (flat(old), flat(new));
    let paths: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let show = |path: &str, value: Option<&Value>| match value {
        None => "(unset)".to_owned(),
        Some(_) if is_secret(path) => MASK.to_owned(),
        Some(Value::String(text)) => without_credentials(text),
        Some(other) => other.to_string(),
    };
    let changed = paths.into_iter().filter(|path| old.get(*path) != new.get(*path));
    changed.map(|path| format!("{path}: {} -> {}", show(path, old.get(path)), show(path, new.get(path)))).collect()
}

fn flatten(value: &Value, path: String, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(value, below, out);
            }
        }
        other => _ = out.insert(path, other.clone()),
    }
}

fn mask(value: &mut Value, path: &str) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                mask(value, &below);
            }
        }
        Value::Null => {}
        other if is_secret(path) => *other = Value::String(MASK.to_owned()),
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, path)),
        Value::String(text) => *text = without_credentials(text),
        _ => {}
    }
}

/// Known secrets, and anything that is called one wherever the user put it (`bootstrap.users.admin.password`,
/// connection strings under `parameters`).
fn is_secret(path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
    if last == "password_encryption" {
        return false;
    }
    known::kind(path) == Some(Kind::Secret)
        || ["password", "passwd", "secret", "token", "passphrase"].iter().any(|word| last.contains(word))
        || last == "primary_conninfo"
}

/// `http://user:password@host` with the password masked.
fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.find('/').map_or(rest, |end| &rest[..end]);
    let Some(at) = authority.rfind('@') else { return text.to_owned() };
    let user = authority[..at].split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:{MASK}{}", &rest[at..])
}
