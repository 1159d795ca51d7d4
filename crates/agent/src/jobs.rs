//! Work on PostgreSQL: one job at a time, each ending with a look at the result.

use std::time::Duration;

use ha::{Action, Tick};
use instance::{Divergence, InitDb, InitOption, Mode, RewindError, Start, Stop, Upstream};
use tracing::{info, warn};

use crate::event::Event;
use crate::peers;
use crate::perform::Context;

/// WAL senders that a shutdown needn't wait for are ended after this time.
const OTHERS_AFTER: Duration = Duration::from_secs(1);
/// How long a starting replica is watched before the job ends; it goes on starting by itself.
const REPLICA_WATCH: Duration = Duration::from_secs(3);

/// Whoever decides ends the job when it takes too long.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// Does the work and reports.
pub(crate) async fn run(context: Context, action: Action, since: Tick) {
    let Some(kind) = action.job() else { return };
    let result = work(&context, action).await;
    let local = context.node.instance.probe().await;
    let event = Event::Worked { kind, since, result, local: Box::new(local) };
    // The engine outlives its tasks; when it is gone, the process is ending.
    let _ = context.events.send(event).await;
}

type Outcome = Result<(), String>;

async fn work(context: &Context, action: Action) -> Outcome {
    let instance = &context.node.instance;
    match action {
        Action::Bootstrap => bootstrap(context).await,
        Action::Clone { from } => {
            let from = upstream(context, &from)?;
            let options = context.node.config().postgresql.basebackup.clone();
            instance.clone_from(&from, &options).await.map_err(text)
        }
        Action::StartPrimary { .. } => start_primary(context).await,
        Action::StartReplica { upstream: name } => start_replica(context, name.as_deref()).await,
        Action::Stop { wait_for } => stop(context, wait_for).await,
        Action::Promote { .. } => {
            instance.promote().await.map_err(text)?;
            context.node.make_wanted_users().await
        }
        Action::Rejoin { from } => rejoin(context, &from).await,
        Action::Follow { upstream: name } => {
            let from = name.map(|n| upstream(context, &n)).transpose()?;
            instance.follow(from).await.map_err(text)
        }
        Action::Checkpoint => instance.checkpoint().await.map_err(text),
        Action::SetSync { value } => instance.set_synchronous(&names(&value)).await.map_err(text),
        Action::Restart => restart(context).await,
        Action::Wipe => {
            let leader = context.cluster.as_ref().and_then(|c| c.leader.as_ref()).map(|l| l.name.clone());
            let leader = leader.ok_or("the cluster has no leader to clone from")?;
            peers::is_primary(context, &leader).await?;
            stop(context, Some(Vec::new())).await?;
            wipe(context, &leader, "reinitialize was ordered").await
        }
        _ => Ok(()),
    }
}

fn text(e: instance::Error) -> String {
    e.to_string()
}

/// Where a member's PostgreSQL is, out of its key.
fn upstream(context: &Context, name: &str) -> Result<Upstream, String> {
    let cluster = context.cluster.as_ref();
    let member = cluster.and_then(|c| c.members.get(name));
    let (host, port) =
        member.and_then(|m| m.host_port()).ok_or_else(|| format!("member {name} has published no address yet"))?;
    Ok(Upstream { name: name.to_owned(), host, port })
}

/// The names in a value of synchronous_standby_names that the decision made: `*`, or every quoted one.
fn names(value: &str) -> Vec<String> {
    if value == "*" {
        return vec!["*".to_owned()];
    }
    let inside = value.split("\"\"").map(|part| part.split('"').collect::<Vec<_>>());
    let mut out: Vec<String> = Vec::new();
    let mut open = false;
    for (i, pieces) in inside.enumerate() {
        if i > 0
            && open
            && let Some(last) = out.last_mut()
        {
            last.push('"');
        }
        for (j, piece) in pieces.into_iter().enumerate() {
            if j > 0 {
                open = !open;
                if open {
                    out.push(String::new());
                }
            }
            if open && let Some(last) = out.last_mut() {
                last.push_str(piece);
            }
        }
    }
    out
}

async fn bootstrap(context: &Context) -> Outcome {
    let config = context.node.config();
    let initdb = InitDb { options: config.bootstrap.initdb.iter().map(|o| init_option(o)).collect() };
    let mut configuration = context.configuration.clone();
    if configuration.pg_hba.is_none() && !config.bootstrap.pg_hba.is_empty() {
        configuration.pg_hba = Some(config.bootstrap.pg_hba.clone());
    }
    context.node.want_users().await?;
    context.node.instance.initialize(&initdb, &configuration).await.map_err(text)
}

/// `--encoding=UTF8` or `--data-checksums`.
fn init_option(argument: &str) -> InitOption {
    let bare = argument.trim_start_matches('-');
    match bare.split_once('=') {
        Some((name, value)) => InitOption::Value(name.to_owned(), value.to_owned()),
        None => InitOption::Flag(bare.to_owned()),
    }
}

async fn start_primary(context: &Context) -> Outcome {
    let instance = &context.node.instance;
    instance.start(Start::Primary, &context.configuration).await.map_err(text)?;
    instance.wait_ready(FOREVER).await.map_err(text)?;
    context.node.make_wanted_users().await
}

async fn start_replica(context: &Context, name: Option<&str>) -> Outcome {
    let instance = &context.node.instance;
    // A leader that hasn't published its address yet is followed once it has.
    let from = name.and_then(|n| upstream(context, n).ok());
    instance.start(Start::Replica { upstream: from }, &context.configuration).await.map_err(text)?;
    match instance.wait_ready(REPLICA_WATCH).await {
        Err(instance::Error::TimedOut { .. }) | Ok(()) => Ok(()),
        Err(e) => Err(text(e)),
    }
}

