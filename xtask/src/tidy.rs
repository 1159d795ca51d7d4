//! `cargo xtask tidy`: the rules of the house that rustc and clippy don't know. Each fault is a line; any fault fails.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{checkout, programs};

/// Which crates of this workspace a crate may depend on. Binaries compose; the middle crates know `ha` and not each
/// other; `ha` knows nothing. Tests of any of them may use the harness.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("ha", &[]),
    ("dcs", &["ha"]),
    ("instance", &["ha"]),
    ("pool", &["ha"]),
    ("health", &["ha"]),
    ("control", &["ha"]),
    ("service", &["ha"]),
    ("agent", &["ha", "dcs", "instance", "health", "control", "service"]),
    ("pooler", &["ha", "dcs", "pool", "health", "control", "service"]),
    ("ctl", &["ha", "dcs", "control", "service"]),
    ("sim", &["ha"]),
    ("harness", &[]),
    ("e2e", &["harness"]),
    ("xtask", &["harness", "sim"]),
];

/// Lines at which a file should, and must, be split.
const LONG: usize = 500;
const TOO_LONG: usize = 600;

pub(crate) fn run() -> Result<()> {
    let root = checkout::root()?;
    let mut faults = dependency_faults(&metadata(&root)?)?;
    for file in sources(&root)? {
        let text = std::fs::read_to_string(root.join(&file)).with_context(|| format!("read {file}"))?;
        let (fatal, warning) = file_faults(&text);
        faults.extend(fatal.into_iter().map(|f| format!("{file}: {f}")));
        if let Some(warning) = warning {
            say!("warning: {file}: {warning}");
        }
    }
    if faults.is_empty() {
        say!("tidy");
        return Ok(());
    }
    bail!("untidy:\n  {}", faults.join("\n  "))
}

/// Rust files that git knows or would add, but for generated ones.
pub(crate) fn sources(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .output()
        .context("run git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8(output.stdout).context("read git's answer")?;
    let kept = names.lines().filter(|n| !n.contains("generated") && root.join(n).is_file());
    Ok(kept.map(str::to_owned).collect())
}

fn metadata(root: &Path) -> Result<Value> {
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let output =
        Command::new(programs::cargo()).current_dir(root).args(arguments).output().context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("read cargo's answer")
}

fn dependency_faults(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("read cargo's answer")?;
    let name = |v: &Value| v["name"].as_str().map(str::to_owned).context("read a package's name");
    let members: Vec<String> = packages.iter().map(name).collect::<Result<_>>()?;
    let mut faults = Vec::new();
    for package in packages {
        let from = name(package)?;
        let Some((_, allowed)) = MAY_DEPEND_ON.iter().find(|(n, _)| *n == from) else {
            faults.push(format!("crate {from} is not in the table of xtask/src/tidy.rs: say what it may depend on"));
            continue;
        };
        for dependency in package["dependencies"].as_array().context("read a package's dependencies")? {
            let to = name(dependency)?;
            let for_tests = dependency["kind"] == "dev" && to == "harness";
            if members.contains(&to) && !allowed.contains(&to.as_str()) && !for_tests {
                faults.push(format!("crate {from} may not depend on {to}"));
            }
        }
    }
    Ok(faults)
}

/// What is wrong with a file, and what will be soon.
fn file_faults(text: &str) -> (Vec<String>, Option<String>) {
    let mut faults = Vec::new();
    if !text.starts_with("//! ") {
        faults.push("does not open with a `//!` line that says what lives there".to_owned());
    }
    let lines = text.lines().count();
    if lines > TOO_LONG {
        faults.push(format!("{lines} lines, at most {TOO_LONG}: split it"));
    }
    let warning = (lines > LONG && lines <= TOO_LONG).then(|| format!("{lines} lines, more than {LONG}"));
    (faults, warning)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn edges_outside_the_table_are_faults() {
        let package = |name: &str, on: &[&str]| {
            let dependencies: Vec<Value> = on.iter().map(|d| json!({"name": d})).collect();
            json!({"name": name, "dependencies": dependencies})
        };
        let metadata = json!({"packages": [
            package("ha", &["serde"]),
            package("dcs", &["ha", "health"]),
            package("health", &["ha"]),
            package("novel", &[]),
        ]});
        let faults = dependency_faults(&metadata).unwrap();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("dcs may not depend on health") && faults[1].contains("novel"));
    }

    #[test]
    fn files_open_with_their_purpose_and_stay_short() {
        assert_eq!(file_faults("//! Here.\n"), (vec![], None));
        assert_eq!(file_faults("use x;\n").0.len(), 1);
        let lines = |n: usize| format!("//! Here.\n{}", "x\n".repeat(n - 1));
        assert_eq!(file_faults(&lines(500)), (vec![], None));
        assert!(file_faults(&lines(501)).1.is_some());
        assert_eq!(file_faults(&lines(601)).0.len(), 1);
    }
}
