//! What every verb needs: the configuration, the terminal, and the clusters in the DCS. Agents are reached in `agent`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dcs::{Condition, Dcs, Embedded, Etcd, Write, layout};
use service::config::{self, Config, Source};

use crate::cli::Cli;
use crate::console::Console;
use crate::fault::{Fault, Result};

/// Limit of one operation on etcd, trying its other members included.
const DCS_TIMEOUT: Duration = Duration::from_secs(5);

/// Configuration and terminal.
pub(crate) struct Context {
    /// The configuration.
    pub(crate) config: Config,
    /// The terminal.
    pub(crate) console: Console,
}

impl Context {
    /// Loads the configuration that the command line names.
    pub(crate) fn load(cli: &Cli, console: Console) -> Result<Context> {
        let environment = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let path = cli.config_file.clone().or_else(|| default_file(environment));
        let mut source = Source::new(path.clone());
        let mut flags = serde_json::json!({});
        if cli.insecure {
            flags["ctl"] = serde_json::json!({"insecure": true});
        }
        if let Some(url) = &cli.dcs_url {
            let (url, namespace) = split_namespace(url);
            source.dcs_url = Some(url);
            if let Some(namespace) = namespace {
                flags["namespace"] = namespace.into();
            }
        }
        source.flags = flags;
        let loaded = config::load(&source, config::Role::Ctl).map_err(|faults| {
            let hint = match path {
                Some(_) => "",
                None => "\nNo configuration file was found: name one with -c, or the DCS with -d.",
            };
            Fault::Config(format!("the configuration can't be used:\n{faults}{hint}"))
        })?;
        // An agent's file has much that doesn't matter here; a slip of the fingers may.
        let shown = loaded.warnings.iter().filter(|w| cli.verbose || w.message.contains("did you mean"));
        shown.for_each(|warning| console.note(format!("Warning: {warning}")));
        Ok(Context { config: loaded.config, console })
    }

    /// The cluster that is meant: the given one, else the configuration's.
    pub(crate) fn cluster_name(&self, given: Option<&str>) -> Result<String> {
        let name = given.unwrap_or(&self.config.scope);
        match name {
            "" => {
                Err(Fault::Usage("which cluster? Give its name, or a configuration with a scope (-c FILE)".to_owned()))
            }
            name if name.contains('/') => Err(Fault::Usage(format!("{name} is not a cluster's name: it has a slash"))),
            name => Ok(name.to_owned()),
        }
    }

    /// A cluster's keys in the DCS.
    pub(crate) async fn cluster(&self, given: Option<&str>) -> Result<Cluster> {
        let name = self.cluster_name(given)?;
        let prefix = layout::prefix(&self.config.namespace, &name);
        let dcs: Arc<dyn Dcs> = match &self.config.dcs {
            config::Dcs::Etcd(etcd) => Arc::new(Etcd::connect(etcd_options(etcd, prefix)?).await?),
            config::Dcs::Embedded(embedded) => {
                let path = &embedded.path;
                std::fs::metadata(path).map_err(|e| {
                    Fault::failed(format!(
                        "can't open the embedded DCS {}: {e}; the first agent that starts creates it",
                        path.display()
                    ))
                })?;
                Arc::new(Embedded::open(path, &prefix)?)
            }
        };
        Ok(Cluster { name, dcs })
    }
}

/// A cluster's keys in the DCS.
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) name: String,
    /// The store, for its keys only.
    pub(crate) dcs: Arc<dyn Dcs>,
}

impl Cluster {
    /// What the DCS says now. Values that can't be understood are reported on stderr.
    pub(crate) async fn read(&self) -> Result<ha::Cluster> {
        let (cluster, warnings) = layout::decode_reporting(&self.dcs.read().await?);
        warnings.iter().for_each(|warning| eprintln!("Warning: {warning}"));
        Ok(cluster)
    }

