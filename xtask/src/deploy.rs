//! `cargo xtask deploy`: brings hosts that ssh reaches into the state that an inventory describes. What a host gets is in
//! `role`, what it lacks in `plan`, in which order services are touched in `roll`; this file goes through the roles.

mod apply;
mod facts;
mod inventory;
mod lock;
mod pki;
mod plan;
mod remote;
mod role;
mod roll;
mod secret;
mod service;
mod state;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use self::apply::At;
use self::inventory::{Host, Inventory, Presence, Role};
use self::lock::{Locks, Taken};
use self::plan::Plan;
use self::remote::Ssh;
use self::role::Site;
use self::roll::{Failures, Turn};
use self::state::Desired;
use crate::programs;

/// The order in which roles are deployed: each needs the one before.
const ORDER: [Role; 4] = [Role::Etcd, Role::Postgres, Role::Pooler, Role::Proxy];

/// What to deploy.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The inventory (TOML): hosts, their roles, settings
    #[arg(long)]
    pub(crate) inventory: PathBuf,
    /// Only this host; may be given several times
    #[arg(long)]
    pub(crate) host: Vec<String>,
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) check: bool,
    /// Show how files change
    #[arg(long)]
    pub(crate) diff: bool,
    /// Take the programs in dist/ as they are
    #[arg(long)]
    pub(crate) no_build: bool,
    /// Take programs from this directory rather than build them
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) programs: Option<PathBuf>,
}

/// Deploys.
pub(crate) fn run(args: &Args) -> Result<()> {
    let inventory = Inventory::read(&args.inventory)?;
    for name in &args.host {
        if !inventory.hosts.iter().any(|h| h.name == *name) {
            let names: Vec<&str> = inventory.hosts.iter().map(|h| h.name.as_str()).collect();
            bail!("--host {name}: the inventory has {}", names.join(", "));
        }
    }
    if !args.no_build && args.programs.is_none() {
        programs::build(false)?;
    }
    if let Some(warning) = inventory.warning() {
        say!("warning: {warning}");
    }
    let ssh = Ssh::new(&inventory)?;
    let site = Site::new(inventory, &args.inventory, args.programs.as_deref(), args.check)?;
    let run = Run { args, site: &site, ssh: &ssh, failures: RefCell::default(), changes: RefCell::default() };
    run.go()
}

struct Run<'a> {
    args: &'a Args,
    site: &'a Site,
    ssh: &'a Ssh,
    failures: RefCell<Failures>,
    /// What was done on each host, or would be.
    changes: RefCell<BTreeMap<String, BTreeSet<String>>>,
}

impl<'a> Run<'a> {
    fn go(&self) -> Result<()> {
        // Nothing is changed by a check, which therefore keeps nobody out.
        let locks = if self.args.check { Locks::default() } else { self.lock()? };
        self.examine();
        if !self.args.check {
            self.install();
        }
        let whole = ORDER.into_iter().all(|role| self.deploy(role, &locks));
        if whole {
            self.dismiss(&locks);
        }
        self.report()
    }

