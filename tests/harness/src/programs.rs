//! Where the programs are that a cluster is made of, with a line that tells what to install when one is missing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Environment variable that names the directory of pgherd's own programs.
pub const BIN_DIR: &str = "HARNESS_BIN_DIR";

/// Environment variable that names the directory of PostgreSQL's programs, to test another version.
pub const POSTGRES_DIR: &str = "HARNESS_POSTGRES_DIR";

/// pgherd's programs and PostgreSQL's.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `pgherd-agent`.
    pub agent: PathBuf,
    /// `pgherdctl`.
    pub ctl: PathBuf,
    /// Directory of pgherd's programs.
    pub directory: PathBuf,
    /// Directory of PostgreSQL's server programs.
    pub postgres: PathBuf,
}

impl Programs {
    /// pgherd's programs from `directory`.
    pub fn in_directory(directory: &Path) -> Result<Programs> {
        let find = |name: &str| {
            let path = directory.join(name);
            if !path.is_file() {
                bail!("{} is missing: run 'cargo build -p agent -p ctl' first", path.display());
            }
            Ok(path)
        };
        let (agent, ctl) = (find("pgherd-agent")?, find("pgherdctl")?);
        Ok(Programs { agent, ctl, directory: directory.to_owned(), postgres: postgres_directory()? })
    }

    /// `pgherd-pooler`.
    pub fn pooler(&self) -> Result<PathBuf> {
        let path = self.directory.join("pgherd-pooler");
        if !path.is_file() {
            bail!("{} is missing: run 'cargo build -p pooler' first", path.display());
        }
        Ok(path)
    }

    /// pgherd's programs from `$HARNESS_BIN_DIR`, else from the directory cargo built this very program into.
    pub fn find() -> Result<Programs> {
        if let Some(directory) = std::env::var_os(BIN_DIR) {
            return Programs::in_directory(Path::new(&directory));
        }
        let me = std::env::current_exe().context("find this program")?;
        let directory = me.parent().context("find the directory of this program")?;
        let directory = if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
        Programs::in_directory(directory)
    }
}

/// The PostgreSQL of `$HARNESS_POSTGRES_DIR`, else the newest of the distribution's packages, else the one on PATH.
pub fn postgres_directory() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os(POSTGRES_DIR) {
        return Ok(directory.into());
    }
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|e| {
            let path = e.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/postgres").is_file().then(|| (version, path.join("bin")))
        })
        .collect();
    versions.sort();
    if let Some((_, newest)) = versions.pop() {
        return Ok(newest);
    }
    let on_path =
        on_path("postgres").context("PostgreSQL's server programs are missing: install the package postgresql")?;
    let real = on_path.canonicalize().context("find PostgreSQL's server programs")?;
    Ok(real.parent().context("find PostgreSQL's server programs")?.to_owned())
}

/// A program on PATH or in the system's directories, which an ordinary user's PATH may lack.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|d| d.join(name))
        .find(|p| p.is_file())
}

/// A program that a Debian package brings.
pub fn require(name: &str, package: &str) -> Result<PathBuf> {
    on_path(name).with_context(|| format!("{name} is missing: run 'apt-get install {package}' as root"))
}

/// Whether this process is root's; then PostgreSQL runs as the user `postgres`.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
