//! The log, in pgbouncer's form: `2020-01-11 08:30:24.178 UTC [1234] LOG text`, to a file and to standard error. What is
//! logged is everybody's own business; what the library tells its clients' administrators has the target `pooler`.

mod line;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use pool::config::Settings;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber, callsite};

pub(crate) use line::Severity;
use writer::Writer;

/// Longest wait for the last lines to be written.
const LAST: Duration = Duration::from_secs(3);

/// The log of the process. Clones share it.
#[derive(Clone)]
pub(crate) struct Log(Arc<Inner>);

struct Inner {
    writer: Writer,
    /// `-v`, which `verbose` doesn't go below.
    floor: u8,
    verbosity: AtomicU8,
}

impl Log {
    fn new(verbosity: u8) -> Log {
        Log(Arc::new(Inner { writer: Writer::default(), floor: verbosity, verbosity: AtomicU8::new(verbosity) }))
    }

    /// Logs to standard error from now on. Panics are logged as errors.
    pub(crate) fn start(verbosity: u8) -> Log {
        let log = Log::new(verbosity);
        // It fails when there is a log already, which only a second call could have made.
        let _ = tracing::subscriber::set_global_default(Events(log.clone()));
        let panics = log.clone();
        std::panic::set_hook(Box::new(move |info| {
            panics.line(Severity::Error, &format!("a thread panicked: {info}"));
            panics.flush();
        }));
        log
    }

    /// Writes to `logfile` too, by a thread of its own, and with `quiet` no more to standard error.
    pub(crate) fn open(&self, settings: &Settings, quiet: bool) -> Result<(), String> {
        self.follow(settings)?;
        if quiet {
            self.quiet();
        }
        self.0.writer.start().map_err(|e| format!("start the log's thread: {e}"))
    }

    /// Writes no more to standard error.
    pub(crate) fn quiet(&self) {
        self.0.writer.quiet();
    }

    /// Applies changed settings, and opens the file anew in case that it was moved away.
    pub(crate) fn follow(&self, settings: &Settings) -> Result<(), String> {
        let verbosity = u8::try_from(settings.verbose).unwrap_or(u8::MAX).max(self.0.floor);
        if self.0.verbosity.swap(verbosity, Ordering::Relaxed) != verbosity {
            callsite::rebuild_interest_cache();
        }
        let path = settings.logfile.as_deref().filter(|path| !path.as_os_str().is_empty());
        let file = path
            .map(open)
            .transpose()
            .map_err(|(path, e)| format!("Cannot open logfile: '{}': {}", path.display(), crate::start::reason(&e)))?;
        self.0.writer.switch(file);
        Ok(())
    }

    /// Adds a line.
    pub(crate) fn line(&self, severity: Severity, text: &str) {
        self.0.writer.line(severity, text);
    }

    /// Waits until everything is written, for a short while at most.
    pub(crate) fn flush(&self) {
        self.0.writer.flush(LAST);
    }
}

fn open(path: &Path) -> Result<std::fs::File, (&Path, io::Error)> {
    std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(|e| (path, e))
}

/// Makes lines of tracing's events.
struct Events(Log);

impl Events {
    fn shows(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target() == "pooler" || metadata.target().starts_with("pool::");
        *metadata.level()
            <= if ours || self.0.0.verbosity.load(Ordering::Relaxed) > 2 { self.level() } else { Level::WARN }
    }

    fn level(&self) -> Level {
        match self.0.0.verbosity.load(Ordering::Relaxed) {
            0 => Level::INFO,
            1 => Level::DEBUG,
            _ => Level::TRACE,
        }
    }
}

/// Spans aren't used: they would cost something for every client.
impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.shows(metadata)
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level().into())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let severity = Severity::from(event.metadata().level());
        let mut text = line::Text::default();
        event.record(&mut text);
        self.0.line(severity, &text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_raises_what_the_flag_asks_for_and_doesn_t_lower_it() {
        let log = Log::new(1);
        log.quiet();
        let level = |verbose| {
            log.follow(&Settings { verbose, ..Settings::default() }).unwrap();
            Events(log.clone()).level()
        };
        assert_eq!([0, 1, 2, 9].map(level), [Level::DEBUG, Level::DEBUG, Level::TRACE, Level::TRACE]);
    }

    #[test]
    fn a_file_that_cannot_be_opened_leaves_the_log_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::new(0);
        log.quiet();
        log.follow(&Settings { logfile: Some(path.clone()), ..Settings::default() }).unwrap();
        let error = log.follow(&Settings { logfile: Some("/nowhere/log".into()), ..Settings::default() }).unwrap_err();
        assert_eq!(error, "Cannot open logfile: '/nowhere/log': No such file or directory");
        log.line(Severity::Log, "still here");
        assert!(std::fs::read_to_string(path).unwrap().ends_with("LOG still here\n"));
    }
}