async fn stop(context: &Context, wait_for: Option<Vec<String>>) -> Outcome {
    let order = Stop { mode: Mode::Fast, wait_for, others_after: OTHERS_AFTER, give_up_after: None };
    let ran = context.node.instance.pid().is_some();
    let stopped = context.node.instance.stop(order).await.map_err(text)?;
    if ran && !stopped.clean {
        warn!("PostgreSQL was not shut down cleanly");
    }
    Ok(())
}

/// Restarts in the role that the data directory has.
async fn restart(context: &Context) -> Outcome {
    let cluster = context.cluster.as_ref();
    let leads = cluster.is_some_and(|c| c.is_led_by(&context.node.me.name));
    let synchronous = cluster.and_then(|c| c.sync.as_ref()).map(|s| s.value.standbys.clone());
    stop(context, Some(synchronous.unwrap_or_default())).await?;
    if leads {
        return start_primary(context).await;
    }
    let leader = cluster.and_then(|c| c.leader.as_ref()).map(|l| l.name.clone());
    start_replica(context, leader.as_deref()).await
}

/// Compares histories with the leader, and repairs this node's when it has gone its own way.
async fn rejoin(context: &Context, from: &str) -> Outcome {
    let instance = &context.node.instance;
    let settings = &context.settings;
    let from = upstream(context, from)?;
    let divergence = instance.divergence(&from).await.map_err(text)?;
    match &divergence {
        Divergence::None => return Ok(()),
        Divergence::Diverged { .. } => warn!("this node's history has diverged from that of {}", from.name),
        Divergence::Unknown(_) if !settings.use_pg_rewind => return Ok(()),
        Divergence::Unknown(why) => {
            info!("whether this node's history has diverged can't be told ({why}): pg_rewind looks")
        }
    }
    peers::is_primary(context, &from.name).await?;
    if is_same_timeline(&divergence) && !is_same_timeline(&instance.divergence(&from).await.map_err(text)?) {
        return Err(format!("{} was only just being promoted", from.name));
    }
    stop(context, Some(Vec::new())).await?;
    if let Divergence::Diverged { timeline, upstream_timeline, switchpoint: Some(end), .. } = divergence
        && timeline < upstream_timeline
        && instance.forget_unreplayed(timeline, end).await.map_err(text)?
    {
        info!(
            "nothing past {end}, where timeline {timeline} ended, was replayed here: what was received of it is removed"
        );
        return Ok(());
    }
    if !settings.use_pg_rewind {
        return wipe_or_refuse(context, &from, settings.remove_data_directory_on_diverged_timelines, NO_REWIND).await;
    }
    if is_same_timeline(&divergence) {
        let allowed = settings.remove_data_directory_on_diverged_timelines;
        return wipe_or_refuse(context, &from, allowed, SAME_TIMELINE).await;
    }
    match instance.rewind(&from, &context.node.config().postgresql.rewind).await {
        Ok(rewound) if !rewound.changed => {
            info!("pg_rewind found nothing to repair");
            Ok(())
        }
        Ok(_) => {
            info!("pg_rewind has brought this node back to the history of {}", from.name);
            Ok(())
        }
        Err(e) => {
            let why = e.to_string();
            let hopeless = match &e {
                // What a person or time mends is no reason to give the data up.
                RewindError::Failed { message, killed, .. } => !killed && !message.contains("No space left on device"),
                RewindError::MissingWal(_) | RewindError::NoRestartPoint { .. } | RewindError::NeedsChecksums => true,
                _ => false,
            };
            if !hopeless {
                return Err(why);
            }
            wipe_or_refuse(context, &from, settings.remove_data_directory_on_rewind_failure, &why).await
        }
    }
}

fn is_same_timeline(divergence: &Divergence) -> bool {
    matches!(divergence, Divergence::Diverged { timeline, upstream_timeline, .. } if timeline == upstream_timeline)
}

const SAME_TIMELINE: &str = "this node has WAL on the leader's timeline that the leader doesn't have (two members have taken the \
                             same number for theirs), which pg_rewind can't repair";
const NO_REWIND: &str = "timelines have diverged and use_pg_rewind is off";

/// Removes the data directory where the configuration allows it; the clone follows by itself.
async fn wipe_or_refuse(context: &Context, from: &Upstream, allowed: bool, why: &str) -> Outcome {
    if !allowed {
        return Err(format!("{why}; the data directory is left as it is: run pgherdctl reinit to clone it again"));
    }
    wipe(context, &from.name, why).await
}

/// Removes the data directory while the member that a clone would come from is there as the primary.
async fn wipe(context: &Context, from: &str, why: &str) -> Outcome {
    let instance = &context.node.instance;
    peers::is_primary(context, from).await?;
    instance.identify(&upstream(context, from)?).await.map_err(text)?;
    instance.remove_data(why).await.map_err(text)
}

#[cfg(test)]
mod tests {
    use super::names;
    use ha::decide::standby_names;

    #[test]
    fn names_come_back_out_of_the_setting() {
        for wanted in [vec![], vec!["a"], vec!["pg 1", "p\"q"], vec!["a", "b", "c"]] {
            let wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
            assert_eq!(names(&standby_names(&wanted)), wanted);
        }
        assert_eq!(names("*"), ["*"]);
    }
}
