//! Databases at a cluster: which of its members an entry of `[databases]` goes to.

use std::sync::Arc;

use super::database::{Database, Wrong};
use super::settings::Keyword;
use super::spelling;

/// Replicas further behind than this many bytes are left out where an entry says nothing of it.
const MAX_LAG: u64 = 16 << 20;

/// The members of a cluster that a database goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name of the cluster.
    pub cluster: Arc<str>,
    /// Which members.
    pub role: Role,
    /// Those on this machine before all others (`prefer=local`).
    pub prefer_local: bool,
    /// Replicas that are further behind, in bytes, or whose lag isn't known are left out.
    pub max_lag: u64,
    /// With `role=replica` the leader stands in while no replica can be used; otherwise clients wait.
    pub falls_back: bool,
}

/// Which members of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// The one that may be written to.
    #[default]
    Leader,
    /// Replicas.
    Replica,
    /// Replicas and the leader.
    Any,
}

impl Keyword for Role {
    const WORDS: &'static [(&'static str, Self)] =
        &[("leader", Self::Leader), ("replica", Self::Replica), ("any", Self::Any)];
}

/// What an entry says of a cluster, before it's known whether it says enough.
#[derive(Debug, Default)]
pub(super) struct Draft {
    cluster: Option<String>,
    role: Option<Role>,
    prefer_local: Option<bool>,
    max_lag: Option<u64>,
    falls_back: Option<bool>,
}

/// Names of the parameters.
pub(super) const PARAMETERS: [&str; 5] = ["cluster", "role", "prefer", "max_lag", "fallback"];

impl Draft {
    /// Takes a parameter; `None` when it's none of these.
    pub(super) fn put(&mut self, key: &str, value: &str) -> Option<Result<(), Wrong>> {
        Some(match key {
            "cluster" => {
                self.cluster = Some(value.to_owned());
                Ok(())
            }
            "role" => one_of(&mut self.role, key, value, Role::WORDS),
            "prefer" => one_of(&mut self.prefer_local, key, value, &[("local", true), ("none", false)]),
            "max_lag" => bytes(value).map(|read| self.max_lag = Some(read)).ok_or_else(|| {
                (
                    format!("invalid value \"{value}\" for parameter {key}"),
                    "it takes bytes, or a size such as 16MB".to_owned(),
                )
            }),
            "fallback" => one_of(&mut self.falls_back, key, value, &[("leader", true), ("none", false)]),
            _ => return None,
        })
    }

    /// The target, if the entry is at a cluster.
    pub(super) fn finish(self, database: &Database, wrong: &mut Vec<Wrong>) -> Option<Target> {
        let mut tell = |text: &str| wrong.push((text.to_owned(), String::new()));
        let Some(cluster) = self.cluster else {
            let given =
                [self.role.is_some(), self.prefer_local.is_some(), self.max_lag.is_some(), self.falls_back.is_some()];
            for (name, _) in PARAMETERS[1..].iter().zip(given).filter(|(_, given)| *given) {
                tell(&format!("{name} has no meaning without cluster"));
            }
            return None;
        };
        let role = self.role.unwrap_or_default();
        if database.host.is_some() {
            tell("host and cluster exclude each other");
        }
        if database.ports != Database::default().ports {
            tell("port and cluster exclude each other: a cluster's members name their own");
        }
        if role == Role::Leader && self.max_lag.is_some() {
            tell("max_lag has no meaning with role=leader");
        }
        if role == Role::Leader && self.prefer_local.is_some() {
            tell("prefer has no meaning with role=leader");
        }
        if role != Role::Replica && self.falls_back.is_some() {
            tell("fallback has a meaning with role=replica only");
        }
        Some(Target {
            cluster: cluster.into(),
            role,
            prefer_local: self.prefer_local.unwrap_or(false),
            max_lag: self.max_lag.unwrap_or(MAX_LAG),
            falls_back: self.falls_back.unwrap_or(true) && role == Role::Replica,
        })
    }
}

fn one_of<T: Copy>(field: &mut Option<T>, key: &str, text: &str, words: &[(&'static str, T)]) -> Result<(), Wrong> {
    *field = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
    if field.is_some() {
        return Ok(());
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let near = spelling::advice(text, known.iter().copied());
    let hint = if near.is_empty() { format!("it takes one of {}", known.join(", ")) } else { near };
    Err((format!("invalid value \"{text}\" for parameter {key}"), hint))
}

/// A number of bytes, with PostgreSQL's units (documentation, "Parameter Names and Values").
fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "kB" | "KB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_with_or_without_a_unit() {
        let cases =
            [("0", Some(0)), ("17", Some(17)), ("3kB", Some(3072)), ("16 MB", Some(16 << 20)), ("1GB", Some(1 << 30))];
        for (text, expected) in cases {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for text in ["", "MB", "-1", "1.5MB", "1mb", "99999999999TB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
