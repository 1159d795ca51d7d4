//! The checkout that this program works on, and running commands in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The checkout's top directory: the one cargo runs this from, else the nearest around the working directory that looks
/// like one.
pub(crate) fn root() -> Result<PathBuf> {
    if let Some(manifest) = std::env::var_os("CARGO_MANIFEST_DIR")
        && let Some(parent) = Path::new(&manifest).parent()
    {
        return Ok(parent.to_owned());
    }
    let here = std::env::current_dir().context("find the working directory")?;
    let found = here.ancestors().find(|d| d.join("Cargo.lock").is_file() || d.join("dist/pgherd-agent").is_file());
    Ok(found.context("this is no checkout of pgherd: run 'cargo xtask' inside one")?.to_owned())
}

/// Runs a command and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {}", shown(command)))?;
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(())
}

/// The command as a shell would read it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
