//! PostgreSQL with its agent.

use serde_json::{Value, json};

use super::{AGENT, CA, CERTIFICATE, KEY, Site, directory, yaml};
use crate::deploy::inventory::{Host, bracketed};
use crate::deploy::plan::AGENT_YML;
use crate::deploy::state::{Desired, File, Unit};

const UNIT_FILE: &str = "/etc/systemd/system/pgherd-agent.service";

pub(super) fn desired(site: &Site, host: &Host) -> Desired {
    let inventory = &site.inventory;
    let (version, data) = (inventory.postgresql.version, inventory.data_dir());
    let program = site.program("pgherd-agent");
    let mut configuration = File::secret(AGENT_YML, text(site, host), "postgres:postgres");
    configuration.check = Some(format!("runuser -u postgres -- {} --validate-config {{}}", program.path.display()));
    let parent = data.parent().map(|p| p.display().to_string()).unwrap_or_default();
    Desired {
        packages: [format!("postgresql-{version}"), format!("postgresql-client-{version}")].into(),
        // Its log, its lock and the replication password go beside the data.
        directories: vec![directory(&parent, "postgres:postgres", 0o700)],
        units: vec![Unit {
            name: AGENT.to_owned(),
            // A reload takes only some of the file's changes, and a restart of the agent doesn't interrupt PostgreSQL.
            restart_on: vec![program.path.clone(), UNIT_FILE.into(), AGENT_YML.into()],
            reload_on: site.tls_files(),
            ports: vec![5432, 8008],
        }],
        files: vec![
            program,
            File::text(UNIT_FILE, include_str!("../../../../deploy/pgherd-agent.service").to_owned()),
            configuration,
        ],
        data: vec![data],
    }
}

/// Patroni's own format, as in the walk-through.
fn text(site: &Site, host: &Host) -> String {
    let inventory = &site.inventory;
    let address = bracketed(host.address);
    let mut file = json!({
        "scope": inventory.cluster,
        "name": host.name,
        "restapi": {"listen": "0.0.0.0:8008", "connect_address": format!("{address}:8008")},
        "etcd3": site.dcs(),
        "bootstrap": {
            "dcs": inventory.dynamic,
            "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            "pg_hba": ["host replication replicator 0.0.0.0/0 scram-sha-256", "host all all 0.0.0.0/0 scram-sha-256"],
        },
        "postgresql": {
            "listen": "0.0.0.0:5432",
            "connect_address": format!("{address}:5432"),
            "data_dir": inventory.data_dir(),
            "bin_dir": format!("/usr/lib/postgresql/{}/bin", inventory.postgresql.version),
            "authentication": {
                "replication": {"username": "replicator", "password": site.replication},
                "superuser": {"username": "postgres", "password": site.superuser},
            },
            // Roles are given SCRAM verifiers, whatever the version's default.
            "parameters": {"password_encryption": "scram-sha-256"},
        },
    });
    if site.certificates.is_some() {
        encrypt(&mut file);
    }
    yaml(&file)
}

/// Has everything speak TLS, and everybody check whom they speak to.
fn encrypt(file: &mut Value) {
    for (key, value) in [("certfile", CERTIFICATE), ("keyfile", KEY), ("cafile", CA), ("verify_client", "optional")] {
        file["restapi"][key] = value.into();
    }
    file["ctl"] = json!({"cacert": CA, "certfile": CERTIFICATE, "keyfile": KEY});
    let postgresql = &mut file["postgresql"];
    for (key, value) in [("ssl", "on"), ("ssl_cert_file", CERTIFICATE), ("ssl_key_file", KEY), ("ssl_ca_file", CA)] {
        postgresql["parameters"][key] = value.into();
    }
    for role in ["replication", "superuser"] {
        postgresql["authentication"][role]["sslmode"] = "verify-full".into();
        postgresql["authentication"][role]["sslrootcert"] = CA.into();
    }
    for line in file["bootstrap"]["pg_hba"].as_array_mut().into_iter().flatten() {
        *line = line.as_str().unwrap_or_default().replacen("host", "hostssl", 1).into();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::{site, text};
    use super::*;
    use crate::deploy::inventory::Role;

    #[test]
    fn the_agents_file_is_the_seeds() {
        let site = site();
        let desired = site.desired(&site.inventory.hosts[2], Role::Postgres, &BTreeMap::new());
        let yaml: serde_json::Value = serde_yaml_ng::from_str(&text(&desired, AGENT_YML)).unwrap();
        assert_eq!(yaml["name"], "pg3");
        assert_eq!(yaml["restapi"]["connect_address"], "192.168.11.103:8008");
        assert_eq!(yaml["bootstrap"]["dcs"]["postgresql"]["parameters"]["wal_keep_segments"], 100);
        assert_eq!(yaml["postgresql"]["data_dir"], "/var/lib/postgresql/15/otus");
        assert_eq!(yaml["postgresql"]["authentication"]["superuser"]["password"], "otus");
    }
}
