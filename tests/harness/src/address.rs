//! Loopback addresses for clusters, so that tests that run at the same time don't meet. Every cluster gets a block
//! 127.x.y.0/24 and with it all ports of each address.

use std::fs::{DirBuilder, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// The block that `cargo xtask up` uses, 127.0.11.0/24.
pub const UP: Block = Block { x: 0, y: 11, _lock: None };

/// Where the lock files are, shared by all users of the machine.
const LOCKS: &str = "/tmp/pgherd-test-addresses";

/// Ports of a node: etcd's, PostgreSQL's, the pooler's and REST's.
const PORTS: [u16; 5] = [2379, 2380, 5432, 6543, 8008];

/// 127.x.y.0/24, this process's alone while the value lives.
#[derive(Debug)]
pub struct Block {
    x: u8,
    y: u8,
    _lock: Option<Flock<File>>,
}

impl Block {
    /// A block that no other living process has. The kernel frees it when this process ends in any way.
    pub fn allocate() -> Result<Block> {
        prepare_directory()?;
        for x in 20..120 {
            for y in 1..=20 {
                if let Some(lock) = try_lock(&format!("{LOCKS}/{x}.{y}"))? {
                    let block = Block { x, y, _lock: Some(lock) };
                    if block.is_free() {
                        return Ok(block);
                    }
                }
            }
        }
        bail!("all address blocks are taken: see {LOCKS}")
    }

    /// Whether nobody listens where nodes will. Processes of a test that was killed together with its runner may.
    fn is_free(&self) -> bool {
        let mut places = (1..=3).flat_map(|n| PORTS.map(|port| (self.node(n), port)));
        places.all(|place| TcpListener::bind(place).is_ok())
    }

    /// Address of the n-th node, counted from 1: 127.x.y.101 and so on, as in the seed's layout.
    pub fn node(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.x, self.y, 100 + n)
    }
}

fn prepare_directory() -> Result<()> {
    let context = || format!("prepare {LOCKS}");
    if Path::new(LOCKS).is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o777).create(LOCKS).with_context(context)?;
    std::fs::set_permissions(LOCKS, std::fs::Permissions::from_mode(0o1777)).with_context(context)
}

fn try_lock(path: &str) -> Result<Option<Flock<File>>> {
    // A file of another user can't be opened: then the block is theirs.
    let Ok(file) = OpenOptions::new().create(true).truncate(false).write(true).open(path) else { return Ok(None) };
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_held_at_the_same_time_differ() {
        let (a, b) = (Block::allocate().unwrap(), Block::allocate().unwrap());
        assert_ne!(a.node(1), b.node(1));
        assert_eq!(UP.node(1), Ipv4Addr::new(127, 0, 11, 101));
    }
}
