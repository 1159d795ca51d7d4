//! Building pgherd's programs and putting them into dist/.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::checkout;

/// Packages and the program that each builds.
pub(crate) const PROGRAMS: [(&str, &str); 3] =
    [("agent", "pgherd-agent"), ("ctl", "pgherdctl"), ("pooler", "pgherd-pooler")];

/// Builds them into dist/ and returns their paths relative to the checkout.
pub(crate) fn build(debug: bool) -> Result<Vec<String>> {
    let root = checkout::root()?;
    let built = compile(debug)?;
    fs::create_dir_all(root.join("dist")).context("create dist")?;
    present(&root).map(|(_, program)| install(&built.join(program), &root, program)).collect()
}

fn present(root: &Path) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    PROGRAMS.iter().filter(|(package, _)| root.join("crates").join(package).is_dir())
}

/// Builds them and returns the directory that cargo put them into.
pub(crate) fn compile(debug: bool) -> Result<PathBuf> {
    let root = checkout::root()?;
    let packages: Vec<&str> = present(&root).map(|(package, _)| *package).collect();
    compile_only(&packages, debug)
}

/// The same for some packages.
pub(crate) fn compile_only(packages: &[&str], debug: bool) -> Result<PathBuf> {
    let root = checkout::root()?;
    let mut cargo = Command::new(cargo());
    cargo.current_dir(&root).arg("build");
    for variable in own_variables() {
        cargo.env_remove(variable);
    }
    if !debug {
        cargo.arg("--release");
    }
    for package in packages {
        cargo.args(["-p", package]);
    }
    checkout::run(&mut cargo)?;
    Ok(built_directory(&root, debug))
}

/// The cargo that runs this, else the one on PATH.
pub(crate) fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Variables that cargo set for this very program; build scripts that look at them would run anew.
pub(crate) fn own_variables() -> Vec<std::ffi::OsString> {
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    std::env::vars_os().map(|(name, _)| name).filter(|n| ours(&n.to_string_lossy())).collect()
}

/// Where cargo puts programs.
fn built_directory(root: &Path, debug: bool) -> PathBuf {
    target_directory(root).join(if debug { "debug" } else { "release" })
}

/// Where cargo puts everything that it builds.
pub(crate) fn target_directory(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |t| root.join(t))
}

/// Renames into place: a program that runs can't be written over.
fn install(from: &Path, root: &Path, program: &str) -> Result<String> {
    let to = root.join("dist").join(program);
    let fresh = to.with_extension("new");
    fs::copy(from, &fresh).with_context(|| format!("copy {}", from.display()))?;
    fs::rename(&fresh, &to).with_context(|| format!("put {} into place", to.display()))?;
    Ok(format!("dist/{program}"))
}
