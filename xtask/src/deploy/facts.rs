//! Finding out what a host is like: one script for everything, and reading what it prints. It changes nothing.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::remote::quoted;
use super::state::{Desired, Facts, Found, Service, Stamp};

/// Where the stamps of services are kept on a host.
pub(crate) const STAMPS: &str = "/var/lib/pgherd-deploy";

/// Functions of the script. Each line that they print is a kind and fields behind tabs.
const FUNCTIONS: &str = r#"
export LC_ALL=C
path() {
    if [ -d "$1" ]; then printf 'path\t%s\td\t%s\t-\n' "$1" "$(stat -L -c '%U:%G	%a' "$1")"
    elif [ -e "$1" ]; then
        sum=$(sha256sum < "$1"); printf 'path\t%s\tf\t%s\t%s\n' "$1" "$(stat -L -c '%U:%G	%a' "$1")" "${sum%% *}"
    fi
}
unit() {
    printf 'unit\t%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$(systemctl is-enabled "$1" 2>/dev/null)" \
        "$(systemctl is-active "$1" 2>/dev/null)" "$(systemctl show -p SubState --value "$1" 2>/dev/null)" \
        "$(cat "$STAMPS/$1" 2>/dev/null)" "$([ -e "$STAMPS/proven$STAMPS/$1" ] && echo worked)"
}
free() {
    there=$1; while [ ! -e "$there" ]; do there=$(dirname "$there"); done
    printf 'free\t%s\t%s\n' "$1" "$(df -Pk "$there" | awk 'NR == 2 { print $4 }')"
}
data() {
    if [ -n "$(ls -A "$1" 2>/dev/null)" ]; then printf 'data\t%s\t%s\n' "$1" "$(cat "$1/PG_VERSION" 2>/dev/null)"; fi
}
agent=$(sed -n 's/^  data_dir: //p' /etc/pgherd/agent.yml 2>/dev/null)
if [ -n "$agent" ]; then printf 'agent\t%s\n' "$agent"; data "$agent"; fi
if [ -e /etc/pgherd/pgherdctl.yml ]; then
    grep -q 'protocol: https' /etc/pgherd/pgherdctl.yml && printf 'tls\ton\n' || printf 'tls\toff\n'
fi
. /etc/os-release && printf 'system\t%s\n' "$ID"
dpkg-query -W -f 'package\t${Package}\t${db:Status-Status}\n' 2>/dev/null
ss -Hltnp 2>/dev/null | awk '{ n = split($4, a, ":"); print "port\t" a[n] "\t" $6 }'
"#;

/// The script that looks at everything that matters for `desired`.
pub(crate) fn script(desired: &Desired) -> String {
    let mut script = format!("STAMPS={STAMPS}\n{FUNCTIONS}");
    let mut ask = |what: &str, of: &str| {
        // Writing to a String doesn't fail.
        let _ = writeln!(script, "{what} {}", quoted(of));
    };
    for directory in &desired.directories {
        ask("path", &directory.path.display().to_string());
    }
    for file in &desired.files {
        ask("path", &file.path.display().to_string());
    }
    for unit in &desired.units {
        ask("unit", &unit.name);
    }
    ask("free", "/");
    for data in &desired.data {
        ask("free", &data.display().to_string());
        ask("data", &data.display().to_string());
    }
    script
}

/// Reads what the script printed.
pub(crate) fn parse(text: &str) -> Result<Facts> {
    let mut facts = Facts::default();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        note(&mut facts, &fields).with_context(|| format!("understand the host's answer {line:?}"))?;
    }
    Ok(facts)
}

fn note(facts: &mut Facts, fields: &[&str]) -> Result<()> {
    match fields {
        ["system", id] => (*id).clone_into(&mut facts.system),
        ["package", name, "installed"] => {
            facts.packages.insert((*name).to_owned());
        }
        ["package", ..] => {}
        ["path", path, kind, owner, mode, sha256] => {
            let mode = u32::from_str_radix(mode, 8).context("read a mode")?;
            let found =
                Found { is_directory: *kind == "d", owner: (*owner).to_owned(), mode, sha256: (*sha256).to_owned() };
            facts.paths.insert(path.into(), found);
        }
        ["unit", name, enabled, active, sub, stamp, worked] => {
            let words: Vec<&str> = stamp.split_whitespace().collect();
            let stamp = match words[..] {
                [restart, reload, ..] => Some(Stamp { restart: restart.to_owned(), reload: reload.to_owned() }),
                _ => None,
            };
            // One that ends as soon as it's started is between two attempts most of the time.
            let active = matches!(*active, "active" | "reloading" | "activating") && !sub.starts_with("auto-restart");
            let (enabled, proven, worked) = (*enabled == "enabled", words.len() == 2, !worked.is_empty());
            let service = Service { enabled, active, stamp, proven, worked };
            facts.units.insert((*name).to_owned(), service);
        }
        ["free", path, kib] => {
            facts.free.insert(path.into(), kib.parse().context("read the free room")?);
        }
        ["port", port, by] => {
            // users:(("postgres",pid=1,fd=3))
            let name = by.split('"').nth(1).unwrap_or("another program").to_owned();
            if let Ok(port) = port.parse() {
                facts.ports.insert(port, name);
            }
        }
        ["data", path, version] => {
            facts.data.insert(path.into(), (*version).to_owned());
        }
        ["tls", on] => facts.tls = Some(*on == "on"),
        ["agent", path] => facts.agents = Some(path.into()),
        _ => anyhow::bail!("no such line is expected"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_a_host_answers_is_understood() {
        let facts = parse(
            "system\tdebian\npackage\tetcd-server\tinstalled\npackage\thaproxy\tconfig-files\n\
             port\t5432\tusers:((\"postgres\",pid=7,fd=6))\nport\t22\t\n\
             path\t/etc/x\tf\troot:root\t640\tabc\npath\t/var/x\td\tetcd:etcd\t700\t-\n\
             unit\tetcd.service\tenabled\tactive\trunning\ta b\tworked\nunit\thaproxy.service\t\tinactive\tdead\t\t\n\
             unit\tx.service\tenabled\tactivating\tauto-restart\ta b unproven\t\n\
             free\t/\t1000\ntls\ton\nagent\t/var/lib/x\ndata\t/var/lib/x\t15\n",
        )
        .unwrap();
        assert!(facts.packages.contains("etcd-server") && !facts.packages.contains("haproxy"));
        assert_eq!(facts.ports[&5432], "postgres");
        assert_eq!(
            (facts.paths[Path::new("/etc/x")].mode, facts.paths[Path::new("/var/x")].is_directory),
            (0o640, true)
        );
        assert_eq!(facts.units["etcd.service"].stamp, Some(Stamp { restart: "a".into(), reload: "b".into() }));
        let etcd = &facts.units["etcd.service"];
        assert!(etcd.proven && etcd.active && etcd.worked);
        assert!(!facts.units["x.service"].proven && !facts.units["x.service"].active);
        assert_eq!(facts.units["haproxy.service"], Service::default());
        assert_eq!(facts.data[Path::new("/var/lib/x")], "15");
        assert_eq!(facts.tls, Some(true));
        assert_eq!(facts.agents.as_deref(), Some(Path::new("/var/lib/x")));
    }

    #[test]
    fn a_line_that_is_garbled_is_named() {
        assert!(format!("{:#}", parse("path\t/x\n").unwrap_err()).contains("path"));
    }
}
