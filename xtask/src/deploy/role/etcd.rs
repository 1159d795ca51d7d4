//! A member of etcd.

use super::{CA, CERTIFICATE, HEADER, Site, directory};
use crate::deploy::inventory::{Host, Role, bracketed};
use crate::deploy::state::{Desired, File, Unit};

/// Its service.
pub(crate) const UNIT: &str = "etcd.service";
/// Where its data is, in a directory of the cluster's name.
pub(crate) const DATA: &str = "/var/lib/etcd";
/// What a member that joins a running etcd is started with once; gone at the next boot.
pub(crate) const JOIN: &str = "/run/pgherd-etcd-join.conf";

const CONFIGURATION: &str = "/etc/etcd/etcd.conf";
const INITIAL: &str = "/etc/etcd/initial-cluster.conf";
const DROP_IN: &str = "/etc/systemd/system/etcd.service.d/pgherd.conf";

/// etcd's own copy of the host's key.
const KEY: &str = "/etc/etcd/tls/host.key";

pub(super) fn desired(site: &Site, host: &Host) -> Desired {
    let inventory = &site.inventory;
    let (address, peer, cluster, scheme) =
        (bracketed(host.address), site.peer_url(host), &inventory.cluster, site.scheme());
    let mut configuration = format!(
        "{HEADER}\
         ETCD_NAME=\"{host}\"\n\
         ETCD_DATA_DIR=\"{DATA}/{cluster}\"\n\
         ETCD_LISTEN_CLIENT_URLS=\"{scheme}://localhost:2379,{scheme}://{address}:2379\"\n\
         ETCD_ADVERTISE_CLIENT_URLS=\"{scheme}://{address}:2379\"\n\
         ETCD_LISTEN_PEER_URLS=\"{peer}\"\n"
    );
    let tls = site.pair(host).map(|(_, pair)| File::secret(KEY, pair.key.clone(), "etcd:etcd"));
    if tls.is_some() {
        for side in ["", "PEER_"] {
            let lines = format!(
                "ETCD_{side}CERT_FILE=\"{CERTIFICATE}\"\n\
                 ETCD_{side}KEY_FILE=\"{KEY}\"\n\
                 ETCD_{side}TRUSTED_CA_FILE=\"{CA}\"\n\
                 ETCD_{side}CLIENT_CERT_AUTH=\"true\"\n"
            );
            configuration.push_str(&lines);
        }
    }
    let members: Vec<String> = inventory.with(Role::Etcd).map(|h| format!("{h}={}", site.peer_url(h))).collect();
    // Apart from the rest: etcd looks at it only once, and must not be restarted when a member comes or goes.
    let initial = format!(
        "{HEADER}\
         ETCD_INITIAL_ADVERTISE_PEER_URLS=\"{peer}\"\n\
         ETCD_INITIAL_CLUSTER=\"{}\"\n\
         ETCD_INITIAL_CLUSTER_TOKEN=\"{cluster}\"\n",
        members.join(",")
    );
    let drop_in = format!(
        "{HEADER}[Service]\nEnvironmentFile={CONFIGURATION}\nEnvironmentFile={INITIAL}\nEnvironmentFile=-{JOIN}\n"
    );
    Desired {
        packages: ["etcd-server".to_owned(), "etcd-client".to_owned()].into(),
        directories: vec![
            directory("/etc/etcd", "root:root", 0o755),
            directory("/etc/etcd/tls", "root:root", 0o755),
            directory("/etc/systemd/system/etcd.service.d", "root:root", 0o755),
        ],
        files: [File::text(CONFIGURATION, configuration), File::text(INITIAL, initial), File::text(DROP_IN, drop_in)]
            .into_iter()
            // etcd reads it anew by itself.
            .chain(tls)
            .collect(),
        units: vec![Unit {
            name: UNIT.to_owned(),
            restart_on: vec![CONFIGURATION.into(), DROP_IN.into()],
            reload_on: vec![],
            ports: vec![2379, 2380],
        }],
        data: vec![],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::{site, text};
    use super::*;

    #[test]
    fn the_seeds_variables_are_written() {
        let site = site();
        let desired = site.desired(&site.inventory.hosts[1], Role::Etcd, &BTreeMap::new());
        let written = format!("{}{}", text(&desired, CONFIGURATION), text(&desired, INITIAL));
        for line in [
            "ETCD_LISTEN_CLIENT_URLS=\"http://localhost:2379,http://192.168.11.102:2379\"",
            "ETCD_LISTEN_PEER_URLS=\"http://192.168.11.102:2380\"",
            "ETCD_NAME=\"pg2\"",
            "ETCD_INITIAL_CLUSTER=\"pg1=http://192.168.11.101:2380,pg2=http://192.168.11.102:2380,pg3=http://192.168.11.103:2380\"",
            "ETCD_INITIAL_CLUSTER_TOKEN=\"otus\"",
        ] {
            assert!(written.lines().any(|l| l == line), "{line} is missing in\n{written}");
        }
    }
}
