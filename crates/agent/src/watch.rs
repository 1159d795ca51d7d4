//! The tasks that tell the engine what happens around it: the DCS, PostgreSQL, the guard. They decide nothing.

use std::sync::Arc;
use std::time::Duration;

use dcs::layout;
use ha::local::{Local, Sql};
use ha::{Lsn, Status};
use instance::now;
use service::notify::Notifier;
use service::tasks::Tasks;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::event::{Event, Reading};
use crate::node::Node;
use crate::peers;

/// How often PostgreSQL is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often while nothing changes there and nobody waits for a change.
const CALM_LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often systemd is told the same again.
const DESCRIBE_EVERY: Duration = Duration::from_secs(10);
/// How long to wait after a failed reading of the DCS.
const RETRY: Duration = Duration::from_millis(500);

type Events = mpsc::Sender<Event>;

/// Starts all of them.
pub(crate) fn start(
    node: &Arc<Node>,
    events: &Events,
    known: bool,
    status: watch::Receiver<Arc<Status>>,
    notifier: Arc<Notifier>,
) -> Tasks {
    let tasks = Tasks::new();
    debug!(known, "watching");
    tasks.spawn("dcs", follow_dcs(node.clone(), events.clone(), status.clone()));
    tasks.spawn("look", look(node.clone(), events.clone(), status.clone()));
    tasks.spawn("exit", report_exits(node.clone(), events.clone()));
    tasks.spawn("guard", report_guard(node.clone(), events.clone()));
    if let Some(every) = notifier.watchdog_interval() {
        tasks.spawn("watchdog", feed_systemd(status.clone(), notifier.clone(), every));
    }
    tasks.spawn("description", describe(status, notifier));
    tasks
}

