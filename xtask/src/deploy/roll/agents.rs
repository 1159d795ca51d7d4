//! Members of the cluster: the leader's agent last, and none while another member is in trouble.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Outcome, Turn, one_by_one, together};
use crate::deploy::apply::At;
use crate::deploy::role;
use crate::deploy::service::journal;

/// How long a member may take to run and to follow, but for the time in which it copies all data.
const STARTING: Duration = Duration::from_secs(900);
/// The same for one whose PostgreSQL runs on while its agent is replaced.
const ADOPTING: Duration = Duration::from_secs(90);
/// How long the others may take to be in order before one is touched: a change of the leader goes by.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often somebody who waits is told what for.
const TELL: Duration = Duration::from_secs(15);

/// Members that don't run start together; the others follow.
pub(super) fn roll(turns: Vec<Turn<'_>>, all: &[At<'_>]) -> Outcome {
    let (starts, others): (Vec<_>, Vec<_>) = turns.into_iter().partition(Turn::begins);
    let failures = together(&starts, Turn::name, |turn| turn.take(|at| serves(at, STARTING)));
    let mut outcome = Outcome { failures, ..Outcome::default() };
    if !outcome.failures.is_empty() {
        outcome.leave(others);
        return outcome;
    }
    if others.is_empty() {
        return outcome;
    }
    match members_of_any(all) {
        Ok(members) => one_by_one(in_order(others, &members), |turn| may(turn, all), |at| serves(at, ADOPTING)),
        // Whoever leads must be last, and a program that can't tell is no good anyway.
        Err(error) => {
            let mut others = others.into_iter();
            if let Some(first) = others.next() {
                outcome.failures.insert(first.name(), error.context("find out who leads, before any agent is touched"));
            }
            outcome.leave(others);
            outcome
        }
    }
}

/// Those in trouble first, and the leader last.
fn in_order<'a>(mut turns: Vec<Turn<'a>>, members: &[Value]) -> Vec<Turn<'a>> {
    turns.sort_by_key(|turn| rank(members, &turn.at.host.name));
    turns
}

fn rank(members: &[Value], name: &str) -> u8 {
    match trouble(members, name) {
        Some(_) => 0,
        None if leader(members) == Some(name) => 2,
        None => 1,
    }
}

/// Waits until the members are in order that have to be before an agent is replaced: all others, unless this one is itself
/// in trouble.
fn may(turn: &Turn<'_>, all: &[At<'_>]) -> Result<()> {
    if !turn.interrupts() {
        return Ok(());
    }
    let (begun, mut told) = (Instant::now(), Instant::now());
    loop {
        let members = members_of_any(all)?;
        let name = turn.name();
        let others = all.iter().map(|at| at.host.name.as_str()).filter(|other| *other != name);
        let troubles: Vec<String> =
            others.filter_map(|other| trouble(&members, other).map(|t| format!("{other}: {t}"))).collect();
        if troubles.is_empty() || trouble(&members, &name).is_some() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("replace the agent: not while another member is in trouble ({})", troubles.join("; "));
        }
        tell(&turn.at, &mut told, &troubles.join("; "));
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Waits until the cluster has a leader and this host's member serves.
fn serves(at: &At<'_>, patience: Duration) -> Result<()> {
    let (mut begun, mut told) = (Instant::now(), Instant::now());
    loop {
        let fault = match members(at) {
            Ok(members) => match trouble(&members, &at.host.name) {
                Some(trouble) => trouble,
                None => return Ok(()),
            },
            Err(error) => format!("{error:#}"),
        };
        if fault.contains(COPYING) {
            begun = Instant::now();
        }
        if begun.elapsed() > patience {
            let log = at.run(&journal(role::AGENT)).unwrap_or_default();
            bail!("wait for the member to serve: {fault} after {} s\n{log}", patience.as_secs());
        }
        tell(at, &mut told, &fault);
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Says what is waited for, from time to time.
fn tell(at: &At<'_>, told: &mut Instant, what: &str) {
    if told.elapsed() > TELL {
        *told = Instant::now();
        at.say(&format!("waiting: {what}"));
    }
}

/// The state of a member that gets its data from another.
const COPYING: &str = "creating replica";

/// Why a member doesn't serve, if it doesn't.
fn trouble(members: &[Value], name: &str) -> Option<String> {
    if leader(members).is_none() {
        return Some("the cluster has no leader".to_owned());
    }
    let Some(member) = members.iter().find(|m| m["Member"] == name) else {
        return Some("the member isn't in the cluster".to_owned());
    };
    match member["State"].as_str().unwrap_or_default() {
        "running" | "streaming" | "in archive recovery" => None,
        state => Some(format!("the member is {state:?}")),
    }
}

fn leader(members: &[Value]) -> Option<&str> {
    let leads = |m: &&Value| matches!(m["Role"].as_str(), Some("Leader" | "Standby Leader"));
    members.iter().find(leads)?["Member"].as_str()
}

/// The members as the admin client shows them on the first of these hosts where it can.
fn members_of_any(all: &[At<'_>]) -> Result<Vec<Value>> {
    let mut last = anyhow::anyhow!("no host can be asked");
    for at in all {
        match members(at) {
            Ok(members) => return Ok(members),
            Err(error) => last = error.context(at.host.name.clone()),
        }
    }
    Err(last)
}

/// The members as the admin client shows them.
fn members(at: &At<'_>) -> Result<Vec<Value>> {
    let text =
        at.run("pgherdctl -c /etc/pgherd/pgherdctl.yml list -f json").context("ask pgherdctl for the members")?;
    serde_json::from_str(&text).context("read the members")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn member(name: &str, role: &str, state: &str) -> Value {
        json!({"Member": name, "Role": role, "State": state})
    }

    #[test]
    fn whoever_is_in_trouble_comes_first_and_the_leader_last() {
        let members = [
            member("a", "Leader", "running"),
            member("b", "Replica", "streaming"),
            member("c", "Replica", "start failed"),
        ];
        let mut names = ["a", "b", "c", "d"];
        names.sort_by_key(|name| rank(&members, name));
        assert_eq!(names, ["c", "d", "b", "a"]);
        let leaderless = [member("a", "Replica", "running")];
        assert_eq!(trouble(&leaderless, "a").as_deref(), Some("the cluster has no leader"));
    }
}
