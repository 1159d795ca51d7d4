//! Reads the ini file and everything it names, and finds all faults at once.

use std::collections::BTreeMap;
use std::path::Path;

use super::database::Wrong;
use super::hba::Reading;
use super::ini::{Ini, Item, Place, What};
use super::settings::{self, Change, SetError, TABLE};
use super::{AuthType, Config, Credentials, Database, Fault, Faults, Hba, Host, Idents, Peer, Settings, User};
use super::{spelling, support};

/// A configuration, and what is doubtful in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What was found in the files and doesn't do what its writer may expect.
    pub warnings: Vec<Fault>,
}

/// Where settings are given, by name.
pub(super) type Places = BTreeMap<&'static str, Place>;

const SECTIONS: [&str; 4] = ["pgbouncer", "databases", "users", "peers"];

impl Config {
    /// Reads a configuration for a start.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn load(path: &Path) -> Result<Loaded, Faults> {
        Loader::new(path).load(None)
    }

    /// Reads `settings.conffile` again. What can't change at run time keeps its value, with a warning. What was changed
    /// by SET is lost, as in pgbouncer.
    ///
    /// # Errors
    /// Everything that is wrong; `self` stays in force then.
    pub fn reload(&self) -> Result<Loaded, Faults> {
        Loader::new(&self.settings.conffile).load(Some(&self.settings))
    }
}

/// A configuration that is being read.
struct Loader<'a> {
    path: &'a Path,
    config: Config,
    places: Places,
    /// The section that entries belong to; empty before the first, or in one that isn't known.
    section: &'static str,
    /// Whether there was a section `[pgbouncer]`.
    has_main: bool,
    /// Whether entries are passed over, because their section isn't known.
    skips: bool,
    found: Findings,
}

/// What is wrong, and what is only doubtful.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
}

impl<'a> Loader<'a> {
    fn new(path: &'a Path) -> Self {
        let mut config = Config::default();
        config.settings.conffile = path.to_owned();
        Self {
            path,
            config,
            places: Places::new(),
            section: "",
            has_main: false,
            skips: false,
            found: Findings::default(),
        }
    }

    fn load(mut self, old: Option<&Settings>) -> Result<Loaded, Faults> {
        let ini = Ini::read(self.path);
        self.found.faults = ini.faults;
        let is_read = self.found.faults.is_empty() || !ini.items.is_empty();
        for item in &ini.items {
            self.take(item);
        }
        if is_read && !self.has_main {
            self.found.faults.push(Fault::of(self.path, "main section missing from config file"));
        }
        if let Some(old) = old {
            self.keep_fixed(old);
        }
        let checked = support::check(&self.config.settings, &self.places);
        self.found.faults.extend(checked.faults);
        self.found.warnings.extend(checked.warnings);
        self.fill_hosts();
        self.check_clusters();
        self.config.load_credentials(&mut self.found);
        self.config.load_rules(&mut self.found);
        // Faults of lines come before those of values until here.
        self.found
            .faults
            .sort_by(|a, b| (a.file != *self.path, &a.file, a.line).cmp(&(b.file != *self.path, &b.file, b.line)));
        if self.found.faults.is_empty() {
            Ok(Loaded { config: self.config, warnings: self.found.warnings })
        } else {
            Err(Faults(self.found.faults))
        }
    }

    fn take(&mut self, item: &Item) {
        match &item.what {
            What::Section(name) => self.begin(&item.place, name),
            What::Entry(_, _) if self.skips => {}
            What::Entry(key, value) => match self.section {
                "pgbouncer" => self.put_setting(&item.place, key, value),
                "databases" => self.put_database(&item.place, key, value),
                "users" => self.put_user(&item.place, key, value),
                "peers" => self.put_peer(&item.place, key, value),
                _ => self.found.faults.push(item.place.fault(format!("value without section: {key}"))),
            },
        }
    }

    fn begin(&mut self, place: &Place, name: &str) {
        let known = SECTIONS.into_iter().find(|section| *section == name);
        self.skips = known.is_none();
        self.section = known.unwrap_or("");
        if known.is_none() {
            let fault = place.fault(format!("invalid section \"{name}\" in configuration"));
            self.found.faults.push(fault.hint(spelling::advice(name, SECTIONS)));
        }
        if name == "pgbouncer" {
            if !self.places.is_empty() {
                let warning = place.fault("section [pgbouncer] begins again");
                self.found.warnings.push(warning.hint("the settings that it had before are back at their defaults"));
            }
            self.has_main = true;
            self.places.clear();
            self.config.settings = Settings { conffile: self.path.to_owned(), ..Settings::default() };
        }
    }

    fn put_setting(&mut self, place: &Place, key: &str, value: &str) {
        let Some(setting) = settings::find(key) else {
            let hint = spelling::advice(key, TABLE.iter().map(|setting| setting.name));
            return self.found.faults.push(place.fault(format!("unknown parameter: pgbouncer/{key}")).hint(hint));
        };
        self.places.insert(setting.name, place.clone());
        if let Some(refusal) = support::refusal(setting.name, value) {
            self.found.faults.push(place.fault(refusal));
        } else if setting.put(&mut self.config.settings, value).is_err() {
            let fault = place.fault(format!("invalid value \"{value}\" for parameter {key} in configuration"));
            self.found.faults.push(fault.hint(format!("it takes {}", setting.expected())));
        }
    }

