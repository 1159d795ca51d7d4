//! Writing the configuration files and telling what changed. The text of the files is in `conf`, which parameters go in
//! is in `parameters`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::conf::{self, Managed};
use crate::connection::{literal, optional, text};
use crate::error::Error;
use crate::files::{read_if_exists, remove_if_exists, write_atomic};
use crate::instance::{Inner, Instance};
use crate::options::Configuration;
use crate::parameters::effective;
use crate::units::{Setting, same};

/// A parameter whose configured value changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// The raw value in force (pg_settings.setting).
    pub old: String,
    /// The configured value; `None` when it is not configured any more.
    pub new: Option<String>,
    /// Takes effect at the next restart only.
    pub restart: bool,
}

impl fmt::Display for Change {
    /// The line that Patroni logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let new = self.new.as_deref().unwrap_or("its default");
        write!(f, "Changed {} from {} to {new}", self.name, self.old)?;
        if self.restart { f.write_str(" (restart required)") } else { Ok(()) }
    }
}

/// What an application of the configuration did. Nothing is in force before a reload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Changes against the values in force; empty while the server doesn't answer.
    pub changed: Vec<Change>,
    /// Parameters left out because PostgreSQL refuses them, with its words.
    pub rejected: Vec<(String, String)>,
    /// postgresql.conf was written anew.
    pub conf_changed: bool,
    /// pg_hba.conf was written anew.
    pub hba_changed: bool,
    /// pg_ident.conf was written anew.
    pub ident_changed: bool,
}

impl Applied {
    /// Whether a running server must reload.
    pub fn needs_reload(&self) -> bool {
        self.conf_changed || self.hba_changed || self.ident_changed
    }
}

/// What a writing of postgresql.conf did.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) changed: bool,
    pub(crate) before: BTreeMap<String, String>,
    pub(crate) after: BTreeMap<String, String>,
    pub(crate) rejected: Vec<(String, String)>,
    pub(crate) raised: Vec<(String, String, String)>,
}

impl Instance {
    /// Writes the configuration files where their content differs, and compares what changed with the values in force.
    /// The caller logs the changes and calls [`Instance::reload`]. The configuration is remembered for later operations,
    /// so an agent that finds PostgreSQL running applies first.
    pub async fn apply(&self, conf: &Configuration) -> Result<Applied, Error> {
        let given = conf.clone();
        let (written, hba_changed, ident_changed) = self
            .blocking(move |own| {
                let written = own.0.write_conf(&given, None, |_| ())?;
                let (hba, ident) = own.0.write_access(&given)?;
                own.0.lock_state().conf = given;
                Ok((written, hba, ident))
            })
            .await?;
        let mut applied = Applied {
            conf_changed: written.changed,
            hba_changed,
            ident_changed,
            rejected: written.rejected,
            ..Applied::default()
        };
        if written.changed && self.0.alive().is_some() {
            match self.changes(&written.before, &written.after).await {
                Ok(changed) => applied.changed = changed,
                Err(e) => tracing::warn!("can't compare the new configuration with the values in force: {e}"),
            }
        }
        if hba_changed && self.0.alive().is_some() {
            self.judge_hba().await;
        }
        self.forget_pending_restart().await;
        Ok(applied)
    }

    /// Tells which lines of the new pg_hba.conf PostgreSQL doesn't accept: it goes on with the rules that it has, and
    /// wouldn't start with these.
    async fn judge_hba(&self) {
        let sql = "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL ORDER BY 1";
        match self.rows("judge pg_hba.conf", sql).await {
            Ok(faulty) => {
                for row in faulty {
                    let (line, why) = (text(&row, 0), text(&row, 1));
                    tracing::warn!(
                        "line {line} of pg_hba.conf: {why}. PostgreSQL keeps its former rules, and would not start with these: correct postgresql.pg_hba"
                    );
                }
            }
            Err(e) => tracing::debug!("can't see whether PostgreSQL accepts pg_hba.conf: {e}"),
        }
    }

