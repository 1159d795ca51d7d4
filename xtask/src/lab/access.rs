//! How people and programs get to the hosts: a key pair, the hosts' own keys, and a configuration of ssh.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{HOSTS, Host, Lab, network};
use crate::checkout;

/// Where a host's sshd reads who may log in, as root or as anybody else.
pub(super) const AUTHORIZED: &str = "etc/ssh/authorized_keys";

/// A host's own key.
const HOST_KEY: &str = "etc/ssh/ssh_host_ed25519_key";

/// The configuration of ssh that reaches the hosts by their names.
pub(super) fn configuration(lab: &Lab) -> PathBuf {
    lab.directory.join("ssh/config")
}

/// An ssh that knows the hosts.
pub(super) fn ssh(lab: &Lab) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(configuration(lab));
    ssh
}

fn key(lab: &Lab) -> PathBuf {
    lab.directory.join("ssh/id_ed25519")
}

fn known_hosts(lab: &Lab) -> PathBuf {
    lab.directory.join("ssh/known_hosts")
}

fn public(key: &Path) -> PathBuf {
    key.with_extension("pub")
}

/// Makes the key pair unless it's there.
pub(super) fn ensure_key(lab: &Lab) -> Result<()> {
    ensure(&key(lab), "pgherd-lab")
}

/// Makes a host's own key unless it's there, and lets the key pair in.
pub(super) fn authorise(lab: &Lab, host: &Host) -> Result<()> {
    let disk = lab.disk(host);
    ensure(&disk.join(HOST_KEY), &format!("root@{}", host.name))?;
    let from = public(&key(lab));
    fs::copy(&from, disk.join(AUTHORIZED)).with_context(|| format!("copy {} to {}", from.display(), host.name))?;
    Ok(())
}

fn ensure(key: &Path, comment: &str) -> Result<()> {
    if key.is_file() && public(key).is_file() {
        return Ok(());
    }
    // One half alone is of no use, and ssh-keygen asks whether to write over it.
    let _ = fs::remove_file(key);
    checkout::run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"]).arg(key))
}

/// Writes ssh's configuration and the hosts' public keys.
pub(super) fn write_configuration(lab: &Lab) -> Result<()> {
    let mut lines = String::new();
    for host in &HOSTS {
        let file = public(&lab.disk(host).join(HOST_KEY));
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        lines += &known_host(host, &text);
    }
    fs::write(known_hosts(lab), lines).context("write the hosts' keys")?;
    let text = configuration_text(&key(lab), &known_hosts(lab));
    fs::write(configuration(lab), text).context("write ssh's configuration")
}

/// A line of known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).
fn known_host(host: &Host, public_key: &str) -> String {
    format!("{},{} {}\n", host.name, host.address, public_key.trim())
}

/// ssh_config(5). netcat makes the connection inside the network namespace and hands it to ssh.
fn configuration_text(key: &Path, known_hosts: &Path) -> String {
    let mut text = "# Written by 'cargo xtask lab up'.\n".to_owned();
    for Host { name, address } in &HOSTS {
        text += &format!("Host {name} {address}\n    HostName {address}\n");
    }
    let names: Vec<String> = HOSTS.iter().map(|h| format!("{} {}", h.name, h.address)).collect();
    let (names, key, known_hosts) = (names.join(" "), key.display(), known_hosts.display());
    text += &format!(
        "Host {names}
    User root
    IdentityFile \"{key}\"
    IdentitiesOnly yes
    UserKnownHostsFile \"{known_hosts}\"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    ProxyCommand ip netns exec {} nc.openbsd -F %h %p
    ProxyUseFdpass yes
",
        network::NAMESPACE
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_reads_the_configuration_as_meant() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        let text = configuration_text(Path::new("/some where/key"), Path::new("/some where/known"));
        fs::write(&file, text).unwrap();
        let Ok(output) = Command::new("ssh").arg("-G").arg("-F").arg(&file).arg("pg2").output() else {
            println!("skipped: there's no ssh");
            return;
        };
        let read = String::from_utf8(output.stdout).unwrap();
        for line in [
            "hostname 192.168.11.102",
            "user root",
            "identityfile /some where/key",
            "userknownhostsfile /some where/known",
            "proxycommand ip netns exec pgherd-lab nc.openbsd -F %h %p",
            "proxyusefdpass yes",
        ] {
            assert!(read.lines().any(|l| l == line), "{line}:\n{read}");
        }
    }

    #[test]
    fn a_host_is_known_by_name_and_address() {
        let line = known_host(&HOSTS[0], "ssh-ed25519 AAAA root@pg1\n");
        assert_eq!(line, "pg1,192.168.11.101 ssh-ed25519 AAAA root@pg1\n");
    }
}
