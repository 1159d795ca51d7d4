//! A blocking look at something that may hang: at most one is under way, and how old its result is is known. What is
//! looked at is in `probe`.

use std::time::Duration;

use ha::Tick;
use tokio::task::JoinHandle;
use tokio::time::{Instant as Clock, timeout_at};

use crate::clock::now;

/// Looks of one kind.
#[derive(Debug)]
pub(crate) struct Look<T> {
    /// The one under way, and when it began.
    pending: Option<(Tick, JoinHandle<T>)>,
    /// The result of the last one, and when that began.
    pub(crate) last: Option<(Tick, T)>,
}

impl<T> Default for Look<T> {
    fn default() -> Look<T> {
        Look { pending: None, last: None }
    }
}

impl<T: Send + 'static> Look<T> {
    /// Tries for `limit` to have a look that began at `from` or later. When that hangs, since when it does; `last` may
    /// then be of an earlier one.
    pub(crate) async fn take(
        &mut self,
        from: Tick,
        limit: Duration,
        look: impl FnOnce() -> T + Clone + Send + 'static,
    ) -> Option<Tick> {
        let until = Clock::now() + limit;
        loop {
            let (began, task) = self.pending.get_or_insert_with(|| (now(), tokio::task::spawn_blocking(look.clone())));
            let began = *began;
            // It stays where it is: whoever drops this future doesn't lose it.
            let Ok(ended) = timeout_at(until, task).await else { return Some(began) };
            self.pending = None;
            match ended {
                Ok(seen) => self.last = Some((began, seen)),
                Err(e) => {
                    tracing::error!("looking at PostgreSQL failed: {e}");
                    return None;
                }
            }
            if began >= from {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_look_that_hung_is_neither_new_nor_repeated() {
        let mut looks = Look::default();
        let (go_on, hung) = channel::<u32>();
        let mut hung = Some(hung);
        let began = now();
        let first = std::sync::Arc::new(std::sync::Mutex::new(hung.take()));
        let look = move || match first.lock().unwrap().take() {
            Some(hung) => hung.recv().unwrap(),
            None => 2,
        };
        let stuck = looks.take(began, Duration::from_millis(10), look.clone()).await.unwrap();
        assert!(stuck >= began && looks.last.is_none());
        assert_eq!(looks.take(now(), Duration::from_millis(10), look.clone()).await, Some(stuck), "it is the same one");
        go_on.send(1).unwrap();
        let from = now();
        assert_eq!(looks.take(from, Duration::from_secs(60), look).await, None);
        let (at, seen) = looks.last.unwrap();
        assert!(at >= from && seen == 2, "the answer of long ago doesn't do");
    }
}
