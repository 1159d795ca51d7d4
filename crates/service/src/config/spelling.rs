//! Unknown, misspelt and unsupported keys. The tables of known ones are in `known`.

use serde_json::{Map, Value};

use super::known::{self, Kind, Table};

/// What was found, with paths relative to the checked mapping; places are added by the caller.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Path and message of what must be mended.
    pub(super) faults: Vec<(String, String)>,
    /// Path and message of what a person should know.
    pub(super) warnings: Vec<(String, String)>,
}

/// Checks the names of all keys under `value` against a table.
///
/// Patroni ignores keys it doesn't know, and people keep their own in its files, so an unknown key alone is a
/// warning. It is a fault when a known name that the same section lacks is one slip away (one letter for names up to
/// five letters, two for longer ones; an exchange of neighbours is one slip): then a setting that somebody wants is
/// not in force, and a `data_dri` or `tll` can cost data. Where the known name is there too, nothing is lost and a
/// warning is enough. Names that begin with `x-`, `.` or `_` are the user's own and never mentioned.
pub(super) fn check(value: &Value, table: Table) -> Findings {
    let mut findings = Findings::default();
    if let Some(map) = value.as_object() {
        section(map, table, "", &mut findings);
    }
    findings
}

fn section(map: &Map<String, Value>, table: Table, at: &str, findings: &mut Findings) {
    let names = known::children(table, at);
    for (key, value) in map {
        let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        match known::lookup(table, &path) {
            Some(Kind::Unsupported) if !value.is_null() => {
                let message = "known to Patroni, not supported by pgherd yet: ignored";
                findings.warnings.push((path, message.to_owned()));
            }
            Some(Kind::Section) => match value {
                Value::Object(inner) if is_role(&path) => section_of_role(inner, &path, findings),
                Value::Object(inner) => section(inner, table, &path, findings),
                Value::Null => {}
                _ => findings.faults.push((path, "must be a mapping of settings".to_owned())),
            },
            Some(_) => {}
            None => unknown(map, key, path, &names, table, findings),
        }
    }
}

fn is_role(path: &str) -> bool {
    path.strip_prefix("postgresql.authentication.").is_some_and(|rest| !rest.contains('.'))
}

fn section_of_role(map: &Map<String, Value>, at: &str, findings: &mut Findings) {
    let mut inner = Findings::default();
    section(map, known::CREDENTIALS, "", &mut inner);
    let moved = |list: Vec<(String, String)>| list.into_iter().map(|(p, m)| (format!("{at}.{p}"), m));
    findings.faults.extend(moved(inner.faults));
    findings.warnings.extend(moved(inner.warnings));
}

fn unknown(map: &Map<String, Value>, key: &str, path: String, names: &[&str], table: Table, out: &mut Findings) {
    if key.starts_with("x-") || key.starts_with('.') || key.starts_with('_') {
        return;
    }
    let near = nearest(key, names);
    match near {
        Some(name) if is_slip(key, name) && !map.contains_key(name) => {
            out.faults.push((path, format!("unknown setting: did you mean \"{name}\"?")));
        }
        Some(name) => out.warnings.push((path, format!("unknown setting, ignored: did you mean \"{name}\"?"))),
        None => {
            let hint = elsewhere(key, table).map_or(String::new(), |p| format!(": it belongs at \"{p}\""));
            out.warnings.push((path, format!("unknown setting, ignored{hint}")));
        }
    }
}

/// Whether a slip of the fingers turns one name into the other.
pub(super) fn is_slip(written: &str, known: &str) -> bool {
    let slips = if known.chars().count() <= 5 { 1 } else { 2 };
    written.chars().count() >= 3 && strsim::osa_distance(&written.to_lowercase(), known) <= slips
}

/// The known name that is most alike, when any is alike at all.
pub(super) fn nearest<'a>(written: &str, names: &[&'a str]) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let likeness = |name: &&str| strsim::osa_distance(&lower, name);
    let best = names.iter().copied().min_by_key(likeness)?;
    let limit = if best.len() <= 5 { 1 } else { 1 + best.len() / 4 };
    let longer = || names.iter().copied().find(|name| lower.len() >= 4 && name.starts_with(&lower));
    if likeness(&best) <= limit { Some(best) } else { longer() }
}

/// Where a key that stands at the wrong place belongs.
fn elsewhere(key: &str, table: Table) -> Option<String> {
    if key.len() < 3 {
        return None;
    }
    let ends = |path: &str| path.rsplit('.').next() == Some(key);
    if known::lookup(table, "bootstrap.dcs").is_some() {
        if known::children(known::DYNAMIC, "").contains(&key) {
            return Some(format!("bootstrap.dcs.{key}"));
        }
        let mut found = table.iter().filter(|(path, _)| ends(path));
        let first = found.next()?;
        return found.next().is_none().then(|| first.0.to_owned());
    }
    table.iter().find(|(path, _)| ends(path)).map(|(path, _)| (*path).to_owned())
}
