//! The difference between what a host is like and what it is to be like, and what forbids to change it: pure.

use std::path::{Path, PathBuf};

use super::role::CA;
use super::state::{Desired, Directory, Facts, File, Kind, Stamp, Unit};

/// The least room that a disk must have, in KiB.
const ROOM: u64 = 512 * 1024;

/// What is to be done on a host, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Packages to install.
    pub(crate) packages: Vec<String>,
    /// Directories to make or to give to somebody.
    pub(crate) directories: Vec<Directory>,
    /// Files to write, and whether there is one.
    pub(crate) files: Vec<(File, bool)>,
    /// Services to take care of.
    pub(crate) units: Vec<(Unit, Act, Stamp)>,
}

/// What becomes of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// It doesn't run.
    Start,
    /// It runs with an older program or with settings that a reload doesn't change.
    Restart,
    /// It runs with older settings.
    Reload,
    /// An earlier run has started it, and wasn't there to see it come up.
    Await,
    /// It runs, and wouldn't after a reboot.
    Enable,
}

impl Plan {
    /// The difference.
    pub(crate) fn new(desired: &Desired, facts: &Facts) -> Plan {
        let packages = desired.packages.difference(&facts.packages).cloned().collect();
        let directories = desired.directories.iter().filter(|d| {
            let found = facts.paths.get(&d.path);
            found.is_none_or(|f| !f.is_directory || f.owner != d.owner || f.mode != d.mode)
        });
        let files = desired.files.iter().filter_map(|file| {
            let Some(found) = facts.paths.get(&file.path) else { return Some((file.clone(), false)) };
            let same = found.owner == file.owner && found.mode == file.mode && found.sha256 == file.sha256();
            (!same).then(|| (file.clone(), true))
        });
        let files: Vec<_> = files.collect();
        let changes = |paths: &[PathBuf]| files.iter().any(|(file, _)| paths.contains(&file.path));
        let units = desired.units.iter().filter_map(|unit| {
            let stamp = desired.stamp(unit);
            let changed = (changes(&unit.restart_on), changes(&unit.reload_on));
            act(unit, &stamp, facts, changed).map(|act| (unit.clone(), act, stamp))
        });
        let units = units.collect();
        Plan { packages, directories: directories.cloned().collect(), files, units }
    }

    /// What is to be done, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.packages.is_empty() {
            lines.push(format!("install {}", self.packages.join(", ")));
        }
        for directory in &self.directories {
            lines.push(format!("directory {} ({}, {:o})", directory.path.display(), directory.owner, directory.mode));
        }
        for (file, exists) in &self.files {
            let verb = if *exists { "change" } else { "create" };
            let what = if file.kind == Kind::Program { "program " } else { "" };
            lines.push(format!("{verb} {what}{}", file.path.display()));
        }
        for (unit, act, _) in &self.units {
            lines.push(format!("{} {}", act.verb(), unit.name));
        }
        lines
    }
}

impl Act {
    /// In a plan.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Act::Start => "start",
            Act::Restart => "restart",
            Act::Reload => "reload",
            Act::Await => "wait for",
            Act::Enable => "enable",
        }
    }
}

/// `changed` says whether files on the host differ that ask for a restart or for a reload: somebody may have changed them
/// by hand, or earlier ones were put back.
fn act(unit: &Unit, stamp: &Stamp, facts: &Facts, changed: (bool, bool)) -> Option<Act> {
    let service = facts.units.get(&unit.name).cloned().unwrap_or_default();
    let ran_with = service.stamp.unwrap_or_default();
    let doubtful = !service.proven && service.worked;
    let (restarts, reloads) = (doubtful && !unit.restart_on.is_empty(), doubtful && unit.restart_on.is_empty());
    if !service.active {
        Some(Act::Start)
    } else if ran_with.restart != stamp.restart || changed.0 || restarts {
        Some(Act::Restart)
    } else if ran_with.reload != stamp.reload || changed.1 || reloads {
        Some(Act::Reload)
    } else if !service.proven {
        Some(Act::Await)
    } else {
        (!service.enabled).then_some(Act::Enable)
    }
}

