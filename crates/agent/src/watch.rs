//! The tasks that tell the engine what happens around it: the DCS, PostgreSQL, the guard. They decide nothing.

use std::sync::Arc;
use std::time::Duration;

use dcs::layout;
use ha::Status;
use instance::now;
use service::notify::Notifier;
use service::tasks::Tasks;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::event::{Event, Reading};
use crate::node::Node;
use crate::peers;

/// How often PostgreSQL is looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
    tasks.spawn("look", look(node.clone(), events.clone()));
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

/// Looks at PostgreSQL every second, and at once when asked.
async fn look(node: Arc<Node>, events: Events) {
    loop {
        let local = node.instance.probe().await;
        tell(&events, Event::Probed(Box::new(local))).await;
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = node.looker.notified() => {}
        }
    }
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
