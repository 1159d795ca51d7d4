//! HAProxy in front of the poolers.

use super::{CA, HEADER, Site};
use crate::deploy::inventory::{Form, Host, Role, bracketed};
use crate::deploy::state::{Desired, File, Unit};

const CONFIGURATION: &str = "/etc/haproxy/haproxy.cfg";

/// The door to poolers, an example that is complete but for whose servers it names: those come last.
const POOLERS: &str = include_str!("../../../../deploy/haproxy-poolers.cfg");

/// What a door to one role asks: the agents, which say whether their server has it.
const ASKED: &str = "    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
";
const LEADER: &str = "
listen postgres
    bind *:5000
    option httpchk OPTIONS /primary
";
const REPLICAS: &str = "
listen replicas
    bind *:5001
    balance leastconn
    option httpchk OPTIONS /replica
";

pub(super) fn desired(site: &Site) -> Desired {
    let mut file = File::text(CONFIGURATION, text(site));
    file.check = Some("haproxy -c -q -f {}".to_owned());
    let ports = if site.inventory.proxy.form == Form::Leader { vec![5000, 5001, 7000] } else { vec![5000, 7000] };
    Desired {
        packages: ["haproxy".to_owned(), format!("postgresql-client-{}", site.inventory.postgresql.version)].into(),
        files: vec![file],
        units: vec![Unit {
            name: "haproxy.service".to_owned(),
            restart_on: vec![],
            reload_on: [vec![CONFIGURATION.into()], site.tls_files()].concat(),
            ports,
        }],
        ..Desired::default()
    }
}

fn text(site: &Site) -> String {
    let tls = format!(" check-ssl verify required ca-file {CA}");
    let asked = format!(" port 8008{}", if site.certificates.is_some() { &tls } else { "" });
    let servers = |check: &str| {
        let of =
            |host: &Host| format!("    server {host} {}:6543 maxconn 1000 check{check}\n", bracketed(host.address));
        site.inventory.with(Role::Pooler).map(of).collect::<String>()
    };
    let poolers = || {
        let own = |line: &&str| !line.starts_with('#') && !line.starts_with("    server ");
        POOLERS.lines().filter(own).map(|line| format!("{line}\n")).collect::<String>()
    };
    match site.inventory.proxy.form {
        Form::Leader => {
            let head = poolers();
            let head = head.split_once("\nlisten postgres").map_or("", |(head, _)| head);
            let servers = servers(&asked);
            format!("{HEADER}{head}{LEADER}{ASKED}{servers}{REPLICAS}{ASKED}{servers}")
        }
        Form::Poolers => format!("{HEADER}{}{}", poolers(), servers("")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::{site, text};
    use super::*;

    #[test]
    fn both_forms_name_every_pooler() {
        let mut site = site();
        let of =
            |site: &Site| text(&site.desired(&site.inventory.hosts[3], Role::Proxy, &BTreeMap::new()), CONFIGURATION);
        let leader = of(&site);
        assert_eq!(leader.matches("192.168.11.102:6543 maxconn 1000 check port 8008").count(), 2);
        assert!(leader.contains("bind *:5001") && leader.contains("OPTIONS /replica"));
        site.inventory.proxy.form = Form::Poolers;
        let poolers = of(&site);
        assert_eq!(poolers.matches("192.168.11.102:6543").count(), 1);
        assert!(!poolers.contains("8008"));
    }
}
