//! What monitoring asks of a pooler: Prometheus metrics, named as the common exporter for pgbouncer names them
//! (prometheus-community/pgbouncer_exporter 0.12), and whether the pooler is well. Serving them is the program's business.

mod families;
mod page;
mod process;
mod sample;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::pooler::Pooler;

/// How long threads may take to answer before they count as stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// Content type of what [`Pooler::metrics`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a pooler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It serves clients.
    Serving,
    /// PAUSE of all databases is in force.
    Paused,
    /// SUSPEND is in force.
    Suspended,
    /// It takes no new clients any more: a shutdown, or another process has taken its place.
    ShuttingDown,
    /// A thread doesn't answer.
    Stuck,
}

impl Health {
    /// Whether it's alive and goes on living.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Health::Serving | Health::Paused | Health::Suspended)
    }

    /// Whether new clients are served at once.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self == Health::Serving
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Serving => "serving",
            Health::Paused => "paused",
            Health::Suspended => "suspended",
            Health::ShuttingDown => "shutting down",
            Health::Stuck => "a worker thread doesn't answer",
        })
    }
}

impl Pooler {
    /// Every metric with its value now, in Prometheus' text format 0.0.4. When a thread doesn't answer within 2 s,
    /// `pgbouncer_up` is 0 and what takes all threads to know is left out.
    pub async fn metrics(&self) -> String {
        families::render(&sample::take(&self.shared, PATIENCE).await)
    }

    /// How the pooler is, within 2 s. Takes no locks, so that nothing a stuck thread holds is in its way.
    pub async fn health(&self) -> Health {
        self.health_within(PATIENCE).await
    }

    async fn health_within(&self, patience: Duration) -> Health {
        let shared = &self.shared;
        if sample::ask(shared, patience, |_| ()).await.contains(&None) {
            Health::Stuck
        } else if sample::is_shutting_down(shared) {
            Health::ShuttingDown
        } else if shared.suspended.load(Ordering::SeqCst) {
            Health::Suspended
        } else if shared.paused.load(Ordering::SeqCst) {
            Health::Paused
        } else {
            Health::Serving
        }
    }
}
