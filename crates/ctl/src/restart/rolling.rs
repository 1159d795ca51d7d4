//! `restart --rolling`: every member gets a new PostgreSQL process, and clients behind poolers see no error. Replicas one
//! after another, then a switchover, whose shutdown is the leader's restart.

use std::time::{Duration, Instant};

use ha::command::RestartFilter;
use ha::{Cluster, Member};

use super::{failed, tell};
use crate::agent::{Answer, Order};
use crate::context::{self, Context};
use crate::fault::{Fault, Result};
use crate::{change, clock};

/// How often the DCS is read while a member comes back.
const POLL: Duration = Duration::from_millis(200);
/// How long a member may take to come back when no `--timeout` is given.
const PATIENCE: Duration = Duration::from_secs(300);

/// Restarts the chosen members, the leader last.
pub(super) async fn restart(
    context: &Context,
    cluster: &context::Cluster,
    read: &Cluster,
    chosen: &[&Member],
    filter: &RestartFilter,
) -> Result {
    let patience = filter.timeout_secs.map_or(PATIENCE, Duration::from_secs);
    let (leaders, replicas): (Vec<&Member>, Vec<&Member>) = chosen.iter().partition(|m| read.is_led_by(&m.name));
    if !leaders.is_empty() && read.members.len() < 2 {
        return Err(Fault::failed("no other member can take over from the leader: restart it without --rolling"));
    }
    for member in replicas {
        let answer = tell(context, member, "restart", &Order::Restart(filter.clone())).await?;
        stop_unless_done(context, member, &answer)?;
        await_return(context, cluster, &member.name, patience).await?;
        context.console.say(format!("Success: restart on member {}", member.name))?;
    }
    let Some(leader) = leaders.first() else { return Ok(()) };
    let before = cluster.read().await?;
    if !before.is_led_by(&leader.name) {
        return Err(Fault::failed(format!("{} doesn't lead any more: it was not restarted", leader.name)));
    }
    let order = Order::Switchover { leader: leader.name.clone(), candidate: None };
    let answer = change::order(context, &before, "switchover", &order).await?;
    if !answer.is_success() {
        return Err(Fault::failed(format!(
            "Switchover failed, details: {}, {}; {} still leads and was not restarted",
            answer.status, answer.message, leader.name
        )));
    }
    context.console.say(format!("{} {}", clock::stamp(), answer.message))?;
    change::tell_waits(context, cluster, before.revision).await?;
    await_return(context, cluster, &leader.name, patience).await?;
    context.console.say(format!("Success: restart on member {}", leader.name))
}

/// One member that doesn't come back is enough: the others are left as they are.
fn stop_unless_done(context: &Context, member: &Member, answer: &Answer) -> Result {
    if answer.is_success() {
        return Ok(());
    }
    context.console.say(failed("restart", member, answer))?;
    Err(Fault::failed("the members after it were left as they are"))
}

/// Waits until a member runs and streams, and clients are sent to it again.
async fn await_return(context: &Context, cluster: &context::Cluster, name: &str, patience: Duration) -> Result {
    let progress = context.console.progress(&format!("waiting for {name} to be back"));
    let began = Instant::now();
    loop {
        let read = cluster.read().await?;
        let member = read.members.get(name);
        let streams = member.is_some_and(|m| m.is_running() && m.replication_state.as_deref() == Some("streaming"));
        if streams && !read.drains.contains_key(name) {
            return Ok(());
        }
        let state = member.map_or("gone", |m| m.state.as_str());
        if began.elapsed() > patience {
            return Err(Fault::failed(format!(
                "{name} was restarted but doesn't stream from the leader after {} s (it is {state}): its log says why; \
                 the members after it were left as they are",
                patience.as_secs()
            )));
        }
        progress.step(&format!("waiting for {name} to be back: {state}"));
        tokio::time::sleep(POLL).await;
    }
}
