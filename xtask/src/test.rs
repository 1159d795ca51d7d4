//! `cargo xtask test`: every check and test of the project, one section after the other, with one count at the end. The
//! tests themselves are elsewhere.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::packages::{self, Need};
use crate::{checkout, programs, supervise};

/// Section names, in the order they run.
const SECTIONS: &[&str] = &["fmt", "clippy", "tidy", "tests", "doc", "fuzz", "sim", "chaos"];

/// Parts of the names of the pooler's property tests that are given many more inputs than in an ordinary run: bytes from
/// the network and from files, and whole conversations. How many inputs: about a minute on two processors.
const FUZZED: &[&str] = &["panic", "no_query_is_too_strange", "chunking", "whatever_a_client_sends", "fuzz_"];
const INPUTS: &str = "20000";

/// Inputs that a test may leave out beside them, because it is not about them.
const REJECTS: &str = "100000";

/// Simulated clusters.
const SEEDS: &str = "2000";

/// Chaos, in minutes, with always the same faults: a failure should come from what was changed.
const MINUTES: &str = "2";
const CHAOS_SEED: &str = "1";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Sections (fmt, clippy, tidy, tests, doc, fuzz, sim, chaos) or parts of tests' names; all unless given
    filter: Vec<String>,
}

/// What the runners' closing lines begin with. nextest shows those of each failed test as well: they don't count.
const NEXTEST: &str = "Summary [";
const CARGO: &str = "test result:";

/// How many passed and failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    fn one(good: bool) -> Tally {
        Tally { passed: good.into(), failed: (!good).into() }
    }

    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    packages::ensure(&[
        Need::Postgres,
        Need::Etcd,
        Need::Haproxy,
        Need::Iproute,
        Need::PythonDrivers,
        Need::NodeDriver,
    ])?;
    let suite = Suite::new(&args.filter)?;
    let mut tally = Tally::default();
    let (result, left) = supervise::run(suite.run(&mut tally))?;
    if let Err(e) = &result {
        say!("\nstopped: {e:#}");
        tally.failed += 1;
    }
    if !left.is_empty() {
        say!("\nprocesses were left behind (ended now):\n  {}", left.join("\n  "));
        tally.failed += 1;
    }
    say!("\n{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 { bail!("{} failed", tally.failed) } else { Ok(()) }
}

/// What is run.
struct Suite {
    root: PathBuf,
    /// Sections chosen; all when none is named.
    sections: Vec<&'static str>,
    /// Parts of tests' names; all tests when empty.
    names: Vec<String>,
}

impl Suite {
    fn new(filter: &[String]) -> Result<Suite> {
        let named = |f: &String| SECTIONS.iter().find(|s| *s == f).copied();
        let names: Vec<String> = filter.iter().filter(|f| named(f).is_none()).cloned().collect();
        let mut sections: Vec<&'static str> = filter.iter().filter_map(named).collect();
        if !names.is_empty() && !sections.contains(&"tests") {
            sections.push("tests");
        }
        if sections.is_empty() {
            sections = SECTIONS.to_vec();
        }
        Ok(Suite { root: checkout::root()?, sections, names })
    }

    async fn run(&self, tally: &mut Tally) -> Result<()> {
        for section in SECTIONS.iter().filter(|s| self.sections.contains(s)) {
            say!("\n=== {section} ===");
            let begun = Instant::now();
            let outcome = self.section(section).await?;
            say!(
                "=== {section}: {} passed, {} failed, {:.0} s",
                outcome.passed,
                outcome.failed,
                begun.elapsed().as_secs_f64()
            );
            tally.add(outcome);
        }
        Ok(())
    }

