//! The verbs `switchover` and `failover`: what is asked before, the order, and what is shown after. Whether a change of
//! leader is possible is the agents' judgement.

use std::time::{Duration, Instant};

use ha::poolers::{Held, Pooler};
use ha::settings::Settings;
use ha::{Cluster, Member};

use crate::agent::{self, Agent, Answer, Order};
use crate::cli::{self, Format};
use crate::context::{self, Context};
use crate::fault::{Fault, Result};
use crate::{clock, list};

/// How long poolers may take to say how long their clients waited.
const TOLD: Duration = Duration::from_secs(2);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Planned change of leader.
pub(crate) async fn switchover(context: &Context, options: &cli::Switchover) -> Result {
    let console = &context.console;
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let read = cluster.read().await?;
    let present = read
        .leader
        .as_ref()
        .map(|l| l.name.clone())
        .ok_or_else(|| Fault::failed("This cluster has no leader: use `pgherdctl failover` to name one"))?;
    let leader = match (&options.leader, options.force) {
        (Some(leader), _) => leader.clone(),
        (None, true) => present.clone(),
        (None, false) => console.ask("Primary", Some(&present)).await?,
    };
    if leader != present {
        return Err(Fault::failed(format!(
            "Member {leader} is not the leader of cluster {}: {present} is",
            cluster.name
        )));
    }
    let candidate = candidate(context, &cluster, &read, "switchover", options.candidate.clone(), options.force).await?;
    let when = match (&options.scheduled, options.force) {
        (Some(when), _) => when.clone(),
        (None, true) => "now".to_owned(),
        (None, false) => {
            let question = format!("When should the switchover take place (e.g. {} ) ", clock::example());
            console.ask(&question, Some("now")).await?
        }
    };
    only_now(&when)?;
    let order = Order::Switchover { leader, candidate };
    carry_out(context, &cluster, &read, "switchover", order, options.force).await
}

/// Change of leader although the leader may be gone.
pub(crate) async fn failover(context: &Context, options: &cli::Failover) -> Result {
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let read = cluster.read().await?;
    let candidate = candidate(context, &cluster, &read, "failover", options.candidate.clone(), options.force).await?;
    let candidate =
        candidate.ok_or_else(|| Fault::failed("Failover could be performed only to a specific candidate"))?;
    if !options.force && is_asynchronous(&read, &candidate) {
        let question = format!("Are you sure you want to failover to the asynchronous node {candidate}?");
        if !context.console.confirm(&question).await? {
            return Err(Fault::failed("Aborting failover"));
        }
    }
    carry_out(context, &cluster, &read, "failover", Order::Failover { candidate }, options.force).await
}

/// Refuses what isn't supported yet.
pub(crate) fn only_now(when: &str) -> Result {
    if when.eq_ignore_ascii_case("now") {
        return Ok(());
    }
    Err(Fault::failed(format!("{when}: scheduling is not supported yet, give \"now\" or run it at that time")))
}

/// Whether commits that were acknowledged may be missing there.
fn is_asynchronous(cluster: &Cluster, candidate: &str) -> bool {
    let synchronous = cluster.config.as_ref().is_some_and(|c| Settings::from_json(&c.value).0.synchronous_mode);
    synchronous && cluster.sync.as_ref().is_some_and(|s| !s.value.leader.is_empty() && !s.value.covers(candidate))
}

async fn candidate(
    context: &Context,
    cluster: &context::Cluster,
    read: &Cluster,
    action: &str,
    given: Option<String>,
    force: bool,
) -> Result<Option<String>> {
    let candidates: Vec<&str> = read
        .members
        .values()
        .filter(|m| !read.is_led_by(&m.name) && !never_leads(m))
        .map(|m| m.name.as_str())
        .collect();
    if candidates.is_empty() {
        return Err(Fault::failed(format!("No candidates found to {action} to")));
    }
    let chosen = match (given, force) {
        (Some(name), _) => name,
        (None, true) => String::new(),
        (None, false) => {
            let quoted = candidates.iter().map(|c| format!("'{c}'")).collect::<Vec<_>>().join(", ");
            context.console.ask(&format!("Candidate [{quoted}]"), Some("")).await?
        }
    };
    if chosen.is_empty() {
        return Ok(None);
    }
    if read.is_led_by(&chosen) {
        return Err(Fault::failed(format!("Member {chosen} is already the leader of cluster {}", cluster.name)));
    }
    if !candidates.contains(&chosen.as_str()) {
        return Err(Fault::failed(format!(
            "Member {chosen} does not exist in cluster {} or is tagged as nofailover",
            cluster.name
        )));
    }
    Ok(Some(chosen))
}

fn never_leads(member: &Member) -> bool {
    let priority = member.tags.get("failover_priority").and_then(serde_json::Value::as_i64);
    member.tag("nofailover") || !member.tags.contains_key("nofailover") && priority.is_some_and(|p| p <= 0)
}

