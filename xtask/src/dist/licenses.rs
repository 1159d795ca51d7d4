//! Names, licenses and notices of the crates that the programs are built from: most licenses want them to go with a
//! program.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::programs;

/// How the files are called that hold licenses and notices.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// All of it for some crates of this workspace, as one text.
pub(super) fn notices(root: &Path, packages: &[&str]) -> Result<String> {
    let metadata = metadata(root)?;
    let mut text =
        "pgherd's programs hold parts of these projects, and of Rust's standard library (MIT or Apache-2.0,\n\
                    https://www.rust-lang.org).\n\n"
            .to_owned();
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for id in linked(&metadata, packages)? {
        let package = package(&metadata, &id)?;
        if package["source"].is_null() {
            continue;
        }
        let field = |name: &str| package[name].as_str().unwrap_or("unknown");
        let title = format!("{} {}", field("name"), field("version"));
        // Writing to a String doesn't fail.
        let _ = writeln!(text, "{title}: {}", field("license"));
        for notice in texts(Path::new(field("manifest_path")))? {
            files.entry(notice).or_default().push(title.clone());
        }
    }
    for (notice, of) in &files {
        let _ = write!(text, "\n{}\n{}\n\n{}\n", "-".repeat(78), of.join(", "), notice.trim_end());
    }
    Ok(text)
}

fn metadata(root: &Path) -> Result<Value> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = Command::new(programs::cargo());
    cargo.current_dir(root).args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform]);
    let output = cargo.output().context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("read cargo's answer")
}

/// The texts of a crate's files with licenses and notices.
fn texts(manifest: &Path) -> Result<Vec<String>> {
    let directory = manifest.parent().context("find a crate's directory")?;
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", directory.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && NAMES.iter().any(|n| name.starts_with(n)) {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            found.push(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"));
        }
    }
    found.sort();
    Ok(found)
}

fn package<'a>(metadata: &'a Value, id: &str) -> Result<&'a Value> {
    let packages = metadata["packages"].as_array().context("read cargo's packages")?;
    packages.iter().find(|p| p["id"] == id).with_context(|| format!("find {id} among cargo's packages"))
}

/// The crates that end up in the programs: not those that only build or test them, nor macros.
fn linked(metadata: &Value, packages: &[&str]) -> Result<BTreeSet<String>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("read cargo's graph")?;
    let members = metadata["packages"].as_array().context("read cargo's packages")?.iter();
    let own = members.filter(|p| p["source"].is_null() && packages.iter().any(|name| p["name"] == *name));
    let mut waiting: Vec<String> = own.filter_map(|p| p["id"].as_str().map(str::to_owned)).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if is_macro(package(metadata, &id)?) || !seen.insert(id.clone()) {
            continue;
        }
        let node = nodes.iter().find(|n| n["id"] == id.as_str()).with_context(|| format!("find {id} in the graph"))?;
        let dependencies = node["deps"].as_array().into_iter().flatten();
        let normal =
            dependencies.filter(|d| d["dep_kinds"].as_array().into_iter().flatten().any(|k| k["kind"].is_null()));
        waiting.extend(normal.filter_map(|d| d["pkg"].as_str().map(str::to_owned)));
    }
    Ok(seen)
}

fn is_macro(package: &Value) -> bool {
    let targets = package["targets"].as_array().into_iter().flatten();
    targets.flat_map(|t| t["kind"].as_array().into_iter().flatten()).any(|kind| kind == "proc-macro")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_linked_is_named_and_nothing_else() {
        let package = |id: &str, source: Value, kind: &str| json!({"id": id, "name": id, "source": source, "targets": [{"kind": [kind]}]});
        let on = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                package("agent", json!(null), "bin"),
                package("xtask", json!(null), "bin"),
                package("tokio", json!("registry"), "lib"),
                package("bytes", json!("registry"), "lib"),
                package("derive", json!("registry"), "proc-macro"),
                package("cc", json!("registry"), "lib"),
                package("clap", json!("registry"), "lib"),
            ],
            "resolve": {"nodes": [
                {"id": "agent", "deps": [on("tokio", json!(null)), on("cc", json!("build")), on("derive", json!(null))]},
                {"id": "tokio", "deps": [on("bytes", json!(null))]},
                {"id": "bytes", "deps": []},
                {"id": "xtask", "deps": [on("clap", json!(null))]},
            ]},
        });
        let found: Vec<String> = linked(&metadata, &["agent"]).unwrap().into_iter().collect();
        assert_eq!(found, ["agent", "bytes", "tokio"]);
    }

    #[test]
    fn notices_are_found_by_their_files_names() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in
            [("LICENSE-MIT", "mit\r\n"), ("copying.txt", "gpl"), ("README.md", "no"), ("Cargo.toml", "no")]
        {
            fs::write(directory.path().join(name), text).unwrap();
        }
        assert_eq!(texts(&directory.path().join("Cargo.toml")).unwrap(), ["gpl", "mit\n"]);
    }
}
