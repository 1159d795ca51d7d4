//! The system of the walk-through on the laboratory's hosts: deploying it with the ordinary `cargo xtask deploy`, typing the
//! walk-through, and what an upgrade and a host's replacement cost running clients.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::image::Release;
use super::walk::Walk;
use super::{BOOTING, HOSTS, Lab, Machine, POWERING_OFF, access, image, machine};
use crate::programs::PROGRAMS;
use crate::{checkout, deploy};

/// The walk-through's inventory.
const INVENTORY: &str = include_str!("../../../deploy/inventory/otus.toml");
/// The walk-through's passwords.
const SUPERUSER: &str = "otus";
const REPLICATION: &str = "replicator";
/// How the laboratory's hosts are reached: as an ordinary user whom sudo asks for a password.
const SSH: &str = "\n[ssh]\nuser = \"vagrant\"\nconfig = \"ssh/config\"\nsudo_password = \"command:echo vagrant\"\n";

/// The host whose pooler the load goes through, and the one that is replaced.
const LOADED: &str = "pg1";
const REPLACED: &str = "pg3";

/// What to deploy.
#[derive(Debug, clap::Args)]
pub(super) struct Deploy {
    /// Only this host; may be given several times
    #[arg(long)]
    host: Vec<String>,
    /// Show what would be done, and change nothing
    #[arg(long)]
    check: bool,
    /// Show how files change
    #[arg(long)]
    diff: bool,
    /// Take the programs in dist/ as they are
    #[arg(long)]
    no_build: bool,
    /// Have everything speak TLS; decide before the first time
    #[arg(long)]
    tls: bool,
}

/// What to test.
#[derive(Debug, clap::Args)]
pub(super) struct Test {
    /// Only the walk-through, not an upgrade and a host's replacement under load
    #[arg(long)]
    short: bool,
}

/// Deploys the walk-through's system.
pub(super) fn deploy(lab: &Lab, args: &Deploy) -> Result<()> {
    let inventory = lab.directory.join("otus.toml");
    let tls = args.tls || is_encrypted(lab);
    fs::write(&inventory, text(tls, Release::of(lab, None)))
        .with_context(|| format!("write {}", inventory.display()))?;
    deploy::run(&deploy::Args {
        inventory,
        host: args.host.clone(),
        check: args.check,
        diff: args.diff,
        no_build: args.no_build,
        programs: None,
    })
}

fn is_encrypted(lab: &Lab) -> bool {
    fs::read_to_string(lab.directory.join("otus.toml")).is_ok_and(|text| text.lines().any(|l| l == "tls = true"))
}

fn text(tls: bool, release: Release) -> String {
    let secret = |text: &str, variable: &str, password: &str| {
        text.replace(&format!("\"env:{variable}\""), &format!("\"command:echo {password}\""))
    };
    let text = secret(INVENTORY, "PGHERD_SUPERUSER_PASSWORD", SUPERUSER);
    let text = secret(&text, "PGHERD_REPLICATION_PASSWORD", REPLICATION);
    let text = if tls { text.replacen("# tls = true", "tls = true", 1) } else { text };
    text.replacen("version = 15", &format!("version = {}", release.postgresql()), 1) + SSH
}

/// Types the walk-through, then upgrades pgherd and replaces a host while clients work.
pub(super) fn test(lab: &Lab, args: &Test) -> Result<()> {
    let shell = |host: &str, command: &str, input: &str| run(lab, host, command, input);
    let walk = Walk { shell: &shell, password: SUPERUSER, encrypted: is_encrypted(lab) };
    walk.go()?;
    if args.short {
        return Ok(());
    }
    let load = Load::start(lab, &walk)?;
    upgrade(lab).context("upgrade pgherd under load")?;
    load.unharmed("a rolling upgrade")?;
    for program in ["pgherd-agent", "pgherd-pooler"] {
        refuse_broken(lab, program).with_context(|| format!("deploy a {program} that doesn't work"))?;
        load.unharmed(&format!("the attempt to deploy a {program} that doesn't work"))?;
    }
    replace(lab).context("replace a host under load")?;
    load.unharmed("the replacement of a host")?;
    load.stop()?;
    walk.whole()?;
    change_form(lab, "leader", "poolers")?;
    walk.any_pooler_leads_everywhere().context("HAProxy in front of all poolers")?;
    change_form(lab, "poolers", "leader")
}

