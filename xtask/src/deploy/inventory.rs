//! The inventory: which hosts there are, what runs on each of them, and with which settings. Read from TOML and checked
//! here as a whole; nothing of a host's present state is known here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::secret::Reference;

/// What an inventory file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inventory {
    /// The cluster's name (Patroni's `scope`).
    pub(crate) cluster: String,
    /// How hosts are reached.
    #[serde(default)]
    pub(crate) ssh: Ssh,
    /// PostgreSQL.
    pub(crate) postgresql: Postgresql,
    /// Passwords, by reference.
    pub(crate) secrets: Secrets,
    /// Whether everything speaks TLS, with certificates of an authority that is made beside the inventory.
    #[serde(default)]
    pub(crate) tls: bool,
    /// The pooler's settings.
    #[serde(default)]
    pub(crate) pooler: Pooler,
    /// HAProxy's settings.
    #[serde(default)]
    pub(crate) proxy: Proxy,
    /// `bootstrap.dcs`: the cluster's own configuration when it is new, as in Patroni's file.
    #[serde(default)]
    pub(crate) dynamic: serde_json::Map<String, serde_json::Value>,
    /// The hosts, in the order in which they are worked on.
    pub(crate) hosts: Vec<Host>,
}

/// How hosts are reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ssh {
    /// The user to log in as: root, or one who may use sudo. ssh's own choice unless given.
    pub(crate) user: Option<String>,
    /// ssh's configuration file. Relative to the inventory.
    pub(crate) config: Option<PathBuf>,
    /// The password that sudo asks for. Without one sudo mustn't ask.
    pub(crate) sudo_password: Option<Reference>,
}

/// PostgreSQL.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Postgresql {
    /// The major version, a package of the distribution.
    pub(crate) version: u32,
    /// The data directory; `/var/lib/postgresql/VERSION/CLUSTER` unless given.
    pub(crate) data_dir: Option<PathBuf>,
}

/// Passwords, by reference.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Secrets {
    /// Of the user `postgres`.
    pub(crate) superuser: Reference,
    /// Of the user `replicator`.
    pub(crate) replication: Reference,
}

/// The pooler's settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Pooler {
    /// Lines of the section `[databases]`.
    pub(crate) databases: BTreeMap<String, String>,
    /// Lines of the section `[pgbouncer]`, over what is usual.
    pub(crate) settings: BTreeMap<String, String>,
    /// PostgreSQL's users who may log in through it.
    pub(crate) users: BTreeSet<String>,
}

impl Default for Pooler {
    fn default() -> Pooler {
        Pooler {
            databases: [("*".to_owned(), "host=127.0.0.1 port=5432".to_owned())].into(),
            settings: BTreeMap::new(),
            users: ["postgres".to_owned()].into(),
        }
    }
}

impl Pooler {
    /// A line of pgbouncer.ini must stay one, and nobody's but root's and the pooler's if it held a password.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (section, lines) in [("databases", &self.databases), ("settings", &self.settings)] {
            for (name, value) in lines {
                let is_name = !name.is_empty() && name.trim() == name && !name.contains(['=', '[', ']', ';', '#', '%']);
                if !is_name || has_control(name) || has_control(value) {
                    faults.push(format!(
                        "pooler.{section}: {name:?}: a name has none of = [ ] ; # %, and neither it nor its value a line break"
                    ));
                }
                if value.to_ascii_lowercase().replace(char::is_whitespace, "").contains("password=") {
                    faults.push(format!(
                        "pooler.{section}.{name}: passwords aren't written here: leave it out, and name the user in pooler.users"
                    ));
                }
            }
        }
        faults.extend(self.users.iter().filter(|u| has_control(u)).map(|u| format!("pooler.users: {u:?} is no name")));
        faults
    }
}

/// HAProxy's settings.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Proxy {
    /// Where port 5000 leads.
    pub(crate) form: Form,
}

/// Where HAProxy's port 5000 leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// To the pooler on the leader's host, which the agents' health checks tell; port 5001 to those of replicas.
    #[default]
    Leader,
    /// To every pooler in turn, since each finds the leader itself.
    Poolers,
}

