//! One YAML text into JSON, with the place of every key and all duplicated keys. What the keys mean is not here.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use saphyr_parser::{Event, Parser, Span};
use serde_json::Value;

use super::faults::{Fault, Place};

/// A parsed text.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// Its content; null when the text is empty.
    pub(super) value: Value,
    /// Line and column of every key by its path, and of list items as `path.index`.
    pub(super) places: BTreeMap<String, Place>,
    /// Syntax errors and duplicated keys.
    pub(super) faults: Vec<Fault>,
}

/// Parses a text that came from `file`.
pub(super) fn parse(text: &str, file: &Path) -> Parsed {
    let mut walk = Walk { file, levels: Vec::new(), places: BTreeMap::new(), faults: Vec::new() };
    walk.run(text);
    let mut parsed = Parsed { value: Value::Null, places: walk.places, faults: walk.faults };
    let result = if parsed.faults.is_empty() {
        serde_yaml_ng::from_str::<serde_yaml_ng::Value>(text).and_then(|mut value| {
            value.apply_merge()?;
            serde_yaml_ng::from_value(value)
        })
    } else {
        // With duplicated keys the last one is taken, so that the rest is checked in the same run.
        serde_yaml_ng::from_str(text)
    };
    match result {
        Ok(value) => parsed.value = value,
        Err(e) => parsed.faults = vec![syntax(&e, file)],
    }
    if !matches!(parsed.value, Value::Null | Value::Object(_)) {
        let message = "the file must hold a mapping of settings (\"scope: NAME\" and so on)".to_owned();
        let place = Some(Place::File { file: file.to_owned(), line: 1, column: 0 });
        parsed.faults.push(Fault { path: String::new(), place, message });
        parsed.value = Value::Null;
    }
    parsed
}

fn syntax(error: &serde_yaml_ng::Error, file: &Path) -> Fault {
    let (line, column) = error.location().map_or((0, 0), |l| (l.line(), l.column()));
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let hint = match text {
        t if t.contains("cannot start any token") => {
            " (indent with spaces, not tabs; quote values that begin with @ or `)"
        }
        t if t.contains("mapping values are not allowed") => {
            " (quote values that contain \": \", and check the indentation)"
        }
        t if t.contains("unexpected end of stream") => " (is a quote or bracket not closed?)",
        t if t.contains("did not find expected key") => " (is the indentation right?)",
        _ => "",
    };
    let place = Some(Place::File { file: file.to_owned(), line, column });
    Fault { path: String::new(), place, message: format!("not valid YAML: {text}{hint}") }
}

enum Level {
    Map { keys: BTreeSet<String>, current: Option<String> },
    List { next: usize },
}

struct Walk<'a> {
    file: &'a Path,
    levels: Vec<Level>,
    places: BTreeMap<String, Place>,
    faults: Vec<Fault>,
}

impl Walk<'_> {
    /// Stops at the first scanner error: the other parser's message is the one that is shown.
    fn run(&mut self, text: &str) {
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else { return };
            match event {
                Event::Scalar(text, ..) => self.scalar(text, span),
                Event::Alias(_) => self.value_done(),
                Event::MappingStart(..) => {
                    self.item(span);
                    self.levels.push(Level::Map { keys: BTreeSet::new(), current: None });
                }
                Event::SequenceStart(..) => {
                    self.item(span);
                    self.levels.push(Level::List { next: 0 });
                }
                Event::MappingEnd | Event::SequenceEnd => {
                    self.levels.pop();
                    self.value_done();
                }
                _ => {}
            }
        }
    }

    fn path(&self) -> String {
        let part = |level: &Level| match level {
            Level::Map { current, .. } => current.clone(),
            Level::List { next } => Some(next.to_string()),
        };
        self.levels.iter().filter_map(part).collect::<Vec<_>>().join(".")
    }

    fn place(&self, span: Span) -> Place {
        Place::File { file: self.file.to_owned(), line: span.start.line(), column: span.start.col() + 1 }
    }

    fn item(&mut self, span: Span) {
        if matches!(self.levels.last(), Some(Level::List { .. })) {
            self.places.insert(self.path(), self.place(span));
        }
    }

    fn scalar(&mut self, text: Cow<'_, str>, span: Span) {
        let Some(Level::Map { keys, current: current @ None }) = self.levels.last_mut() else {
            self.item(span);
            self.value_done();
            return;
        };
        let key = text.into_owned();
        let fresh = keys.insert(key.clone());
        *current = Some(key);
        let (path, place) = (self.path(), self.place(span));
        if !fresh {
            let first = self.places.get(&path).map_or(String::new(), |p| format!(" (first at {p})"));
            let message = format!("the key stands here twice{first}: keep one");
            self.faults.push(Fault { path: path.clone(), place: Some(place.clone()), message });
        }
        self.places.insert(path, place);
    }

    fn value_done(&mut self) {
        match self.levels.last_mut() {
            Some(Level::Map { current, .. }) => *current = None,
            Some(Level::List { next }) => *next += 1,
            None => {}
        }
    }
}
