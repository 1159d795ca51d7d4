//! Prometheus' text format 0.0.4 (prometheus.io, "Exposition formats"): families of samples, and how labels are written.

use std::fmt::Write as _;

/// What a family's numbers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// They go up, and start again from zero with the process.
    Counter,
    /// They go up and down.
    Gauge,
}

/// A page of metrics.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

/// Samples of one name; all must be added before the next family begins.
#[derive(Debug)]
pub(super) struct Family<'a> {
    page: &'a mut Page,
    name: &'a str,
}

impl Page {
    /// Begins a family. `help` is one line without backslashes.
    pub(super) fn family<'a>(&'a mut self, kind: Kind, name: &'a str, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a String can't fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { page: self, name }
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Into<f64>) {
        self.family(Kind::Gauge, name, help).add(&[], value);
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Into<f64>) {
        self.family(Kind::Counter, name, help).add(&[], value);
    }

    /// The text.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// Adds a sample. No two of a family may have the same labels.
    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: impl Into<f64>) {
        let text = &mut self.page.text;
        text.push_str(self.name);
        for (i, (label, value)) in labels.iter().enumerate() {
            text.push(if i == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            escape(text, value);
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        // Writing to a String can't fail.
        let _ = writeln!(text, " {}", value.into());
    }
}

/// A label's value: backslash, quote and line feed are escaped, everything else stands for itself.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}
