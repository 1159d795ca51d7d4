//! Configuration: Patroni's YAML, environment and flags merged into one checked [`Config`]. Using it is not here.

use std::path::PathBuf;

use serde_json::Value;

mod faults;
mod model;

pub use faults::{EXIT_CONFIG, Fault, Faults, Place};
pub use model::*;

/// Which program asks. The admin client needs less of the file than an agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything an agent needs must be there.
    Agent,
    /// Only the cluster, the DCS and `ctl` are needed.
    Ctl,
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// A YAML file, or a directory whose `*.yml` files are read in the order of their names. Without it
    /// `PATRONI_CONFIGURATION` may hold a whole YAML.
    pub path: Option<PathBuf>,
    /// The environment. [`Source::new`] takes the process's own.
    pub environment: Vec<(String, String)>,
    /// Settings given as flags, in the form of the file (`{"log": {"level": "DEBUG"}}`). They win over all else.
    pub flags: Value,
    /// Takes the place of whatever the file says about the DCS: `etcd3://host:port[,host:port]`, `http://...`,
    /// `https://...`, or `embedded:/path`.
    pub dcs_url: Option<String>,
}

impl Source {
    /// This file or directory, with the process's environment.
    pub fn new(path: Option<PathBuf>) -> Source {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Source { path, environment, flags: Value::Null, dcs_url: None }
    }
}

/// A configuration that can be used, with what a person should know about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Unknown keys and settings without effect: to be logged as warnings, never a reason to stop.
    pub warnings: Vec<Fault>,
}
