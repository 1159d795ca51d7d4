//! Building programs that run on other distributions than this one: against an old glibc, or without any.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::tools::Tools;
use crate::programs::PROGRAMS;
use crate::{checkout, programs};

/// glibc of CentOS 7, and the oldest that Rust's standard library runs on.
pub(super) const OLDEST_GLIBC: (u32, u32) = (2, 17);

const GLIBC_LIBRARIES: [&str; 6] = ["libc.so.", "libm.so.", "libpthread.so.", "libdl.so.", "librt.so.", "ld-linux"];

/// What programs are built for.
pub(super) struct Target {
    /// Rust's name for it.
    pub(super) triple: String,
    /// The oldest glibc that will do; none for static programs.
    glibc: Option<(u32, u32)>,
}

impl Target {
    /// Dynamic programs. Those ask the machine's own name service for hosts and users, LDAP and mDNS included.
    pub(super) fn dynamic() -> Target {
        Target { triple: format!("{}-unknown-linux-gnu", std::env::consts::ARCH), glibc: Some(OLDEST_GLIBC) }
    }

    /// Static programs, if Rust's standard library for them is installed.
    pub(super) fn fixed() -> Result<Option<Target>> {
        let triple = Target::fixed_triple();
        let output = Command::new("rustc").args(["--print", "sysroot"]).output().context("run rustc")?;
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let library = sysroot.join("lib/rustlib").join(&triple).join("lib");
        Ok(library.is_dir().then_some(Target { triple, glibc: None }))
    }

    /// Rust's name for the target of static programs.
    pub(super) fn fixed_triple() -> String {
        format!("{}-unknown-linux-musl", std::env::consts::ARCH)
    }

    /// Where cargo puts the programs: a directory of their own, so that those of `cargo xtask build` stay.
    pub(super) fn directory(&self, root: &Path) -> PathBuf {
        programs::target_directory(root).join(&self.triple).join("release")
    }

    /// Builds all of them, optimised.
    pub(super) fn build(&self, root: &Path, tools: &Tools) -> Result<()> {
        let mut cargo = tools.cargo_zigbuild();
        cargo.current_dir(root).args(["--release", "--locked", "--target", &self.with_glibc()]);
        for variable in programs::own_variables() {
            cargo.env_remove(variable);
        }
        for (package, _) in PROGRAMS {
            cargo.args(["-p", package]);
        }
        say!("building for {}", self.with_glibc());
        checkout::run(&mut cargo)
    }

    /// The target as cargo-zigbuild names it.
    fn with_glibc(&self) -> String {
        match self.glibc {
            Some(version) => format!("{}.{}", self.triple, dotted(version)),
            None => self.triple.clone(),
        }
    }

    /// Fails unless a program runs where it shall. Returns what it needs, in words.
    pub(super) fn check(&self, root: &Path, program: &str) -> Result<String> {
        let path = self.directory(root).join(program);
        if !path.is_file() {
            bail!("{} is missing: leave out --no-build", path.display());
        }
        let output = Command::new("objdump").args(["--private-headers", "--dynamic-syms"]).arg(&path).output();
        let output = output.context("run objdump: install the package binutils")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(library) = foreign_library(&text) {
            bail!("{} needs {library}, which no package depends on", path.display());
        }
        match (newest_glibc(&text), self.glibc) {
            (Some(found), Some(oldest)) if found <= oldest => Ok(format!("needs glibc {} or newer", dotted(found))),
            (None, None) => Ok("static".to_owned()),
            (Some(found), _) => bail!("{} needs glibc {}", path.display(), dotted(found)),
            (None, Some(_)) => bail!("{} was not built against glibc", path.display()),
        }
    }
}

/// A version as people write it.
pub(super) fn dotted((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// A shared library that isn't glibc's among those that objdump shows as needed.
fn foreign_library(headers: &str) -> Option<&str> {
    let mut needed = headers.lines().filter_map(|line| line.trim_start().strip_prefix("NEEDED")).map(str::trim);
    needed.find(|name| !GLIBC_LIBRARIES.iter().any(|own| name.starts_with(own)))
}

/// The newest version of glibc that a table of dynamic symbols asks for.
fn newest_glibc(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let mut numbers = rest[..end].split('.').map(|n| n.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_version_counts() {
        let table = "0000 DF *UND* 0000 (GLIBC_2.2.5) read\n\
                     0000 DF *UND* 0000 (GLIBC_2.17) clock_gettime\n\
                     0000 DF *UND* 0000 (GLIBC_2.9)  epoll_create1\n\
                     0000 DF *UND* 0000 (GLIBC_PRIVATE) __libc_dlopen\n\
                     0000 DF *UND* 0000 (GCC_3.0) _Unwind_Resume\n";
        assert_eq!(newest_glibc(table), Some((2, 17)));
        assert_eq!(newest_glibc("no symbols\n"), None);
        assert!((2, 9) < OLDEST_GLIBC && (2, 28) > OLDEST_GLIBC);
    }

    #[test]
    fn other_libraries_are_found() {
        let headers =
            "Dynamic Section:\n  NEEDED               libm.so.6\n  NEEDED               libpq.so.5\n  RUNPATH  x\n";
        assert_eq!(foreign_library(headers), Some("libpq.so.5"));
        assert_eq!(foreign_library("  NEEDED  libc.so.6\n  NEEDED  ld-linux-x86-64.so.2\n"), None);
    }

    #[test]
    fn zig_is_told_the_glibc() {
        assert!(Target::dynamic().with_glibc().ends_with("-unknown-linux-gnu.2.17"));
        let fixed = Target { triple: Target::fixed_triple(), glibc: None };
        assert!(fixed.with_glibc().ends_with("-unknown-linux-musl"));
    }
}