    async fn changes(
        &self,
        before: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) -> Result<Vec<Change>, Error> {
        let mut names: Vec<&String> =
            before.keys().chain(after.keys()).filter(|n| before.get(*n) != after.get(*n)).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let list = names.iter().map(|n| literal(n)).collect::<Vec<_>>().join(",");
        let sql = format!(
            "SELECT lower(name), setting, unit, vartype, context, boot_val FROM pg_settings WHERE lower(name) IN ({list}) ORDER BY 1"
        );
        let mut changes = Vec::new();
        for row in self.rows("read the settings in force", &sql).await? {
            let (name, default) = (text(&row, 0), text(&row, 5));
            let kind = Setting {
                setting: text(&row, 1),
                unit: optional(&row, 2),
                vartype: text(&row, 3),
                context: text(&row, 4),
            };
            let new = after.get(&name).cloned();
            if !same(&kind, new.as_ref().unwrap_or(&default), &kind.setting) {
                changes.push(Change { name, old: kind.setting, new, restart: kind.context == "postmaster" });
            }
        }
        Ok(changes)
    }

    /// Makes the server read its configuration files again.
    pub async fn reload(&self) -> Result<(), Error> {
        let postmaster = self.0.alive().ok_or(Error::NotRunning)?;
        postmaster.signal(rustix::process::Signal::HUP).map_err(|e| Error::io("signal PostgreSQL to reload", e))?;
        self.forget_pending_restart().await;
        Ok(())
    }
}

impl Inner {
    /// Writes postgresql.conf: the configuration's parameters, and the managed ones after `edit`. `required` are the
    /// control data's least values, for replicas. Parameters that PostgreSQL refuses are left out and reported. Blocking.
    pub(crate) fn write_conf(
        &self,
        conf: &Configuration,
        required: Option<&BTreeMap<String, i64>>,
        edit: impl FnOnce(&mut Managed),
    ) -> Result<Written, Error> {
        let _one_at_a_time = self.lock_files();
        let wanted = effective(&self.options, &self.listen, self.programs.version, conf, required);
        let (before, mut managed) = self.read_conf()?;
        edit(&mut managed);
        let written = self.write_parameters(wanted.parameters, &managed)?;
        for (name, why) in &written.rejected {
            tracing::warn!("parameter {name} is left out, PostgreSQL refuses it: {why}");
        }
        Ok(Written { before, raised: wanted.raised, ..written })
    }

    /// Changes the managed parameters alone. PostgreSQL isn't asked whether it takes the file: it took the others, and a
    /// failover waits for this. Blocking.
    pub(crate) fn write_managed(&self, edit: impl FnOnce(&mut Managed)) -> Result<Managed, Error> {
        let _one_at_a_time = self.lock_files();
        let (parameters, mut managed) = self.read_conf()?;
        edit(&mut managed);
        write_atomic(&self.conf_path(), &self.conf_text(&parameters, &managed), self.user())?;
        Ok(managed)
    }

    fn conf_path(&self) -> PathBuf {
        self.data_dir().join("postgresql.conf")
    }

    fn conf_text(&self, parameters: &BTreeMap<String, String>, managed: &Managed) -> String {
        let base = match &self.options.custom_conf {
            Some(path) => path.display().to_string(),
            None => "postgresql.base.conf".to_owned(),
        };
        conf::postgresql_conf(&base, parameters, managed)
    }

    fn read_conf(&self) -> Result<(BTreeMap<String, String>, Managed), Error> {
        let text = read_if_exists(&self.conf_path())?.unwrap_or_default();
        let base = self.data_dir().join("postgresql.base.conf");
        if !base.exists() {
            let original = if text.starts_with(conf::HEADER) { "" } else { text.as_str() };
            write_atomic(&base, original, self.user())?;
            if !text.starts_with(conf::HEADER) {
                return Ok(Default::default());
            }
        }
        let (mut parameters, managed) = conf::read(&text);
        if !text.starts_with(conf::HEADER) {
            for name in
                ["primary_conninfo", "primary_slot_name", "synchronous_standby_names", "recovery_target_timeline"]
            {
                parameters.remove(name);
            }
        }
        Ok((parameters, managed))
    }

