//! Members of the cluster: the leader's agent last, and none while another member is in trouble.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Outcome, Turn, together};
use crate::deploy::apply::At;
use crate::deploy::inventory::{Presence, Role};
use crate::deploy::role::{self, Site};
use crate::deploy::service::journal;

/// How long a member may take to run and to follow, but for the time in which it copies all data.
const STARTING: Duration = Duration::from_secs(900);
/// How long copying data may take: a member whose copy fails each time never ends.
const LONGEST_COPY: Duration = Duration::from_secs(12 * 3600);
/// The same for one whose PostgreSQL runs on while its agent is replaced.
const ADOPTING: Duration = Duration::from_secs(90);
/// How long the others may take to be in order before one is touched: a change of the leader goes by.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often somebody who waits is told what for.
const TELL: Duration = Duration::from_secs(15);

/// Members that don't run start together; the others follow.
pub(super) fn roll(site: &Site, turns: Vec<Turn<'_>>, all: &[At<'_>]) -> Outcome {
    let (starts, mut others): (Vec<_>, Vec<_>) = turns.into_iter().partition(Turn::begins);
    let failures = together(&starts, Turn::name, |turn| turn.take(|at| serves(at, STARTING)));
    let mut outcome = Outcome { failures, ..Outcome::default() };
    while outcome.failures.is_empty() && !others.is_empty() {
        // Anew each time: the leader may have changed. Whoever leads must be last, and a program that can't tell who does is
        // no good anyway.
        let members = members_of_any(all).context("find out who leads, before any agent is touched");
        others.sort_by_key(|turn| members.as_ref().map_or(0, |members| rank(members, &turn.at.host.name)));
        let turn = others.remove(0);
        let taken = members.and_then(|_| may(site, &turn, all)).and_then(|()| turn.take(|at| serves(at, ADOPTING)));
        if let Err(error) = taken {
            outcome.failures.insert(turn.name(), error);
        }
    }
    outcome.leave(others);
    outcome
}

/// Those in trouble first, and the leader last.
fn rank(members: &[Value], name: &str) -> u8 {
    match trouble(members, name) {
        Some(_) => 0,
        None if leader(members) == Some(name) => 2,
        None => 1,
    }
}

/// Waits until the members are in order that have to be before an agent is replaced: all others, unless this one is itself
/// in trouble. Where there is no leader for so long, nothing can be interrupted, and what is deployed may be the cure.
fn may(site: &Site, turn: &Turn<'_>, all: &[At<'_>]) -> Result<()> {
    if !turn.interrupts() {
        return Ok(());
    }
    let expected: Vec<&str> = site.inventory.with(Role::Postgres).map(|host| host.name.as_str()).collect();
    let leaving = |name: &str| site.inventory.hosts.iter().any(|h| h.name == name && h.state == Presence::Absent);
    let (begun, mut told) = (Instant::now(), Instant::now());
    loop {
        let mut members = members_of_any(all)?;
        // Who leaves may be in any state.
        members.retain(|m| m["Role"] == "Leader" || !m["Member"].as_str().is_some_and(leaving));
        let over = begun.elapsed() > PATIENCE;
        let wait = if leader(&members).is_none() {
            (!over).then(|| NO_LEADER.to_owned())
        } else {
            others_in_trouble(&members, &expected, &turn.at.host.name)
        };
        match wait {
            None => return Ok(()),
            Some(trouble) if turn.named => {
                turn.at
                    .say(&format!("named by --host, and so touched although another member is in trouble ({trouble})"));
                return Ok(());
            }
            Some(trouble) if over => bail!(
                "replace the agent: not while another member is in trouble ({trouble}). If the cure is to be deployed here, name this host by --host"
            ),
            Some(trouble) => tell(&turn.at, &mut told, &trouble),
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// What keeps this member's agent from being touched.
fn others_in_trouble(members: &[Value], expected: &[&str], name: &str) -> Option<String> {
    if trouble(members, name).is_some() {
        return None;
    }
    let listed = members.iter().filter_map(|m| m["Member"].as_str());
    let others: BTreeSet<&str> = listed.chain(expected.iter().copied()).filter(|other| *other != name).collect();
    let troubles: Vec<String> =
        others.into_iter().filter_map(|other| trouble(members, other).map(|t| format!("{other}: {t}"))).collect();
    (!troubles.is_empty()).then(|| troubles.join("; "))
}

/// Waits until the cluster has a leader and this host's member serves.
fn serves(at: &At<'_>, patience: Duration) -> Result<()> {
    let (first, mut told) = (Instant::now(), Instant::now());
    let mut begun = first;
    loop {
        let fault = match members(at) {
            Ok(members) => match trouble(&members, &at.host.name) {
                Some(trouble) => trouble,
                None => match at.run(DECIDED).map(|said| unsettled(&said)) {
                    Ok(None) => return Ok(()),
                    Ok(Some(doing)) => doing,
                    Err(error) => format!("{error:#}"),
                },
            },
            Err(error) => format!("{error:#}"),
        };
        if fault.contains(COPYING) && first.elapsed() < LONGEST_COPY {
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

/// What an agent has told systemd: its own word, where the keys in the DCS may still be those of the agent before it.
const DECIDED: &str = "systemctl show -p StatusText --value pgherd-agent.service";

/// What an agent is still about, if it isn't at rest.
fn unsettled(said: &str) -> Option<String> {
    let said = said.trim();
    let rests = said.starts_with("no action") || said.starts_with("PAUSE");
    (!rests).then(|| format!("the agent says: {said}"))
}

/// Says what is waited for, from time to time.
fn tell(at: &At<'_>, told: &mut Instant, what: &str) {
    if told.elapsed() > TELL {
        *told = Instant::now();
        at.say(&format!("waiting: {what}"));
    }
}

const NO_LEADER: &str = "the cluster has no leader";

/// The state of a member that gets its data from another.
const COPYING: &str = "creating replica";

/// Why a member doesn't serve, if it doesn't.
fn trouble(members: &[Value], name: &str) -> Option<String> {
    if leader(members).is_none() {
        return Some(NO_LEADER.to_owned());
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
        assert_eq!(trouble(&leaderless, "a").as_deref(), Some(NO_LEADER));
    }

    #[test]
    fn no_agent_is_touched_beside_a_member_in_trouble_unless_it_is_the_one() {
        let mut members = vec![member("a", "Leader", "running"), member("b", "Replica", "streaming")];
        assert_eq!(others_in_trouble(&members, &["a", "b"], "b"), None);
        assert!(others_in_trouble(&members, &["a", "b", "c"], "b").is_some_and(|t| t.starts_with("c: ")));
        assert_eq!(others_in_trouble(&members, &["a", "b", "c"], "c"), None);
        members.push(member("d", "Replica", "stopped"));
        assert!(others_in_trouble(&members, &["a", "b"], "a").is_some_and(|t| t.contains("stopped")));
    }

    #[test]
    fn an_agent_that_has_only_started_is_not_at_rest() {
        assert!(unsettled("running\n").is_some() && unsettled("").is_some());
        assert_eq!(unsettled("no action. I am (a), the leader with the lock\n"), None);
        assert_eq!(unsettled("PAUSE: no action"), None);
    }
}
