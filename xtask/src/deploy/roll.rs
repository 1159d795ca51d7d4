//! In which order the services of several hosts are touched, and what is waited for between two of them. A host's new files
//! are written in its turn, so that nothing that starts by itself meanwhile meets files that nobody has seen work. A step
//! that fails ends the rolling: hosts that haven't had their turn stay as they are.

mod agents;
mod etcd;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apply::At;
use super::inventory::Role;
use super::lock::Locks;
use super::plan::{Act, Plan};
use super::remote::quoted;
use super::role::{self, Site};
use super::service::stamp_file;
use super::state::Unit;

/// How long a service may take to stop: the agent waits for PostgreSQL.
const STOPPING: Duration = Duration::from_secs(400);

/// What is to be done on one host for one role.
pub(crate) struct Turn<'a> {
    pub(crate) at: At<'a>,
    pub(crate) plan: Plan,
    /// Every file of the role, whether it changes or not.
    pub(crate) files: Vec<PathBuf>,
    /// Whether somebody has named this very host.
    pub(crate) named: bool,
    /// What keeps other runs away.
    pub(crate) locks: &'a Locks,
}

impl Turn<'_> {
    fn name(&self) -> String {
        self.at.host.name.clone()
    }

    /// Whether its service doesn't run yet, or wasn't seen to run.
    fn begins(&self) -> bool {
        self.plan.units.iter().any(|(_, act, _)| matches!(act, Act::Start | Act::Await))
    }

    /// Whether its service does something that may disturb others.
    fn interrupts(&self) -> bool {
        self.plan.units.iter().any(|(_, act, _)| *act == Act::Restart)
    }

    /// Brings the files into order, has the service take them, and waits until it works. If it doesn't, and ever did, the
    /// files that it worked with come back.
    fn take(&self, settled: impl Fn(&At<'_>) -> Result<()>) -> Result<()> {
        self.locks.held()?;
        let Err(error) = self.at.apply(&self.plan).and_then(|()| self.serve(&settled)) else { return self.prove() };
        let Some((unit, act, _)) = self.plan.units.first() else { return Err(error) };
        match self.go_back(unit, *act, &settled) {
            Ok(true) => Err(error.context("the new files don't work here; those from before are back, and work")),
            Ok(false) => Err(error),
            Err(second) => {
                let second = format!("{second:#}");
                let second = second.lines().next().unwrap_or_default();
                Err(error.context(format!("the new files don't work here, nor do those from before ({second})")))
            }
        }
    }

    fn go_back(&self, unit: &Unit, act: Act, settled: &impl Fn(&At<'_>) -> Result<()>) -> Result<bool> {
        let any = self.at.put_back(unit, act, &self.files)?;
        if any {
            settled(&self.at)?;
            self.at.prove_again(unit)?;
        }
        Ok(any)
    }

    /// Has the service take its files, and waits until it works.
    fn serve(&self, settled: &impl Fn(&At<'_>) -> Result<()>) -> Result<()> {
        for (unit, act, stamp) in &self.plan.units {
            self.at.act(unit, *act, stamp)?;
        }
        if self.plan.units.is_empty() { Ok(()) } else { settled(&self.at) }
    }

    /// Notes that it did.
    fn prove(&self) -> Result<()> {
        let units: Vec<_> = self.plan.units.iter().map(|(unit, _, stamp)| (unit, stamp)).collect();
        self.at.prove(&units, &self.files)
    }
}

/// What went wrong, and on which host.
pub(crate) type Failures = BTreeMap<String, anyhow::Error>;

/// How a rolling went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) failures: Failures,
    /// Hosts that didn't have their turn.
    pub(crate) untouched: BTreeSet<String>,
}

impl Outcome {
    fn leave<'a>(&mut self, turns: impl IntoIterator<Item = Turn<'a>>) {
        for turn in turns {
            turn.at.say("isn't touched after that failure");
            self.untouched.insert(turn.name());
        }
    }
}

/// Takes all turns of a role. `all` are the hosts that have it and can be reached.
pub(crate) fn role(site: &Site, role: Role, turns: Vec<Turn<'_>>, all: &[At<'_>]) -> Outcome {
    match role {
        Role::Etcd => etcd::roll(site, turns, all),
        Role::Postgres => agents::roll(site, turns, all),
        Role::Pooler | Role::Proxy => one_by_one(turns, |_| Ok(()), |_| Ok(())),
    }
}

