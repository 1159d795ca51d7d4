//! Nodes' configuration files, made from the seed's with only addresses and paths changed.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value as Json;
use serde_yaml_ng::{Mapping, Value};

/// The file that a site runs today.
const SEED: &str = include_str!("../fixtures/seed/pg1.yml");

/// Which store a file names.
#[derive(Debug, Clone)]
pub enum Dcs {
    /// A file that all agents of this machine share.
    Embedded(std::path::PathBuf),
    /// etcd's client addresses, `host:port`.
    Etcd(Vec<String>),
}

/// What differs from node to node.
#[derive(Debug)]
pub struct NodeConfig<'a> {
    /// Member name.
    pub name: &'a str,
    /// The node's address; ports are the seed's.
    pub address: Ipv4Addr,
    /// PostgreSQL's data directory.
    pub data_dir: &'a Path,
    /// PostgreSQL's programs.
    pub bin_dir: &'a Path,
    /// Directory of PostgreSQL's Unix socket.
    pub socket_dir: &'a Path,
    /// The store.
    pub dcs: &'a Dcs,
    /// Merged over `bootstrap.dcs`, such as `{"ttl": 5}`.
    pub dynamic: &'a Json,
    /// Merged over the whole file at the end.
    pub extra: &'a Json,
}

impl NodeConfig<'_> {
    /// The file's text.
    pub fn render(&self) -> Result<String> {
        let mut root: Value = serde_yaml_ng::from_str(SEED).context("read the seed's YAML")?;
        self.change_addresses_and_paths(&mut root)?;
        let merge_in = |at: &mut Value, json: &Json| -> Result<()> {
            merge(at, serde_yaml_ng::to_value(json).context("convert a setting to YAML")?);
            Ok(())
        };
        merge_in(section(section(&mut root, "bootstrap"), "dcs"), self.dynamic)?;
        merge_in(&mut root, self.extra)?;
        serde_yaml_ng::to_string(&root).context("write YAML")
    }

    fn change_addresses_and_paths(&self, root: &mut Value) -> Result<()> {
        let path = |p: &Path| Ok::<_, anyhow::Error>(p.to_str().context("a path is not UTF-8")?.to_owned());
        set(root, "name", self.name);
        let api = section(root, "restapi");
        set(api, "listen", format!("{}:8008", self.address));
        set(api, "connect_address", format!("{}:8008", self.address));
        match self.dcs {
            Dcs::Embedded(file) => {
                replace_key(root, "etcd", "embedded");
                let mut embedded = Value::Mapping(Mapping::new());
                set(&mut embedded, "path", path(file)?);
                *section(root, "embedded") = embedded;
            }
            Dcs::Etcd(hosts) => set(section(root, "etcd"), "hosts", hosts.join(",")),
        }
        let postgresql = section(root, "postgresql");
        set(postgresql, "listen", format!("{}:5432", self.address));
        set(postgresql, "connect_address", format!("{}:5432", self.address));
        set(postgresql, "data_dir", path(self.data_dir)?);
        set(postgresql, "bin_dir", path(self.bin_dir)?);
        set(section(postgresql, "parameters"), "unix_socket_directories", path(self.socket_dir)?);
        set(section(root, "watchdog"), "mode", "off");
        Ok(())
    }
}

/// A mapping inside a mapping, made when absent.
fn section<'a>(parent: &'a mut Value, key: &str) -> &'a mut Value {
    if !parent.is_mapping() {
        *parent = Value::Mapping(Mapping::new());
    }
    let Value::Mapping(map) = parent else { unreachable!("made a mapping above") };
    map.entry(Value::from(key)).or_insert_with(|| Value::Mapping(Mapping::new()))
}

fn set(parent: &mut Value, key: &str, value: impl Into<Value>) {
    *section(parent, key) = value.into();
}

/// Renames a key and keeps its place.
fn replace_key(root: &mut Value, old: &str, new: &str) {
    if let Value::Mapping(map) = root {
        let renamed =
            std::mem::take(map).into_iter().map(|(k, v)| if k == old { (Value::from(new), v) } else { (k, v) });
        *map = renamed.collect();
    }
}

/// JSON merge patch (RFC 7396): null deletes.
fn merge(into: &mut Value, patch: Value) {
    let Value::Mapping(patch) = patch else {
        *into = patch;
        return;
    };
    for (key, value) in patch {
        let Some(name) = key.as_str() else { continue };
        if value.is_null() {
            if let Value::Mapping(map) = into {
                map.remove(&key);
            }
        } else {
            merge(section(into, name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(dcs: &Dcs, dynamic: &Json, extra: &Json) -> Value {
        let config = NodeConfig {
            name: "pg2",
            address: Ipv4Addr::new(127, 0, 11, 102),
            data_dir: Path::new("/c/data/pg2"),
            bin_dir: Path::new("/usr/lib/postgresql/15/bin"),
            socket_dir: Path::new("/c/run/pg2"),
            dcs,
            dynamic,
            extra,
        };
        serde_yaml_ng::from_str(&config.render().unwrap()).unwrap()
    }

    #[test]
    fn only_addresses_and_paths_differ_from_the_seed() {
        let mut rendered = render(&Dcs::Etcd(vec!["127.0.11.101:2379".into()]), &json!({}), &json!({}));
        assert_eq!(rendered["restapi"]["connect_address"], "127.0.11.102:8008");
        assert_eq!(rendered["etcd"]["hosts"], "127.0.11.101:2379");
        assert_eq!(rendered["postgresql"]["parameters"]["unix_socket_directories"], "/c/run/pg2");
        let mut seed: Value = serde_yaml_ng::from_str(SEED).unwrap();
        for root in [&mut rendered, &mut seed] {
            for (parent, key) in [
                ("restapi", "listen"),
                ("restapi", "connect_address"),
                ("etcd", "hosts"),
                ("postgresql", "listen"),
                ("postgresql", "connect_address"),
                ("postgresql", "data_dir"),
                ("postgresql", "bin_dir"),
                ("postgresql", "parameters"),
            ] {
                set(section(root, parent), key, Value::Null);
            }
            set(root, "name", Value::Null);
            set(root, "watchdog", Value::Null);
        }
        assert_eq!(rendered, seed);
    }

    #[test]
    fn the_embedded_store_takes_the_place_of_etcd_and_settings_merge() {
        let dcs = Dcs::Embedded("/c/dcs.db".into());
        let rendered = render(&dcs, &json!({"ttl": 5, "loop_wait": null}), &json!({"tags": {"nofailover": true}}));
        assert_eq!(rendered["embedded"]["path"], "/c/dcs.db");
        assert_eq!(rendered["etcd"], Value::Null);
        assert_eq!(rendered["bootstrap"]["dcs"]["ttl"], 5);
        assert_eq!(rendered["bootstrap"]["dcs"]["loop_wait"], Value::Null);
        assert_eq!(rendered["bootstrap"]["dcs"]["maximum_lag_on_failover"], 1048576);
        assert_eq!(rendered["tags"]["nofailover"], true);
    }
}
