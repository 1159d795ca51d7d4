//! Doing what a decision asks for. Each action runs as a task of its own and reports back with one event; whether it is
//! done at all, and what follows, is the engine's business. Work on PostgreSQL is in `jobs`.

use std::sync::Arc;
use std::time::Duration;

use dcs::{Condition, Write, layout};
use ha::cluster::{Optime, SyncState};
use ha::decide::guard_margin;
use ha::poolers::Drain;
use ha::settings::Settings;
use ha::view::Guard;
use ha::{Action, Cluster, Lsn, Term, Tick};
use instance::{Configuration, now};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::adopt::move_keys;
use crate::event::{Event, Leased, Reading};
use crate::node::Node;
use crate::state::Held;
use crate::{jobs, peers};

/// How long a write of the DCS that failed holds up the next one.
const FAILED_WRITE: Duration = Duration::from_millis(250);

/// How long killing may take before it is reported as not finished; it is tried again after.
const FENCE_BUDGET: Duration = Duration::from_secs(2);

/// What an action may need to know.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) node: Arc<Node>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) settings: Settings,
    pub(crate) lease: Option<Held>,
    pub(crate) guard: Guard,
    pub(crate) configuration: Configuration,
}

impl Context {
    async fn tell(&self, event: Event) {
        // The engine outlives its tasks; when it is gone, the process is ending.
        let _ = self.events.send(event).await;
    }
}

/// Does one action and reports.
pub(crate) async fn perform(context: Context, action: Action, at: Tick) {
    let event = match &action {
        Action::Grant => Event::Leased(grant(&context).await),
        Action::Renew => renew(&context).await,
        Action::Arm { term, deadline } => arm(&context, *term, *deadline).await,
        Action::Disarm => Event::Guard(context.node.guard.disarm().await.map_err(|e| e.to_string())),
        Action::AskPeers => Event::Answered(peers::ask(&context).await),
        Action::Revoke | Action::Exit | Action::Fence => return,
        other if other.job().is_some() => return jobs::run(context, action, at).await,
        other => write(&context, other).await,
    };
    context.tell(event).await;
}

/// Kills every process of PostgreSQL, once the job that was under way has really ended.
pub(crate) async fn fence(context: Context, job: Option<AbortHandle>) {
    let began = now();
    while job.as_ref().is_some_and(|j| !j.is_finished()) && now().since(began) < Duration::from_millis(200) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let outcome = context.node.fence(FENCE_BUDGET).await;
    if outcome.killed > 0 {
        info!("killed {} processes of PostgreSQL in {} ms", outcome.killed, outcome.took.as_millis());
    }
    let local = context.node.instance.probe().await;
    context.tell(Event::Fenced(outcome.left.len(), Box::new(local))).await;
}

async fn grant(context: &Context) -> Leased {
    let (began, ttl) = (now(), context.settings.ttl);
    match context.node.dcs.grant(ttl).await {
        Ok(id) => Leased::Held { id, began, ttl },
        Err(e) => Leased::Unknown(e),
    }
}

/// Renews the lease; when the configured time to live has changed, the keys move to a new lease.
async fn renew(context: &Context) -> Event {
    let Some(held) = context.lease else { return Event::Leased(grant(context).await) };
    if held.ttl != context.settings.ttl {
        return Event::Leased(change_ttl(context, held).await);
    }
    let began = now();
    Event::Leased(match context.node.dcs.keep_alive(held.lease.id).await {
        Ok(()) => Leased::Held { id: held.lease.id, began, ttl: held.ttl },
        Err(dcs::Error::LeaseGone) => Leased::Gone,
        Err(e) => Leased::Unknown(e),
    })
}

async fn change_ttl(context: &Context, held: Held) -> Leased {
    let (began, ttl) = (now(), context.settings.ttl);
    let id = match context.node.dcs.grant(ttl).await {
        Ok(id) => id,
        Err(e) => return Leased::Unknown(e),
    };
    if let Err(e) = move_to(context, id, began, ttl).await {
        return e;
    }
    if let Err(e) = context.node.dcs.revoke(held.lease.id).await {
        warn!("the old lease was not ended: {e}");
    }
    Leased::Held { id, began, ttl }
}

