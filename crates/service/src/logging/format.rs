//! One log record as a line: Patroni's text form, Python's format strings, or JSON. Where lines go is in `output`.

use jiff::Zoned;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

use crate::config::{Log, LogKind};

/// What a record says: its message, and its fields in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::String(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        self.put(field, Value::String(text));
    }
}

impl Record {
    fn put(&mut self, field: &Field, value: Value) {
        match value {
            Value::String(text) if field.name() == "message" => self.message = text,
            value => {
                self.fields.retain(|(name, _)| *name != field.name());
                self.fields.push((field.name(), value));
            }
        }
    }
}

/// How lines look. Made from section `log`.
#[derive(Debug, Clone)]
pub(super) struct Format {
    kind: LogKind,
    pieces: Vec<Piece>,
    date: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Literal(String),
    Time,
    Level { width: usize },
    Message,
    Target,
    Process,
    File,
    Line,
}

const DEFAULT: &str = "%(asctime)s %(levelname)s: %(message)s";

impl Format {
    pub(super) fn new(log: &Log) -> Format {
        let pieces = pieces(log.format.as_deref().unwrap_or(DEFAULT));
        Format { kind: log.kind, pieces, date: log.dateformat.clone() }
    }

    /// The line with its newline.
    pub(super) fn line(&self, meta: &Metadata<'_>, record: &Record, now: &Zoned) -> String {
        let mut line = match self.kind {
            LogKind::Plain => self.plain(meta, record, now),
            LogKind::Json => self.json(meta, record, now),
        };
        line.push('\n');
        line
    }

    fn plain(&self, meta: &Metadata<'_>, record: &Record, now: &Zoned) -> String {
        let mut line = String::with_capacity(128);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => line.push_str(text),
                Piece::Time => line.push_str(&self.time(now)),
                Piece::Level { width } => line.push_str(&format!("{:width$}", level_name(*meta.level()))),
                Piece::Message => message(record, &mut line),
                Piece::Target => line.push_str(meta.target()),
                Piece::Process => line.push_str(&std::process::id().to_string()),
                Piece::File => line.push_str(meta.file().unwrap_or_default()),
                Piece::Line => line.push_str(&meta.line().unwrap_or_default().to_string()),
            }
        }
        line
    }

    fn json(&self, meta: &Metadata<'_>, record: &Record, now: &Zoned) -> String {
        let mut object = Map::new();
        object.insert("asctime".to_owned(), self.time(now).into());
        object.insert("levelname".to_owned(), level_name(*meta.level()).into());
        object.insert("message".to_owned(), record.message.clone().into());
        object.insert("name".to_owned(), meta.target().into());
        for (name, value) in &record.fields {
            object.entry(*name).or_insert_with(|| value.clone());
        }
        Value::Object(object).to_string()
    }

    fn time(&self, now: &Zoned) -> String {
        let broken_down = jiff::fmt::strtime::BrokenDownTime::from(now);
        if let Some(format) = &self.date
            && let Ok(text) = broken_down.to_string(format)
        {
            return text;
        }
        let seconds = broken_down.to_string("%Y-%m-%d %H:%M:%S").unwrap_or_default();
        format!("{seconds},{:03}", now.millisecond())
    }
}

/// Python's names, which Patroni's log has.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// The message, then the fields as `name=value`. Further lines are indented, so that no text can pass for a line of
/// its own.
fn message(record: &Record, line: &mut String) {
    let mut text = record.message.clone();
    for (name, value) in &record.fields {
        if !text.is_empty() {
            text.push(' ');
        }
        match value {
            Value::String(s) if !s.is_empty() && !s.contains([' ', '"', '=']) => text.push_str(&format!("{name}={s}")),
            value => text.push_str(&format!("{name}={value}")),
        }
    }
    for c in text.trim_end().chars() {
        match c {
            '\n' => line.push_str("\n    "),
            '\t' => line.push(c),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
}

/// Splits a Python format string (`%(name)s`, with an optional width as in `%(levelname)-8s`). What is not known is
/// left as it stands.
fn pieces(format: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = format;
    while let Some(start) = rest.find("%(") {
        let (before, from) = rest.split_at(start);
        let Some((piece, length)) = piece(from) else {
            pieces.push(Piece::Literal(format!("{before}%(")));
            rest = &from[2..];
            continue;
        };
        pieces.push(Piece::Literal(before.to_owned()));
        pieces.push(piece);
        rest = &from[length..];
    }
    pieces.push(Piece::Literal(rest.to_owned()));
    pieces.retain(|piece| !matches!(piece, Piece::Literal(text) if text.is_empty()));
    pieces
}

fn piece(from: &str) -> Option<(Piece, usize)> {
    let close = from.find(')')?;
    let flags = &from[close + 1..];
    let kind = flags.find(|c: char| c.is_ascii_alphabetic())?;
    let width = flags[..kind].trim_start_matches('-').parse().unwrap_or(0);
    let piece = match &from[2..close] {
        "asctime" => Piece::Time,
        "levelname" => Piece::Level { width },
        "message" => Piece::Message,
        "name" | "module" => Piece::Target,
        "process" => Piece::Process,
        "filename" | "pathname" => Piece::File,
        "lineno" => Piece::Line,
        _ => return None,
    };
    Some((piece, close + 1 + kind + 1))
}
