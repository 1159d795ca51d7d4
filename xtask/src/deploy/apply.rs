//! Carrying out a plan on a host: packages, directories and files. Its services are in `service`.

use std::time::Duration;

use anyhow::{Context, Result};
use similar::TextDiff;

use super::facts::{self, STAMPS};
use super::inventory::Host;
use super::plan::Plan;
use super::remote::{Ssh, quoted};
use super::state::{Desired, Directory, Facts, File, Kind};

/// How long packages may take.
const PACKAGES: Duration = Duration::from_secs(1800);

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
            self.ssh
                .run_for(self.host, &install(&plan.packages), b"", PACKAGES)
                .with_context(|| format!("install {}", plan.packages.join(", ")))?;
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
}

/// Debian's packages start their services with settings of their own unless a policy forbids it, and PostgreSQL's makes a
/// cluster.
fn install(packages: &[String]) -> String {
    let names: Vec<String> = packages.iter().map(|p| quoted(p)).collect();
    // What isn't configured yet must not start at a boot that comes in between.
    let services = [("etcd-server", "etcd"), ("haproxy", "haproxy")];
    let new = services.iter().filter(|(package, _)| packages.iter().any(|p| p == package));
    let disable: String = new.map(|(_, service)| format!("systemctl disable -q {service}\n")).collect();
    format!(
        "set -e\n\
         export DEBIAN_FRONTEND=noninteractive LC_ALL=C\n\
         mkdir -p /etc/postgresql-common/createcluster.d\n\
         echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/pgherd.conf\n\
         policy=/usr/sbin/policy-rc.d\n\
         if [ ! -e $policy ] || grep -q pgherd $policy; then\n\
             trap 'rm -f $policy' EXIT\n\
             trap 'exit 143' TERM INT HUP\n\
             printf '#!/bin/sh\\n# While pgherd is deployed.\\nexit 101\\n' > $policy; chmod 755 $policy\n\
         fi\n\
         dpkg --configure -a </dev/null >/dev/null\n\
         install() {{ apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 install {} </dev/null >/dev/null; }}\n\
         install 2>/dev/null || {{ apt-get -q update </dev/null >/dev/null; install; }}\n\
         {disable}",
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
