//! What changed when the configuration was read again, as lines for the log. No line shows a secret.

use std::collections::BTreeMap;

use pool::config::{Config, settings};
use tracing::info;

/// Logs what differs.
pub(crate) fn log(old: &Config, new: &Config) {
    for line in lines(old, new) {
        info!(target: "pooler", "{line}");
    }
}

fn lines(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for setting in settings::changes(&old.settings, &new.settings) {
        let show = |settings| setting.get(settings).unwrap_or_default();
        lines.push(format!("{} changed from '{}' to '{}'", setting.name, show(&old.settings), show(&new.settings)));
    }
    entries("database", &old.databases, &new.databases, &mut lines);
    if old.fallback != new.fallback {
        lines.push("database \"*\" changed".to_owned());
    }
    entries("user", &old.users, &new.users, &mut lines);
    if old.credentials != new.credentials {
        lines.push(format!("auth_file changed, it has {} users", new.credentials.len()));
    }
    if (&old.hba, &old.idents) != (&new.hba, &new.idents) {
        lines.push("host-based rules changed".to_owned());
    }
    lines
}

fn entries<K: Ord + std::fmt::Display, V: PartialEq>(
    what: &str,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    lines: &mut Vec<String>,
) {
    for (name, entry) in new {
        match old.get(name) {
            None => lines.push(format!("{what} \"{name}\" added")),
            Some(known) if known != entry => lines.push(format!("{what} \"{name}\" changed")),
            Some(_) => {}
        }
    }
    lines.extend(old.keys().filter(|name| !new.contains_key(name)).map(|name| format!("{what} \"{name}\" removed")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ini: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ini");
        std::fs::write(&path, ini).unwrap();
        let mut config = Config::load(&path).unwrap().config;
        config.settings.conffile = "x.ini".into();
        config
    }

    #[test]
    fn every_change_is_named_once_and_no_secret_is_shown() {
        let old = config("[databases]\na = host=h password=old-secret\nb = host=h\n[pgbouncer]\npool_mode = session\n");
        let new = config(
            "[databases]\na = host=h password=new-secret\nc = host=h\n* = host=x\n[users]\nu = pool_size=3\n\
             [pgbouncer]\npool_mode = transaction\ndefault_pool_size = 7\n",
        );
        let expected = [
            "default_pool_size changed from '20' to '7'",
            "pool_mode changed from 'session' to 'transaction'",
            "database \"a\" changed",
            "database \"c\" added",
            "database \"b\" removed",
            "database \"*\" changed",
            "user \"u\" added",
        ];
        assert_eq!(lines(&old, &new), expected);
        assert_eq!(lines(&new, &new), Vec::<String>::new());
    }
}