async fn carry_out(
    context: &Context,
    cluster: &context::Cluster,
    read: &Cluster,
    action: &str,
    order: Order,
    force: bool,
) -> Result {
    let console = &context.console;
    let name = &cluster.name;
    console.say("Current cluster topology")?;
    console.write(&list::show(read, name, Format::Pretty, false))?;
    if !force {
        let demoting = read.leader.as_ref().map(|l| format!(", demoting current leader {}", l.name));
        let question = format!("Are you sure you want to {action} cluster {name}{}?", demoting.unwrap_or_default());
        if !console.confirm(&question).await? {
            return Err(Fault::failed(format!("Aborting {action}")));
        }
    }
    let answer = self::order(context, read, action, &order).await?;
    if !answer.is_success() {
        let title = if action == "failover" { "Failover" } else { "Switchover" };
        return Err(Fault::failed(format!("{title} failed, details: {}, {}", answer.status, answer.message)));
    }
    console.say(format!("{} {}", clock::stamp(), answer.message))?;
    tell_waits(context, cluster, read.revision).await?;
    console.write(&list::show(&cluster.read().await?, name, Format::Pretty, false))
}

/// Says how long clients behind poolers waited for a change of leader that was ordered after this revision.
pub(crate) async fn tell_waits(context: &Context, cluster: &context::Cluster, since: i64) -> Result {
    let progress = context.console.progress("waiting for the poolers to say how long clients waited");
    let began = Instant::now();
    loop {
        let read = cluster.read().await?;
        let held = |p: &Pooler| p.held.filter(|h| h.order > since);
        let told: Vec<Held> = read.poolers.values().filter_map(held).collect();
        if told.len() < read.poolers.len() && began.elapsed() < TOLD {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        drop(progress);
        return match waits(&told, read.poolers.len()) {
            Some(line) => context.console.say(line),
            None => Ok(()),
        };
    }
}

/// The line about that; none without poolers.
fn waits(told: &[Held], poolers: usize) -> Option<String> {
    if poolers == 0 {
        return None;
    }
    let longest = told.iter().map(|h| h.longest_ms).max().unwrap_or(0);
    let (clients, cut): (u32, u32) = (told.iter().map(|h| h.clients).sum(), told.iter().map(|h| h.cut).sum());
    let through = if poolers == 1 { "1 pooler".to_owned() } else { format!("{poolers} poolers") };
    let silent = match poolers - told.len() {
        0 => String::new(),
        n => format!("; {n} of them said nothing"),
    };
    let cut = match cut {
        0 => "no transaction was cut".to_owned(),
        n => format!("{n} transactions took too long and were cut"),
    };
    let seconds = Duration::from_millis(longest).as_secs_f64();
    Some(format!("Clients waited {seconds:.2} s at most ({clients} clients of {through}{silent}), {cut}"))
}

/// The leader is told, else the candidate, else whoever can be reached.
pub(crate) async fn order(context: &Context, read: &Cluster, action: &str, order: &Order) -> Result<Answer> {
    let candidate = match order {
        Order::Switchover { candidate, .. } => candidate.as_deref(),
        Order::Failover { candidate } => Some(candidate.as_str()),
        _ => None,
    };
    let mut members: Vec<&Member> = read.members.values().collect();
    members.sort_by_key(|m| (!read.is_led_by(&m.name), Some(m.name.as_str()) != candidate));
    let progress = context.console.progress(&format!("looking for an agent that takes the {action}"));
    let agent = first_reachable(context, &members, &progress).await?;
    progress.step(&format!("{action} ordered from {}", agent.name));
    agent.order(context, order, &progress).await
}

async fn first_reachable(context: &Context, members: &[&Member], progress: &crate::console::Progress) -> Result<Agent> {
    let mut reasons = Vec::new();
    for member in members {
        match agent::reach(context, member).await {
            Ok(agent) => return Ok(agent),
            Err(reason) => {
                progress.step(&format!("{} can't be asked: {reason}", member.name));
                reasons.push(format!("{}: {reason}", member.name));
            }
        }
    }
    Err(Fault::failed(format!(
        "no agent of the cluster can be reached, so nothing was done; start one, or run this where they can be reached\n{}",
        reasons.join("\n")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_over_all_poolers() {
        let held = |longest_ms, clients, cut| Held { order: 9, clients, longest_ms, cut };
        assert_eq!(waits(&[], 0), None);
        assert_eq!(
            waits(&[held(212, 30, 0), held(180, 2, 0)], 2).unwrap(),
            "Clients waited 0.21 s at most (32 clients of 2 poolers), no transaction was cut"
        );
        assert_eq!(
            waits(&[held(5100, 1, 3)], 2).unwrap(),
            "Clients waited 5.10 s at most (1 clients of 2 poolers; 1 of them said nothing), \
             3 transactions took too long and were cut"
        );
    }
}
