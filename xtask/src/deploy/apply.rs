//! Carrying out a plan on a host: packages, directories, files, and single services. In which order services of several
//! hosts are touched is in `roll`.

use std::time::Duration;

use anyhow::{Context, Result};
use similar::TextDiff;

use super::facts::{self, STAMPS};
use super::inventory::Host;
use super::plan::{Act, Plan};
use super::remote::{Ssh, quoted};
use super::role::{AGENT, POOLER};
use super::state::{Desired, Directory, Facts, File, Kind, Stamp, Unit};

/// How long a service may take to run its new program.
const BACK: Duration = Duration::from_secs(60);

/// A host and the way to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) ssh: &'a Ssh,
    pub(crate) host: &'a Host,
}

impl At<'_> {
    /// Prints a line under the host's name.
    pub(crate) fn say(&self, line: &str) {
        say!("{}: {line}", self.host);
    }

    /// Runs a script as root.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        self.ssh.run(self.host, script, b"")
    }

    /// Looks at the host.
    pub(crate) fn facts(&self, desired: &Desired) -> Result<Facts> {
        facts::parse(&self.run(&facts::script(desired)).context("look at the host")?)
    }

    /// Does everything of a plan but its services.
    pub(crate) fn apply(&self, plan: &Plan) -> Result<()> {
        if !plan.packages.is_empty() {
            self.say(&format!("install {}", plan.packages.join(", ")));
            self.run(&install(&plan.packages)).with_context(|| format!("install {}", plan.packages.join(", ")))?;
        }
        for directory in &plan.directories {
            self.say(&format!("directory {}", directory.path.display()));
            self.run(&make(directory)).with_context(|| format!("make the directory {}", directory.path.display()))?;
        }
        for (file, exists) in &plan.files {
            self.say(&format!("{} {}", if *exists { "change" } else { "create" }, file.path.display()));
            self.ssh
                .run(self.host, &write(file), &file.content)
                .with_context(|| format!("write {}", file.path.display()))?;
        }
        Ok(())
    }

    /// What a file of the plan changes, as `diff -u` shows it.
    pub(crate) fn diff(&self, file: &File, exists: bool) -> Result<String> {
        let path = file.path.display();
        if file.kind != Kind::Text {
            let what = if file.kind == Kind::Secret { "not shown: it holds passwords" } else { "a program" };
            return Ok(format!("    {path}: {} bytes ({what})\n", file.content.len()));
        }
        let old = if exists {
            self.run(&format!("cat {}", quoted(&path.to_string()))).context("read a file")?
        } else {
            String::new()
        };
        let new = String::from_utf8_lossy(&file.content);
        Ok(TextDiff::from_lines(old.as_str(), &*new)
            .unified_diff()
            .header(&path.to_string(), &path.to_string())
            .to_string())
    }

    /// Starts, restarts or reloads a service, and notes what it runs with.
    pub(crate) fn act(&self, unit: &Unit, act: Act, stamp: &Stamp) -> Result<()> {
        self.say(&format!("{} {}", act.verb(), unit.name));
        self.run(&service(unit, act, stamp)).with_context(|| format!("{} {}", act.verb(), unit.name))?;
        if act == Act::Restart {
            // The file of a program that was replaced is gone.
            let renewed = format!(
                "[ \"$(systemctl show -p SubState --value {0})\" = running ] &&\n\
                 ! readlink /proc/$(systemctl show -p MainPID --value {0})/exe | grep -q deleted",
                unit.name
            );
            if let Err(error) = self.ssh.wait(self.host, &renewed, BACK) {
                // Where the host can't even tell that, the error itself says why.
                let said = self.run(&journal(&unit.name)).unwrap_or_default();
                return Err(error.context(format!("wait for {} to run its new program\n{said}", unit.name)));
            }
        }
        Ok(())
    }
}

/// Debian's packages start their services with settings of their own unless a policy forbids it, and PostgreSQL's makes a
/// cluster.
fn install(packages: &[String]) -> String {
    let names: Vec<String> = packages.iter().map(|p| quoted(p)).collect();
    format!(
        "set -e\n\
         export DEBIAN_FRONTEND=noninteractive LC_ALL=C\n\
         mkdir -p /etc/postgresql-common/createcluster.d\n\
         echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/pgherd.conf\n\
         if [ ! -e /usr/sbin/policy-rc.d ]; then\n\
             printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d\n\
             trap 'rm -f /usr/sbin/policy-rc.d' EXIT\n\
         fi\n\
         install() {{ apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 install {} </dev/null >/dev/null; }}\n\
         install 2>/dev/null || {{ apt-get -q update </dev/null >/dev/null; install; }}\n",
        names.join(" ")
    )
}

fn make(directory: &Directory) -> String {
    let path = quoted(&directory.path.display().to_string());
    format!("set -e\nmkdir -p {path}\nchown {} {path}\nchmod {:o} {path}\n", directory.owner, directory.mode)
}

/// Beside the old one, checked, then renamed. What was there before the first run is kept.
fn write(file: &File) -> String {
    let (path, stamps) = (quoted(&file.path.display().to_string()), STAMPS);
    let check = file.check.as_ref().map(|c| format!("{}\n", c.replace("{}", "\"$new\""))).unwrap_or_default();
    let keep = if file.kind == Kind::Program {
        String::new()
    } else {
        format!(
            "if ! grep -qxF {path} {stamps}/files 2>/dev/null; then\n\
             [ ! -e {path} ] || cp -p {path} {path}.before-deploy; echo {path} >> {stamps}/files; fi\n"
        )
    };
    format!(
        "set -e\numask 077\n\
         new=$(dirname {path})/.$(basename {path}).deploy\n\
         trap 'rm -f \"$new\"' EXIT\n\
         cat > \"$new\"\n\
         [ \"$(wc -c < \"$new\")\" = {} ] || {{ echo 'it arrived incomplete' >&2; exit 1; }}\n\
         chown {} \"$new\"\nchmod {:o} \"$new\"\n{check}mkdir -p {stamps}\n{keep}mv -f \"$new\" {path}\n",
        file.content.len(),
        file.owner,
        file.mode,
    )
}

fn service(unit: &Unit, act: Act, stamp: &Stamp) -> String {
    let name = &unit.name;
    let verb = match act {
        Act::Start => format!("systemctl start {name}"),
        // As after a crash: PostgreSQL and the guard live on, and the new agent adopts them.
        Act::Restart if name == AGENT => format!("systemctl kill --kill-who=main -s KILL {name}"),
        // It goes over to the program that has been replaced, and keeps its clients.
        Act::Restart if name == POOLER => format!("systemctl reload {name}"),
        Act::Restart => format!("systemctl restart {name}"),
        Act::Reload => format!("systemctl reload {name}"),
        Act::Enable => "true".to_owned(),
    };
    format!(
        "set -e\n\
         systemctl daemon-reload\n\
         systemctl enable -q {name}\n\
         {verb} || {{ {} >&2; exit 1; }}\n\
         mkdir -p {STAMPS}\n\
         echo '{} {}' > {STAMPS}/{name}.new\n\
         mv {STAMPS}/{name}.new {STAMPS}/{name}\n",
        journal(name),
        stamp.restart,
        stamp.reload
    )
}

/// What a service said last.
pub(crate) fn journal(unit: &str) -> String {
    format!("journalctl -u {unit} -n 12 --no-pager -o cat")
}
