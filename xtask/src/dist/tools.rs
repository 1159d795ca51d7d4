//! The tools that packages are made with: cargo-deb, and Zig as compiler of C and linker for any glibc. What is missing is
//! installed below target/, said aloud.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use harness::programs::on_path;

use crate::{checkout, programs};

const CARGO_DEB: &str = "3.8.0";
const CARGO_ZIGBUILD: &str = "cargo-zigbuild==0.24.1";
const ZIG: &str = "ziglang==0.17.1";

/// The tools, found or installed.
pub(super) struct Tools {
    cargo_deb: PathBuf,
    cargo_zigbuild: PathBuf,
    /// `PATH` with Zig's Python first: cargo-zigbuild finds Zig through it.
    path: OsString,
}

impl Tools {
    /// Installs what is missing. Zig is needed for building alone.
    pub(super) fn ensure(root: &Path, no_build: bool) -> Result<Tools> {
        let own = root.join("target/tools");
        let zig = own.join("zig/bin");
        let mut path = vec![zig.clone()];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let tools = Tools {
            cargo_deb: on_path("cargo-deb").unwrap_or_else(|| own.join("bin/cargo-deb")),
            cargo_zigbuild: zig.join("cargo-zigbuild"),
            path: std::env::join_paths(path).context("put Zig on PATH")?,
        };
        if !tools.cargo_deb.is_file() {
            say!("installing cargo-deb {CARGO_DEB} into target/tools (missing here)");
            let mut cargo = Command::new(programs::cargo());
            cargo.current_dir(root).args(["install", "cargo-deb", "--locked", "--version", CARGO_DEB, "--root"]);
            for variable in programs::own_variables() {
                cargo.env_remove(variable);
            }
            checkout::run(cargo.arg(&own)).context("install cargo-deb")?;
        }
        if !no_build && !tools.cargo_zigbuild.is_file() {
            say!("installing {CARGO_ZIGBUILD} and {ZIG} into target/tools/zig with pip (missing here)");
            let mut venv = Command::new("python3");
            checkout::run(venv.args(["-m", "venv"]).arg(own.join("zig")))
                .context("make a virtual environment: install the package python3-venv")?;
            let mut pip = Command::new(zig.join("pip"));
            pip.args(["install", "--quiet", CARGO_ZIGBUILD, ZIG]).stdin(Stdio::null());
            checkout::run(&mut pip).context("install Zig")?;
        }
        Ok(tools)
    }

    /// `cargo deb`, without arguments yet.
    pub(super) fn cargo_deb(&self) -> Command {
        let mut command = Command::new(&self.cargo_deb);
        for variable in programs::own_variables() {
            command.env_remove(variable);
        }
        command
    }

    /// `cargo zigbuild`, without arguments yet.
    pub(super) fn cargo_zigbuild(&self) -> Command {
        let mut command = Command::new(&self.cargo_zigbuild);
        command.arg("zigbuild").env("PATH", &self.path);
        command
    }
}
