//! One line of the log: time, process, severity, text. Where lines go is in `writer`.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::Level;
use tracing::field::{Field, Visit};

/// How much a line matters, in pgbouncer's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The program ends because of it.
    Fatal,
    /// Somebody should look.
    Error,
    /// Somebody may have to look.
    Warning,
    /// News.
    Log,
    /// With `verbose = 1`.
    Debug,
    /// With `verbose = 2`.
    Noise,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Fatal => "FATAL",
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Log => "LOG",
            Severity::Debug => "DEBUG",
            Severity::Noise => "NOISE",
        }
    }
}

impl From<&Level> for Severity {
    fn from(level: &Level) -> Severity {
        match *level {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            Level::INFO => Severity::Log,
            Level::DEBUG => Severity::Debug,
            Level::TRACE => Severity::Noise,
        }
    }
}

/// An event's message, then its fields as `name=value`.
#[derive(Debug, Default)]
pub(super) struct Text(pub(super) String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string can't fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// Adds lines to a buffer. What stays the same within a second is made once.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: Option<u64>,
    before: String,
    after: String,
}

impl Stamp {
    /// Adds a line.
    pub(super) fn line(&mut self, out: &mut String, now: SystemTime, severity: Severity, text: &str) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.renew(since.as_secs());
        }
        // Writing to a string can't fail.
        let _ = write!(out, "{}{:03}{}{} ", self.before, since.subsec_millis(), self.after, severity.word());
        escape(out, text);
        out.push('\n');
    }

    fn renew(&mut self, second: u64) {
        let at = i64::try_from(second).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default();
        let here = at.to_zoned(TimeZone::system());
        self.before = here.strftime("%Y-%m-%d %H:%M:%S.").to_string();
        self.after = format!(" {} [{}] ", here.strftime("%Z"), std::process::id());
        self.second = Some(second);
    }
}

/// Adds a text on one line, so that nothing that a client sends can pass for a line of its own.
fn escape(out: &mut String, text: &str) {
    if !text.contains(char::is_control) {
        return out.push_str(text);
    }
    for c in text.chars() {
        match c {
            '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line(at: Duration, severity: Severity, text: &str) -> String {
        let mut stamp = Stamp::default();
        let mut out = String::new();
        // Twice, from the cache too.
        stamp.line(&mut out, UNIX_EPOCH + at, severity, text);
        let first = std::mem::take(&mut out);
        stamp.line(&mut out, UNIX_EPOCH + at, severity, text);
        assert_eq!(first, out);
        out
    }

    #[test]
    fn lines_have_pgbouncers_form() {
        let at = Timestamp::from_second(1_578_731_424).unwrap();
        let zone = at.to_zoned(TimeZone::system());
        let expected = format!(
            "{}.007 {} [{}] LOG C-0x1: app/alice@127.0.0.1:5 login attempt: db=app\n",
            zone.strftime("%Y-%m-%d %H:%M:%S"),
            zone.strftime("%Z"),
            std::process::id()
        );
        let at = Duration::from_millis(1_578_731_424_007);
        assert_eq!(line(at, Severity::Log, "C-0x1: app/alice@127.0.0.1:5 login attempt: db=app"), expected);
    }

    #[test]
    fn a_second_that_is_over_is_not_printed_again() {
        let mut stamp = Stamp::default();
        let mut out = String::new();
        for millis in [999, 1000, 1001] {
            stamp.line(&mut out, UNIX_EPOCH + Duration::from_millis(millis), Severity::Error, "x");
        }
        let seconds: Vec<&str> = out.lines().map(|l| &l[17..23]).collect();
        assert_eq!(seconds, ["00.999", "01.000", "01.001"]);
    }

    #[test]
    fn no_text_passes_for_a_line_of_its_own() {
        let out = line(Duration::ZERO, Severity::Warning, "user \"a\n2020 [1] FATAL b\r\u{1b}[2J\"\tc");
        assert!(out.ends_with("WARNING user \"a\\n2020 [1] FATAL b\\r\\u{1b}[2J\"\tc\n"), "{out}");
        assert_eq!(out.lines().count(), 1);
    }
}
