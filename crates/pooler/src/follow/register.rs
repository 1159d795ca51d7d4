//! This pooler's own key in the DCS: that it is there, and which orders to leave a member it obeys. Members wait for that
//! before their server goes away.

use std::sync::Arc;
use std::time::Duration;

use dcs::{Dcs, LeaseId, Write, layout};
use ha::poolers;
use ha::settings::Settings;
use pool::pooler::Pooler;
use pool::route::{Held, Report};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long to wait after a failure.
const RETRY: Duration = Duration::from_millis(500);
/// How long the end of the program waits for the key to go.
const FAREWELL: Duration = Duration::from_millis(500);

/// Registers until told to leave; then the key goes at once.
pub(super) async fn run(pooler: Arc<Pooler>, dcs: Arc<dyn Dcs>, cluster: String, leave: CancellationToken) {
    let mut told = false;
    let mut lease = None;
    while !leave.is_cancelled() {
        match leave.run_until_cancelled(registered(&pooler, dcs.as_ref(), &cluster, &mut lease)).await {
            Some(Err(dcs::Error::LeaseGone)) => told = false,
            Some(Err(e)) => {
                if !told {
                    warn!(target: "pooler", "cluster {cluster}: this pooler can't register, switchovers don't wait for it: {e}");
                }
                told = true;
                sleep(RETRY).await;
            }
            Some(Ok(())) | None => {}
        }
    }
    if let Some(lease) = lease {
        // Otherwise the key goes with the lease.
        let _ = timeout(FAREWELL, dcs.revoke(lease)).await;
    }
}

/// Keeps the key on a lease, and up to date, as long as the lease lives.
async fn registered(
    pooler: &Pooler,
    dcs: &dyn Dcs,
    cluster: &str,
    kept: &mut Option<LeaseId>,
) -> Result<(), dcs::Error> {
    let seen = layout::decode(&dcs.read().await?);
    let ttl = seen.config.as_ref().map(|c| Settings::from_json(&c.value).0).unwrap_or_default().ttl;
    let lease = dcs.grant(ttl).await?;
    *kept = Some(lease);
    let (name, mine) = name(pooler);
    let key = layout::pooler_key(&mine);
    let dead: Vec<Write> =
        seen.poolers.keys().filter(|k| is_dead(k, &name)).map(|k| Write::Delete(layout::pooler_key(k))).collect();
    if !dead.is_empty() {
        dcs.commit(&[], &dead).await?;
    }
    let mut reports = pooler.reports(cluster);
    let mut renewal = Instant::now() + ttl / 3;
    loop {
        let report = reports.borrow_and_update().clone();
        let value = layout::pooler_value(&entry(pooler, &report));
        dcs.commit(&[], &[Write::Put { key: key.clone(), value, lease }]).await?;
        loop {
            match timeout_at(renewal, reports.changed()).await {
                Ok(Ok(())) => break,
                // The process is ending.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => {}
            }
            let begun = Instant::now();
            match dcs.keep_alive(lease).await {
                Ok(()) => renewal = begun + ttl / 3,
                Err(dcs::Error::LeaseGone) => return Err(dcs::Error::LeaseGone),
                Err(_) => renewal = begun + RETRY,
            }
        }
    }
}

/// What poolers of this port on this machine are called, and the name of this process among them: during an online restart
/// there are two.
fn name(pooler: &Pooler) -> (String, String) {
    let host = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    let settings = &pooler.config().settings;
    let address = settings.listen_addr.first().map_or("*", String::as_str);
    let shared = format!("{host}:{address}:{}:", settings.listen_port);
    let own = format!("{shared}{}", std::process::id());
    (shared, own)
}

/// Whether a key is that of a process of the same name before the last colon that lives no more.
fn is_dead(key: &str, shared: &str) -> bool {
    let pid = key.strip_prefix(shared).and_then(|pid| pid.parse().ok());
    pid.is_some_and(|pid| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH)
    })
}

fn entry(pooler: &Pooler, report: &Report) -> poolers::Pooler {
    let settings = &pooler.config().settings;
    let address = settings.listen_addr.first().map_or("*", String::as_str);
    poolers::Pooler {
        address: format!("{address}:{}", settings.listen_port),
        version: pool::VERSION.to_owned(),
        drained: report.drained.iter().map(|(member, order)| (member.to_string(), *order)).collect(),
        held: report.held.as_ref().map(held),
    }
}

fn held(held: &Held) -> poolers::Held {
    let longest_ms = u64::try_from(held.longest.as_millis()).unwrap_or(u64::MAX);
    poolers::Held { order: held.order, clients: held.clients, longest_ms, cut: held.cut }
}
