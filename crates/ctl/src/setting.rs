//! Single settings of a dynamic configuration by their dotted names. Whether a value makes sense is not judged here.

use serde_json::{Map, Value};

use crate::yaml;

/// Below this, names are server parameters, which may have dots themselves.
const PARAMETERS: &str = "postgresql.parameters.";

/// Performs `path.to.key=value`. The value is YAML; null removes the key, and mappings that it leaves empty.
pub(crate) fn set(config: &mut Value, pair: &str) -> Result<(), String> {
    let (path, value) =
        pair.split_once('=').ok_or_else(|| format!("Invalid parameter setting {pair}: write KEY=VALUE"))?;
    let path = path.trim();
    let value = yaml::parse(value).map_err(|e| format!("Invalid parameter setting {pair}: {e}"))?;
    let keys: Vec<&str> = match path.strip_prefix(PARAMETERS) {
        Some(parameter) => vec!["postgresql", "parameters", parameter],
        None => path.split('.').collect(),
    };
    if keys.iter().any(|k| k.is_empty()) {
        return Err(format!("Invalid parameter setting {pair}: a part of the key is empty"));
    }
    if !config.is_object() {
        *config = Value::Object(Map::new());
    }
    if let Value::Object(map) = config {
        put(map, &keys, value);
    }
    Ok(())
}

fn put(map: &mut Map<String, Value>, keys: &[&str], value: Value) {
    match keys {
        [] => {}
        [key] if value.is_null() => _ = map.shift_remove(*key),
        [key] => _ = map.insert((*key).to_owned(), value),
        [key, rest @ ..] => {
            let below = map.entry(*key).or_insert(Value::Null);
            if !below.is_object() {
                *below = Value::Object(Map::new());
            }
            if let Value::Object(inner) = below {
                put(inner, rest, value);
                if inner.is_empty() {
                    map.shift_remove(*key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dotted_names_reach_into_mappings() {
        let mut config = json!({"ttl": 30, "postgresql": {"parameters": {"a": 1}}});
        for pair in [
            "ttl=40",
            "postgresql.parameters.temp_buffers=16MB",
            "postgresql.parameters.pg_stat_statements.max=100",
            "postgresql.parameters.a=null",
            "postgresql.use_slots = false",
            "slots.x.type=physical",
        ] {
            set(&mut config, pair).unwrap();
        }
        assert_eq!(
            config,
            json!({"ttl": 40, "slots": {"x": {"type": "physical"}}, "postgresql": {"use_slots": false, "parameters":
                {"temp_buffers": "16MB", "pg_stat_statements.max": 100}}})
        );
        set(&mut config, "slots.x.type=").unwrap();
        assert_eq!(config.get("slots"), None, "mappings that became empty go");
    }

    #[test]
    fn values_may_have_equals_signs() {
        let mut config = json!({});
        set(&mut config, "postgresql.parameters.primary_conninfo='host=a port=1'").unwrap();
        assert_eq!(config["postgresql"]["parameters"]["primary_conninfo"], "host=a port=1");
    }

    #[test]
    fn nonsense_is_refused_and_changes_nothing() {
        let mut config = json!({"ttl": 30});
        for bad in ["ttl", "=1", "a..b=1", "postgresql.parameters.=1", "a=[", ""] {
            assert!(set(&mut config, bad).unwrap_err().contains("Invalid parameter setting"), "{bad}");
        }
        assert_eq!(config, json!({"ttl": 30}));
    }
}