/// Moves this node's keys to a new lease. The guard learns of an earlier deadline first.
async fn move_to(context: &Context, id: i64, began: Tick, ttl: Duration) -> Result<(), Leased> {
    let node = &context.node;
    let Some(cluster) = &context.cluster else { return Ok(()) };
    let Some(leader) = cluster.leader.as_ref().filter(|l| l.name == node.me.name) else {
        if let Some(member) = cluster.members.get(&node.me.name) {
            let key = layout::member_key(&node.me.name);
            let put = Write::Put { key, value: layout::member_value(member), lease: id };
            node.dcs.commit(&[], &[put]).await.map_err(Leased::Unknown)?;
        }
        return Ok(());
    };
    if context.lease.is_none_or(|held| held.lease.id != leader.lease) {
        // Not the lease that this agent has kept: that key's term isn't its to go on with.
        return Err(Leased::Gone);
    }
    let deadline = began + ttl;
    if matches!(context.guard, Guard::Armed { deadline: d, .. } if deadline < d)
        && let Err(e) = node.guard.arm(leader.term, deadline.before(guard_margin(ttl)), None).await
    {
        return Err(Leased::Unknown(dcs::Error::Unavailable(format!("the guard must know first: {e}"))));
    }
    context.tell(Event::Leased(Leased::Next { id, began, ttl })).await;
    match move_keys(node.dcs.as_ref(), cluster, leader, id).await {
        Ok(true) => {}
        Ok(false) => return Err(Leased::Gone),
        Err(e) => return Err(Leased::Unknown(e)),
    }
    // The next decision must see the leader key on the new lease.
    let reading = read(context).await;
    context.tell(Event::Read(reading)).await;
    Ok(())
}

/// Moves the deadline of an armed guard on, or arms it; one that doesn't answer is replaced.
async fn arm(context: &Context, term: Term, deadline: Tick) -> Event {
    let kill_at = deadline.before(guard_margin(context.settings.ttl));
    let guard = &context.node.guard;
    let later = matches!(context.guard, Guard::Armed { term: t, deadline: d } if t == term && d < deadline);
    if later && let Ok(report) = guard.extend(term, kill_at).await {
        return Event::Guard(Ok(report));
    }
    let first = match guard.ensure().await {
        Ok(()) => guard.arm(term, kill_at, None).await,
        Err(e) => Err(e),
    };
    let result = match first {
        Ok(report) => Ok(report),
        Err(instance::guard::Error::Refused { .. }) => guard.status().await,
        Err(e) => {
            warn!("replacing the guard: {e}");
            match guard.replace().await {
                Ok(()) => guard.arm(term, kill_at, None).await,
                Err(e) => Err(e),
            }
        }
    };
    Event::Guard(result.map_err(|e| e.to_string()))
}

/// Asks the guard for its state.
pub(crate) async fn ask_guard(context: Context) {
    let result = context.node.guard.status().await;
    context.tell(Event::Guard(result.map_err(|e| e.to_string()))).await;
}

/// One linearizable reading.
pub(crate) async fn read(context: &Context) -> Reading {
    let began = now();
    Reading { began, result: context.node.dcs.read().await }
}

/// Writes to the DCS, then reads it so that the next decision sees what came of it.
async fn write(context: &Context, action: &Action) -> Event {
    let result = match action {
        Action::CompleteInitialize { system_identifier } => complete_initialize(context, system_identifier).await,
        _ => match transaction(context, action) {
            Some((conditions, writes)) => context.node.dcs.commit(&conditions, &writes).await,
            None => Ok(None),
        },
    };
    if result.as_ref().is_err_and(|e| !matches!(e, dcs::Error::LeaseGone)) {
        // What decides next would have it done again, and a DCS that isn't there may say so at once.
        tokio::time::sleep(FAILED_WRITE).await;
    }
    let reading = read(context).await;
    Event::Written(action.clone(), result, reading)
}