/// One after the other: each when it may, and until it works. The first failure ends it.
fn one_by_one(
    turns: Vec<Turn<'_>>,
    may: impl Fn(&Turn<'_>) -> Result<()>,
    settled: impl Fn(&At<'_>) -> Result<()>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut turns = turns.into_iter();
    for turn in turns.by_ref() {
        if let Err(error) = may(&turn).and_then(|()| turn.take(&settled)) {
            outcome.failures.insert(turn.name(), error);
            break;
        }
    }
    outcome.leave(turns);
    outcome
}

/// All at the same time.
pub(crate) fn together<'a, T: Sync>(
    items: &'a [T],
    name: impl Fn(&T) -> String,
    work: impl Fn(&'a T) -> Result<()> + Sync,
) -> Failures {
    std::thread::scope(|scope| {
        let running: Vec<_> = items.iter().map(|item| (name(item), scope.spawn(|| work(item)))).collect();
        let results = running.into_iter().map(|(name, thread)| {
            let result =
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the deployment has panicked")));
            (name, result)
        });
        results.filter_map(|(name, result)| result.err().map(|e| (name, e))).collect()
    })
}

/// What PostgreSQL keeps of the passwords of the pooler's users, asked on the leader of these hosts, or on any that answers.
/// `None` while none does.
pub(crate) fn verifiers(site: &Site, all: &[At<'_>]) -> Result<Option<BTreeMap<String, String>>> {
    let users = &site.inventory.pooler.users;
    let names: Vec<String> = users.iter().map(|u| format!("'{}'", u.replace('\'', "''"))).collect();
    if names.is_empty() {
        return Ok(Some(BTreeMap::new()));
    }
    let query = format!(
        "SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname IN ({})",
        names.join(", ")
    );
    let script = format!(
        "IFS= read -r PGPASSWORD; export PGPASSWORD PGCONNECT_TIMEOUT=5\n{}\
         psql -h 127.0.0.1 -U postgres -d postgres -XAt -F '\t' -c 'SELECT pg_is_in_recovery()' -c {}",
        site.psql(),
        quoted(&query)
    );
    let password = format!("{}\n", site.superuser);
    let answers: Vec<String> =
        all.iter().filter_map(|at| at.ssh.run(at.host, &script, password.as_bytes()).ok()).collect();
    // A replica may not have heard of a change yet.
    let Some(text) = answers.iter().find(|text| text.starts_with("f\n")).or(answers.first()) else { return Ok(None) };
    let found: BTreeMap<String, String> = text
        .lines()
        .filter_map(|l| l.split_once('\t'))
        .map(|(name, kept)| (name.to_owned(), kept.to_owned()))
        .collect();
    let missing: Vec<&str> = users.iter().filter(|u| !found.contains_key(*u)).map(String::as_str).collect();
    if !missing.is_empty() {
        bail!("pooler.users: PostgreSQL has no password of {}: CREATE ROLE or ALTER ROLE first", missing.join(", "));
    }
    Ok(Some(found))
}

/// Takes a host out of the cluster: etcd lets its member go, its services stop in order, its data stays. Returns whether
/// anything was done.
pub(crate) fn leave(site: &Site, at: &At<'_>, etcd: &[At<'_>]) -> Result<bool> {
    // First what may be refused: nothing has stopped then.
    let mut done = forget(site, at, etcd)?;
    for unit in [role::AGENT, role::POOLER, "haproxy.service", role::ETCD] {
        done |= stop(at, unit)?;
    }
    Ok(done)
}

/// Has etcd let a host's member go, whether the host can be reached or not. Returns whether it was one.
pub(crate) fn forget(site: &Site, at: &At<'_>, etcd: &[At<'_>]) -> Result<bool> {
    etcd::remove(site, at, etcd)
}

/// Stops a service of this deployment, if it's one.
fn stop(at: &At<'_>, unit: &str) -> Result<bool> {
    let stamp = stamp_file(unit);
    let script =
        format!("set -e\nif [ -e {stamp} ]; then systemctl disable -q --now {unit}; rm {stamp}; echo done; fi\n");
    let said = at.ssh.run_for(at.host, &script, b"", STOPPING).with_context(|| format!("stop {unit}"))?;
    let done = said.trim() == "done";
    if done {
        at.say(&format!("stopped {unit}"));
    }
    Ok(done)
}
