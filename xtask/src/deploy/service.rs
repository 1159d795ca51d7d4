//! A single service on a host: starting it or having it take over new files, waiting until it's up, noting what it runs
//! with, and going back to the files that it ran with before. In which order services of several hosts are touched is in
//! `roll`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::apply::At;
use super::facts::STAMPS;
use super::plan::Act;
use super::remote::quoted;
use super::role::{AGENT, POOLER};
use super::state::{Stamp, Unit};

/// How long a service may take to be up.
const UP: Duration = Duration::from_secs(45);
/// The same for a program of pgherd's that takes an earlier one's place: the leader's must be back, one way or the other, while
/// its lease lasts, which with the usual ttl of 30 s may be down to 20 s, some of them the guard's.
const RENEWED: Duration = Duration::from_secs(9);

/// How long systemd may take to start or to reload one, in seconds: etcd waits for its quorum.
const STARTING: u64 = 120;

/// The file on a host that says what a service was started with.
pub(crate) fn stamp_file(unit: &str) -> String {
    format!("{STAMPS}/{unit}")
}

/// Where the files are kept that the services have worked with.
const PROVEN: &str = "/var/lib/pgherd-deploy/proven";

impl At<'_> {
    /// Starts, restarts or reloads a service, and waits until it's up. What it was started with is noted as unproven.
    pub(crate) fn act(&self, unit: &Unit, act: Act, stamp: &Stamp) -> Result<()> {
        let what = format!("{} {}", act.verb(), unit.name);
        self.say(&what);
        self.run(&script(unit, act, stamp)).context(what)?;
        self.up(unit, act)
    }

    /// Keeps the files that a service works with, and notes that they're good.
    pub(crate) fn prove(&self, units: &[(&Unit, &Stamp)], files: &[PathBuf]) -> Result<()> {
        let marks: String = units.iter().map(|(unit, stamp)| mark(&unit.name, stamp, "")).collect();
        let stamps: Vec<PathBuf> = units.iter().map(|(unit, _)| PathBuf::from(stamp_file(&unit.name))).collect();
        let script = format!("set -e\numask 077\n{}{marks}{}", keep(files), keep(&stamps));
        self.run(&script).map(drop).context("note what is deployed")
    }

    /// Puts back the files that a service last worked with, and has it take them. Returns whether there was anything to
    /// put back.
    pub(crate) fn put_back(&self, unit: &Unit, act: Act, files: &[PathBuf]) -> Result<bool> {
        let said = self.run(&back(files)).context("put the earlier files back")?;
        if said.trim().is_empty() {
            return Ok(false);
        }
        self.say(&format!("put back {}", said.trim().replace('\n', ", ")));
        let take = match act {
            Act::Reload if !is_own(unit) => work(unit, Act::Reload),
            _ => work(unit, Act::Restart),
        };
        self.run(&format!("systemctl daemon-reload\n{take}\n")).context("have the service take the earlier files")?;
        self.up(unit, act)?;
        Ok(true)
    }

    /// Notes that a service runs again with what it ran with before.
    pub(crate) fn prove_again(&self, unit: &Unit) -> Result<()> {
        let (stamp, kept) = places(Path::new(&stamp_file(&unit.name)));
        self.run(&format!("[ ! -e {kept} ] || cp -p {kept} {stamp}")).map(drop).context("note what runs")
    }

    /// Waits until a service is up and stays so.
    fn up(&self, unit: &Unit, act: Act) -> Result<()> {
        let patience = if act == Act::Restart && is_own(unit) { RENEWED } else { UP };
        let begun = Instant::now();
        loop {
            let state = self.run(&state(unit))?.trim().to_owned();
            if state == "up" {
                return Ok(());
            }
            if state == "failed" || begun.elapsed() > patience {
                let said = self.run(&journal(&unit.name)).unwrap_or_default();
                bail!("wait for {}: {state} after {} s\n{said}", unit.name, begun.elapsed().as_secs());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

fn script(unit: &Unit, act: Act, stamp: &Stamp) -> String {
    let (name, work) = (&unit.name, work(unit, act));
    let note = mark(name, stamp, " unproven");
    // Noted first if it starts: a service that runs with no note of it would be taken for somebody else's.
    let (before, after) =
        if matches!(act, Act::Start | Act::Await) { (note, String::new()) } else { (String::new(), note) };
    format!(
        "set -e\n\
         systemctl daemon-reload\n\
         systemctl enable -q {name}\n\
         {before}{{ {work}; }} || {{ {} >&2; exit 1; }}\n\
         {after}",
        journal(name),
    )
}

fn work(unit: &Unit, act: Act) -> String {
    let name = &unit.name;
    let start = format!("timeout {STARTING} systemctl start {name}");
    match act {
        // It may have come up by itself, just before its program was replaced.
        Act::Start | Act::Await if is_own(unit) => format!("{start} && {{ {} || true; }}", renew(unit)),
        Act::Start | Act::Await => start,
        // One that ends by itself may be between two tries.
        Act::Restart if name == AGENT => {
            format!("{{ {} 2>/dev/null || true; }} && systemctl --no-block start {name}", renew_verb(name))
        }
        Act::Restart if is_own(unit) => {
            format!("if systemctl -q is-active {name}; then {}; else {start}; fi", renew_verb(name))
        }
        Act::Restart => format!("timeout {STARTING} systemctl restart {name}"),
        Act::Reload => reload(name),
        Act::Enable => "true".to_owned(),
    }
}

/// Whether it's a program of pgherd's, which takes its new version's place with no interruption.
fn is_own(unit: &Unit) -> bool {
    unit.name == AGENT || unit.name == POOLER
}

fn renew_verb(name: &str) -> String {
    if name == AGENT {
        // As after a crash: PostgreSQL and the guard live on, and the new agent adopts them.
        format!("systemctl kill --kill-who=main -s KILL {name}")
    } else {
        // It goes over to the program that has been replaced, and keeps its clients.
        reload(name)
    }
}

fn reload(name: &str) -> String {
    format!("timeout {STARTING} systemctl reload {name}")
}

/// Has a service whose program was replaced run the new one; fails if it needn't. The file of the old one is gone.
fn renew(unit: &Unit) -> String {
    format!(
        "{{ readlink \"/proc/$(systemctl show -p MainPID --value {0})/exe\" | grep -q deleted && {1}; }}",
        unit.name,
        renew_verb(&unit.name)
    )
}

/// Prints `up`, or what it is instead. One that ends and is started again by turns isn't up.
fn state(unit: &Unit) -> String {
    let name = &unit.name;
    let mut script = format!(
        "show() {{ systemctl show -p \"$1\" --value {name}; }}\n\
         [ \"$(show ActiveState)\" != failed ] || {{ echo failed; exit; }}\n\
         [ \"$(show SubState)\" = running ] || {{ show SubState; exit; }}\n\
         pid=$(show MainPID)\n"
    );
    if is_own(unit) {
        script.push_str(
            "if readlink \"/proc/$pid/exe\" | grep -q deleted; then echo 'it still runs the earlier program'; exit; fi\n\
             sleep 3\n\
             [ \"$(show MainPID)\" = \"$pid\" ] || { echo 'it has ended and was started again'; exit; }\n",
        );
    }
    // PostgreSQL's port is open when there are data, which is waited for elsewhere.
    for port in unit.ports.iter().filter(|_| unit.name != AGENT) {
        // Writing to a String doesn't fail.
        let _ = writeln!(
            script,
            "ss -Hltn 'sport = :{port}' | grep -q . || {{ echo 'nothing listens on port {port}'; exit; }}"
        );
    }
    script + "echo up\n"
}

/// Writes down what a service was started with.
fn mark(name: &str, stamp: &Stamp, state: &str) -> String {
    let file = stamp_file(name);
    format!("mkdir -p {STAMPS}\necho '{} {}{state}' > {file}.new\nmv {file}.new {file}\n", stamp.restart, stamp.reload)
}

/// A shell's function: whether two files have the same content, owner and mode.
const SAME: &str =
    "same() { cmp -s \"$1\" \"$2\" && [ \"$(stat -c %U:%G:%a \"$1\")\" = \"$(stat -c %U:%G:%a \"$2\")\" ]; }\n";

/// All copies are made before the first takes an older one's place: a disk that's full must not leave a mixture.
fn keep(files: &[PathBuf]) -> String {
    let copy = |path: &PathBuf| {
        let (path, kept) = places(path);
        format!(
            "rm -f {kept}.new; if ! same {path} {kept}; then mkdir -p \"$(dirname {kept})\"; cp -p {path} {kept}.new; fi\n"
        )
    };
    let replace = |path: &PathBuf| {
        let (_, kept) = places(path);
        format!("[ ! -e {kept}.new ] || mv -f {kept}.new {kept}\n")
    };
    let (copies, replacements): (String, String) =
        (files.iter().map(copy).collect(), files.iter().map(replace).collect());
    format!("{SAME}{copies}{replacements}")
}

fn back(files: &[PathBuf]) -> String {
    let each = |path: &PathBuf| {
        let (path, kept) = places(path);
        format!(
            "if [ -e {kept} ] && ! same {kept} {path}; then\n\
             new=$(dirname {path})/.$(basename {path}).deploy; cp -p {kept} \"$new\"; mv -f \"$new\" {path}; echo {path}; fi\n"
        )
    };
    format!("set -e\n{SAME}{}", files.iter().map(each).collect::<String>())
}

/// Where a file is, and where the one is kept that worked.
fn places(path: &Path) -> (String, String) {
    (quoted(&path.display().to_string()), quoted(&format!("{PROVEN}{}", path.display())))
}

/// What a service said last.
pub(crate) fn journal(unit: &str) -> String {
    format!("journalctl -u {unit} -n 12 --no-pager -o cat")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(script: &str) -> String {
        let output = Command::new("sh").args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn what_has_worked_comes_back_and_what_is_the_same_isnt_touched() {
        let directory = tempfile::tempdir().unwrap();
        let (changed, same) = (directory.path().join("a file"), directory.path().join("same"));
        let files = [changed.clone(), same.clone(), directory.path().join("never was")];
        let here = |script: String| script.replace(PROVEN, &directory.path().join("proven").display().to_string());
        for file in [&changed, &same] {
            std::fs::write(file, "good").unwrap();
        }
        run(&here(keep(&files[..2])));
        std::fs::write(&changed, "bad").unwrap();
        assert_eq!(run(&here(back(&files))).trim(), changed.display().to_string());
        assert_eq!(std::fs::read_to_string(&changed).unwrap(), "good");
        assert_eq!(run(&here(back(&files))), "");
    }
}