/// Why a host must be left as it is, if it must: the step that it would fail in, and the reason.
pub(crate) fn objection(desired: &Desired, facts: &Facts, version: u32) -> Option<(&'static str, String)> {
    if !matches!(facts.system.as_str(), "debian" | "ubuntu") {
        let system = &facts.system;
        return Some((
            "system",
            format!(
                "it runs {system:?}, and packages are installed by apt only; elsewhere use the tarball of 'cargo xtask dist'"
            ),
        ));
    }
    let tight = facts.free.iter().find(|(_, kib)| **kib < ROOM);
    if let Some((path, kib)) = tight {
        let (path, mib) = (path.display(), kib / 1024);
        return Some((
            "disk",
            format!("the disk of {path} has {mib} MiB left; make room for {} at least", ROOM / 1024),
        ));
    }
    for unit in &desired.units {
        let service = facts.units.get(&unit.name).cloned().unwrap_or_default();
        if service.active && service.stamp.is_none() {
            let name = &unit.name;
            return Some((
                "services",
                format!(
                    "{name} runs already, and not by this deployment: stop and disable it first (its files would be replaced), or take the role from the host"
                ),
            ));
        }
        let taken = unit.ports.iter().find_map(|port| facts.ports.get(port).map(|by| (port, by)));
        // PostgreSQL lives on when its agent is gone, and an old pooler until its last clients have left.
        let ours = |by: &str| service.stamp.is_some() && ["postgres", "pgherd-agent", "pgherd-pooler"].contains(&by);
        if let Some((port, by)) = taken.filter(|(_, by)| !service.active && !ours(by)) {
            return Some(("ports", format!("port {port}, which {} needs, is taken by {by}", unit.name)));
        }
    }
    certificates(desired, facts)
        .map(|reason| ("certificates", reason))
        .or_else(|| foreign_data(desired, facts, version).map(|reason| ("data directory", reason)))
}

fn certificates(desired: &Desired, facts: &Facts) -> Option<String> {
    let ours = desired.file(Path::new(CA));
    let deployed = facts.units.values().any(|service| service.stamp.is_some());
    if let Some(theirs) = facts.tls.filter(|theirs| deployed && *theirs != ours.is_some()) {
        let ours = ours.is_some();
        return Some(format!(
            "the cluster was deployed with tls = {theirs}, and the inventory says {ours}: members of etcd that speak TLS don't understand those that don't, so that a change is not deployed"
        ));
    }
    (ours?.sha256() != facts.paths.get(Path::new(CA))?.sha256).then(|| {
        format!(
            "{CA} is of another authority than pki/ beside the inventory, and the hosts would trust each other no more: bring pki/ from where the cluster was deployed before"
        )
    })
}

fn foreign_data(desired: &Desired, facts: &Facts, version: u32) -> Option<String> {
    let path = desired.data.first()?;
    let shown = path.display();
    if let Some(ours) = facts.agents.as_ref().filter(|ours| *ours != path && facts.data.contains_key(*ours)) {
        let found = facts.data.get(ours).map_or("", String::as_str);
        let ours = ours.display();
        return Some(format!(
            "the host's data is in {ours} (PostgreSQL {found}), and the inventory says {shown}: give postgresql.version and data_dir as they are; a change of either is not deployed"
        ));
    }
    let found = facts.data.get(path)?;
    if facts.agents.is_none() {
        let what = if found.is_empty() { "something".to_owned() } else { format!("a cluster of PostgreSQL {found}") };
        return Some(format!(
            "{shown} holds {what} that this deployment didn't make: move it away, or name another postgresql.data_dir"
        ));
    }
    (!found.is_empty() && *found != version.to_string())
        .then(|| format!("{shown} holds PostgreSQL {found}, and the inventory says {version}: upgrade the data first"))
}

/// The agent's configuration.
pub(crate) const AGENT_YML: &str = "/etc/pgherd/agent.yml";

#[cfg(test)]
mod tests {
    use super::super::state::{Found, Service};
    use super::*;

    fn desired() -> Desired {
        let unit = Unit {
            name: "x.service".to_owned(),
            restart_on: vec![],
            reload_on: vec![AGENT_YML.into()],
            ports: vec![5432],
        };
        Desired {
            packages: ["a".to_owned(), "b".to_owned()].into(),
            directories: vec![Directory { path: "/d".into(), owner: "root:root".to_owned(), mode: 0o755 }],
            files: vec![File::text(AGENT_YML, "x".to_owned())],
            units: vec![unit],
            data: vec!["/data".into()],
        }
    }

