//! The start of an agent on a node where PostgreSQL already runs: a primary that this node still leads is taken over
//! without interruption, one that it doesn't is fenced.

use std::time::Duration;

use dcs::{Condition, Dcs, Write, layout};
use ha::cluster::Leader;
use ha::decide::{agent_margin, guard_margin};
use ha::local::{Local, Process, Sql};
use ha::settings::Settings;
use ha::view::Lease;
use ha::{Cluster, Tick};
use instance::guard::State as GuardState;
use instance::now;
use tracing::{info, warn};

use crate::event::Reading;
use crate::node::Node;
use crate::state::{Held, State};

/// How long to try without a guard that says how much time there is.
const UNGUARDED: Duration = Duration::from_secs(2);
/// How long to wait between attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Looks at what runs, and keeps or fences it. Returns what the engine then starts with.
pub(crate) async fn adopt(node: &Node, mut state: State) -> State {
    node.instance.adopt();
    let local = node.instance.probe().await;
    let writable = may_be_writable(&local);
    state.probed(local);
    let report = node.guard.status().await;
    if let Ok(report) = &report {
        state.guarded(Ok(report.clone()), now());
    }
    if !writable {
        return state;
    }
    let deadline = report.ok().and_then(|r| match r.state {
        GuardState::Armed { deadline, .. } => Some(deadline + guard_margin(state.settings.ttl)),
        _ => None,
    });
    let until = deadline.map_or(now() + UNGUARDED, |d| d.before(agent_margin(state.settings.ttl)));
    match take_over(node, &mut state, until).await {
        Ok(()) => {
            info!("PostgreSQL runs as the primary and the leader key is still ours: going on with it");
            if let Err(e) = node.make_wanted_users().await {
                warn!("the new cluster's users are not made yet: {e}");
            }
        }
        Err(why) if state.settings.pause || (node.was_paused() && state.cluster.is_none()) => {
            warn!("maintenance mode: PostgreSQL is left running as a primary although {why}");
            state.settings.pause = true;
        }
        Err(why) => {
            warn!("fencing PostgreSQL, which runs as a primary although {why}");
            state.fencing = true;
            let outcome = node.fence(Duration::from_secs(5)).await;
            info!("killed {} processes of PostgreSQL", outcome.killed);
        }
    }
    let local = node.instance.probe().await;
    state.probed(local);
    state.fencing = false;
    state
}

fn may_be_writable(local: &Local) -> bool {
    match (&local.sql, local.process) {
        (Sql::Up(a), _) => !a.in_recovery,
        (_, Process::Running { standby, .. }) => !standby,
        _ => false,
    }
}

/// Puts the leader key on a fresh lease, if it is still this node's.
async fn take_over(node: &Node, state: &mut State, until: Tick) -> Result<(), String> {
    loop {
        let limit = until.since(now()).max(PAUSE);
        let result = tokio::time::timeout(limit, attempt(node, state)).await;
        match result.unwrap_or_else(|_| Err(dcs::Error::Unavailable("no answer in time".to_owned()))) {
            Ok(result) => return result,
            Err(e) if now() + PAUSE >= until => return Err(format!("the DCS can't be used: {e}")),
            Err(e) => warn!("the DCS can't be used yet: {e}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One attempt; the outer error is one to try again after.
async fn attempt(node: &Node, state: &mut State) -> Result<Result<(), String>, dcs::Error> {
    let began = now();
    let snapshot = node.dcs.read().await?;
    state.read(Reading { began, result: Ok(snapshot) }, now());
    let Some(cluster) = state.cluster.clone() else { return Ok(Err("the DCS isn't trusted".to_owned())) };
    let Some(leader) = cluster.leader.as_ref().filter(|l| l.name == node.me.name) else {
        let who = cluster.leader.as_ref().map_or("nobody", |l| &l.name);
        return Ok(Err(format!("the leader key belongs to {who}")));
    };
    let (began, ttl) = (now(), state.settings.ttl);
    let id = node.dcs.grant(ttl).await?;
    if !move_keys(node.dcs.as_ref(), &cluster, leader, id).await? {
        return Ok(Err("the leader key has just been lost".to_owned()));
    }
    state.lease = Some(Held { lease: Lease { id, deadline: began + ttl }, ttl });
    let began = now();
    let snapshot = node.dcs.read().await?;
    state.read(Reading { began, result: Ok(snapshot) }, now());
    Ok(Ok(()))
}

/// Moves the leader key and the leader's member key to another lease, under the same term. False when the term is over,
/// or the key has been moved meanwhile: an attempt whose answer was lost can't take effect after a later one.
pub(crate) async fn move_keys(
    dcs: &dyn Dcs,
    cluster: &Cluster,
    leader: &Leader,
    lease: i64,
) -> Result<bool, dcs::Error> {
    let conditions = [
        Condition::CreatedAt(layout::LEADER.into(), leader.term.revision),
        Condition::OnLease(layout::LEADER.into(), leader.lease),
    ];
    let mut writes = vec![Write::Put { key: layout::LEADER.into(), value: leader.name.clone().into_bytes(), lease }];
    if let Some(member) = cluster.members.get(&leader.name) {
        let key = layout::member_key(&leader.name);
        writes.push(Write::Put { key, value: layout::member_value(member), lease });
    }
    match dcs.commit(&conditions, &writes).await {
        Ok(done) => Ok(done.is_some()),
        Err(dcs::Error::LeaseGone) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The settings in force before the DCS was read.
pub(crate) fn first_settings(node: &Node) -> Settings {
    let config = node.config();
    let mut settings = Settings::from_json(&config.bootstrap.dcs).0;
    settings.pause = node.was_paused();
    settings
}
