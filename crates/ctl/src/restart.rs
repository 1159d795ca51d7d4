//! The verbs `restart`, `reload` and `reinit`: orders to single members. What the members do about them is theirs.

mod rolling;

use std::time::{Duration, Instant};

use ha::Member;
use ha::command::RestartFilter;

use crate::agent::{self, Agent, Answer, Order};
use crate::change::only_now;
use crate::cli::{self, Format, Role};
use crate::context::{Cluster, Context};
use crate::fault::{Fault, Result};
use crate::{clock, list, members};

/// How often a member that is being cloned is asked.
const POLL: Duration = Duration::from_millis(500);
/// A member that never showed any work after this long has done it already.
const NOTHING_SEEN: Duration = Duration::from_secs(10);

/// Restarts PostgreSQL on members, one after another.
pub(crate) async fn restart(context: &Context, options: &cli::Restart) -> Result {
    let console = &context.console;
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let read = cluster.read().await?;
    let mut chosen = members::select(&read, &cluster.name, &options.members, options.role)?;
    let when = match (&options.scheduled, options.force || options.rolling) {
        (Some(when), _) => when.clone(),
        (None, true) => "now".to_owned(),
        (None, false) => {
            let question = format!("When should the restart take place (e.g. {}) ", clock::example());
            console.ask(&question, Some("now")).await?
        }
    };
    only_now(&when)?;
    console.write(&list::show(&read, &cluster.name, Format::Pretty, false))?;
    if options.pending {
        chosen.retain(|m| m.pending_restart);
        if chosen.is_empty() {
            return console.say("No member waits for a restart");
        }
    }
    if options.any {
        // Whoever it is, a replica hurts least.
        chosen.sort_by_key(|m| read.is_led_by(&m.name));
        chosen.truncate(1);
    }
    confirm(context, &chosen, "restart", options.force).await?;
    let version = match (&options.pg_version, options.force) {
        (Some(version), _) => version.clone(),
        (None, true) => String::new(),
        (None, false) => {
            let question = "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ";
            console.ask(question, Some("")).await?
        }
    };
    let filter = RestartFilter {
        role: None,
        postgres_version: (!version.is_empty()).then(|| postgres_version(&version)).transpose()?,
        restart_pending: options.pending,
        timeout_secs: options.timeout,
    };
    if options.rolling {
        return rolling::restart(context, &cluster, &read, &chosen, &filter).await;
    }
    let mut report = Report::default();
    // What a replica doesn't start with, its leader won't either.
    chosen.sort_by_key(|m| read.is_led_by(&m.name));
    let mut rest = chosen.into_iter();
    while let Some(member) = rest.next() {
        let answer = tell(context, member, "restart", &Order::Restart(filter.clone())).await;
        match report.judge(answer)? {
            Some(Ok(Answer { status: 202, .. })) => {
                console.say(format!("Success: restart scheduled on member {}", member.name))?;
            }
            Some(Ok(_)) => console.say(format!("Success: restart on member {}", member.name))?,
            Some(Err(answer)) => {
                console.say(failed("restart", member, &answer))?;
                let left: Vec<&str> = rest.as_slice().iter().map(|m| m.name.as_str()).collect();
                if !left.is_empty() && is_down(&cluster, &member.name).await? {
                    let (name, left) = (&member.name, left.join(", "));
                    console.say(format!("PostgreSQL of {name} doesn't come up: {left} not restarted"))?;
                    break;
                }
            }
            None => {}
        }
    }
    report.end("restart")
}

/// Whether a member says that its PostgreSQL doesn't run.
async fn is_down(cluster: &Cluster, name: &str) -> Result<bool> {
    let read = cluster.read().await?;
    let down = ["start failed", "restart failed", "crashed", "stopped", "starting"];
    Ok(read.members.get(name).is_some_and(|m| down.contains(&m.state.as_str())))
}

/// Makes members read their files again.
pub(crate) async fn reload(context: &Context, options: &cli::Reload) -> Result {
    let console = &context.console;
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let read = cluster.read().await?;
    let chosen = members::select(&read, &cluster.name, &options.members, options.role)?;
    console.write(&list::show(&read, &cluster.name, Format::Pretty, false))?;
    confirm(context, &chosen, "reload", options.force).await?;
    let settings = read.config.as_ref().map(|c| ha::Settings::from_json(&c.value).0).unwrap_or_default();
    let mut report = Report::default();
    for member in chosen {
        let answer = tell(context, member, "reload", &Order::Reload).await;
        let name = &member.name;
        match report.judge(answer)? {
            Some(Ok(Answer { status: 200, .. })) => console.say(format!("No changes to apply on member {name}"))?,
            Some(Ok(_)) => console.say(format!(
                "Reload request received for member {name} and will be processed within {} seconds",
                settings.loop_wait.as_secs()
            ))?,
            Some(Err(answer)) => console.say(failed("reload", member, &answer))?,
            None => {}
        }
    }
    report.end("reload")
}

