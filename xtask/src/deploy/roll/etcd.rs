//! Members of etcd: joining a cluster that runs, restarting without loss of the quorum, leaving.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Outcome, Turn, one_by_one, together};
use crate::deploy::apply::At;
use crate::deploy::remote::quoted;
use crate::deploy::role::{self, Site};
use crate::deploy::service::stamp_file;

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(90);

/// Takes all turns.
pub(super) fn roll(site: &Site, turns: Vec<Turn<'_>>, all: &[At<'_>]) -> Outcome {
    let (starts, others): (Vec<_>, Vec<_>) = turns.into_iter().partition(Turn::begins);
    let starting = |at: &At<'_>| starts.iter().any(|s| s.at.host.name == at.host.name);
    // A host that isn't to be changed this time may be bare.
    let runs = format!("systemctl -q is-active {} && [ -e {} ]", role::ETCD, stamp_file(role::ETCD));
    let mut outcome = match all.iter().find(|at| !starting(at) && at.run(&runs).is_ok()) {
        // A quorum answers only when several have started.
        None => {
            let failures = together(&starts, Turn::name, |turn| turn.take(|at| healthy(site, at)));
            Outcome { failures, ..Outcome::default() }
        }
        Some(member) => joins(site, starts, member),
    };
    if !outcome.failures.is_empty() {
        outcome.leave(others);
        return outcome;
    }
    // A member that doesn't answer has nothing to lose, and may be what the others wait for.
    let (sick, well): (Vec<_>, Vec<_>) = others.into_iter().partition(|turn| !answers(site, &turn.at));
    let turns = sick.into_iter().chain(well).collect();
    one_by_one(turns, |turn| may(site, turn, all), |at| healthy(site, at))
}

/// One after the other: a member that is known and doesn't run is one less that may fail.
fn joins(site: &Site, starts: Vec<Turn<'_>>, member: &At<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut starts = starts.into_iter();
    for turn in starts.by_ref() {
        // All that can fail comes before the others count on this member.
        let written = turn.locks.held().and_then(|()| turn.at.apply(&turn.plan));
        let joined = written.and_then(|()| join(site, &turn.at, member));
        let serves = joined.and_then(|()| turn.serve(&|at: &At<'_>| healthy(site, at)));
        if let Err(error) = serves.and_then(|()| turn.prove()) {
            outcome.failures.insert(turn.name(), error);
            break;
        }
    }
    outcome.leave(starts);
    outcome
}

/// Whether etcd lives on without this member for a moment.
fn may(site: &Site, turn: &Turn<'_>, all: &[At<'_>]) -> Result<()> {
    if !turn.interrupts() || !answers(site, &turn.at) {
        return Ok(());
    }
    // Those that the inventory doesn't have any more count until they're removed.
    let script = format!("{}etcdctl member list", site.etcdctl());
    let members = turn.at.run(&script).context("list the members of etcd")?.lines().count();
    // Two have no member to spare, whatever one does.
    if members < 3 {
        return Ok(());
    }
    let others = all.iter().filter(|at| at.host.name != turn.at.host.name);
    let healthy = others.filter(|at| answers(site, at)).count();
    ensure!(
        healthy > members / 2,
        "restart etcd: only {healthy} of its {} other members answer, and without this one it would stop: bring them into order first",
        members - 1
    );
    Ok(())
}

fn answers(site: &Site, at: &At<'_>) -> bool {
    at.run(&health(site)).is_ok()
}

fn healthy(site: &Site, at: &At<'_>) -> Result<()> {
    at.ssh.wait(at.host, &health(site), PATIENCE).map(drop).context("wait for etcd to answer")
}

fn health(site: &Site) -> String {
    format!("{}etcdctl --command-timeout=5s endpoint health >/dev/null", site.etcdctl())
}

/// Makes a member that has no data, or was taken out, known to the members that run. One that had the name before has lost
/// its data.
fn join(site: &Site, at: &At<'_>, member: &At<'_>) -> Result<()> {
    let (name, url) = (quoted(&at.host.name), quoted(&site.peer_url(at.host)));
    let data = quoted(&format!("{}/{}", role::ETCD_DATA, site.inventory.cluster));
    // `member list` prints: id, status, name, peer URLs, client URLs, is learner.
    let known = format!(
        "{}etcdctl member list | awk -F ', ' -v name={name} -v url={url} '$3 == name || $4 == url {{ print $1 }}'\n",
        site.etcdctl()
    );
    let known = member.run(&known).context("list the members of etcd")?;
    let has_data = !at.run(&format!("[ ! -d {data}/member/wal ] || echo yes"))?.is_empty();
    if has_data && !known.trim().is_empty() {
        return Ok(());
    }
    at.say(&format!("join the etcd of {}", member.host));
    if has_data {
        // etcd refuses to start with it.
        at.run(&format!("mv {data} {data}.removed-$(date +%s)")).context("set the data of a removed member aside")?;
    }
    let removals: String = known.lines().map(|id| format!("etcdctl member remove {} >&2\n", quoted(id))).collect();
    let script = format!("set -e\n{}{removals}etcdctl member add {name} --peer-urls={url}\n", site.etcdctl());
    let said = member.run(&script).context("add a member to etcd")?;
    let lines: Vec<&str> = said.lines().filter(|l| l.starts_with("ETCD_INITIAL_CLUSTER")).collect();
    if lines.is_empty() {
        bail!("etcdctl member add said nothing of the cluster: {said}");
    }
    let text = format!("{}\n", lines.join("\n"));
    let write = format!("cat > {}", role::JOIN);
    at.ssh.run(at.host, &write, text.as_bytes()).map(drop).context("tell etcd whom to join")
}

/// Has etcd let a host's member go. Returns whether it was one.
pub(super) fn remove(site: &Site, at: &At<'_>, etcd: &[At<'_>]) -> Result<bool> {
    let member =
        etcd.iter().find(|m| m.host.name != at.host.name).context("take the member out of etcd: no other answers")?;
    let script = format!(
        "set -e\n{}\
         for id in $(etcdctl member list | awk -F ', ' -v name={} -v url={} '$3 == name || $4 == url {{ print $1 }}'); do\n\
         etcdctl member remove \"$id\"; done\n",
        site.etcdctl(),
        quoted(&at.host.name),
        quoted(&site.peer_url(at.host))
    );
    let said = member.run(&script).context("take the member out of etcd")?;
    let removed = !said.trim().is_empty();
    if removed {
        at.say("removed from etcd");
    }
    Ok(removed)
}
