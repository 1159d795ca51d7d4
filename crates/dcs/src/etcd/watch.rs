//! The watch on a cluster's keys: one stream, kept open between calls and replaced when it falls silent.

use std::time::{Duration, Instant};

use etcd_client::{WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use tokio::time::timeout;

use super::fault::Fault;
use super::members::{Effect, Link, Members};
use crate::Error;

/// After this long without a message the member is asked for a sign of life.
const QUIET: Duration = Duration::from_secs(2);
/// Pause before a stream that failed is replaced.
const PAUSE: Duration = Duration::from_millis(100);

/// A stream of changes from a revision on.
pub(super) struct Watch {
    index: usize,
    requests: WatchRequestSender,
    answers: WatchResponseStream,
    /// The first revision whose changes it reports.
    from: i64,
    /// The last change it has reported; 0 for none.
    seen: i64,
    heard: Instant,
}

/// Returns once something under the prefix has changed after `revision`.
pub(super) async fn follow(
    members: &Members,
    prefix: &str,
    kept: &mut Option<Watch>,
    revision: i64,
) -> Result<(), Error> {
    loop {
        // A stream that began later has not reported what this caller asks for.
        let watch = match kept.take().filter(|w| w.from <= revision + 1) {
            Some(watch) => watch,
            None => members.run(Effect::None, |link| Watch::open(link, prefix, revision + 1)).await?,
        };
        if watch.seen > revision {
            *kept = Some(watch);
            return Ok(());
        }
        let watch = kept.insert(watch);
        let index = watch.index;
        let next = tokio::select! {
            biased;
            next = watch.next(members.attempt()) => next,
            // Another request found the member dead.
            () = members.turned_from(index) => Err(Fault::Unclear("another member is in use".to_owned())),
        };
        match next {
            Ok(()) => {}
            Err(fault) => {
                *kept = None;
                match fault {
                    Fault::Final(error) => return Err(error),
                    fault => tracing::debug!("the watch is set up anew: {}", fault.message()),
                }
                members.turn_from(index);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Watch {
    async fn open(link: Link, prefix: &str, from: i64) -> Result<Watch, Fault> {
        let options = WatchOptions::new().with_prefix().with_start_revision(from).with_progress_notify();
        let stream = link.client.watch_client().watch(prefix, Some(options)).await?;
        let (requests, answers) = stream.split();
        let mut watch = Watch { index: link.index, requests, answers, from, seen: 0, heard: Instant::now() };
        // The first message says that the watch was created, or why it was not.
        let first = watch.answers.message().await;
        watch.take(first)?;
        Ok(watch)
    }

    /// Waits for one message, or for proof that the stream is dead. May be dropped at any time without losing a change.
    async fn next(&mut self, patience: Duration) -> Result<(), Fault> {
        let quiet = QUIET.saturating_sub(self.heard.elapsed());
        if let Ok(message) = timeout(quiet, self.answers.message()).await {
            return self.take(message);
        }
        let silent = |_| Fault::Unclear("the watch has fallen silent".to_owned());
        timeout(patience, self.requests.request_progress()).await.map_err(silent)??;
        let message = timeout(patience, self.answers.message()).await.map_err(silent)?;
        self.take(message)
    }

    fn take(&mut self, message: Result<Option<WatchResponse>, etcd_client::Error>) -> Result<(), Fault> {
        let message = message?.ok_or_else(|| Fault::Unclear("etcd closed the watch".to_owned()))?;
        self.heard = Instant::now();
        if message.compact_revision() > 0 {
            let lost = format!("etcd has compacted the changes before revision {}", message.compact_revision());
            return Err(Fault::Final(Error::Lost(lost)));
        }
        if message.canceled() {
            let reason = message.cancel_reason().to_owned();
            // etcd 3.4 says "permission denied" for a token that has expired, too.
            let token = reason.contains("permission denied") || reason.contains("invalid auth token");
            return Err(if token { Fault::TokenInvalid(reason) } else { Fault::Unclear(reason) });
        }
        let revisions = message.events().iter().filter_map(|e| e.kv()).map(|kv| kv.mod_revision());
        self.seen = revisions.max().unwrap_or(0).max(self.seen);
        Ok(())
    }
}
