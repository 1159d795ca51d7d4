//! HAProxy in front of the poolers.

use std::fmt::Write;

use super::{CA, HEADER, Site};
use crate::deploy::inventory::{Form, Role, bracketed};
use crate::deploy::state::{Desired, File, Unit};

const CONFIGURATION: &str = "/etc/haproxy/haproxy.cfg";

/// Port 7000 shows what HAProxy thinks, as in the walk-through.
const HEAD: &str = "global
    maxconn 1000
    log     127.0.0.1 local2

defaults
    log global
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s

listen stats
    mode http
    bind *:7000
    stats enable
    stats uri /
";

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
/// A pooler is asked for PostgreSQL's answer to a request for TLS: one byte.
const POOLERS: &str = "
listen postgres
    bind *:5000
    balance leastconn
    option tcp-check
    tcp-check send-binary 0000000804d2162f
    tcp-check expect rbinary ^(4e|53)
    default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
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
    let mut text = format!("{HEADER}{HEAD}");
    let mut door = |listen: &str, health: &str, check: &str| {
        text.push_str(listen);
        text.push_str(health);
        for host in site.inventory.with(Role::Pooler) {
            // Writing to a String doesn't fail.
            let _ = writeln!(text, "    server {host} {}:6543 maxconn 1000 check{check}", bracketed(host.address));
        }
    };
    let tls = format!(" check-ssl verify required ca-file {CA}");
    let asked = format!(" port 8008{}", if site.certificates.is_some() { &tls } else { "" });
    match site.inventory.proxy.form {
        Form::Leader => {
            door(LEADER, ASKED, &asked);
            door(REPLICAS, ASKED, &asked);
        }
        Form::Poolers => door(POOLERS, "", ""),
    }
    text
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