/// A host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    /// Its name; the member's in the cluster and in etcd too.
    pub(crate) name: String,
    /// Where the others reach it.
    pub(crate) address: IpAddr,
    /// What ssh is given to reach it; the name where there is a configuration of ssh, else the address.
    pub(crate) ssh: Option<String>,
    /// What runs there.
    pub(crate) roles: BTreeSet<Role>,
    /// Whether it belongs to the cluster.
    #[serde(default)]
    pub(crate) state: Presence,
}

/// What runs on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// A member of etcd.
    Etcd,
    /// PostgreSQL with its agent.
    Postgres,
    /// A pooler.
    Pooler,
    /// HAProxy.
    Proxy,
}

impl Role {
    /// As the inventory has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Etcd => "etcd",
            Role::Postgres => "postgres",
            Role::Pooler => "pooler",
            Role::Proxy => "proxy",
        }
    }
}

/// Whether a host belongs to the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Presence {
    /// It does.
    #[default]
    Present,
    /// It leaves: its services are stopped, its data stays.
    Absent,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Inventory {
    /// Reads and checks a file. Every fault is named at once.
    pub(crate) fn read(path: &Path) -> Result<Inventory> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read the inventory {}", path.display()))?;
        let mut inventory =
            Inventory::parse(&text).with_context(|| format!("read the inventory {}", path.display()))?;
        if let (Some(config), Some(directory)) = (&mut inventory.ssh.config, path.parent()) {
            *config = directory.join(&*config);
        }
        Ok(inventory)
    }

    pub(super) fn parse(text: &str) -> Result<Inventory> {
        let inventory: Inventory = toml::from_str(text)?;
        let faults = inventory.faults();
        if !faults.is_empty() {
            bail!("{}", faults.join("\n"));
        }
        Ok(inventory)
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !is_word(&self.cluster) {
            faults.push(format!("cluster: {:?} is no name: {WORD}", self.cluster));
        }
        if !(12..=99).contains(&self.postgresql.version) {
            faults.push(format!("postgresql.version: {} is no major version, 12 or newer", self.postgresql.version));
        }
        if self.postgresql.data_dir.as_ref().is_some_and(|d| !is_own_directory(d)) {
            faults.push(
                "postgresql.data_dir: give an absolute path below a directory of its own, of letters, digits, and any of -_.+@"
                    .to_owned(),
            );
        }
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for host in &self.hosts {
            if !is_word(&host.name) {
                faults.push(format!("hosts: {:?} is no name: {WORD}", host.name));
            }
            if !names.insert(&host.name) {
                faults.push(format!("hosts: there are two of the name {host}"));
            }
            if !addresses.insert(host.address) {
                faults.push(format!("hosts: {} is the address of two", host.address));
            }
            if host.roles.is_empty() {
                faults.push(format!("hosts: {host} has no role: etcd, postgres, pooler or proxy"));
            }
        }
        for role in [Role::Etcd, Role::Postgres] {
            if self.with(role).count() == 0 {
                faults.push(self.nobody_with(role));
            }
        }
        faults.extend(self.pooler.faults());
        faults
    }

    fn nobody_with(&self, role: Role) -> String {
        let name = role.name();
        if self.hosts.iter().any(|h| h.roles.contains(&role)) {
            return format!(
                "hosts: all with the role {name} are absent, and a cluster isn't dismissed this way: stop its services by hand"
            );
        }
        format!("hosts: none has the role {name}")
    }

    /// What is allowed and should not stay so.
    pub(crate) fn warning(&self) -> Option<String> {
        let count = self.with(Role::Etcd).count();
        count.is_multiple_of(2).then(|| {
            format!("{count} hosts run etcd, and {} would survive the loss of as many: make it odd", count - 1)
        })
    }

    /// The hosts that belong to the cluster and have a role.
    pub(crate) fn with(&self, role: Role) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |h| h.has(role))
    }

    /// Where PostgreSQL's data is.
    pub(crate) fn data_dir(&self) -> PathBuf {
        let usual = || format!("/var/lib/postgresql/{}/{}", self.postgresql.version, self.cluster).into();
        self.postgresql.data_dir.clone().unwrap_or_else(usual)
    }

    /// `HOST:2379` of each etcd member.
    pub(crate) fn etcd_hosts(&self) -> Vec<String> {
        self.with(Role::Etcd).map(|h| format!("{}:2379", bracketed(h.address))).collect()
    }
}

