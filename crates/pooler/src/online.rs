//! Online restart, both sides: taking the place of an old process, and giving a new one the place.

use std::sync::Arc;
use std::time::Duration;

use pool::config::Settings;
use pool::listen::{Listener, unix};
use pool::pooler::Pooler;
use pool::takeover::{self, Door, Error, Old, Request, Visitor};
use tracing::{error, info, warn};

use crate::signals::{Signal, Signals};
use crate::start::{Failure, failed};

/// How long an old process may take to give its sockets.
const PATIENCE: Duration = Duration::from_secs(10);

/// Finds the old process and takes its sockets, which it goes on using. `None` when there is none.
pub(crate) async fn meet(settings: &Settings) -> Result<Option<(Old, Vec<Listener>)>, Failure> {
    let address = takeover::address(settings);
    let address = address.ok_or_else(|| {
        Failure::Configuration("an online restart needs unix_socket_dir or pidfile configured".to_owned())
    })?;
    let Some(old) = takeover::meet(&address).map_err(failed("find the old process"))? else {
        if unix::in_use(settings) {
            return Err(Failure::Other(STRANGER.to_owned()));
        }
        info!(target: "pooler", "old process not found, try to continue normally");
        return Ok(None);
    };
    info!(target: "pooler", "taking over from process {}", old.pid());
    let sockets = tokio::time::timeout(PATIENCE, old.sockets()).await;
    let sockets = sockets.map_err(failed("wait for the old process's sockets"))?;
    let sockets = sockets.map_err(failed("take the old process's sockets"))?;
    for socket in &sockets {
        info!(target: "pooler", "got socket: {socket}");
    }
    Ok(Some((old, sockets)))
}

/// What to do when the process that runs doesn't hand anything over.
const STRANGER: &str = "unix socket is in use by a process that doesn't hand over its sockets: pgbouncer, or a \
    pgherd-pooler that is stopping. To replace it without refusing clients, set so_reuseport = 1 in both \
    configurations, give this one a unix_socket_dir and a pidfile of its own, start it without -R, then stop the other";

/// Has the old process take no more clients. From then on this one is the pooler; what is returned passes requests to
/// cancel on, and ends with the old process. `None` when that has ended already.
pub(crate) async fn replace(
    old: Old,
    pooler: &Pooler,
    signals: &mut Signals,
) -> Result<Option<impl Future<Output = ()> + use<>>, Failure> {
    let stopped = old.stop();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            result = &mut stopped => match result {
                Ok((canceller, passing)) => {
                    pooler.pass_on_cancels(canceller);
                    return Ok(Some(passing));
                }
                Err(Error::Gone) if !opens_door(&pooler.config().settings) => {
                    warn!(target: "pooler", "the old process has ended before its time, this one takes its place");
                    return Ok(None);
                }
                Err(e) => return Err(failed("take the old process's place")(e)),
            },
            signal = signals.next() => match signal {
                Signal::Terminate | Signal::Interrupt | Signal::Quit => {
                    return Err(Failure::Other("told to stop before the old process had answered".to_owned()));
                }
                Signal::Hangup | Signal::User1 | Signal::User2 => {}
            },
        }
    }
}

/// Whether a process with these settings can be taken over from: the old one lives.
fn opens_door(settings: &Settings) -> bool {
    takeover::address(settings).is_some_and(|address| !matches!(takeover::meet(&address), Ok(None)))
}

/// Gives new processes the sockets, one after another, until one of them wants the place.
pub(crate) async fn receive(door: Door, sockets: &[Listener]) -> (Door, Visitor) {
    loop {
        match converse(&door, sockets).await {
            Ok(visitor) => return (door, visitor),
            Err(Error::Gone) => warn!(target: "pooler", "online restart: the new process has gone, this one goes on"),
            Err(e) => {
                error!(target: "pooler", "online restart: {e}");
                // An error of the system may last.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one new process; returns it when it wants the place.
async fn converse(door: &Door, sockets: &[Listener]) -> Result<Visitor, Error> {
    let visitor = door.visitor().await?;
    loop {
        match visitor.request().await? {
            Request::Sockets => visitor.give(sockets).await?,
            Request::Stop => return Ok(visitor),
            Request::Cancel { id, .. } => visitor.cancelled(id).await?,
        }
    }
}

/// Serves the process that has taken this one's place: requests to cancel what clients run here.
pub(crate) async fn serve_successor(visitor: Visitor, pooler: Arc<Pooler>) {
    let visitor = Arc::new(visitor);
    while let Ok(request) = visitor.request().await {
        let Request::Cancel { id, pid, key } = request else { continue };
        let (visitor, pooler) = (visitor.clone(), pooler.clone());
        tokio::spawn(async move {
            pooler.cancel(pid, &key).await;
            // It may have gone; then nobody waits for this.
            let _ = visitor.cancelled(id).await;
        });
    }
    std::future::pending::<()>().await;
}