    /// Writes these parameters, without those that PostgreSQL refuses.
    fn write_parameters(&self, mut parameters: BTreeMap<String, String>, managed: &Managed) -> Result<Written, Error> {
        let path = self.conf_path();
        let mut rejected = Vec::new();
        loop {
            let text = self.conf_text(&parameters, managed);
            if read_if_exists(&path)?.as_deref() == Some(text.as_str()) {
                return Ok(Written { after: parameters, rejected, ..Written::default() });
            }
            let Err(complaint) = self.check_conf(&text)? else {
                let changed = write_atomic(&path, &text, self.user())?;
                return Ok(Written { changed, after: parameters, rejected, ..Written::default() });
            };
            let refused = refused_parameters(&complaint);
            let before = rejected.len();
            for (name, why) in refused {
                if parameters.remove(&name).is_some() {
                    rejected.push((name, why));
                }
            }
            if rejected.len() == before {
                return Err(Error::Setup(format!(
                    "PostgreSQL refuses its configuration: {}; the old one was kept",
                    crate::files::summary(&complaint)
                )));
            }
        }
    }

    /// Lets PostgreSQL read a configuration file. The inner error is its complaint.
    fn check_conf(&self, text: &str) -> Result<Result<(), String>, Error> {
        let path = self.data_dir().join("pgsql_tmp.pgherd.conf");
        write_atomic(&path, text, self.user())?;
        let mut command = self.programs.command("postgres");
        command.env("LC_ALL", "C").args(["-C", "port", "-c", "lc_messages=C", "-D"]).arg(self.data_dir());
        let output = command.arg(format!("--config-file={}", path.display())).output();
        remove_if_exists(&path)?;
        let output = output.map_err(|e| Error::io("run postgres -C", e))?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Writes pg_hba.conf and pg_ident.conf where configured. Whether each changed. Blocking.
    pub(crate) fn write_access(&self, conf: &Configuration) -> Result<(bool, bool), Error> {
        let _one_at_a_time = self.lock_files();
        let mut changed = (false, false);
        if let Some(lines) = &conf.pg_hba {
            let sockets = conf.parameters.get("unix_socket_directories").is_none_or(|d| !d.trim().is_empty());
            let sockets = sockets || self.options.socket_dir.is_some();
            let text = conf::pg_hba(lines, &self.options.superuser, sockets, self.listen.local_host());
            changed.0 = write_atomic(&self.data_dir().join("pg_hba.conf"), &text, self.user())?;
        }
        if let Some(lines) = &conf.pg_ident {
            let text = format!("{}\n{}\n", conf::HEADER, lines.join("\n"));
            changed.1 = write_atomic(&self.data_dir().join("pg_ident.conf"), &text, self.user())?;
        }
        Ok(changed)
    }
}

/// Parameters named by PostgreSQL's complaints about a configuration file, with the complaint.
fn refused_parameters(complaint: &str) -> Vec<(String, String)> {
    complaint
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once("parameter \"")?;
            let name = rest.split_once('"')?.0.to_ascii_lowercase();
            let why = line.split_once(":  ").map_or(line, |(_, w)| w);
            let why = why.split(" in file \"").next().unwrap_or(why);
            Some((name, why.trim().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_read_as_in_patronis_log() {
        let change =
            Change { name: "shared_buffers".into(), old: "16384".into(), new: Some("256MB".into()), restart: true };
        assert_eq!(change.to_string(), "Changed shared_buffers from 16384 to 256MB (restart required)");
        let change =
            Change { name: "temp_buffers".into(), old: "1024".into(), new: Some("16MB".into()), restart: false };
        assert_eq!(change.to_string(), "Changed temp_buffers from 1024 to 16MB");
    }

    #[test]
    fn complaints_name_their_parameters() {
        let text = "2026-11-23 09:00:00.000 UTC [1] LOG:  unrecognized configuration parameter \"no_such\" in file \"/d/x\" line 3\n\
            2026-11-23 09:00:00.000 UTC [1] LOG:  invalid value for parameter \"work_mem\": \"lots\"\n\
            2026-11-23 09:00:00.000 UTC [1] FATAL:  configuration file \"/d/x\" contains errors\n";
        let found = refused_parameters(text);
        assert_eq!(found[0], ("no_such".into(), "unrecognized configuration parameter \"no_such\"".into()));
        assert_eq!(found[1], ("work_mem".into(), "invalid value for parameter \"work_mem\": \"lots\"".into()));
        assert_eq!(found.len(), 2);
    }
}