/// The transaction that an action stands for.
fn transaction(context: &Context, action: &Action) -> Option<(Vec<Condition>, Vec<Write>)> {
    let name = context.node.me.name.clone().into_bytes();
    let put = |key: &str, value: Vec<u8>, lease: i64| Write::Put { key: key.into(), value, lease };
    let mine = |term: &Term| Condition::CreatedAt(layout::LEADER.into(), term.revision);
    let lease = context.lease.map(|h| h.lease.id);
    Some(match action {
        Action::ClaimInitialize => (
            vec![Condition::Absent(layout::INITIALIZE.into()), Condition::Absent(layout::LEADER.into())],
            vec![put(layout::INITIALIZE, Vec::new(), lease?)],
        ),
        Action::Acquire => (vec![Condition::Absent(layout::LEADER.into())], vec![put(layout::LEADER, name, lease?)]),
        Action::Release { term, position } => {
            let status = position.map(|p| put(layout::STATUS, optime(context, p), 0));
            let delete = Write::Delete(layout::LEADER.into());
            (vec![mine(term)], status.into_iter().chain([delete]).collect())
        }
        Action::WriteSync { term, state, revision } => {
            (vec![mine(term), unchanged(layout::SYNC, *revision)], vec![sync_write(state.as_ref())])
        }
        Action::WriteOptime { term, position } => {
            (vec![mine(term)], vec![put(layout::STATUS, optime(context, *position), 0)])
        }
        Action::ClearFailover { revision } => {
            (vec![unchanged(layout::FAILOVER, *revision)], vec![put(layout::FAILOVER, layout::failover_value(None), 0)])
        }
        Action::Drain { to, patience } => {
            let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            let value = layout::drain_value(&Drain { to: to.clone(), patience_ms });
            (vec![], vec![put(&layout::drain_key(&context.node.me.name), value, lease?)])
        }
        Action::EndDrain { revision } => {
            let key = layout::drain_key(&context.node.me.name);
            (vec![unchanged(&key, *revision)], vec![Write::Delete(key)])
        }
        _ => return None,
    })
}

fn unchanged(key: &str, revision: i64) -> Condition {
    if revision == 0 { Condition::Absent(key.into()) } else { Condition::ModifiedAt(key.into(), revision) }
}

fn sync_write(state: Option<&SyncState>) -> Write {
    match state {
        Some(s) => Write::Put { key: layout::SYNC.into(), value: layout::sync_value(s), lease: 0 },
        None => Write::Delete(layout::SYNC.into()),
    }
}

/// The `status` value with a new position and the rest as it was.
fn optime(context: &Context, position: Lsn) -> Vec<u8> {
    let known = context.cluster.as_ref().and_then(|c| c.status.clone()).unwrap_or_default();
    layout::status_value(&Optime { optime: position, ..known })
}

/// The first leader records the cluster: its dynamic configuration where there is none, then the system identifier.
async fn complete_initialize(context: &Context, system_identifier: &str) -> Result<Option<i64>, dcs::Error> {
    let term = context.cluster.as_ref().and_then(|c| c.term()).unwrap_or_default();
    let mine = Condition::CreatedAt(layout::LEADER.into(), term.revision);
    let put = |key: &str, value: Vec<u8>| Write::Put { key: key.into(), value, lease: 0 };
    let config: Value = context.node.config().bootstrap.dcs.clone();
    let config = if config.is_null() { Value::Object(serde_json::Map::new()) } else { config };
    let absent = Condition::Absent(layout::CONFIG.into());
    let first = [put(layout::CONFIG, layout::config_value(&config))];
    context.node.dcs.commit(&[mine.clone(), absent], &first).await?;
    let identifier = [put(layout::INITIALIZE, system_identifier.as_bytes().to_vec())];
    context.node.dcs.commit(&[mine], &identifier).await
}
