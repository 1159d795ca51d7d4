//! Typed reading of single settings out of the merged layers, collecting faults. Which settings there are is in
//! `sections` and `known`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::faults::{Fault, Place};
use super::model::{HostPort, Secret};

/// Reads settings by path; what is wrong is kept and a stand-in returned, so that one run finds every fault.
pub(super) struct Reader<'a> {
    root: &'a Value,
    places: &'a BTreeMap<String, Place>,
    pub(super) faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Value, places: &'a BTreeMap<String, Place>) -> Reader<'a> {
        Reader { root, places, faults: Vec::new() }
    }

    /// The value, unless absent or null.
    pub(super) fn get(&self, path: &str) -> Option<&'a Value> {
        let value = path.split('.').try_fold(self.root, |v, key| v.get(key))?;
        (!value.is_null()).then_some(value)
    }

    /// Notes a fault at a path; its place is the setting's or that of the nearest section around it.
    pub(super) fn fault(&mut self, path: &str, message: impl Into<String>) {
        let fault = located(self.places, path, message.into());
        self.faults.push(fault);
    }

    pub(super) fn missing(&mut self, path: &str, example: &str) {
        self.fault(path, format!("is missing: set it, for example \"{example}\""));
    }

    /// A text; numbers and booleans are taken as they would be written.
    pub(super) fn text(&mut self, path: &str) -> Option<String> {
        let text = scalar(self.get(path)?);
        if text.is_none() {
            self.fault(path, "must be a single text, not a list or mapping");
        }
        text
    }

    pub(super) fn required(&mut self, path: &str, example: &str) -> String {
        match self.text(path) {
            Some(text) if !text.trim().is_empty() => text,
            Some(_) => {
                self.fault(path, format!("is empty: set it, for example \"{example}\""));
                String::new()
            }
            None => {
                if self.get(path).is_none() {
                    self.missing(path, example);
                }
                String::new()
            }
        }
    }

    pub(super) fn secret(&mut self, path: &str) -> Option<Secret> {
        self.text(path).map(Secret::new)
    }

    /// A path, made absolute.
    pub(super) fn path(&mut self, path: &str) -> Option<PathBuf> {
        let text = self.text(path)?;
        match std::path::absolute(&text) {
            Ok(absolute) => Some(absolute),
            Err(e) => {
                self.fault(path, format!("\"{text}\" is not a usable path: {e}"));
                None
            }
        }
    }

    pub(super) fn bool(&mut self, path: &str, default: bool) -> bool {
        let Some(value) = self.get(path) else { return default };
        boolean(value).unwrap_or_else(|| {
            self.fault(path, format!("{value} is not a boolean (true or false)"));
            default
        })
    }

    pub(super) fn integer(&mut self, path: &str, default: i64, least: i64) -> i64 {
        let Some(value) = self.get(path) else { return default };
        let number = match value {
            Value::String(s) => s.trim().parse().ok(),
            other => other.as_i64(),
        };
        match number {
            Some(n) if n >= least => n,
            _ => {
                self.fault(path, format!("{value} is not a whole number of at least {least}"));
                default
            }
        }
    }

    pub(super) fn seconds(&mut self, path: &str, default: u64) -> Duration {
        let default = i64::try_from(default).unwrap_or(i64::MAX);
        Duration::from_secs(self.integer(path, default, 1).unsigned_abs())
    }

    /// One of several words, in any case. The first word of each pair is what people write.
    pub(super) fn word<T: Copy>(&mut self, path: &str, default: T, words: &[(&str, T)]) -> T {
        // YAML reads a bare `off` as false.
        let text = match self.get(path) {
            None => return default,
            Some(Value::Bool(false)) => "off".to_owned(),
            Some(value) => scalar(value).unwrap_or_default(),
        };
        if let Some((_, found)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text)) {
            return *found;
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.fault(path, format!("\"{text}\" is not one of {}", all.join(", ")));
        default
    }

    /// `host:port`, or a host alone where there is a usual port.
    pub(super) fn host_port(&mut self, path: &str, usual: Option<u16>) -> Option<HostPort> {
        let text = self.text(path)?;
        match host_port(&text, usual) {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                self.fault(path, format!("\"{text}\" is not an address: {why}"));
                None
            }
        }
    }

    /// A list of texts; a single text is a list of one.
    pub(super) fn list(&mut self, path: &str) -> Option<Vec<String>> {
        match self.get(path)? {
            Value::Array(items) => {
                let mut texts = Vec::new();
                for (i, item) in items.iter().enumerate() {
                    match scalar(item) {
                        Some(text) => texts.push(text),
                        None => self.fault(&format!("{path}.{i}"), "must be a text (quote it if it contains \": \")"),
                    }
                }
                Some(texts)
            }
            Value::String(text) => Some(text.lines().map(str::to_owned).collect()),
            _ => {
                self.fault(path, "must be a list");
                None
            }
        }
    }

    /// A mapping of names to single values.
    pub(super) fn map(&mut self, path: &str) -> BTreeMap<String, String> {
        let Some(value) = self.get(path) else { return BTreeMap::new() };
        let Some(map) = value.as_object() else {
            self.fault(path, "must be a mapping");
            return BTreeMap::new();
        };
        let mut texts = BTreeMap::new();
        for (key, value) in map {
            match scalar(value) {
                Some(text) => _ = texts.insert(key.clone(), text),
                None if value.is_null() => {}
                None => self.fault(&format!("{path}.{key}"), "must be a single value"),
            }
        }
        texts
    }
}

/// A fault with its place looked up.
pub(super) fn located(places: &BTreeMap<String, Place>, path: &str, message: String) -> Fault {
    let mut at = path;
    let place = loop {
        if let Some(place) = places.get(at) {
            break Some(place.clone());
        }
        match at.rsplit_once('.') {
            Some((parent, _)) => at = parent,
            None => break places.get("").cloned(),
        }
    };
    Fault { path: path.to_owned(), place, message }
}

/// A scalar as text.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

/// A boolean in any of YAML's and PostgreSQL's spellings.
pub(super) fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::Number(n) => n.as_u64().filter(|n| *n <= 1).map(|n| n == 1),
        Value::String(s) => match s.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Some(true),
            "off" | "false" | "no" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Parses `host:port`, `[v6]:port`, `*:port`, `a,b:port`, `host`.
pub(super) fn host_port(text: &str, usual: Option<u16>) -> Result<HostPort, String> {
    let text = text.trim();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port))
            if !port.contains(']') && (host.starts_with('[') || host.contains(',') || !host.contains(':')) =>
        {
            (host, Some(port))
        }
        _ => (text, None),
    };
    let port = match (port, usual) {
        (Some(port), _) => {
            port.parse().ok().filter(|p| *p > 0).ok_or(format!("\"{port}\" is not a port (1 to 65535)"))?
        }
        (None, Some(usual)) => usual,
        (None, None) => return Err("the port is missing (write host:port)".to_owned()),
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains(char::is_whitespace) || host.contains('/') {
        return Err("the host is missing or has characters that no host has (write host:port)".to_owned());
    }
    Ok(HostPort { host: host.to_owned(), port })
}