impl Host {
    /// Whether it belongs to the cluster with this role.
    pub(crate) fn has(&self, role: Role) -> bool {
        self.state == Presence::Present && self.roles.contains(&role)
    }
}

/// What names are made of: they become parts of paths, URLs and command lines.
const WORD: &str = "letters, digits, '-', '_' and '.', a letter or a digit first";

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_own_directory(path: &Path) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./+@".contains(b);
    path.is_absolute()
        && path.parent().is_some_and(|parent| parent != Path::new("/"))
        && path.components().all(|part| part != std::path::Component::ParentDir)
        && path.as_os_str().as_encoded_bytes().iter().all(plain)
}

fn has_control(text: &str) -> bool {
    text.contains(char::is_control)
}

/// An address as URLs have it.
pub(crate) fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = include_str!("../../../deploy/inventory/otus.toml");

    #[test]
    fn the_seeds_inventory_is_understood() {
        let inventory = Inventory::parse(SEED).unwrap();
        assert_eq!(inventory.cluster, "otus");
        assert_eq!(inventory.hosts.len(), 4);
        assert_eq!(inventory.etcd_hosts(), ["192.168.11.101:2379", "192.168.11.102:2379", "192.168.11.103:2379"]);
        assert_eq!(inventory.with(Role::Proxy).map(|h| h.name.as_str()).collect::<Vec<_>>(), ["haproxy"]);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let text = SEED
            .replace("\"pg2\"", "\"pg1\"")
            .replace(".103\"", ".101\"")
            .replace("cluster = \"otus\"", "cluster = \"o/s\"");
        let faults = Inventory::parse(&text).unwrap_err().to_string();
        for fault in ["\"o/s\" is no name", "two of the name pg1", "192.168.11.101 is the address of two"] {
            assert!(faults.contains(fault), "{fault:?} is missing in {faults}");
        }
    }

    #[test]
    fn what_would_become_another_line_or_path_is_refused() {
        let refused = |from: &str, to: &str| {
            let text = SEED.replacen(from, to, 1);
            assert_ne!(text, SEED, "{from} isn't in the inventory");
            Inventory::parse(&text).map(drop).map_err(|e| e.to_string())
        };
        for (from, to, fault) in [
            ("cluster = \"otus\"", "cluster = \"..\"", "cluster:"),
            ("name = \"pg1\"", "name = \"-oProxyCommand=x\"", "hosts:"),
            ("# data_dir = \"/var", "data_dir = \"/var/../var", "data_dir"),
            ("# data_dir = \"/var", "data_dir = \"/var\\n", "data_dir"),
            ("rw = \"dbname=otus", "rw = \"dbname=otus\\nadmin_users=x", "pooler.databases"),
            ("rw = \"dbname", "\"[pgbouncer]\" = \"dbname", "pooler.databases"),
            ("rw = \"dbname", "\"a=b\" = \"dbname", "pooler.databases"),
            ("rw = \"dbname", "rw = \"password = secret dbname", "passwords aren't written here"),
            ("users = [\"postgres\"]", "users = [\"post\\ngres\"]", "pooler.users"),
        ] {
            let told = refused(from, to).unwrap_err();
            assert!(told.contains(fault) && !told.contains("secret"), "{to}: {told}");
        }
        assert_eq!(refused("# data_dir", "data_dir"), Ok(()));
    }

    #[test]
    fn a_cluster_is_not_dismissed_by_making_all_hosts_absent() {
        let text = SEED.replace("\nroles", "\nstate = \"absent\"\nroles");
        assert!(Inventory::parse(&text).unwrap_err().to_string().contains("isn't dismissed this way"));
    }

    #[test]
    fn an_even_number_of_etcd_members_is_warned_of_and_a_word_that_is_unknown_refused() {
        assert_eq!(Inventory::parse(SEED).unwrap().warning(), None);
        let text = SEED.replacen("\"etcd\", ", "", 1);
        assert!(Inventory::parse(&text).unwrap().warning().is_some_and(|w| w.contains("2 hosts run etcd")));
        let text = SEED.replacen("roles", "rolls", 1);
        assert!(Inventory::parse(&text).unwrap_err().to_string().contains("rolls"));
    }
}
