//! The tarball for distributions without Debian's packages. It looks like /usr, so that unpacking it there installs it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::VERSION;
use crate::checkout;
use crate::programs::PROGRAMS;

/// Files of the checkout and where they go, relative to /usr.
const FILES: [(&str, &str); 9] = [
    ("deploy/pgherd-agent.service", "lib/systemd/system/pgherd-agent.service"),
    ("deploy/pgherd-pooler.service", "lib/systemd/system/pgherd-pooler.service"),
    ("deploy/pgherd-agent-hardening.conf", "share/doc/pgherd/examples/pgherd-agent-hardening.conf"),
    ("deploy/examples/agent.yml", "share/doc/pgherd/examples/agent.yml"),
    ("deploy/examples/pgbouncer.ini", "share/doc/pgherd/examples/pgbouncer.ini"),
    ("deploy/haproxy.cfg", "share/doc/pgherd/examples/haproxy.cfg"),
    ("deploy/README.md", "share/doc/pgherd/deploy.md"),
    ("CHANGELOG.md", "share/doc/pgherd/CHANGELOG.md"),
    ("LICENSE", "share/doc/pgherd/LICENSE"),
];

/// Makes it from the programs in a directory and what was generated, and returns its name in dist/. All files get one time,
/// in seconds since 1970.
pub(super) fn make(root: &Path, programs: &Path, share: &Path, seconds: u64) -> Result<String> {
    let name = format!("pgherd-{VERSION}-{}-linux", std::env::consts::ARCH);
    let stage = tempfile::tempdir().context("make a temporary directory")?;
    let mut files = contents(root, programs, share)?;
    files.sort_by(|a, b| a.1.cmp(&b.1));
    for (from, to) in &files {
        let target = stage.path().join(&name).join(to);
        fs::create_dir_all(target.parent().unwrap_or(stage.path())).context("make a temporary directory")?;
        fs::copy(from, &target).with_context(|| format!("copy {}", from.display()))?;
        let mode = if to.starts_with("bin/") { 0o755 } else { 0o644 };
        fs::set_permissions(&target, fs::Permissions::from_mode(mode)).context("set a file's mode")?;
    }
    let file = format!("{name}.tar.gz");
    let mut tar = Command::new("tar");
    tar.current_dir(stage.path());
    tar.args(["--create", "--use-compress-program=gzip -9n", "--owner=root:0", "--group=root:0", "--format=gnu"]);
    tar.arg(format!("--mtime=@{seconds}")).arg("--file").arg(root.join("dist").join(&file));
    // Files alone: unpacking must not change the directories of a system.
    tar.args(files.iter().map(|(_, to)| format!("{name}/{to}")));
    checkout::run(&mut tar)?;
    Ok(file)
}

/// Where each file comes from, and its path below /usr.
fn contents(root: &Path, programs: &Path, share: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut files: Vec<(PathBuf, String)> =
        FILES.iter().map(|(from, to)| (root.join(from), (*to).to_owned())).collect();
    files.extend(PROGRAMS.iter().map(|(_, program)| (programs.join(program), format!("bin/{program}"))));
    for entry in fs::read_dir(root.join("docs")).context("list docs")? {
        let path = entry.context("list docs")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".md") && !name.starts_with("benchmarks") {
            files.push((path, format!("share/doc/pgherd/{name}")));
        }
    }
    for generated in below(share)? {
        let to = generated.strip_prefix(share).context("find a generated file")?.to_string_lossy().into_owned();
        // Debian's own, and the directory where other distributions' zsh looks.
        if !to.starts_with("changelog.") {
            let to = to.replace("zsh/vendor-completions", "zsh/site-functions");
            files.push((generated, format!("share/{to}")));
        }
    }
    Ok(files)
}

/// All files below a directory.
fn below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry.with_context(|| format!("list {}", directory.display()))?.path();
        if path.is_dir() {
            files.extend(below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_packed_is_there_and_has_one_place() {
        let root = checkout::root().unwrap();
        let share = tempfile::tempdir().unwrap();
        fs::create_dir_all(share.path().join("zsh/vendor-completions")).unwrap();
        fs::write(share.path().join("zsh/vendor-completions/_pgherdctl"), "").unwrap();
        fs::write(share.path().join("changelog.pgherdctl"), "").unwrap();
        let files = contents(&root, Path::new("/nowhere"), share.path()).unwrap();
        let places: BTreeSet<&str> = files.iter().map(|(_, to)| to.as_str()).collect();
        assert_eq!(places.len(), files.len());
        for place in ["bin/pgherd-agent", "share/zsh/site-functions/_pgherdctl", "share/doc/pgherd/pooler.md"] {
            assert!(places.contains(place), "{place} is missing in {places:?}");
        }
        assert!(!places.iter().any(|p| p.contains("changelog.pgherdctl") || p.contains("benchmarks")), "{places:?}");
        for (from, _) in files.iter().filter(|(from, _)| !from.starts_with("/nowhere")) {
            assert!(from.is_file(), "{}", from.display());
        }
    }
}
