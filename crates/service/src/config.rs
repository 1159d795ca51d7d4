//! Configuration: Patroni's YAML, environment and flags merged into one checked [`Config`]. Using it is not here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value;

mod bootstrap;
pub mod dynamic;
mod env;
mod faults;
mod hba;
mod known;
mod model;
mod print;
mod read;
mod sections;
mod spelling;
mod store;
mod yaml;

#[cfg(test)]
mod tests;

pub use faults::{EXIT_CONFIG, Fault, Faults, Place};
pub use model::*;
pub use print::{changes, print_config};

use read::{Reader, located};

/// Which program asks. The admin client needs less of the file than an agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything an agent needs must be there.
    Agent,
    /// Only the DCS is needed; `scope` and `name` may be empty.
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

/// Reads the layers (defaults, files, `PATRONI_*`, `PGHERD_*`, flags), merges and checks them.
///
/// # Errors
/// Every fault that was found, in one go. A text that is no YAML hides the faults of the settings in it.
pub fn load(source: &Source, role: Role) -> Result<Loaded, Faults> {
    let mut layers = Layers::default();
    layers.files(source);
    for prefix in ["PATRONI_", "PGHERD_"] {
        let layer = env::layer(&source.environment, prefix);
        layers.warnings.extend(layer.warnings);
        layers.add("environment", layer.value, layer.places);
    }
    let flags = flag_places(&source.flags);
    layers.add("flags", source.flags.clone(), flags);
    if layers.unreadable {
        return Err(Faults(layers.faults));
    }
    let mut merged = layers.merged()?;
    if let Some(url) = &source.dcs_url
        && let Err(message) = store::from_url(url, &mut merged)
    {
        layers.faults.push(Fault { path: String::new(), place: Some(Place::Flag), message });
    }
    validate(layers, merged, role)
}

/// Checks everything at once.
fn validate(layers: Layers, merged: Value, role: Role) -> Result<Loaded, Faults> {
    let Layers { places, mut faults, mut warnings, .. } = layers;
    let spelt = spelling::check(&merged, known::LOCAL);
    let placed = |(path, message): (String, String)| located(&places, &path, message);
    faults.extend(spelt.faults.into_iter().map(placed));
    warnings.extend(spelt.warnings.into_iter().map(placed));
    let mut reader = Reader::new(&merged, &places);
    let config = sections::config(&mut reader, role, &merged);
    faults.append(&mut reader.faults);
    let checked = dynamic::check(&config.bootstrap.dcs);
    let under = |p: ha::settings::Problem| {
        let path = format!("bootstrap.dcs.{}", p.path);
        located(&places, path.trim_end_matches('.'), p.message)
    };
    faults.extend(checked.faults.into_iter().map(under));
    warnings.extend(checked.warnings.into_iter().map(under));
    for (name, reason) in dynamic::without_effect(&config.postgresql.parameters) {
        warnings.push(located(&places, &format!("postgresql.parameters.{name}"), reason.to_owned()));
    }
    if role == Role::Ctl {
        // A person must be able to look at a cluster with a file whose agent's part is faulty.
        let (own, others): (Vec<Fault>, Vec<Fault>) = faults.into_iter().partition(|fault| concerns_ctl(&fault.path));
        faults = own;
        warnings.extend(others);
    }
    faults.sort_by_key(|fault| match fault.place {
        Some(Place::File { line, .. }) => line,
        _ => 0,
    });
    if faults.is_empty() { Ok(Loaded { config, warnings }) } else { Err(Faults(faults)) }
}

/// Whether the admin client needs the section that a path is in.
fn concerns_ctl(path: &str) -> bool {
    const SECTIONS: [&str; 6] = ["scope", "namespace", "ctl", "etcd", "etcd3", "embedded"];
    let section = path.split('.').next().unwrap_or_default();
    // A slip in the name of such a section takes the section away.
    section.is_empty()
        || SECTIONS.iter().any(|known| *known == section || spelling::is_slip(section, known))
        || path.starts_with("restapi.auth")
}

/// The layers read so far, in the order in which later ones win.
#[derive(Default)]
struct Layers {
    figment: Figment,
    places: BTreeMap<String, Place>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
    unreadable: bool,
}

impl Layers {
    fn add(&mut self, name: &'static str, value: Value, places: BTreeMap<String, Place>) {
        let figment = std::mem::take(&mut self.figment);
        self.figment = figment.merge(Layer { name, value });
        self.places.extend(places);
    }

    fn merged(&self) -> Result<Value, Faults> {
        self.figment.extract().map_err(|e| {
            let fault = |e: figment::Error| Fault { path: e.path.join("."), place: None, message: e.kind.to_string() };
            Faults(e.into_iter().map(fault).collect())
        })
    }

    fn files(&mut self, source: &Source) {
        let Some(path) = &source.path else {
            let variable = |(name, _): &&(String, String)| {
                matches!(name.as_str(), "PATRONI_CONFIGURATION" | "PGHERD_CONFIGURATION")
            };
            if let Some((name, text)) = source.environment.iter().find(variable) {
                self.text(text, Path::new(&format!("${name}")));
            }
            return;
        };
        match list(path) {
            Ok(files) if files.is_empty() => self.unusable(path, "the directory has no *.yml files".to_owned()),
            Ok(files) => files.iter().for_each(|file| self.file(file)),
            Err(e) => self.unusable(path, format!("can't read the configuration: {e}")),
        }
    }

    fn file(&mut self, file: &Path) {
        match fs::read(file).map(String::from_utf8) {
            Ok(Ok(text)) => self.text(&text, file),
            Ok(Err(e)) => self.unusable(file, format!("is not UTF-8 text: {e}")),
            Err(e) => self.unusable(file, format!("can't read the configuration: {e}")),
        }
    }

    fn text(&mut self, text: &str, file: &Path) {
        let mut parsed = yaml::parse(text, file);
        self.unreadable |= parsed.value.is_null() && !parsed.faults.is_empty();
        self.faults.append(&mut parsed.faults);
        // What stands nowhere (a missing setting) is reported at the file.
        let whole = Place::File { file: file.to_owned(), line: 0, column: 0 };
        parsed.places.insert(String::new(), whole);
        self.add("file", parsed.value, parsed.places);
    }

    fn unusable(&mut self, path: &Path, message: String) {
        let place = Some(Place::File { file: path.to_owned(), line: 0, column: 0 });
        self.faults.push(Fault { path: String::new(), place, message });
        self.unreadable = true;
    }
}

fn list(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "yml") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn flag_places(flags: &Value) -> BTreeMap<String, Place> {
    let mut places = BTreeMap::new();
    let mut open = vec![(String::new(), flags)];
    while let Some((path, value)) = open.pop() {
        for (key, value) in value.as_object().into_iter().flatten() {
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            places.insert(below.clone(), Place::Flag);
            open.push((below, value));
        }
    }
    places
}

/// One layer as figment takes it.
struct Layer {
    name: &'static str,
    value: Value,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict = match figment::value::Value::serialize(&self.value)? {
            figment::value::Value::Dict(_, dict) => dict,
            _ => Dict::new(),
        };
        Ok(Map::from([(Profile::Default, dict)]))
    }
}