/// Has HAProxy lead elsewhere.
fn change_form(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let path = lab.directory.join("otus.toml");
    let text = fs::read_to_string(&path).context("read the inventory")?;
    let text = text.replace(&format!("form = \"{from}\""), &format!("form = \"{to}\""));
    fs::write(&path, text).context("write the inventory")?;
    deploy_from(lab, lab.directory.join("other-version"))
}

/// Runs a command on a host as root. What it prints on both outputs is returned, as a terminal shows it.
fn run(lab: &Lab, host: &str, command: &str, input: &str) -> Result<String> {
    let mut ssh = access::ssh(lab);
    ssh.arg(host).arg(format!("exec 2>&1; {command}"));
    ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = ssh.spawn().context("run ssh")?;
    let mut stdin = child.stdin.take().context("write to ssh")?;
    // A command that doesn't read is no failure.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().context("wait for ssh")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(said)
}

/// Clients that write through a pooler and follow the leader, until the first one of them sees an error.
struct Load<'a> {
    lab: &'a Lab,
    walk: &'a Walk<'a>,
}

impl<'a> Load<'a> {
    fn start(lab: &'a Lab, walk: &'a Walk<'a>) -> Result<Load<'a>> {
        let load = Load { lab, walk };
        load.stop()?;
        run(
            lab,
            LOADED,
            "rm -f /tmp/load.*; echo 'insert into homework (word) values (md5(random()::text))' > /tmp/load.sql",
            "",
        )?;
        let command = format!(
            "{} nohup setsid /usr/lib/postgresql/*/bin/pgbench -n -c 8 -j 1 -R 100 -T 3600 -M prepared -f /tmp/load.sql \
             '{}' </dev/null >/tmp/load.out 2>/tmp/load.err & echo $! > /tmp/load.pid",
            walk.environment(),
            walk.address("127.0.0.1", 6543, "rw"),
        );
        run(lab, LOADED, &command, "")?;
        std::thread::sleep(Duration::from_secs(2));
        load.unharmed("starting clients")?;
        Ok(load)
    }

    /// Fails if a client has seen an error.
    fn unharmed(&self, after: &str) -> Result<()> {
        let said = run(self.lab, LOADED, "cat /tmp/load.err; kill -0 $(cat /tmp/load.pid) || echo it has ended", "")?;
        let errors: Vec<&str> = said.lines().filter(|l| l.contains("error") || l.contains("ended")).collect();
        ensure!(errors.is_empty(), "{after} cost clients errors:\n{}", errors.join("\n"));
        let count = || self.walk.psql(LOADED, "127.0.0.1", 6543, "rw", "select count(*) from homework");
        let before = count()?;
        std::thread::sleep(Duration::from_secs(2));
        let now = count()?;
        ensure!(before != now, "after {after} clients write no more: there are still {now:?} rows");
        say!("{after}: none of 8 clients has seen an error; {} rows by now", now.concat().concat());
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        run(self.lab, LOADED, "[ ! -e /tmp/load.pid ] || kill $(cat /tmp/load.pid) || true; rm -f /tmp/load.pid", "")
            .map(drop)
    }
}

/// Another version, as far as anybody can tell: programs that differ in a byte behind their end.
fn upgrade(lab: &Lab) -> Result<()> {
    let (dist, other) = (checkout::root()?.join("dist"), lab.directory.join("other-version"));
    fs::create_dir_all(&other).context("make a directory for programs")?;
    let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    for (_, name) in PROGRAMS {
        let mut program = fs::read(dist.join(name)).with_context(|| format!("read dist/{name}"))?;
        program.extend_from_slice(stamp.to_string().as_bytes());
        fs::write(other.join(name), program).with_context(|| format!("write {name}"))?;
    }
    deploy_from(lab, other)
}

/// A program that starts and does nothing else comes to one host, which goes back to the one that it had.
fn refuse_broken(lab: &Lab, program: &str) -> Result<()> {
    let (good, broken) = (lab.directory.join("other-version"), lab.directory.join("broken-version"));
    fs::create_dir_all(&broken).context("make a directory for programs")?;
    for (_, name) in PROGRAMS {
        if name == program {
            let text =
                "#!/bin/sh\ncase \" $* \" in *' --version '* | *' --validate-config '*) exit 0 ;; esac\nexit 1\n";
            fs::write(broken.join(name), text).context("write a program")?;
        } else {
            fs::copy(good.join(name), broken.join(name)).context("copy a program")?;
        }
    }
    let programs = || {
        let command = "systemctl is-active pgherd-agent pgherd-pooler && sha256sum /usr/bin/pgherd-*";
        HOSTS.iter().take(3).map(|host| run(lab, host.name, command, "")).collect::<Result<Vec<_>>>()
    };
    let before = programs()?;
    let refused = deploy_from(lab, broken).err().context("it was accepted")?;
    say!("as it should be: {refused:#}");
    ensure!(programs()? == before, "there are other programs than before:\n{}", programs()?.concat());
    Ok(())
}

fn deploy_from(lab: &Lab, programs: PathBuf) -> Result<()> {
    deploy::run(&deploy::Args {
        inventory: lab.directory.join("otus.toml"),
        host: Vec::new(),
        check: false,
        diff: false,
        no_build: true,
        programs: Some(programs),
    })
}

/// A host is lost with its disk, and a new one gets its name.
fn replace(lab: &Lab) -> Result<()> {
    let host = HOSTS.iter().find(|h| h.name == REPLACED).context("find the host")?;
    let lost = Machine::of(lab, host)?;
    let leads = run(lab, LOADED, "pgherdctl -c /etc/pgherd/agent.yml list -f json", "")?;
    let leads: Vec<serde_json::Value> = serde_json::from_str(&leads).context("read the members")?;
    if leads.iter().any(|m| m["Member"] == REPLACED && m["Role"] == "Leader") {
        run(
            lab,
            LOADED,
            &format!("pgherdctl -c /etc/pgherd/agent.yml switchover --leader {REPLACED} --candidate {LOADED} --force"),
            "",
        )?;
    }
    say!("{REPLACED} is lost with its disk");
    machine::power_off(&[lost], POWERING_OFF)?;
    fs::remove_dir_all(lab.disk(host)).with_context(|| format!("delete the disk of {REPLACED}"))?;
    image::ensure_disk(lab, host)?;
    access::authorise(lab, host)?;
    let new = Machine::of(lab, host)?;
    new.start()?;
    access::write_configuration(lab)?;
    let state = new.wait_booted(BOOTING)?;
    if state != "running" {
        bail!("the new {REPLACED} is {state}");
    }
    deploy_from(lab, lab.directory.join("other-version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_laboratorys_inventory_is_the_walk_throughs_with_its_passwords() {
        let text = text(true, Release::Trixie);
        let lines = || text.lines().filter(|l| !l.starts_with('#'));
        assert!(!lines().any(|l| l.contains("env:")), "{text}");
        assert!(lines().any(|l| l.contains("command:echo otus")) && lines().any(|l| l == "tls = true"));
        assert!(lines().any(|l| l == "version = 17"), "{text}");
        assert!(!super::text(false, Release::Bookworm).lines().any(|l| l == "tls = true"));
    }
}
