//! A little network of its own for each run: every node in a network namespace, joined by a bridge, with the seed's very
//! addresses. Links can be cut one way. Needs root; nothing of it touches the machine's own network.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// A hardware address that no interface has: frames sent to it vanish, silently, as on a broken link.
const NOWHERE: &str = "02:00:00:00:00:01";

/// What every namespace's name begins with, followed by the process number of the run.
const PREFIX: &str = "pgherd-";

/// The namespaces of one run. They and the links between them go away when this is dropped.
#[derive(Debug)]
pub struct Net {
    tag: String,
    nodes: u8,
}

impl Net {
    /// Makes a namespace for each of `nodes` nodes and one for the clients (the hub), where the bridge is.
    pub fn create(nodes: u8) -> Result<Net> {
        remove_leftovers()?;
        let net = Net { tag: format!("{PREFIX}{}", std::process::id()), nodes };
        let hub = net.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&["-n", &hub, "link", "add", "name", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "addr", "add", "192.168.11.104/24", "dev", "br0"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        for n in 1..=nodes {
            net.add_node(n)?;
        }
        Ok(net)
    }

    fn add_node(&self, n: u8) -> Result<()> {
        let (hub, node, port) = (self.hub(), self.node(n), format!("port{n}"));
        ip(&["netns", "add", &node])?;
        ip(&["-n", &hub, "link", "add", "name", &port, "type", "veth", "peer", "name", "eth0", "netns", &node])?;
        ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &node, "addr", "add", &format!("{}/24", self.address(n)), "dev", "eth0"])?;
        ip(&["-n", &node, "link", "set", "lo", "up"])?;
        ip(&["-n", &node, "link", "set", "eth0", "up"])
    }

    /// Name of the clients' namespace.
    pub fn hub(&self) -> String {
        format!("{}-hub", self.tag)
    }

    /// Name of the n-th node's namespace, counted from 1.
    pub fn node(&self, n: u8) -> String {
        format!("{}-pg{n}", self.tag)
    }

    /// Address of the n-th node.
    pub fn address(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 11, 100 + n)
    }

    /// Loses everything that node `from` sends to node `to` from now on.
    pub fn cut(&self, from: u8, to: u8) -> Result<()> {
        let address = self.address(to).to_string();
        ip(&[
            "-n",
            &self.node(from),
            "neigh",
            "replace",
            &address,
            "lladdr",
            NOWHERE,
            "dev",
            "eth0",
            "nud",
            "permanent",
        ])
    }

    /// Cuts a node's links with all other nodes, or only what it sends, or only what it is sent.
    pub fn isolate(&self, n: u8, cut: Cut) -> Result<()> {
        for other in (1..=self.nodes).filter(|o| *o != n) {
            if cut != Cut::Incoming {
                self.cut(n, other)?;
            }
            if cut != Cut::Outgoing {
                self.cut(other, n)?;
            }
        }
        Ok(())
    }

    /// Mends every link.
    pub fn heal(&self) -> Result<()> {
        for n in 1..=self.nodes {
            ip(&["-n", &self.node(n), "neigh", "flush", "dev", "eth0", "nud", "permanent"])?;
        }
        Ok(())
    }
}

/// Which direction of a node's links is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both.
    Both,
    /// What the node sends.
    Outgoing,
    /// What it is sent.
    Incoming,
}

impl Drop for Net {
    fn drop(&mut self) {
        let nodes = (1..=self.nodes).map(|n| self.node(n));
        for name in nodes.chain([self.hub()]) {
            // One that was never made is no fault here.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// Moves the calling thread into a namespace; threads that it starts later are in it too.
pub fn enter(name: &str) -> Result<()> {
    let file = File::open(format!("/run/netns/{name}")).with_context(|| format!("open network namespace {name}"))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter network namespace {name}"))
}

/// Deletes namespaces of runs that died without doing so.
fn remove_leftovers() -> Result<()> {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten() {
        let name = entry.context("list network namespaces")?.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<i32>().ok());
        if owner.is_some_and(|pid| crate::process::Identity::of(pid).is_none()) {
            ip(&["netns", "del", &name])?;
        }
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::time::Duration;

    /// A socket inside a namespace.
    fn socket(net: &Net, n: u8) -> UdpSocket {
        let (name, address) = (net.node(n), net.address(n));
        std::thread::spawn(move || {
            enter(&name).unwrap();
            UdpSocket::bind((address, 9000)).unwrap()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn links_are_cut_one_way_and_mended() {
        if !crate::programs::is_root() {
            println!("skipped: network namespaces need root");
            return;
        }
        let net = Net::create(2).unwrap();
        let sockets = [socket(&net, 1), socket(&net, 2)];
        let arrives = |from: usize, to: usize, patience: Duration| {
            sockets[to].set_read_timeout(Some(patience)).unwrap();
            let target = (net.address(u8::try_from(to).unwrap() + 1), 9000);
            sockets[from].send_to(b"x", target).unwrap();
            match sockets[to].recv(&mut [0; 8]) {
                Ok(_) => true,
                Err(e) if e.kind() == ErrorKind::WouldBlock => false,
                Err(e) => panic!("{e}"),
            }
        };
        // The first packet on a new link waits until the neighbour is known, which is asked for once a second.
        let reaches = |from, to| arrives(from, to, Duration::from_secs(5));
        let is_cut = |from, to| !arrives(from, to, Duration::from_millis(300));
        assert!(reaches(0, 1) && reaches(1, 0));
        net.isolate(1, Cut::Outgoing).unwrap();
        assert!(is_cut(0, 1) && reaches(1, 0));
        net.heal().unwrap();
        assert!(reaches(0, 1) && reaches(1, 0));
        net.isolate(1, Cut::Both).unwrap();
        assert!(is_cut(0, 1) && is_cut(1, 0));
    }
}
