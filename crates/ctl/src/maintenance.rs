//! The verbs `pause`, `resume` and `remove`: what is written into the DCS without any agent. What maintenance mode means is
//! the agents' business.

use std::time::{Duration, Instant};

use dcs::{Condition, Write, layout};
use ha::members::is_paused;
use serde_json::json;
use service::config::dynamic;

use crate::context::{Cluster, Context};
use crate::fault::{Fault, Result};
use crate::{agent, cli, list};

/// How often a configuration that others change meanwhile is tried to be changed.
const ATTEMPTS: usize = 10;

/// Ends maintenance mode, unless a primary may run that nobody looks after: another member would be elected beside it.
pub(crate) async fn resume(context: &Context, options: &cli::Resume) -> Result {
    if !options.force {
        let cluster = context.cluster(options.pause.cluster.as_deref()).await?;
        let read = cluster.read().await?;
        if let Some(why) = leader_unheard(context, &read).await.filter(|_| is_paused(&read)) {
            return Err(Fault::failed(format!(
                "{why}: a PostgreSQL that still runs as the primary would take writes beside another leader. Start its \
                 agent, or make sure that it is down; 'resume --force' then resumes all the same"
            )));
        }
    }
    toggle(context, &options.pause, false).await
}

/// Why it isn't known that the leader's agent is at work.
async fn leader_unheard(context: &Context, read: &ha::Cluster) -> Option<String> {
    let Some(leader) = &read.leader else {
        return Some("no member holds the leader key".to_owned());
    };
    let Some(member) = read.members.get(&leader.name) else {
        return Some(format!("the agent of {}, which leads, is away", leader.name));
    };
    let reached = agent::reach(context, member).await;
    reached.err().map(|why| format!("the agent of {}, which leads, can't be asked ({why})", leader.name))
}

/// Begins or ends maintenance mode.
pub(crate) async fn toggle(context: &Context, options: &cli::Pause, pause: bool) -> Result {
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let loop_wait = switch(&cluster, pause).await?;
    if options.wait {
        let word = if pause { "pause" } else { "resume" };
        context.console.say(format!("'{word}' request sent, waiting until it is recognized by all nodes"))?;
        wait_for_members(context, &cluster, pause, loop_wait).await?;
    }
    let state = if pause { "paused" } else { "resumed" };
    context.console.say(format!("Success: cluster management is {state}"))
}

/// Writes it, and tells how long members may take to notice.
async fn switch(cluster: &Cluster, pause: bool) -> Result<Duration> {
    for _ in 0..ATTEMPTS {
        let read = cluster.read().await?;
        let config = cluster.config(&read)?;
        if is_paused(&read) == pause {
            return Err(Fault::failed(format!("Cluster is {} paused", if pause { "already" } else { "not" })));
        }
        let change = json!({"pause": pause.then_some(true)});
        if cluster.swap_config(&dynamic::patch(&config.value, &change), config.revision).await? {
            return Ok(ha::Settings::from_json(&config.value).0.loop_wait);
        }
    }
    Err(Fault::failed("the configuration is changed by others all the time: try again"))
}

async fn wait_for_members(context: &Context, cluster: &Cluster, pause: bool, loop_wait: Duration) -> Result {
    let progress = context.console.progress("waiting for the members");
    let deadline = Instant::now() + loop_wait + Duration::from_secs(1);
    loop {
        let read = cluster.read().await?;
        let late: Vec<_> = read.members.values().filter(|m| m.pause != pause).map(|m| m.name.clone()).collect();
        if late.is_empty() {
            return Ok(());
        }
        let late = late.join(", ");
        progress.step(&format!("waiting for {late}"));
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, cluster.dcs.changed(read.revision)).await {
            Ok(Ok(()) | Err(dcs::Error::Lost(_))) => {}
            Ok(Err(e)) => return Err(e.into()),
            Err(_) => {
                return Err(Fault::Unknown(format!(
                    "{late} members didn't recognized pause state after {} seconds; the others did. Look whether their \
                     agents run",
                    loop_wait.as_secs()
                )));
            }
        }
    }
}

/// Removes everything about a cluster from the DCS.
pub(crate) async fn remove(context: &Context, options: &cli::Remove) -> Result {
    let console = &context.console;
    let cluster = context.cluster(Some(&options.cluster)).await?;
    let name = &cluster.name;
    let read = cluster.read().await?;
    console.write(&list::show(&read, name, options.format.format, false))?;
    if cluster.dcs.read().await?.entries.is_empty() {
        return Err(Fault::failed(format!("the DCS has nothing about a cluster {name}")));
    }
    if console.ask("Please confirm the cluster name to remove", None).await? != *name {
        return Err(Fault::failed("Cluster names specified do not match"));
    }
    let phrase = "Yes I am aware";
    let question = format!("You are about to remove all information in DCS for {name}, please type: \"{phrase}\"");
    if console.ask(&question, None).await? != phrase {
        return Err(Fault::failed(format!("You did not exactly type \"{phrase}\"")));
    }
    if let Some(leader) = &read.leader {
        let question = "This cluster currently is healthy. Please specify the leader name to continue";
        if console.ask(question, None).await? != leader.name {
            return Err(Fault::failed("You did not specify the current leader of the cluster"));
        }
    }
    wipe(&cluster, read.leader.as_ref().map(|l| l.name.as_str())).await
}

/// Deletes all keys at once, as long as the leader is the one that was confirmed.
async fn wipe(cluster: &Cluster, leader: Option<&str>) -> Result {
    let condition = match leader {
        Some(name) => Condition::ValueIs(layout::LEADER.to_owned(), name.as_bytes().to_vec()),
        None => Condition::Absent(layout::LEADER.to_owned()),
    };
    let keys = cluster.dcs.read().await?.entries;
    let writes: Vec<Write> = keys.into_keys().map(Write::Delete).collect();
    match cluster.dcs.commit(&[condition], &writes).await? {
        Some(_) => Ok(()),
        None => Err(Fault::failed("the cluster has another leader by now: nothing was removed, look at it again")),
    }
}