    async fn section(&self, section: &str) -> Result<Tally> {
        match section {
            "fmt" => self.cargo(&["fmt", "--all", "--check"]).await,
            "clippy" => self.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).await,
            "tidy" => self.xtask(&["tidy"]).await,
            "tests" => self.tests().await,
            "doc" if !has_doc_tests(&self.root)? => {
                say!("there are no doc tests");
                Ok(Tally::default())
            }
            "doc" => self.counted(&["test", "--workspace", "--doc"]).await,
            "fuzz" => {
                let mut arguments = runner("pool");
                arguments.extend(FUZZED);
                let limits = [("PROPTEST_CASES", INPUTS), ("PROPTEST_MAX_GLOBAL_REJECTS", REJECTS)];
                self.counted_with(&arguments, &limits).await
            }
            "sim" => self.xtask(&["sim", "--seeds", SEEDS]).await,
            "chaos" if !harness::programs::is_root() => {
                say!("left out: chaos needs root for its network namespaces");
                Ok(Tally::default())
            }
            "chaos" => self.xtask(&["chaos", "--debug", "--minutes", MINUTES, "--seed", CHAOS_SEED]).await,
            other => bail!("there is no section {other}"),
        }
    }

    /// The programs first: the end-to-end tests run them. Then every test but doc tests.
    async fn tests(&self) -> Result<Tally> {
        let built = self.cargo(&["build", "--workspace", "--bins"]).await?;
        if built.failed > 0 {
            return Ok(built);
        }
        let mut arguments = runner("--workspace");
        arguments.extend(self.names.iter().map(String::as_str));
        self.counted(&arguments).await
    }

    /// A check that passes or fails as a whole.
    async fn cargo(&self, arguments: &[&str]) -> Result<Tally> {
        let status = self.command(programs::cargo(), arguments).status().await.context("run cargo")?;
        Ok(Tally::one(status.success()))
    }

    async fn xtask(&self, arguments: &[&str]) -> Result<Tally> {
        // This very program, also when it has been built anew meanwhile.
        let status = self.command("/proc/self/exe", arguments).status().await.context("run a task")?;
        Ok(Tally::one(status.success()))
    }

    /// A test runner whose own counts are taken over.
    async fn counted(&self, arguments: &[&str]) -> Result<Tally> {
        self.counted_with(arguments, &[]).await
    }

    /// The same with some environment variables set.
    async fn counted_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Tally> {
        let mut command = self.command(programs::cargo(), arguments);
        command.envs(environment.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("run cargo")?;
        let out = BufReader::new(child.stdout.take().context("read cargo's output")?);
        let err = BufReader::new(child.stderr.take().context("read cargo's output")?);
        // Processes that a test left behind may hold the pipes open: the runner's end counts, not theirs.
        let closing = if arguments.first() == Some(&"nextest") { NEXTEST } else { CARGO };
        let readers = async { tokio::join!(relay(out.lines(), closing), relay(err.lines(), closing)) };
        tokio::pin!(readers);
        let (status, (out, err)) = tokio::select! {
            tallies = &mut readers => (child.wait().await.context("run cargo")?, tallies),
            status = child.wait() => {
                let rest = tokio::time::timeout(Duration::from_secs(10), readers).await;
                (status.context("run cargo")?, rest.context("a process that a test left behind holds the output")?)
            }
        };
        let mut tally = out;
        tally.add(err);
        if !status.success() && tally.failed == 0 {
            tally.failed = 1;
        }
        Ok(tally)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        for variable in programs::own_variables() {
            command.env_remove(variable);
        }
        // A failed test's message says what was expected; where the error was made is noise.
        command.env("RUST_LIB_BACKTRACE", "0").env("CARGO_TERM_COLOR", "never").kill_on_drop(true);
        command
    }
}

/// The beginning of a test runner's command line for one package, or `--workspace`. Parts of tests' names may follow.
fn runner(what: &str) -> Vec<&str> {
    let scope = if what.starts_with("--") { vec![what] } else { vec!["--package", what] };
    if harness::programs::on_path("cargo-nextest").is_some() {
        return [&["nextest", "run", "--no-fail-fast"][..], &scope].concat();
    }
    say!("cargo-nextest is not here: using cargo test, which is slower");
    [&["test", "--all-targets", "--no-fail-fast"][..], &scope, &["--"]].concat()
}

/// Prints lines as they come and adds up the counts in them.
async fn relay<R: tokio::io::AsyncBufRead + Unpin>(mut lines: tokio::io::Lines<R>, closing: &str) -> Tally {
    let mut tally = Tally::default();
    while let Ok(Some(line)) = lines.next_line().await {
        say!("{line}");
        tally.add(counts(&line, closing));
    }
    tally
}

/// Counts of a closing line: nextest's `Summary [ 1.2s] 5 tests run: 4 passed (1 slow), 1 failed, 2 skipped`, or cargo
/// test's `test result: ok. 4 passed; 1 failed; ...`.
fn counts(line: &str, closing: &str) -> Tally {
    let line = line.trim();
    if !line.starts_with(closing) {
        return Tally::default();
    }
    let words: Vec<&str> = line.split([' ', ',', ';']).filter(|w| !w.is_empty()).collect();
    let before = |name: &str| {
        let at = words.iter().position(|w| *w == name)?;
        words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
    };
    let failed = ["failed", "timed", "exec-failed"].iter().filter_map(|n| before(n)).sum();
    Tally { passed: before("passed").unwrap_or(0), failed }
}

/// Whether any library has an example in a doc comment.
fn has_doc_tests(root: &Path) -> Result<bool> {
    let fences = |line: &str| line.trim_start().starts_with("/// ```") || line.trim_start().starts_with("//! ```");
    for file in crate::tidy::sources(root)? {
        let text = std::fs::read_to_string(root.join(&file)).with_context(|| format!("read {file}"))?;
        if file.starts_with("crates/") && text.lines().any(fences) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_closing_lines_only() {
        let nextest = "     Summary [   1.112s] 13 tests run: 12 passed (2 slow), 1 failed, 3 skipped";
        assert_eq!(counts(nextest, NEXTEST), Tally { passed: 12, failed: 1 });
        let timed = "     Summary [   1.112s] 13 tests run: 10 passed, 2 failed, 1 timed out, 0 skipped";
        assert_eq!(counts(timed, NEXTEST), Tally { passed: 10, failed: 3 });
        let cargo = "test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(counts(cargo, CARGO), Tally { passed: 4, failed: 1 });
        assert_eq!(counts("the summary: 4 passed", NEXTEST), Tally::default());
        assert_eq!(counts(cargo, NEXTEST), Tally::default());
    }

    #[test]
    fn filters_name_sections_or_tests() {
        let suite = |filter: &[&str]| Suite::new(&filter.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()).unwrap();
        assert_eq!(suite(&[]).sections, SECTIONS);
        assert_eq!(suite(&["fmt", "sim"]).sections, ["fmt", "sim"]);
        assert_eq!(suite(&["switchover"]).sections, ["tests"]);
        assert_eq!(suite(&["switchover"]).names, ["switchover"]);
    }
}
