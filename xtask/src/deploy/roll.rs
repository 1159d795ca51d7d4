//! In which order the services of several hosts are touched, and what is waited for between two of them. A step that
//! fails ends the rolling: hosts that haven't had their turn stay as they are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::apply::{At, journal};
use super::inventory::Role;
use super::plan::Act;
use super::remote::quoted;
use super::role::{self, Site};
use super::state::{Stamp, Unit};

/// How long etcd may take to answer.
const ETCD: Duration = Duration::from_secs(90);
/// How long members may take to run and to follow: a new one copies all data first.
const MEMBERS: Duration = Duration::from_secs(900);

/// A host whose service has to be touched.
pub(crate) struct Turn<'a> {
    pub(crate) at: At<'a>,
    pub(crate) unit: Unit,
    pub(crate) act: Act,
    pub(crate) stamp: Stamp,
}

impl Turn<'_> {
    fn take(&self) -> Result<()> {
        self.at.act(&self.unit, self.act, &self.stamp)
    }
}

/// What went wrong, and on which host.
pub(crate) type Failures = BTreeMap<String, anyhow::Error>;

/// Takes all turns of a role. `all` are the hosts that have it and can be reached.
pub(crate) fn role(site: &Site, role: Role, turns: Vec<Turn<'_>>, all: &[At<'_>]) -> Failures {
    match role {
        Role::Etcd => etcd(site, turns, all),
        Role::Postgres => agents(turns, all),
        Role::Pooler | Role::Proxy => one_by_one(turns, |_| Ok(())),
    }
}

/// One after the other; the first failure ends it.
fn one_by_one(turns: Vec<Turn<'_>>, settled: impl Fn(&At<'_>) -> Result<()>) -> Failures {
    let mut failures = Failures::new();
    let mut turns = turns.into_iter();
    for turn in turns.by_ref() {
        if let Err(error) = turn.take().and_then(|()| settled(&turn.at)) {
            failures.insert(turn.at.host.name.clone(), error);
            break;
        }
    }
    for left in turns {
        left.at.say(&format!("{} isn't touched after that failure", left.unit.name));
    }
    failures
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

fn etcd(site: &Site, turns: Vec<Turn<'_>>, all: &[At<'_>]) -> Failures {
    let (starts, others): (Vec<_>, Vec<_>) = turns.into_iter().partition(|t| t.act == Act::Start);
    let runs = |at: &&At<'_>| !starts.iter().any(|s| s.at.host.name == at.host.name);
    let mut failures = match all.iter().find(runs) {
        // A quorum answers only when several have started.
        None => {
            let mut failures = together(&starts, |t| t.at.host.name.clone(), Turn::take);
            failures.extend(together(&starts, |t| t.at.host.name.clone(), |t| healthy(site, &t.at)));
            failures
        }
        Some(member) => {
            let mut failures = Failures::new();
            for turn in &starts {
                let joined =
                    join(site, &turn.at, member).and_then(|()| turn.take()).and_then(|()| healthy(site, &turn.at));
                if let Err(error) = joined {
                    failures.insert(turn.at.host.name.clone(), error);
                }
            }
            failures
        }
    };
    if failures.is_empty() {
        failures = one_by_one(others, |at| healthy(site, at));
    }
    failures
}

fn healthy(site: &Site, at: &At<'_>) -> Result<()> {
    let script = format!("{}etcdctl --command-timeout=5s endpoint health >/dev/null", site.etcdctl());
    at.ssh.wait(at.host, &script, ETCD).map(drop).context("wait for etcd to answer")
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
    let has_data = !at.run(&format!("[ ! -d {data}/member ] || echo yes"))?.is_empty();
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

/// Members that don't run start together; those with another program follow, the leader last.
fn agents(turns: Vec<Turn<'_>>, all: &[At<'_>]) -> Failures {
    let (starts, others): (Vec<_>, Vec<_>) = turns.into_iter().partition(|t| t.act == Act::Start);
    let mut failures = together(&starts, |t| t.at.host.name.clone(), Turn::take);
    let started: Vec<&Turn<'_>> = starts.iter().filter(|t| !failures.contains_key(&t.at.host.name)).collect();
    failures.extend(together(&started, |t| t.at.host.name.clone(), |t| serves(&t.at)));
    if !failures.is_empty() || others.is_empty() {
        return failures;
    }
    let leader = all.iter().find_map(|at| members(at).ok()).and_then(|m| leader(&m).map(str::to_owned));
    let (last, first): (Vec<_>, Vec<_>) = others.into_iter().partition(|t| Some(&t.at.host.name) == leader.as_ref());
    one_by_one(first.into_iter().chain(last).collect(), serves)
}

