//! Which PostgreSQL the tests run on.
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::path::PathBuf;
use std::sync::LazyLock;

/// Environment variable that names the directory of PostgreSQL's programs, to test another version.
const DIRECTORY: &str = "HARNESS_POSTGRES_DIR";

/// The directory of PostgreSQL's programs: `$HARNESS_POSTGRES_DIR`, else the newest of the distribution's packages.
pub(crate) static BIN: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return directory.into();
    }
    let packages = std::fs::read_dir("/usr/lib/postgresql").expect("install the package postgresql");
    let versions = packages.map(|e| e.unwrap().path()).filter(|p| p.join("bin/postgres").is_file());
    let version = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap_or(0);
    versions.max_by_key(version).expect("install the package postgresql").join("bin")
});
