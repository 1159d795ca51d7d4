//! What each role puts on a host: packages, files and services. Rendering only; nothing is done here.

mod agent;
mod etcd;
mod pooler;
mod proxy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::facts::STAMPS;
use super::inventory::{Host, Inventory, Role, bracketed};
use super::pki::{Certificates, Pair};
use super::state::{Desired, Directory, File};
use crate::checkout;
use crate::programs::PROGRAMS;

pub(crate) use etcd::{DATA as ETCD_DATA, JOIN, UNIT as ETCD};

/// The agent's service.
pub(crate) const AGENT: &str = "pgherd-agent.service";

/// The pooler's service.
pub(crate) const POOLER: &str = "pgherd-pooler.service";

/// Everything that files are made of.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) inventory: Inventory,
    pub(crate) superuser: String,
    pub(crate) replication: String,
    /// The certificates, where everything speaks TLS.
    certificates: Option<Certificates>,
    /// pgherd's programs by name.
    programs: BTreeMap<&'static str, Vec<u8>>,
}

impl Site {
    /// Resolves the passwords, makes the certificates, and reads the programs, which are in dist/ unless they're given.
    /// `path` is the inventory's. A `check` leaves no new certificates.
    pub(crate) fn new(inventory: Inventory, path: &Path, programs: Option<&Path>, check: bool) -> Result<Site> {
        let certificates = Certificates::of(&inventory, path, check)?;
        let superuser = inventory.secrets.superuser.resolve("secrets.superuser")?;
        let replication = inventory.secrets.replication.resolve("secrets.replication")?;
        let dist = checkout::root()?.join("dist");
        let dist = programs.unwrap_or(&dist);
        let mut programs = BTreeMap::new();
        for (_, name) in PROGRAMS {
            let path = dist.join(name);
            let content = std::fs::read(&path).with_context(|| format!("read {}: build it first", path.display()))?;
            programs.insert(name, content);
        }
        Ok(Site { inventory, superuser, replication, certificates, programs })
    }

    /// What a role puts on a host. `verifiers` are the passwords of the pooler's users as PostgreSQL keeps them.
    pub(crate) fn desired(&self, host: &Host, role: Role, verifiers: &BTreeMap<String, String>) -> Desired {
        let desired = match role {
            Role::Etcd => etcd::desired(self, host),
            Role::Postgres => agent::desired(self, host),
            Role::Pooler => pooler::desired(self, verifiers),
            Role::Proxy => proxy::desired(self),
        };
        self.usual(host).and(desired)
    }

    /// What every host gets: the admin client, the way to the cluster's state, and certificates.
    fn usual(&self, host: &Host) -> Desired {
        let mut cluster = json!({"scope": self.inventory.cluster, "etcd3": self.dcs()});
        if self.certificates.is_some() {
            cluster["ctl"] = json!({"cacert": CA, "certfile": CERTIFICATE, "keyfile": KEY});
        }
        let mut desired = Desired {
            directories: vec![directory("/etc/pgherd", "root:root", 0o755), directory(STAMPS, "root:root", 0o755)],
            files: vec![self.program("pgherdctl"), File::text(CLUSTER_YML, yaml(&cluster))],
            ..Desired::default()
        };
        if let Some((authority, pair)) = self.pair(host) {
            desired.directories.push(directory(TLS, "root:root", 0o755));
            let postgres = host.has(Role::Postgres) || host.has(Role::Pooler);
            let owner = if postgres { "postgres:postgres" } else { "root:root" };
            desired.files.push(File::text(CA, authority.clone()));
            desired.files.push(File::text(CERTIFICATE, pair.certificate.clone()));
            desired.files.push(File::secret(KEY, pair.key.clone(), owner));
        }
        desired
    }

    fn pair(&self, host: &Host) -> Option<(&String, &Pair)> {
        let certificates = self.certificates.as_ref()?;
        Some((&certificates.authority, certificates.pair(host)?))
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.certificates.is_some() { "https" } else { "http" }
    }

    /// Files that services read anew when they're reloaded.
    fn tls_files(&self) -> Vec<PathBuf> {
        let files = [CA, CERTIFICATE, KEY].map(PathBuf::from);
        self.certificates.iter().flat_map(|_| files.clone()).collect()
    }

    /// Where the other members of etcd reach a host's.
    pub(crate) fn peer_url(&self, host: &Host) -> String {
        format!("{}://{}:2380", self.scheme(), bracketed(host.address))
    }

