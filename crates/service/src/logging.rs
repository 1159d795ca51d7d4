//! Logging in Patroni's form (`2020-01-11 08:30:24,178 INFO: message`) or as JSON, to stderr or a file, by a thread of
//! its own. What is logged is everybody's own business.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Zoned;
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::{EnvFilter, Layer, reload};

use crate::config::{Level, Log};
use crate::tasks::panic_text;
use format::{Format, Record};
use output::{Queue, Rotating};

mod format;
mod output;

#[cfg(test)]
mod tests;

/// Overrides the configured levels, in the form of `RUST_LOG` (`debug`, `info,etcd_client=warn`).
const VARIABLE: &str = "PGHERD_LOG";

/// The running logging. Clones share it.
#[derive(Clone)]
pub struct Logging {
    queue: Queue,
    format: Arc<RwLock<Format>>,
    filter: reload::Handle<EnvFilter, Registry>,
    program: &'static str,
    current: Arc<RwLock<Log>>,
}

/// Logging can't be set up as configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log file can't be written.
    #[error("can't write the log file in {0} (log.dir): {1}")]
    File(String, io::Error),
    /// The writer can't be started, or logging was set up twice in this process.
    #[error("can't start logging: {0}")]
    Start(String),
}

/// Starts logging for the whole process. `program` names the file in `log.dir` (`pgherd-agent` makes
/// `pgherd-agent.log`). Panics are logged as errors from then on.
///
/// # Errors
/// The log file can't be opened, or logging was started before.
pub fn init(log: &Log, program: &'static str) -> Result<Logging, Error> {
    let (subscriber, logging) = build(log, program, Box::new(io::stderr()))?;
    tracing::subscriber::set_global_default(subscriber).map_err(|e| Error::Start(e.to_string()))?;
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or(String::new(), |at| format!(" at {at}"));
        tracing::error!("a thread panicked{place}: {}", panic_text(info.payload()));
    }));
    if let Some(over) = std::env::var(VARIABLE).ok().filter(|text| text.parse::<EnvFilter>().is_err()) {
        tracing::warn!("{VARIABLE}={over} is not understood and ignored: write a level, or \"info,dcs=debug\"");
    }
    Ok(logging)
}

fn build(
    log: &Log,
    program: &'static str,
    stderr: Box<dyn Write + Send>,
) -> Result<(impl Subscriber + Send + Sync + use<>, Logging), Error> {
    let out = match file(log, program)? {
        Some(file) => Box::new(file),
        None => stderr,
    };
    let queue = Queue::start(out).map_err(|e| Error::Start(e.to_string()))?;
    let format = Arc::new(RwLock::new(Format::new(log)));
    let (filter, handle) = reload::Layer::new(levels(log, std::env::var(VARIABLE).ok().as_deref()));
    let lines = Lines { queue: queue.clone(), format: format.clone() };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    let current = Arc::new(RwLock::new(log.clone()));
    Ok((subscriber, Logging { queue, format, filter: handle, program, current }))
}

impl Logging {
    /// Applies a changed section `log`: level, form, file.
    ///
    /// # Errors
    /// The new log file can't be opened; everything stays as it was.
    pub fn reload(&self, log: &Log) -> Result<(), Error> {
        let mut old = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let target = |log: &Log| (log.dir.clone(), log.file_num, log.file_size);
        if target(&old) != target(log) {
            let out: Box<dyn Write + Send> = match file(log, self.program)? {
                Some(file) => Box::new(file),
                None => Box::new(io::stderr()),
            };
            if !self.queue.switch(out) {
                return Err(Error::Start("the log's queue is full".to_owned()));
            }
        }
        let filter = levels(log, std::env::var(VARIABLE).ok().as_deref());
        self.filter.reload(filter).map_err(|e| Error::Start(e.to_string()))?;
        *self.format.write().unwrap_or_else(PoisonError::into_inner) = Format::new(log);
        *old = log.clone();
        Ok(())
    }

    /// Lines lost because nobody read them fast enough.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Waits until all lines so far are written, at most this long; call it before the process ends. Returns whether
    /// they were. It blocks the thread.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.queue.flush(timeout)
    }
}

fn file(log: &Log, program: &str) -> Result<Option<Rotating>, Error> {
    let Some(dir) = &log.dir else { return Ok(None) };
    let named = |e| Error::File(show(dir), e);
    Rotating::open(dir.join(format!("{program}.log")), log.file_size, log.file_num).map(Some).map_err(named)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

/// The filter that section `log` and the override make. Names of loggers may be written with dots.
fn levels(log: &Log, over: Option<&str>) -> EnvFilter {
    if let Some(over) = over
        && let Ok(filter) = over.parse()
    {
        return filter;
    }
    let mut directives = directive(log.level).to_owned();
    // At DEBUG the libraries underneath would drown pgherd's own lines, and some of them log bytes of the wire.
    if log.level == Level::Debug {
        directives
            .push_str(",h2=info,hyper=info,hyper_util=info,tower=info,rustls=info,tokio_postgres=info,tonic=info");
    }
    for (name, level) in &log.loggers {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':'));
        if plain && !name.is_empty() {
            directives.push_str(&format!(",{}={}", name.replace('.', "::"), directive(*level)));
        }
    }
    EnvFilter::new(directives)
}

fn directive(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warn",
        Level::Error => "error",
    }
}

/// Turns records into lines.
struct Lines {
    queue: Queue,
    format: Arc<RwLock<Format>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut record = Record::default();
            attributes.record(&mut record);
            span.extensions_mut().insert(record);
        }
    }

    fn on_record(&self, id: &Id, values: &tracing::span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(record) = span.extensions_mut().get_mut::<Record>()
        {
            values.record(record);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut record = Record::default();
        event.record(&mut record);
        // The event's own fields first, then those of its spans from the inside out.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Record>() {
                let known: Vec<&str> = record.fields.iter().map(|(name, _)| *name).collect();
                let new: Vec<_> = outer.fields.iter().filter(|(name, _)| !known.contains(name)).cloned().collect();
                record.fields.extend(new);
            }
        }
        let format = self.format.read().unwrap_or_else(PoisonError::into_inner);
        let line = format.line(event.metadata(), &record, &Zoned::now());
        drop(format);
        self.queue.line(line);
    }
}
