//! A pooler.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{CA, CERTIFICATE, CLUSTER_YML, HEADER, KEY, POOLER, Site, directory};
use crate::deploy::state::{Desired, File, Unit};

const INI: &str = "/etc/pgbouncer/pgbouncer.ini";
const USERS: &str = "/etc/pgbouncer/userlist.txt";
const UNIT_FILE: &str = "/etc/systemd/system/pgherd-pooler.service";

pub(super) fn desired(site: &Site, verifiers: &BTreeMap<String, String>) -> Desired {
    let program = site.program("pgherd-pooler");
    let mut ini = File::text(INI, ini(site, verifiers));
    ini.check = Some(format!("{} --validate-config {{}}", program.path.display()));
    Desired {
        // For the user postgres, where there is no server.
        packages: ["postgresql-common".to_owned()].into(),
        directories: vec![directory("/etc/pgbouncer", "root:root", 0o755)],
        units: vec![Unit {
            name: POOLER.to_owned(),
            restart_on: vec![program.path.clone(), UNIT_FILE.into()],
            reload_on: [vec![INI.into(), USERS.into(), CLUSTER_YML.into()], site.tls_files()].concat(),
            ports: vec![6543],
        }],
        files: vec![
            program,
            File::text(UNIT_FILE, include_str!("../../../../deploy/pgherd-pooler.service").to_owned()),
            File::secret(USERS, users(verifiers), "postgres:postgres"),
            ini,
        ],
        data: vec![],
    }
}

fn ini(site: &Site, verifiers: &BTreeMap<String, String>) -> String {
    let pooler = &site.inventory.pooler;
    let md5 = verifiers.values().any(|v| v.starts_with("md5"));
    let mut settings: BTreeMap<&str, &str> = [
        ("logfile", "/var/log/pgbouncer/pgbouncer.log"),
        ("pidfile", "/var/run/pgbouncer/pgbouncer.pid"),
        ("listen_addr", "*"),
        ("listen_port", "6543"),
        ("auth_type", if md5 { "md5" } else { "scram-sha-256" }),
        ("auth_file", USERS),
        ("admin_users", "postgres"),
        ("stats_users", "stats, postgres"),
        ("cluster_config", CLUSTER_YML),
    ]
    .into();
    if site.certificates.is_some() {
        settings.extend([
            ("client_tls_sslmode", "require"),
            ("client_tls_cert_file", CERTIFICATE),
            ("client_tls_key_file", KEY),
            ("client_tls_ca_file", CA),
            ("server_tls_sslmode", "verify-full"),
            ("server_tls_ca_file", CA),
        ]);
    }
    settings.extend(pooler.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut text = HEADER.replacen('#', ";", 1);
    let mut section = |name: &str, lines: &mut dyn Iterator<Item = (&str, &str)>| {
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "[{name}]");
        for (key, value) in lines {
            let _ = writeln!(text, "{key} = {value}");
        }
    };
    section("databases", &mut pooler.databases.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    section("users", &mut std::iter::empty());
    section("pgbouncer", &mut settings.into_iter());
    text
}

/// pgbouncer's `auth_file`: names and passwords in double quotes, which are doubled inside.
fn users(verifiers: &BTreeMap<String, String>) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    verifiers.iter().map(|(name, verifier)| format!("{} {}\n", quoted(name), quoted(verifier))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{site, text};
    use super::*;
    use crate::deploy::inventory::Role;

    #[test]
    fn the_ini_is_the_seeds_and_users_have_what_postgresql_keeps() {
        let mut site = site();
        site.inventory.pooler.settings.insert("default_pool_size".to_owned(), "50".to_owned());
        let verifiers = [("postgres".to_owned(), "SCRAM-SHA-256$4096:salt$a:b".to_owned())].into();
        let desired = site.desired(&site.inventory.hosts[0], Role::Pooler, &verifiers);
        let ini = text(&desired, INI);
        for line in [
            "* = host=127.0.0.1 port=5432",
            "listen_port = 6543",
            "auth_type = scram-sha-256",
            "default_pool_size = 50",
        ] {
            assert!(ini.lines().any(|l| l == line), "{line} is missing in\n{ini}");
        }
        assert_eq!(text(&desired, USERS), "\"postgres\" \"SCRAM-SHA-256$4096:salt$a:b\"\n");
    }
}
