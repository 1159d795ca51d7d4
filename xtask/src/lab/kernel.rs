//! What the laboratory needs of the kernel, tried before anything is made.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::cgroup;

/// Namespaces that a host has of its own.
const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

/// Features and what makes use of each, tried in a network namespace that vanishes with it.
const TRIALS: [(&str, &str); 3] = [
    ("bridges (CONFIG_BRIDGE)", "ip link add type bridge"),
    ("virtual Ethernet pairs (CONFIG_VETH)", "ip link add type veth"),
    (
        "nftables with masquerading (CONFIG_NF_TABLES_IPV4, CONFIG_NFT_MASQ)",
        "nft 'add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; add rule ip t c masquerade'",
    ),
];

/// Fails with everything that is missing.
pub(super) fn check() -> Result<()> {
    let mut missing = Vec::new();
    if let Err(e) = cgroup::hierarchy() {
        missing.push(format!("control groups: {e:#}"));
    }
    let absent = NAMESPACES.iter().filter(|n| !Path::new("/proc/self/ns").join(n).exists());
    missing.extend(absent.map(|n| format!("namespaces of the kind {n}")));
    if !Path::new("/dev/net/tun").exists() {
        missing.push("/dev/net/tun (CONFIG_TUN)".to_owned());
    }
    missing.extend(TRIALS.iter().filter(|(_, trial)| !works(trial)).map(|(feature, _)| (*feature).to_owned()));
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this kernel, or what contains this system, lacks what the laboratory needs:\n  {}", missing.join("\n  "))
}

fn works(trial: &str) -> bool {
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", trial]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}