    fn put_database(&mut self, place: &Place, key: &str, value: &str) {
        let mut wrong = Vec::new();
        let database = Database::read(key, value, &mut wrong);
        self.tell(place, "database", key, wrong);
        if key == "*" {
            self.config.fallback = Some(database);
        } else {
            self.config.databases.insert(key.to_owned(), database);
        }
    }

    fn put_user(&mut self, place: &Place, key: &str, value: &str) {
        let mut wrong = Vec::new();
        let user = User::read(key, value, &mut wrong);
        self.tell(place, "user", key, wrong);
        self.config.users.insert(key.to_owned(), user);
    }

    fn put_peer(&mut self, place: &Place, key: &str, value: &str) {
        let mut wrong = Vec::new();
        let peer = Peer::read(key, value, &mut wrong);
        self.tell(place, "peer", key, wrong);
        if self.config.peers.is_empty() {
            let warning = place.fault("section [peers] has no effect");
            self.found.warnings.push(warning.hint("forwarding cancel requests to peers is not supported"));
        }
        self.config.peers.extend(peer.map(|peer| (peer.id, peer)));
    }

    fn tell(&mut self, place: &Place, kind: &str, key: &str, wrong: Vec<Wrong>) {
        let fault = |(text, advice)| place.fault(format!("{kind} {key}: {text} in configuration")).hint(advice);
        self.found.faults.extend(wrong.into_iter().map(fault));
    }

    /// Takes back what can't change at run time.
    fn keep_fixed(&mut self, old: &Settings) {
        for setting in TABLE.iter().filter(|setting| setting.change == Change::Fixed) {
            if setting.is_same(old, &self.config.settings) {
                continue;
            }
            setting.copy(old, &mut self.config.settings);
            let text = format!("parameter {} cannot be changed without a restart", setting.name);
            self.found.warnings.push(match self.places.get(setting.name) {
                Some(place) => place.fault(text),
                None => Fault::of(self.path, text),
            });
        }
    }

    /// Whoever follows clusters has to know where they are written down.
    fn check_clusters(&mut self) {
        if self.config.settings.cluster_config.is_some() {
            return;
        }
        for name in self.config.clusters().into_keys() {
            let text = format!("databases are at cluster {name}, and cluster_config is not set");
            let fault = Fault::of(self.path, text).hint("it takes the configuration file of an agent of that cluster");
            self.found.faults.push(fault);
        }
    }

    /// Databases without `host` are at our own socket directory.
    fn fill_hosts(&mut self) {
        let directory = self.config.settings.unix_socket_dir.clone();
        for database in self.config.databases.values_mut().chain(&mut self.config.fallback) {
            if database.host.is_some() || database.target.is_some() {
                continue;
            }
            if directory.is_none() {
                let text = format!("database {}: unix socket dir not configured", database.name);
                self.found
                    .warnings
                    .push(Fault::of(self.path, text).hint("it has no host; its server is taken to be in /tmp"));
            }
            database.hosts = vec![Host::Unix(directory.clone().unwrap_or_else(|| "/tmp".into()))];
        }
    }
}

impl Config {
    /// Changes a setting (SET), and reads the files again that it's about.
    ///
    /// # Errors
    /// There is no such setting, or it can't change now, or not to that; nothing is changed then.
    pub fn set(&mut self, name: &str, value: &str) -> Result<Vec<Fault>, SetError> {
        if let Some(refusal) = support::refusal(name, value) {
            return Err(SetError::Refused(refusal));
        }
        let mut new = self.clone();
        settings::set(&mut new.settings, name, value)?;
        let mut findings = support::check(&new.settings, &Places::new());
        let known = support::check(&self.settings, &Places::new());
        findings.warnings.retain(|warning| !known.warnings.contains(warning));
        match name {
            "auth_file" => new.load_credentials(&mut findings),
            "auth_type" | "auth_hba_file" | "auth_ident_file" => new.load_rules(&mut findings),
            _ => {}
        }
        if let Some(fault) = findings.faults.first() {
            return Err(SetError::Refused(fault.to_string()));
        }
        *self = new;
        Ok(findings.warnings)
    }

    fn load_credentials(&mut self, findings: &mut Findings) {
        self.credentials = Credentials::default();
        if let Some(path) = &self.settings.auth_file {
            let (credentials, warnings) = Credentials::load(path);
            self.credentials = credentials;
            findings.warnings.extend(warnings);
        }
    }

    fn load_rules(&mut self, findings: &mut Findings) {
        (self.hba, self.idents) = (None, Idents::default());
        if self.settings.auth_type != AuthType::Hba {
            return;
        }
        if let Some(path) = &self.settings.auth_ident_file {
            let (idents, warnings) = Idents::load(path);
            self.idents = idents;
            findings.warnings.extend(warnings);
        }
        let reading = match &self.settings.auth_hba_file {
            Some(path) => Hba::load(path, &self.idents),
            None => {
                let warning = Fault::of(&self.settings.conffile, "auth_hba_file is not set").hint("nobody can log in");
                Reading { warnings: vec![warning], ..Reading::default() }
            }
        };
        self.hba = Some(reading.hba);
        findings.faults.extend(reading.faults);
        findings.warnings.extend(reading.warnings);
    }
}

#[cfg(test)]
mod tests;