    /// Hosts with a role that nothing has failed on, whether they're to be changed or not.
    fn reachable(&self, role: Role) -> Vec<At<'a>> {
        let failures = self.failures.borrow();
        let hosts = self.site.inventory.with(role).filter(|h| !failures.contains_key(&h.name));
        hosts.map(|host| At { ssh: self.ssh, host }).collect()
    }

    fn is_chosen(&self, host: &Host) -> bool {
        self.args.host.is_empty() || self.args.host.contains(&host.name)
    }

    fn chosen(&self, role: Role) -> Vec<At<'a>> {
        self.reachable(role).into_iter().filter(|at| self.is_chosen(at.host)).collect()
    }

    /// Every host that belongs to the cluster and is to be changed, and all that it is to be like.
    fn everything(&self) -> Vec<(At<'a>, Desired)> {
        let mut names = BTreeSet::new();
        let all = ORDER.into_iter().flat_map(|role| self.chosen(role));
        let hosts = all.filter(|at| names.insert(at.host.name.clone())).map(|at| {
            let roles = ORDER.into_iter().filter(|role| at.host.has(*role));
            let of = |role| self.site.desired(at.host, role, &BTreeMap::new());
            (at, roles.map(of).fold(Desired::default(), Desired::and))
        });
        hosts.collect()
    }

    /// Keeps other runs off every host, whether it's to be changed or not: two that each change one host would do together
    /// what neither does alone.
    fn lock(&self) -> Result<Locks> {
        let hosts: Vec<At<'_>> = self.site.inventory.hosts.iter().map(|host| At { ssh: self.ssh, host }).collect();
        let (locks, others) = (Locks::default(), Mutex::new(Vec::new()));
        let failed = roll::together(
            &hosts,
            |at| at.host.name.clone(),
            |at| {
                match lock::take(at)? {
                    Taken::Ours(lock) => locks.keep(&at.host.name, lock),
                    Taken::Theirs(by) => {
                        let by = format!("{}: locked {by}", at.host);
                        others.lock().unwrap_or_else(PoisonError::into_inner).push(by);
                    }
                }
                Ok(())
            },
        );
        let others = others.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !others.is_empty() {
            bail!(
                "another deployment is at work, and nothing was changed; wait until it has ended\n{}",
                others.join("\n")
            );
        }
        // A host that nothing is done to may be out of reach.
        let chosen = |name: &String| hosts.iter().any(|at| at.host.name == *name && self.is_chosen(at.host));
        self.fail(failed.into_iter().filter(|(name, _)| chosen(name)).collect());
        Ok(locks)
    }

    /// Looks at every host before the first one is changed.
    fn examine(&self) {
        let version = self.site.inventory.postgresql.version;
        let hosts = self.everything();
        let failed = roll::together(
            &hosts,
            |(at, _)| at.host.name.clone(),
            |(at, desired)| {
                let facts = at.facts(desired)?;
                match plan::objection(desired, &facts, version) {
                    Some((step, reason)) => bail!("{step}: {reason}"),
                    None => Ok(()),
                }
            },
        );
        self.fail(failed);
    }

    /// Packages take longest, and come to all hosts at the same time.
    fn install(&self) {
        let hosts = self.everything();
        let failed = roll::together(
            &hosts,
            |(at, _)| at.host.name.clone(),
            |(at, desired)| {
                let packages = Plan::new(desired, &at.facts(desired)?).packages;
                at.apply(&Plan { packages, ..Plan::default() })
            },
        );
        self.fail(failed);
    }

    /// Everything for one role. Returns whether the next one may follow: what comes later counts on what comes before.
    fn deploy(&self, role: Role, locks: &Locks) -> bool {
        let chosen = self.chosen(role);
        let verifiers = match self.verifiers(role, &chosen) {
            Ok(verifiers) => verifiers,
            Err(error) => {
                let first = chosen.iter().map(|at| at.host.name.clone()).next().unwrap_or_default();
                self.fail([(first, error)].into());
                return false;
            }
        };
        let (mut turns, mut changes) = (Vec::new(), Vec::new());
        for at in chosen {
            match self.turn(at, role, &verifiers, locks) {
                Ok(Some(turn)) => {
                    changes.push((at.host.name.clone(), turn.plan.lines()));
                    turns.push(turn);
                }
                Ok(None) => {}
                Err(error) => self.fail([(at.host.name.clone(), error)].into()),
            }
        }
        if self.args.check {
            return true;
        }
        let outcome = roll::role(self.site, role, turns, &self.reachable(role));
        changes.retain(|(host, _)| !outcome.untouched.contains(host));
        for (host, lines) in changes {
            for line in lines {
                self.note(&host, &line);
            }
        }
        let whole = outcome.failures.is_empty();
        self.fail(outcome.failures);
        if !whole && role != Role::Proxy {
            say!("what comes after {} isn't touched after that failure", role.name());
        }
        whole
    }

    /// The passwords of the pooler's users as PostgreSQL keeps them, where they're needed.
    fn verifiers(&self, role: Role, chosen: &[At<'_>]) -> Result<BTreeMap<String, String>> {
        if role != Role::Pooler || chosen.is_empty() {
            return Ok(BTreeMap::new());
        }
        match roll::verifiers(self.site, &self.reachable(Role::Postgres))? {
            None if !self.args.check => {
                bail!("set up the pooler: no PostgreSQL answers, and its users' passwords are taken from there")
            }
            found => Ok(found.unwrap_or_default()),
        }
    }

    /// What a host lacks for one role, if anything, and shows it where wanted.
    fn turn<'t>(
        &self,
        at: At<'t>,
        role: Role,
        verifiers: &BTreeMap<String, String>,
        locks: &'t Locks,
    ) -> Result<Option<Turn<'t>>> {
        let desired = self.site.desired(at.host, role, verifiers);
        let plan = Plan::new(&desired, &at.facts(&desired)?);
        let lines = plan.lines();
        if self.args.check {
            lines.iter().filter(|line| self.note(&at.host.name, line)).for_each(|line| at.say(line));
        }
        if self.args.diff {
            for (file, exists) in &plan.files {
                say!("{}", at.diff(file, *exists)?.trim_end());
            }
        }
        let files = desired.files.into_iter().map(|file| file.path).collect();
        Ok((!lines.is_empty() && !self.args.check).then_some(Turn {
            at,
            plan,
            files,
            named: !self.args.host.is_empty(),
            locks,
        }))
    }

    /// Hosts that leave go last, when nobody is sent there any more, and not while those that stay are in trouble.
    fn dismiss(&self, locks: &Locks) {
        let etcd = self.reachable(Role::Etcd);
        let (leaving, staying): (Vec<&Host>, Vec<&Host>) =
            self.site.inventory.hosts.iter().partition(|h| h.state == Presence::Absent);
        let failed = |host: &Host| self.failures.borrow().contains_key(&host.name);
        let trouble = staying.iter().any(|host| failed(host));
        for host in leaving.into_iter().filter(|h| self.is_chosen(h)) {
            let at = At { ssh: self.ssh, host };
            if self.args.check {
                at.say("leaves the cluster, if it's still there");
                continue;
            }
            if trouble {
                at.say("doesn't leave the cluster after that failure");
                continue;
            }
            let left = locks.held().and_then(|()| {
                // One that is gone for good is still a member of etcd.
                if failed(host) { roll::forget(self.site, &at, &etcd) } else { roll::leave(self.site, &at, &etcd) }
            });
            match left {
                Ok(true) => drop(self.note(&host.name, "leave the cluster")),
                Ok(false) => {}
                Err(error) => self.fail([(host.name.clone(), error)].into()),
            }
        }
    }

    /// Notes a change, and says whether it's news: what all roles need is in the plan of each.
    fn note(&self, host: &str, change: &str) -> bool {
        self.changes.borrow_mut().entry(host.to_owned()).or_default().insert(change.to_owned())
    }

    fn fail(&self, failed: Failures) {
        for (host, error) in failed {
            say!("{host}: FAILED: {error:#}");
            self.failures.borrow_mut().entry(host).or_insert(error);
        }
    }

    /// The cluster's table, from the first host that can tell.
    fn show_cluster(&self) {
        let mut last = None;
        for at in self.reachable(Role::Postgres) {
            match at.run("pgherdctl -c /etc/pgherd/pgherdctl.yml list").context("show the cluster") {
                Ok(table) => return say!("{}", table.trim_end()),
                Err(error) => last = Some((at.host, error)),
            }
        }
        if let Some((host, error)) = last {
            self.fail([(host.name.clone(), error)].into());
        }
    }

    fn report(&self) -> Result<()> {
        if !self.args.check {
            self.show_cluster();
        }
        let changes = self.changes.borrow();
        for host in self.site.inventory.hosts.iter().filter(|h| self.is_chosen(h)) {
            match changes.get(&host.name).map_or(0, BTreeSet::len) {
                _ if self.failures.borrow().contains_key(&host.name) => {}
                0 => say!("{host}: nothing to change"),
                n if self.args.check => say!("{host}: {n} changes to make"),
                n => say!("{host}: {n} changes made"),
            }
        }
        let failures = self.failures.borrow();
        if !failures.is_empty() {
            let names: Vec<&str> = failures.keys().map(String::as_str).collect();
            bail!("failed on {}: run it again when the cause is gone, what was done stays done", names.join(", "));
        }
        Ok(())
    }
}