    /// Its dynamic configuration.
    pub(crate) fn config<'a>(&self, read: &'a ha::Cluster) -> Result<&'a ha::cluster::Revisioned<serde_json::Value>> {
        read.config
            .as_ref()
            .ok_or_else(|| Fault::failed(format!("The config key does not exist in the cluster {}", self.name)))
    }

    /// Stores a new configuration if nobody has changed it since `revision`; `false` when somebody has.
    pub(crate) async fn swap_config(&self, config: &serde_json::Value, revision: i64) -> Result<bool> {
        let unchanged = Condition::ModifiedAt(layout::CONFIG.to_owned(), revision);
        let write = Write::Put { key: layout::CONFIG.to_owned(), value: layout::config_value(config), lease: 0 };
        Ok(self.dcs.commit(&[unchanged], &[write]).await?.is_some())
    }
}

fn etcd_options(etcd: &config::Etcd, prefix: String) -> Result<dcs::etcd::Options> {
    let options = dcs::etcd::Options {
        endpoints: etcd.endpoints.clone(),
        user: etcd.username.clone(),
        password: etcd.password.as_ref().map(|p| p.expose().to_owned()),
        timeout: DCS_TIMEOUT,
        prefix,
        ..dcs::etcd::Options::default()
    };
    let options = options.with_files([&etcd.cacert, &etcd.cert, &etcd.key]);
    options.map_err(|(path, e)| Fault::Config(format!("can't read {}: {e}", path.display())))
}

fn default_file(environment: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let named = environment("PGHERDCTL_CONFIG_FILE").or_else(|| environment("PATRONICTL_CONFIG_FILE"));
    if named.is_some() {
        return named;
    }
    let home = environment("XDG_CONFIG_HOME").or_else(|| Some(environment("HOME")?.join(".config")));
    let own = home.into_iter().flat_map(|h| [h.join("pgherd/pgherdctl.yml"), h.join("patroni/patronictl.yaml")]);
    let shared = [
        "/etc/pgherd/pgherdctl.yml",
        "/etc/patroni/patronictl.yaml",
        "/etc/patroni/patroni.yml",
        "/etc/patroni/config.yml",
    ];
    own.chain(shared.map(PathBuf::from)).find(|path| Path::is_file(path))
}

/// Patronictl's URLs may end with the namespace: `etcd3://host:port/namespace`. A bare `host:port` is etcd's.
fn split_namespace(url: &str) -> (String, Option<String>) {
    if url.starts_with("embedded:") {
        return (url.to_owned(), None);
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("etcd3", url.trim_start_matches("//")));
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts = match hosts {
        "" => "localhost:2379".to_owned(),
        port if port.starts_with(':') => format!("localhost{port}"),
        hosts => hosts.to_owned(),
    };
    let namespace = (!path.trim_matches('/').is_empty()).then(|| format!("/{}", path.trim_matches('/')));
    (format!("{scheme}://{hosts}"), namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dcs_urls_may_carry_a_namespace() {
        for (url, expected, namespace) in [
            ("etcd://h:2379", "etcd://h:2379", None),
            ("etcd3://h:2379/custom", "etcd3://h:2379", Some("/custom")),
            ("h:2399", "etcd3://h:2399", None),
            ("etcd://:2399", "etcd://localhost:2399", None),
            ("etcd3://a:1,b:2/", "etcd3://a:1,b:2", None),
            ("embedded:/a/b", "embedded:/a/b", None),
            ("https://h:1", "https://h:1", None),
        ] {
            assert_eq!(split_namespace(url), (expected.to_owned(), namespace.map(str::to_owned)), "{url}");
        }
    }

    #[test]
    fn the_configuration_file_is_found_in_order() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let found = |named: Option<&str>| {
            default_file(|variable| match variable {
                "HOME" => Some(home.path().to_owned()),
                "PATRONICTL_CONFIG_FILE" => named.map(PathBuf::from),
                _ => None,
            })
        };
        std::fs::create_dir_all(at(".config/patroni")).unwrap();
        std::fs::write(at(".config/patroni/patronictl.yaml"), "").unwrap();
        assert_eq!(found(None), Some(at(".config/patroni/patronictl.yaml")));
        std::fs::create_dir_all(at(".config/pgherd")).unwrap();
        std::fs::write(at(".config/pgherd/pgherdctl.yml"), "").unwrap();
        assert_eq!(found(None), Some(at(".config/pgherd/pgherdctl.yml")));
        assert_eq!(found(Some("/x.yml")), Some(PathBuf::from("/x.yml")));
    }
}
