//! The laboratory's network: a bridge in a network namespace, another namespace for each host, and a way out. The way
//! out is slirp4netns, an ordinary process that opens connections as any program of this machine does: routes, rules and
//! settings of the machine's own network stay as they are. How programs get to the hosts is elsewhere.

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cgroup::Group;
use super::{HOSTS, Host, Lab};

/// The namespace of the bridge; a host's adds its name to it.
pub(super) const NAMESPACE: &str = "pgherd-lab";
/// The bridge's address, where hosts send what isn't for each other.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 11, 1);
/// The way out.
const TAP: &str = "tap0";
/// Where slirp4netns answers queries of names with what the machine's own resolver says.
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Control group of slirp4netns.
const GROUP: &str = "network";
/// How long slirp4netns may take to be ready.
const STARTING: Duration = Duration::from_secs(10);

/// The namespace of a host.
pub(super) fn namespace(host: &Host) -> String {
    format!("{NAMESPACE}-{}", host.name)
}

/// Makes what there isn't.
pub(super) fn up(lab: &Lab) -> Result<()> {
    // The last thing that is made of a namespace tells that it's complete.
    if !says(&["-n", NAMESPACE, "addr", "show", "br0"], &GATEWAY.to_string()) {
        remove(NAMESPACE)?;
        ip(&["netns", "add", NAMESPACE])?;
        batch(NAMESPACE, &bridge())?;
    }
    for host in &HOSTS {
        let name = namespace(host);
        if !says(&["-n", &name, "route", "show", "default"], &GATEWAY.to_string()) {
            remove(&name)?;
            ip(&["netns", "add", &name])?;
            batch(NAMESPACE, &port(host))?;
            batch(&name, &interface(host))?;
        }
    }
    forward()?;
    let group = Group::of(GROUP)?;
    if !group.is_populated() { connect(lab, &group) } else { Ok(()) }
}

/// Removes all of it.
pub(super) fn down() -> Result<()> {
    Group::of(GROUP)?.kill()?;
    for host in &HOSTS {
        remove(&namespace(host))?;
    }
    remove(NAMESPACE)
}

/// Commands of ip in the bridge's namespace.
fn bridge() -> String {
    format!("link set lo up\nlink add name br0 type bridge\nlink set br0 up\naddr add {GATEWAY}/24 dev br0\n")
}

/// Commands of ip in the bridge's namespace that plug a host in.
fn port(host: &Host) -> String {
    let (name, peer) = (host.name, namespace(host));
    format!("link add name {name} type veth peer name eth0 netns {peer}\nlink set {name} master br0 up\n")
}

/// Commands of ip in a host's namespace.
fn interface(host: &Host) -> String {
    format!(
        "link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\nroute add default via {GATEWAY}\n",
        host.address
    )
}

/// Lets hosts out through the bridge's namespace. Forwarding is a setting of each namespace.
fn forward() -> Result<()> {
    let rules = format!(
        "add table ip lab; flush table ip lab; \
         add chain ip lab out {{ type nat hook postrouting priority 100; }}; \
         add rule ip lab out oifname {TAP} masquerade"
    );
    let script = "echo 1 > /proc/sys/net/ipv4/ip_forward && nft \"$0\"";
    let arguments = ["netns", "exec", NAMESPACE, "sh", "-c", script, &rules];
    ip(&arguments).context("let hosts out of the laboratory")
}

/// Starts slirp4netns and waits until the way out is there.
fn connect(lab: &Lab, group: &Group) -> Result<()> {
    let log = lab.log(GROUP);
    let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = group.command("")?;
    command.args(["slirp4netns", "--configure", "--disable-host-loopback", "--netns-type=path"]);
    command.arg(format!("/run/netns/{NAMESPACE}")).arg(TAP).stdin(Stdio::null());
    command.stdout(output.try_clone().context("open a log")?).stderr(output);
    let mut child = command.spawn().context("run slirp4netns")?;
    let begun = Instant::now();
    while !says(&["-n", NAMESPACE, "route", "show", "default"], TAP) {
        if child.try_wait().context("wait for slirp4netns")?.is_some() || begun.elapsed() > STARTING {
            group.kill()?;
            bail!("slirp4netns makes no way out of the laboratory: see {}", log.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn remove(namespace: &str) -> Result<()> {
    let exists = std::path::Path::new("/run/netns").join(namespace).exists();
    if exists { ip(&["netns", "del", namespace]) } else { Ok(()) }
}

/// Whether ip, asked this, names that.
fn says(arguments: &[&str], that: &str) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|o| o.status.success() && String::from_utf8_lossy(&o.stdout).contains(that))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip")?;
    succeeded(&output).with_context(|| format!("ip {}", arguments.join(" ")))
}

/// Runs commands of ip in a namespace, up to the first that fails.
fn batch(namespace: &str, commands: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run ip")?;
    let mut input = child.stdin.take().context("write to ip")?;
    input.write_all(commands.as_bytes()).context("write to ip")?;
    drop(input);
    let output = child.wait_with_output().context("wait for ip")?;
    succeeded(&output).with_context(|| format!("ip in the namespace {namespace}:\n{commands}"))
}

fn succeeded(output: &Output) -> Result<()> {
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn hosts_have_addresses_of_their_own_in_the_gateways_network() {
        let addresses: BTreeSet<Ipv4Addr> = HOSTS.iter().map(|h| h.address).chain([GATEWAY]).collect();
        assert_eq!(addresses.len(), HOSTS.len() + 1);
        assert!(addresses.iter().all(|a| a.octets()[..3] == GATEWAY.octets()[..3]));
    }

    #[test]
    fn a_host_is_plugged_in_under_its_name() {
        let host = &HOSTS[3];
        assert_eq!(
            port(host),
            "link add name haproxy type veth peer name eth0 netns pgherd-lab-haproxy\nlink set haproxy master br0 up\n"
        );
        assert!(interface(host).contains("addr add 192.168.11.104/24 dev eth0\n"));
        assert!(interface(host).ends_with("route add default via 192.168.11.1\n"));
    }
}
