//! What a host is to be like, and what it is like: plain data. Which host gets what is in `role`, the difference in
//! `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

/// What a host is to be like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desired {
    /// Packages of the distribution.
    pub(crate) packages: BTreeSet<String>,
    /// Directories, parents first.
    pub(crate) directories: Vec<Directory>,
    /// Files.
    pub(crate) files: Vec<File>,
    /// Services that are enabled and run.
    pub(crate) units: Vec<Unit>,
    /// Directories of data, looked at and never touched.
    pub(crate) data: Vec<PathBuf>,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    /// `user:group`.
    pub(crate) owner: String,
    pub(crate) mode: u32,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
    /// `user:group`.
    pub(crate) owner: String,
    pub(crate) mode: u32,
    /// What `--diff` shows of it.
    pub(crate) kind: Kind,
    /// A command that accepts the new file, `{}`, before it takes the old one's place.
    pub(crate) check: Option<String>,
}

/// What a new program must pass. A shell takes what the kernel can't run for a script, so that the machine in the file's
/// header (elf(5), `e_machine`) is looked at first.
const RUNS: &str = "\
machine() { od -An -tx1 -j18 -N2 \"$1\"; }
if [ \"$(head -c 2 {})\" != '#!' ]; then
    [ \"$(head -c 4 {} | tail -c 3)\" = ELF ] && [ \"$(machine {})\" = \"$(machine /bin/sh)\" ] ||
        { echo 'it is no program for a machine like this host' >&2; exit 1; }
fi
timeout 10 {} --version >/dev/null || { echo 'the new program does not run on this host' >&2; exit 1; }";

/// What `--diff` shows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its lines.
    Text,
    /// That it differs.
    Secret,
    /// That it differs, and its size.
    Program,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// As systemd calls it.
    pub(crate) name: String,
    /// Files that it has to be restarted for.
    pub(crate) restart_on: Vec<PathBuf>,
    /// Files that it has to be reloaded for.
    pub(crate) reload_on: Vec<PathBuf>,
    /// Ports that it listens on.
    pub(crate) ports: Vec<u16>,
}

/// What files a service runs with: two hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    pub(crate) restart: String,
    pub(crate) reload: String,
}

/// What a host is like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// `ID` of os-release, such as `debian`.
    pub(crate) system: String,
    /// Packages that are installed.
    pub(crate) packages: BTreeSet<String>,
    /// Paths that were asked for and exist.
    pub(crate) paths: BTreeMap<PathBuf, Found>,
    /// Services that were asked for.
    pub(crate) units: BTreeMap<String, Service>,
    /// Room on the disk of a path, in KiB.
    pub(crate) free: BTreeMap<PathBuf, u64>,
    /// TCP ports that are listened on, and by whom.
    pub(crate) ports: BTreeMap<u16, String>,
    /// Directories of data that hold something, and the text of `PG_VERSION` there.
    pub(crate) data: BTreeMap<PathBuf, String>,
    /// The data directory of the agent that an earlier run has set up.
    pub(crate) agents: Option<PathBuf>,
    /// Whether an earlier run has had everything speak TLS.
    pub(crate) tls: Option<bool>,
}

/// A file or directory as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) is_directory: bool,
    pub(crate) owner: String,
    pub(crate) mode: u32,
    /// Of a file, in hexadecimal digits.
    pub(crate) sha256: String,
}

/// A service as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Service {
    pub(crate) enabled: bool,
    pub(crate) active: bool,
    /// What it was started with by an earlier run.
    pub(crate) stamp: Option<Stamp>,
    /// Whether that run has seen it work.
    pub(crate) proven: bool,
    /// Whether any run has ever seen it work.
    pub(crate) worked: bool,
}

impl File {
    /// A file that everybody may read.
    pub(crate) fn text(path: &str, content: String) -> File {
        let owner = "root:root".to_owned();
        File { path: path.into(), content: content.into(), owner, mode: 0o644, kind: Kind::Text, check: None }
    }

    /// A program, which must run on the host before it takes an earlier one's place.
    pub(crate) fn program(path: PathBuf, content: Vec<u8>) -> File {
        let (kind, check) = (Kind::Program, Some(RUNS.to_owned()));
        File { path, content, owner: "root:root".to_owned(), mode: 0o755, kind, check }
    }

    /// A file with passwords, which is one user's alone.
    pub(crate) fn secret(path: &str, content: String, owner: &str) -> File {
        File { owner: owner.to_owned(), mode: 0o600, kind: Kind::Secret, ..File::text(path, content) }
    }

    /// Its hash in hexadecimal digits.
    pub(crate) fn sha256(&self) -> String {
        sha256([&*self.content])
    }
}

impl Desired {
    /// What a service is to run with.
    pub(crate) fn stamp(&self, unit: &Unit) -> Stamp {
        let of = |paths: &[PathBuf]| {
            let files: Vec<&File> = paths.iter().filter_map(|path| self.file(path)).collect();
            sha256(files.iter().flat_map(|f| [f.path.as_os_str().as_encoded_bytes(), b"\0", &f.content]))
        };
        Stamp { restart: of(&unit.restart_on), reload: of(&unit.reload_on) }
    }

    pub(crate) fn file(&self, path: &Path) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Desired) -> Desired {
        self.packages.extend(other.packages);
        self.directories
            .extend(other.directories.into_iter().filter(|d| !self.directories.contains(d)).collect::<Vec<_>>());
        self.files.extend(other.files.into_iter().filter(|f| !self.files.contains(f)).collect::<Vec<_>>());
        self.units.extend(other.units);
        self.data.extend(other.data);
        self
    }
}

fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_which_kind_of_file_has_changed() {
        let unit = Unit {
            name: "x.service".to_owned(),
            restart_on: vec!["/bin/x".into()],
            reload_on: vec!["/etc/x".into()],
            ports: vec![],
        };
        let with = |program: &str, configuration: &str| Desired {
            files: vec![File::text("/bin/x", program.to_owned()), File::text("/etc/x", configuration.to_owned())],
            ..Desired::default()
        };
        let before = with("1", "a").stamp(&unit);
        assert_eq!(before, with("1", "a").stamp(&unit));
        let configured = with("1", "b").stamp(&unit);
        assert!(configured.restart == before.restart && configured.reload != before.reload);
        let upgraded = with("2", "a").stamp(&unit);
        assert!(upgraded.restart != before.restart && upgraded.reload == before.reload);
    }

    #[test]
    fn a_program_for_another_machine_is_told_apart_and_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        let accepted = |content: &[u8]| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            let script = RUNS.replace("{}", &format!("'{}'", path.display()));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let mut program = std::fs::read("/bin/true").unwrap();
        assert_eq!(accepted(&program), (true, String::new()));
        program[18] ^= 0xff;
        assert!(accepted(&program).1.contains("no program for a machine like this host"));
        let touched = directory.path().join("touched");
        assert!(!accepted(format!("touch {}\n", touched.display()).as_bytes()).0 && !touched.exists());
        assert!(accepted(b"#!/bin/sh\nexit 1\n").1.contains("does not run on this host"));
    }

    #[test]
    fn a_hash_is_sha256sums() {
        assert_eq!(
            File::text("/x", "abc".to_owned()).sha256(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
