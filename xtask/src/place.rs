//! Where `up` keeps its cluster: target/cluster, or behind that name another directory when PostgreSQL's user can't get
//! there.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use harness::address::UP;
use harness::etcd::Etcd;
use harness::node::Node;
use harness::programs::{self, Programs};

use crate::checkout;

/// Longest path of a Unix socket, less `/run/pg1/.s.PGSQL.5432.lock`.
const LONGEST: usize = 107 - 29;

/// The cluster of this checkout.
#[derive(Debug)]
pub(crate) struct Place {
    /// As people know it: `target/cluster` of the checkout.
    pub(crate) name: PathBuf,
    /// The directory itself, without symbolic links.
    pub(crate) directory: PathBuf,
}

/// What `up` was told, kept for the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Number of nodes.
    pub(crate) nodes: u8,
    /// Whether etcd keeps the cluster's state.
    pub(crate) etcd: bool,
}

impl Place {
    /// The place if there is one.
    pub(crate) fn find() -> Result<Option<Place>> {
        let name = checkout::root()?.join("target/cluster");
        match name.canonicalize() {
            Ok(directory) => Ok(Some(Place { name, directory })),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("look at {}", name.display())),
        }
    }

    /// The place, made where needed.
    pub(crate) fn make() -> Result<Place> {
        if let Some(place) = Place::find()? {
            return Ok(place);
        }
        let name = checkout::root()?.join("target/cluster");
        let target = name.parent().context("find target/")?;
        fs::create_dir_all(target).context("create target/")?;
        // A link to a directory that is gone would be in the way.
        let _ = fs::remove_file(&name);
        let suits = !too_long(&name) && (!programs::is_root() || postgres_reaches(target)?);
        if suits {
            fs::create_dir(&name).with_context(|| format!("create {}", name.display()))?;
        } else {
            let elsewhere = elsewhere(&name);
            fs::create_dir_all(&elsewhere).with_context(|| format!("create {}", elsewhere.display()))?;
            symlink(&elsewhere, &name).with_context(|| format!("link {}", name.display()))?;
            let why =
                if too_long(&name) { "its path is too long for a socket" } else { "PostgreSQL's user can't enter it" };
            say!("target/cluster is a link to {}: {why}", elsewhere.display());
        }
        let directory = name.canonicalize().context("find the cluster's directory")?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).context("open the cluster's directory")?;
        Ok(Place { name, directory })
    }

    /// The nodes and, where the shape says so, etcd.
    pub(crate) fn nodes(&self, shape: Shape, programs: &Programs) -> (Vec<Node>, Option<Etcd>) {
        let nodes: Vec<Node> = (1..=shape.nodes).map(|n| Node::new(n, UP.node(n), &self.directory, programs)).collect();
        let etcd = shape.etcd.then(|| Etcd::beside(&nodes, &self.directory));
        (nodes, etcd)
    }

    fn shape_file(&self) -> PathBuf {
        self.directory.join("shape")
    }

    /// What the cluster here was made of, `None` before it is made.
    pub(crate) fn shape(&self) -> Result<Option<Shape>> {
        let text = match fs::read_to_string(self.shape_file()) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).context("read what the cluster was made of"),
        };
        let (nodes, dcs) = text.trim().split_once(' ').context("read what the cluster was made of")?;
        Ok(Some(Shape { nodes: nodes.parse().context("read the number of nodes")?, etcd: dcs == "etcd" }))
    }

    /// Keeps it.
    pub(crate) fn record(&self, shape: Shape) -> Result<()> {
        let text = format!("{} {}\n", shape.nodes, shape.dcs());
        fs::write(self.shape_file(), text).context("record what the cluster is made of")
    }

    /// Deletes everything.
    pub(crate) fn wipe(&self) -> Result<()> {
        fs::remove_dir_all(&self.directory).with_context(|| format!("delete {}", self.directory.display()))?;
        if self.name.is_symlink() {
            fs::remove_file(&self.name).with_context(|| format!("delete {}", self.name.display()))?;
        }
        Ok(())
    }
}

impl Shape {
    /// The word for `--dcs`.
    pub(crate) fn dcs(self) -> &'static str {
        if self.etcd { "etcd" } else { "embedded" }
    }
}

fn too_long(name: &Path) -> bool {
    name.as_os_str().len() > LONGEST
}

/// A directory of this checkout's own outside of it.
fn elsewhere(name: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let base = if programs::is_root() { "/var/lib" } else { "/tmp" };
    let user = nix::unistd::geteuid();
    PathBuf::from(format!("{base}/pgherd-cluster-{user}-{:x}", hasher.finish()))
}

/// Whether the user `postgres` can enter a directory.
fn postgres_reaches(directory: &Path) -> Result<bool> {
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--", "test", "-x"]).arg(directory).stdout(Stdio::null()).stderr(Stdio::null());
    if nix::unistd::User::from_name("postgres").context("look up the user postgres")?.is_none() {
        bail!("there is no user postgres: install the package postgresql");
    }
    Ok(command.status().context("run runuser")?.success())
}