/// Tells the engine. When it is gone the process is ending, and the task is ended with it.
async fn tell(events: &Events, event: Event) {
    if events.send(event).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Reads the DCS whenever something in it changes, and once a loop in any case.
async fn follow_dcs(node: Arc<Node>, events: Events, status: watch::Receiver<Arc<Status>>) {
    loop {
        let began = now();
        let result = node.dcs.read().await;
        let revision = result.as_ref().map(|s| s.revision).map_err(Clone::clone);
        tell(&events, Event::Read(Reading { began, result })).await;
        match revision {
            Err(_) => sleep(RETRY).await,
            Ok(revision) => {
                let heartbeat = status.borrow().settings.loop_wait;
                match timeout(heartbeat, node.dcs.changed(revision)).await {
                    Ok(Ok(())) | Err(_) => {}
                    Ok(Err(e)) => {
                        debug!("watching the DCS: {e}");
                        sleep(RETRY / 5).await;
                    }
                }
            }
        }
    }
}

/// Looks at PostgreSQL every second, at once when asked, and less often while it's calm.
async fn look(node: Arc<Node>, events: Events, mut status: watch::Receiver<Arc<Status>>) {
    let mut last = None;
    loop {
        let local = node.instance.probe().await;
        let looked = Instant::now();
        let shown = standing(&local);
        let moves = shown.is_none() || shown != last;
        last = shown;
        tell(&events, Event::Probed(Box::new(local))).await;
        loop {
            let calm = !moves && is_calm(&status.borrow_and_update());
            let every = if calm { CALM_LOOK_EVERY } else { LOOK_EVERY };
            tokio::select! {
                () = sleep_until(looked + every) => break,
                () = node.looker.notified() => break,
                changed = status.changed() => if changed.is_err() {
                    // The engine is gone, and the process is ending.
                    return std::future::pending().await;
                }
            }
        }
    }
}

/// What PostgreSQL has and does, as far as others act on it. `None` unless it answers.
fn standing(local: &Local) -> Option<(Lsn, bool, u32, Option<String>, usize)> {
    match &local.sql {
        Sql::Up(a) => Some((a.position(), a.in_recovery, a.timeline, a.receiver.clone(), a.replication.len())),
        _ => None,
    }
}

/// Whether there is nothing to be done, and nothing for which what a look shows is waited for.
fn is_calm(status: &Status) -> bool {
    let settings = &status.settings;
    matches!(status.reason_label, "leading" | "following")
        && status.trouble.is_none()
        && !settings.pause
        && !settings.synchronous_mode
}

/// Notices the end of the postmaster in the moment it happens.
async fn report_exits(node: Arc<Node>, events: Events) {
    loop {
        let exited = node.instance.exited().await;
        info!("the postmaster (pid {}) has ended: {}", exited.pid, exited.status.as_deref().unwrap_or("not our child"));
        tell(&events, Event::Look).await;
    }
}

/// Notices the end of the guard in the moment it happens.
async fn report_guard(node: Arc<Node>, events: Events) {
    loop {
        node.guard.found().await;
        node.guard.lost().await;
        tell(&events, Event::GuardLost).await;
    }
}

/// Tells systemd that the agent is well, as long as decisions are made.
async fn feed_systemd(status: watch::Receiver<Arc<Status>>, notifier: Arc<Notifier>, every: Duration) {
    loop {
        sleep(every).await;
        let decided = status.borrow().decided_at;
        if now().since(decided) < every + Duration::from_secs(5) {
            notifier.watchdog();
        }
    }
}

/// Tells systemd what was decided last. A restarted agent's word is its own, while its keys in the DCS may be its
/// predecessor's for as long as the lease lasts.
async fn describe(mut status: watch::Receiver<Arc<Status>>, notifier: Arc<Notifier>) {
    let mut told = ("", Instant::now());
    while status.changed().await.is_ok() {
        let status = status.borrow_and_update().clone();
        // Now and then all the same: a reload has another word.
        if status.reason_label != told.0 || told.1.elapsed() >= DESCRIBE_EVERY {
            notifier.status(&status.reason);
            told = (status.reason_label, Instant::now());
        }
    }
    // The engine is gone, and the process is ending.
    std::future::pending().await
}

/// Refuses to start beside a living member of the same name at another address.
pub(crate) async fn refuse_double(node: &Node) -> Result<(), String> {
    let config = node.config();
    let Ok(Ok(snapshot)) = timeout(Duration::from_secs(3), node.dcs.read()).await else {
        warn!("the DCS can't be read yet: starting anyway");
        return Ok(());
    };
    let cluster = layout::decode(&snapshot);
    let Some(member) = cluster.members.get(&node.me.name) else { return Ok(()) };
    if member.api_url == config.restapi.api_url() {
        return Ok(());
    }
    let url = member.api_url.replace("/patroni", "/liveness");
    if timeout(Duration::from_secs(2), peers::reach(&url)).await.is_ok_and(|r| r.is_ok()) {
        return Err(format!(
            "another member named {} is alive at {}: give this node a name of its own (`name`)",
            node.me.name, member.api_url
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_still_is_looked_at_less_often() {
        let calm = Status { reason_label: "leading", ..Status::default() };
        assert!(is_calm(&calm));
        assert!(!is_calm(&Status { reason_label: "election", ..calm.clone() }));
        assert!(!is_calm(&Status { trouble: Some("silent".into()), ..calm.clone() }));
        for change in [|s: &mut Status| s.settings.pause = true, |s: &mut Status| s.settings.synchronous_mode = true] {
            let mut status = calm.clone();
            change(&mut status);
            assert!(!is_calm(&status));
        }
        let answered = |written: u64| {
            let answer = ha::local::Answer { written: Lsn(written), ..ha::local::Answer::default() };
            standing(&Local { sql: Sql::Up(Box::new(answer)), ..Local::default() })
        };
        assert_eq!(answered(1), answered(1));
        assert_ne!(answered(1), answered(2));
        assert_eq!(standing(&Local::default()), None);
    }
}
