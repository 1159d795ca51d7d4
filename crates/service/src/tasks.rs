//! A set of supervised tasks: they stop together, and one that ends by itself ends them all. What the tasks do is not
//! here.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of a program. Clones share the set.
#[derive(Clone, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, (&'static str, AbortHandle)>,
    cause: Option<Cause>,
}

/// Why a task ended although nobody had asked it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The task.
    pub task: &'static str,
    /// How it ended.
    pub how: Ended,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It returned.
    Returned,
    /// It returned an error, with this text.
    Failed(String),
    /// It panicked, with this text.
    Panicked(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            Ended::Returned => write!(f, "task {} ended unexpectedly", self.task),
            Ended::Failed(error) => write!(f, "task {} failed: {error}", self.task),
            Ended::Panicked(text) => write!(f, "task {} panicked: {text}", self.task),
        }
    }
}

impl std::error::Error for Cause {}

/// What a task may return: nothing, or a result whose error can be shown.
pub trait Outcome: Send + 'static {
    /// How a task that returned this ended.
    fn ended(self) -> Ended;
}

impl Outcome for () {
    fn ended(self) -> Ended {
        Ended::Returned
    }
}

impl<E: fmt::Display + Send + 'static> Outcome for Result<(), E> {
    fn ended(self) -> Ended {
        match self {
            Ok(()) => Ended::Returned,
            Err(e) => Ended::Failed(format!("{e:#}")),
        }
    }
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// The token that all tasks stop on.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks all tasks to stop.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Runs a task on the present runtime until it is cancelled; its future is then dropped where it waits.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let token = self.token.clone();
        self.supervise(name, async move { token.run_until_cancelled_owned(future).await.map(Outcome::ended) });
    }

    /// Runs a task that ends in its own way: it watches the token itself and is aborted only at the deadline of
    /// [`Tasks::shutdown`].
    pub fn spawn_graceful<F>(&self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let future = task(self.token.clone());
        self.supervise(name, async move { Some(future.await.ended()) });
    }

    fn supervise(&self, name: &'static str, task: impl Future<Output = Option<Ended>> + Send + 'static) {
        let handle = tokio::spawn(task);
        let id = {
            let mut state = self.lock();
            state.next += 1;
            let id = state.next;
            state.running.insert(id, (name, handle.abort_handle()));
            id
        };
        let tasks = self.clone();
        self.tracker.spawn(async move {
            let ended = match handle.await {
                Ok(ended) => ended,
                Err(e) if e.is_panic() => Some(Ended::Panicked(panic_text(e.into_panic().as_ref()))),
                Err(_) => None,
            };
            tasks.ended(id, name, ended);
        });
    }

    fn ended(&self, id: u64, name: &'static str, ended: Option<Ended>) {
        let mut state = self.lock();
        state.running.remove(&id);
        let Some(how) = ended else { return };
        // After cancellation a return is what was asked for; a failure or panic still is worth reporting.
        if self.token.is_cancelled() && how == Ended::Returned {
            return;
        }
        let cause = Cause { task: name, how };
        tracing::error!("{cause}");
        state.cause.get_or_insert(cause);
        self.token.cancel();
    }

    /// Waits until the set is asked to stop, by [`Tasks::cancel`] or by a task that ended.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// The first task that ended unexpectedly.
    pub fn cause(&self) -> Option<Cause> {
        self.lock().cause.clone()
    }

    /// Cancels all tasks and waits for them; those that run on after `deadline` are aborted.
    ///
    /// # Errors
    /// The names of the tasks that had to be aborted.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Vec<&'static str>> {
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok() {
            return Ok(());
        }
        let late: Vec<(&'static str, AbortHandle)> = self.lock().running.values().cloned().collect();
        if late.is_empty() {
            return Ok(());
        }
        late.iter().for_each(|(_, handle)| handle.abort());
        Err(late.into_iter().map(|(name, _)| name).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message of a panic.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn all_tasks_stop_on_cancellation() {
        let tasks = Tasks::new();
        tasks.spawn("waiting", std::future::pending::<()>());
        let cleaned = Arc::new(AtomicBool::new(false));
        let flag = cleaned.clone();
        tasks.spawn_graceful("tidy", |token| async move {
            token.cancelled().await;
            flag.store(true, Ordering::SeqCst);
        });
        assert_eq!(tasks.shutdown(LONG).await, Ok(()));
        assert!(cleaned.load(Ordering::SeqCst));
        assert_eq!(tasks.cause(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_returns_ends_the_rest_and_is_the_cause() {
        let tasks = Tasks::new();
        tasks.spawn("waiting", std::future::pending::<()>());
        tasks.spawn("short", async {});
        tasks.cancelled().await;
        assert_eq!(tasks.cause(), Some(Cause { task: "short", how: Ended::Returned }));
        assert_eq!(tasks.shutdown(LONG).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_panics_are_told() {
        let tasks = Tasks::new();
        tasks.spawn("failing", async { Err::<(), _>("disk full") });
        tasks.cancelled().await;
        assert_eq!(tasks.cause().unwrap().to_string(), "task failing failed: disk full");

        let tasks = Tasks::new();
        tasks.spawn("fragile", async { assert_eq!(1 + 1, 3, "bad sum") });
        tasks.cancelled().await;
        let cause = tasks.cause().unwrap().to_string();
        assert!(cause.starts_with("task fragile panicked") && cause.contains("bad sum"), "{cause}");
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_ignore_cancellation_are_named_and_aborted() {
        let tasks = Tasks::new();
        tasks.spawn_graceful("deaf", |_| std::future::pending::<()>());
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, Err(vec!["deaf"]));
        assert_eq!(tasks.shutdown(LONG).await, Ok(()));
    }
}
