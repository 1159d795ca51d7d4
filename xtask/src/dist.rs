//! `cargo xtask dist`: fills dist/ with what goes out: three Debian packages, a tarball for other distributions, and their
//! checksums. The order of the steps is here; each step has a file of its own.

mod build;
mod licenses;
mod pages;
mod tarball;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::checkout;
use crate::programs::PROGRAMS;
use build::Target;
use tools::Tools;

/// The version of everything in this workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whom packages name as responsible; the same as in the crates' `package.metadata.deb`.
const MAINTAINER: &str = "pgherd maintainers <maintainers@pgherd.example>";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pack the programs that an earlier run has built
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = checkout::root()?;
    let tools = Tools::ensure(&root, args.no_build)?;
    let dynamic = Target::dynamic();
    let fixed = Target::fixed()?;
    match &fixed {
        Some(_) => say!("the tarball's programs are static (musl)"),
        None => say!(
            "the tarball's programs are dynamic, for glibc {} and newer: Rust's standard library for static ones is not \
             installed (rustup target add {})",
            build::dotted(build::OLDEST_GLIBC),
            Target::fixed_triple()
        ),
    }
    for target in std::iter::once(&dynamic).chain(&fixed) {
        if !args.no_build {
            target.build(&root, &tools)?;
        }
        for (_, program) in PROGRAMS {
            say!("{program}: {}", target.check(&root, program)?);
        }
    }
    let made = Commit::last(&root)?;
    let share = write_share(&root, &made)?;
    let mut products = Vec::new();
    for (package, _) in PROGRAMS {
        products.push(debian_package(&root, &tools, &dynamic, &made, package)?);
    }
    let programs = fixed.as_ref().unwrap_or(&dynamic).directory(&root);
    products.push(tarball::make(&root, &programs, &share, made.seconds)?);
    let sums = checksums(&root.join("dist"), &products)?;
    for product in products.iter().chain([&sums]) {
        let size = fs::metadata(root.join("dist").join(product)).with_context(|| format!("look at {product}"))?.len();
        say!("dist/{product}  {:.1} MB", size as f64 / 1e6);
    }
    Ok(())
}

/// The commit that is packed: its time is the time of all files, so that the same sources give the same packages.
struct Commit {
    /// Since 1970.
    seconds: u64,
    /// As in mails and Debian's changelogs.
    date: String,
}

impl Commit {
    fn last(root: &Path) -> Result<Commit> {
        let output = Command::new("git").current_dir(root).args(["log", "-1", "--format=%ct%n%cD"]).output();
        let output = output.context("run git log")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        match (lines.next().and_then(|s| s.parse().ok()), lines.next()) {
            (Some(seconds), Some(date)) => Ok(Commit { seconds, date: date.to_owned() }),
            _ => bail!("git log: {}", String::from_utf8_lossy(&output.stderr).trim()),
        }
    }
}

/// Writes what is generated into dist/share, which looks like /usr/share, and returns its path.
fn write_share(root: &Path, made: &Commit) -> Result<PathBuf> {
    let share = root.join("dist/share");
    if share.exists() {
        fs::remove_dir_all(&share).context("remove the old dist/share")?;
    }
    let documents = share.join("doc/pgherd");
    fs::create_dir_all(&documents).context("create dist/share")?;
    pages::write(&share)?;
    let notices = licenses::notices(root, &PROGRAMS.map(|(package, _)| package))?;
    fs::write(documents.join("third-party.txt"), notices).context("write third-party.txt")?;
    for (_, program) in PROGRAMS {
        fs::write(share.join(format!("changelog.{program}")), debian_changelog(program, &made.date))
            .context("write a changelog for Debian")?;
    }
    Ok(share)
}

/// Debian wants a changelog of the packaging in its own format (Debian policy, 4.4). Ours says where the changes are told.
fn debian_changelog(package: &str, date: &str) -> String {
    format!("{package} ({VERSION}-1) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- {MAINTAINER}  {date}\n")
}

/// Makes a crate's package and returns its file's name in dist/.
fn debian_package(root: &Path, tools: &Tools, target: &Target, made: &Commit, package: &str) -> Result<String> {
    let mut command = tools.cargo_deb();
    command.current_dir(root).env("SOURCE_DATE_EPOCH", made.seconds.to_string());
    // The linker has stripped what can go; this way packages and tarball hold programs of one kind.
    command.args(["--quiet", "--no-build", "--no-strip", "--package", package, "--target", &target.triple]);
    command.args(["--output", "dist/"]);
    say!("{}", checkout::shown(&command));
    let output = command.stderr(std::process::Stdio::inherit()).output().context("run cargo deb")?;
    let path = String::from_utf8_lossy(&output.stdout);
    let name = Path::new(path.trim()).file_name().filter(|_| output.status.success());
    name.map(|n| n.to_string_lossy().into_owned()).with_context(|| format!("cargo deb: {}", output.status))
}

/// Writes SHA256SUMS over files of a directory, and returns its name.
fn checksums(directory: &Path, files: &[String]) -> Result<String> {
    let output = Command::new("sha256sum").current_dir(directory).args(files).output().context("run sha256sum")?;
    if !output.status.success() {
        bail!("sha256sum: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    fs::write(directory.join("SHA256SUMS"), output.stdout).context("write SHA256SUMS")?;
    Ok("SHA256SUMS".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_name_the_maintainer_of_the_changelog() {
        let root = checkout::root().unwrap();
        for (package, program) in PROGRAMS {
            let manifest = fs::read_to_string(root.join("crates").join(package).join("Cargo.toml")).unwrap();
            assert!(manifest.contains(&format!("maintainer = \"{MAINTAINER}\"")), "{package}");
            assert!(manifest.contains(&format!("name = \"{program}\"")), "{package}");
        }
    }

    #[test]
    fn the_changelog_is_in_debians_format() {
        let text = debian_changelog("pgherdctl", "Thu, 26 Nov 2026 21:00:00 +0000");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("pgherdctl (") && lines[0].ends_with("-1) unstable; urgency=medium"));
        assert!(lines[4].starts_with(" -- ") && lines[4].ends_with(">  Thu, 26 Nov 2026 21:00:00 +0000"));
    }
}