    /// A shell's preparation for etcdctl on an etcd host.
    pub(crate) fn etcdctl(&self) -> String {
        let tls = format!(" ETCDCTL_CACERT={CA} ETCDCTL_CERT={CERTIFICATE} ETCDCTL_KEY={KEY}");
        let tls = if self.certificates.is_some() { tls } else { String::new() };
        format!("export ETCDCTL_API=3 ETCDCTL_ENDPOINTS={}://127.0.0.1:2379{tls}\n", self.scheme())
    }

    /// A shell's preparation for psql on a PostgreSQL host.
    pub(crate) fn psql(&self) -> String {
        let tls = format!("export PGSSLMODE=verify-full PGSSLROOTCERT={CA}\n");
        if self.certificates.is_some() { tls } else { String::new() }
    }

    fn dcs(&self) -> Value {
        let mut dcs = json!({"hosts": self.inventory.etcd_hosts(), "protocol": self.scheme()});
        if self.certificates.is_some() {
            dcs["cacert"] = CA.into();
            dcs["cert"] = CERTIFICATE.into();
            dcs["key"] = KEY.into();
        }
        dcs
    }

    fn program(&self, name: &str) -> File {
        let content = self.programs.get(name).cloned().unwrap_or_default();
        File::program(PathBuf::from("/usr/bin").join(name), content)
    }
}

/// Where the admin client and the pooler find the cluster.
const CLUSTER_YML: &str = "/etc/pgherd/pgherdctl.yml";

/// Certificates on a host.
const TLS: &str = "/etc/pgherd/tls";
pub(crate) const CA: &str = "/etc/pgherd/tls/ca.crt";
const CERTIFICATE: &str = "/etc/pgherd/tls/host.crt";
const KEY: &str = "/etc/pgherd/tls/host.key";

/// First line of the files that a run writes.
const HEADER: &str = "# Written by 'cargo xtask deploy': change the inventory, not this file.\n";

fn directory(path: &str, owner: &str, mode: u32) -> Directory {
    Directory { path: path.into(), owner: owner.to_owned(), mode }
}

fn yaml(value: &Value) -> String {
    // A Value of strings, numbers, lists and maps can always be written.
    format!("{HEADER}{}", serde_yaml_ng::to_string(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::state::Kind;
    use super::*;

    pub(super) fn site() -> Site {
        let inventory = Inventory::parse(include_str!("../../../deploy/inventory/otus.toml")).unwrap();
        let programs = ["pgherd-agent", "pgherd-pooler", "pgherdctl"].map(|n| (n, b"program".to_vec())).into();
        let (superuser, replication) = ("otus".to_owned(), "replicator".to_owned());
        Site { inventory, superuser, replication, certificates: None, programs }
    }

    pub(super) fn text(desired: &Desired, path: &str) -> String {
        let file = desired.file(path.as_ref()).unwrap_or_else(|| panic!("no {path}"));
        String::from_utf8(file.content.clone()).unwrap()
    }

    #[test]
    fn with_tls_nothing_is_reached_without_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut site = site();
        site.inventory.tls = true;
        site.certificates = Certificates::of(&site.inventory, &directory.path().join("otus.toml"), false).unwrap();
        for (host, role) in [(0, Role::Etcd), (0, Role::Postgres), (0, Role::Pooler), (3, Role::Proxy)] {
            let host = &site.inventory.hosts[host];
            let desired = site.desired(host, role, &BTreeMap::new());
            for file in &desired.files {
                let text = String::from_utf8_lossy(&file.content);
                assert!(!text.contains("http://") && !text.contains("\"host all"), "{}:\n{text}", file.path.display());
            }
            let keys = desired.files.iter().filter(|f| f.path.ends_with("host.key"));
            assert!(keys.clone().count() > 0 && keys.clone().all(|k| k.mode == 0o600));
        }
    }

    #[test]
    fn passwords_are_only_in_files_that_are_one_users_alone() {
        let site = site();
        let verifiers = [("postgres".to_owned(), "SCRAM-SHA-256$x".to_owned())].into();
        for role in [Role::Etcd, Role::Postgres, Role::Pooler, Role::Proxy] {
            for file in site.desired(&site.inventory.hosts[0], role, &verifiers).files {
                let text = String::from_utf8_lossy(&file.content).into_owned();
                let told = ["password: otus", "password: replicator", "SCRAM"].iter().any(|s| text.contains(s));
                assert!(!told || (file.mode == 0o600 && file.kind == Kind::Secret), "{}", file.path.display());
            }
        }
    }
}