/// Wipes replicas and clones them again.
pub(crate) async fn reinit(context: &Context, options: &cli::Reinit) -> Result {
    let console = &context.console;
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let read = cluster.read().await?;
    let replicas = members::select(&read, &cluster.name, &[], Role::Replica)?;
    console.write(&list::show(&read, &cluster.name, Format::Pretty, false))?;
    let wanted = match (options.members.as_slice(), options.force) {
        ([], true) => return Err(Fault::Usage("name the members to reinitialize".to_owned())),
        ([], false) => {
            let question = format!("Which member do you want to reinitialize [{}]?", members::names(&replicas));
            vec![console.ask(&question, Some("")).await?]
        }
        (names, _) => names.to_vec(),
    };
    let chosen = members::select(&read, &cluster.name, &wanted, Role::Replica)?;
    confirm(context, &chosen, "reinitialize", options.force).await?;
    let mut report = Report::default();
    let mut started = Vec::new();
    for member in chosen {
        let answer = clone_again(context, member, options).await;
        match report.judge(answer)? {
            Some(Ok(_)) => {
                console.say(format!("Success: reinitialize for member {}", member.name))?;
                started.push(member);
            }
            Some(Err(answer)) => console.say(failed("reinitialize", member, &answer))?,
            None => {}
        }
    }
    if options.wait && !started.is_empty() {
        console.say(format!("Waiting for reinitialize to complete on: {}", members::names(&started)))?;
        for member in started {
            wait_for_clone(context, member).await?;
            console.say(format!("Reinitialize is completed on: {}", member.name))?;
        }
    }
    report.end("reinitialize")
}

async fn clone_again(context: &Context, member: &Member, options: &cli::Reinit) -> Result<Answer> {
    let order = |force| Order::Reinitialize { force, from_leader: options.from_leader };
    let answer = tell(context, member, "reinitialize", &order(options.force)).await?;
    let busy = !answer.is_success() && answer.message.ends_with("already in progress");
    let question = "Do you want to cancel it and reinitialize anyway?";
    if !busy || options.force {
        return Ok(answer);
    }
    context.console.say(failed("reinitialize", member, &answer))?;
    if !context.console.confirm(question).await? {
        return Ok(answer);
    }
    tell(context, member, "reinitialize", &order(true)).await
}

async fn wait_for_clone(context: &Context, member: &Member) -> Result {
    let progress = context.console.progress(&format!("{} is being cloned", member.name));
    let began = Instant::now();
    let mut worked = false;
    loop {
        let said = match agent::reach(context, member).await {
            Ok(agent) => agent.about().await,
            Err(reason) => Err(reason),
        };
        match said {
            Ok(about) => {
                progress.step(&format!("{}: {}", member.name, about.state));
                let running = about.state == "running";
                worked |= !running;
                if running && (worked || began.elapsed() > NOTHING_SEEN) {
                    return Ok(());
                }
            }
            Err(reason) => progress.step(&format!("{} can't be asked: {reason}", member.name)),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Gives a member an order and waits for its answer.
async fn tell(context: &Context, member: &Member, action: &str, order: &Order) -> Result<Answer> {
    let progress = context.console.progress(&format!("{action} of {}", member.name));
    match agent::reach(context, member).await {
        Ok(agent) => Agent::order(&agent, context, order, &progress).await,
        Err(reason) => Ok(Answer { status: 503, message: format!("its agent can't be reached: {reason}") }),
    }
}

async fn confirm(context: &Context, chosen: &[&Member], action: &str, force: bool) -> Result {
    let question = format!("Are you sure you want to {action} members {}?", members::names(chosen));
    if force || context.console.confirm(&question).await? {
        return Ok(());
    }
    Err(Fault::failed(format!("Aborted {action}")))
}

fn failed(action: &str, member: &Member, answer: &Answer) -> String {
    if action == "restart" && answer.status == 409 {
        return format!("Failed: another restart is already scheduled on member {}", member.name);
    }
    format!("Failed: {action} for member {}, status code={}, ({})", member.name, answer.status, answer.message)
}

/// Two or three numbers with dots between them.
fn postgres_version(text: &str) -> Result<String> {
    let parts: Vec<&str> = text.split('.').collect();
    let numbers = parts.iter().all(|p| !p.is_empty() && p.len() < 4 && p.bytes().all(|b| b.is_ascii_digit()));
    if numbers && (1..=3).contains(&parts.len()) {
        return Ok(if parts.len() == 1 { format!("{text}.0") } else { text.to_owned() });
    }
    Err(Fault::failed(format!("Invalid PostgreSQL version: {text}; write for example 15.4")))
}

/// How the members took it.
#[derive(Default)]
struct Report {
    failed: usize,
    unknown: Vec<String>,
}

impl Report {
    /// A success, or a failure to tell about; `None` when the outcome is not known.
    fn judge(&mut self, answer: Result<Answer>) -> Result<Option<std::result::Result<Answer, Answer>>> {
        match answer {
            Ok(answer) if answer.is_success() => Ok(Some(Ok(answer))),
            Ok(answer) => {
                self.failed += 1;
                Ok(Some(Err(answer)))
            }
            Err(Fault::Unknown(reason)) => {
                self.unknown.push(reason);
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    fn end(self, action: &str) -> Result {
        match (self.unknown.is_empty(), self.failed) {
            (false, _) => Err(Fault::Unknown(self.unknown.join("\n"))),
            (true, 0) => Ok(()),
            (true, n) => Err(Fault::failed(format!("{action} failed on {n} member{}", if n == 1 { "" } else { "s" }))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_checked_before_anything_is_ordered() {
        assert_eq!(postgres_version("9.5.2").unwrap(), "9.5.2");
        assert_eq!(postgres_version("16").unwrap(), "16.0");
        for bad in ["xx", "15.", "1.2.3.4", "-1"] {
            assert!(postgres_version(bad).unwrap_err().to_string().contains("Invalid PostgreSQL version"), "{bad}");
        }
    }
}