    /// As a run leaves it.
    fn done(desired: &Desired) -> Facts {
        let found =
            |d: bool, mode: u32, sha256: String| Found { is_directory: d, owner: "root:root".into(), mode, sha256 };
        let stamp = Some(desired.stamp(&desired.units[0]));
        Facts {
            system: "debian".to_owned(),
            packages: desired.packages.clone(),
            paths: [
                ("/d".into(), found(true, 0o755, String::new())),
                (AGENT_YML.into(), found(false, 0o644, desired.files[0].sha256())),
            ]
            .into(),
            units: [(
                "x.service".to_owned(),
                Service { enabled: true, active: true, stamp, proven: true, worked: true },
            )]
            .into(),
            free: [("/".into(), 10 * ROOM)].into(),
            ports: [(5432, "postgres".to_owned())].into(),
            data: [("/data".into(), "15".to_owned())].into(),
            agents: Some("/data".into()),
            tls: Some(false),
        }
    }

    #[test]
    fn nothing_is_done_twice() {
        let desired = desired();
        assert_eq!(Plan::new(&desired, &done(&desired)), Plan::default());
        assert_eq!(objection(&desired, &done(&desired), 15), None);
    }

    #[test]
    fn a_bare_host_gets_everything() {
        let facts = Facts { system: "debian".to_owned(), ..Facts::default() };
        assert_eq!(
            Plan::new(&desired(), &facts).lines(),
            ["install a, b", "directory /d (root:root, 755)", "create /etc/pgherd/agent.yml", "start x.service"]
        );
    }

    #[test]
    fn a_run_that_was_cut_short_between_file_and_service_is_continued() {
        let desired = desired();
        let mut facts = done(&desired);
        facts.units.get_mut("x.service").unwrap().stamp.as_mut().unwrap().reload = "older".to_owned();
        assert_eq!(Plan::new(&desired, &facts).lines(), ["reload x.service"]);
        facts = done(&desired);
        facts.units.get_mut("x.service").unwrap().proven = false;
        assert_eq!(Plan::new(&desired, &facts).lines(), ["reload x.service"]);
        facts.units.get_mut("x.service").unwrap().worked = false;
        assert_eq!(Plan::new(&desired, &facts).lines(), ["wait for x.service"]);
    }

    #[test]
    fn what_was_changed_by_hand_is_undone_and_the_service_told() {
        let desired = desired();
        let mut facts = done(&desired);
        facts.paths.get_mut(Path::new(AGENT_YML)).unwrap().sha256 = "other".to_owned();
        assert_eq!(Plan::new(&desired, &facts).lines(), ["change /etc/pgherd/agent.yml", "reload x.service"]);
    }

    #[test]
    fn another_authority_is_refused() {
        let mut desired = desired();
        desired.files.push(File::text(CA, "ours".to_owned()));
        let mut facts = done(&desired);
        facts.tls = Some(true);
        assert_eq!(objection(&desired, &facts, 15), None);
        let theirs = Found { is_directory: false, owner: "root:root".into(), mode: 0o644, sha256: "theirs".into() };
        facts.paths.insert(CA.into(), theirs);
        assert_eq!(objection(&desired, &facts, 15).map(|(step, _)| step), Some("certificates"));
    }

    #[test]
    fn what_is_foreign_is_left_alone() {
        let desired = desired();
        let refused = |change: &dyn Fn(&mut Facts)| {
            let mut facts = done(&desired);
            change(&mut facts);
            objection(&desired, &facts, 15).map(|(step, _)| step)
        };
        assert_eq!(refused(&|f| f.system = "centos".to_owned()), Some("system"));
        assert_eq!(refused(&|f| f.free = [("/".into(), 1000)].into()), Some("disk"));
        assert_eq!(refused(&|f| f.units.get_mut("x.service").unwrap().stamp = None), Some("services"));
        assert_eq!(refused(&|f| f.units.clear()), Some("ports"));
        assert_eq!(refused(&|f| f.units.get_mut("x.service").unwrap().active = false), None);
        assert_eq!(refused(&|f| f.tls = Some(true)), Some("certificates"));
        assert_eq!(refused(&|f| f.agents = None), Some("data directory"));
        let elsewhere = |f: &mut Facts| {
            f.agents = Some("/older".into());
            f.data = [("/older".into(), "14".to_owned())].into();
        };
        assert_eq!(refused(&elsewhere), Some("data directory"));
        assert_eq!(refused(&|f| drop(f.data.insert("/data".into(), "14".to_owned()))), Some("data directory"));
    }
}