/// Waits until the cluster has a leader and this host's member serves.
fn serves(at: &At<'_>) -> Result<()> {
    let (begun, mut told) = (Instant::now(), Instant::now());
    loop {
        let found = members(at);
        let fault = match &found {
            Ok(members) if leader(members).is_none() => "the cluster has no leader".to_owned(),
            Ok(members) => match state(members, &at.host.name) {
                Some("running" | "streaming") => return Ok(()),
                Some(state) => format!("the member is {state}"),
                None => "the member isn't in the cluster".to_owned(),
            },
            Err(error) => format!("{error:#}"),
        };
        if begun.elapsed() > MEMBERS {
            let log = at.run(&journal(role::AGENT)).unwrap_or_default();
            bail!("wait for the member to serve: {fault} after {} s\n{log}", MEMBERS.as_secs());
        }
        if told.elapsed() > Duration::from_secs(15) {
            told = Instant::now();
            at.say(&format!("waiting: {fault}"));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The members as the admin client shows them.
fn members(at: &At<'_>) -> Result<Vec<Value>> {
    let text = at.run("pgherdctl -c /etc/pgherd/pgherdctl.yml list -f json").context("ask for the members")?;
    serde_json::from_str(&text).context("read the members")
}

fn leader(members: &[Value]) -> Option<&str> {
    members.iter().find(|m| m["Role"] == "Leader")?["Member"].as_str()
}

fn state<'a>(members: &'a [Value], name: &str) -> Option<&'a str> {
    members.iter().find(|m| m["Member"] == name)?["State"].as_str()
}

/// What PostgreSQL keeps of the passwords of the pooler's users, asked on the first of these hosts that answers. `None`
/// while none does.
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
         psql -h 127.0.0.1 -U postgres -d postgres -XAt -F '\t' -c {}",
        site.psql(),
        quoted(&query)
    );
    let password = format!("{}\n", site.superuser);
    let Some(text) = all.iter().find_map(|at| at.ssh.run(at.host, &script, password.as_bytes()).ok()) else {
        return Ok(None);
    };
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

/// Takes a host out of the cluster: its services stop in order, its data stays. Returns whether anything was done.
pub(crate) fn leave(site: &Site, at: &At<'_>, etcd: &[At<'_>]) -> Result<bool> {
    let mut done = false;
    for unit in [role::AGENT, role::POOLER, "haproxy.service"] {
        done |= stop(at, unit)?;
    }
    let script = format!(
        "set -e\n{}\
         for id in $(etcdctl member list | awk -F ', ' -v name={} -v url={} '$3 == name || $4 == url {{ print $1 }}'); do\n\
         etcdctl member remove \"$id\"; done\n",
        site.etcdctl(),
        quoted(&at.host.name),
        quoted(&site.peer_url(at.host))
    );
    if let Some(member) = etcd.iter().find(|m| m.host.name != at.host.name) {
        let said = member.run(&script).context("take the member out of etcd")?;
        if !said.trim().is_empty() {
            at.say("removed from etcd");
            done = true;
        }
    }
    Ok(done | stop(at, role::ETCD)?)
}

/// Stops a service of this deployment, if it's one.
fn stop(at: &At<'_>, unit: &str) -> Result<bool> {
    let stamp = format!("{}/{unit}", super::facts::STAMPS);
    let script =
        format!("set -e\nif [ -e {stamp} ]; then systemctl disable -q --now {unit}; rm {stamp}; echo done; fi\n");
    let done = at.run(&script).with_context(|| format!("stop {unit}"))?.trim() == "done";
    if done {
        at.say(&format!("stopped {unit}"));
    }
    Ok(done)
}
