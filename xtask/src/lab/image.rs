//! What hosts are made of: an image that debootstrap makes once, and a copy of it for each host. The image is made anew
//! when its recipe has changed; disks that are there stay as they are.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{HOSTS, Host, Lab, access, network};
use crate::checkout;

/// Debian's release that hosts run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Release {
    /// Debian 12
    Bookworm,
    /// Debian 13
    Trixie,
}

impl Release {
    const ALL: [Release; 2] = [Release::Bookworm, Release::Trixie];

    fn name(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        }
    }

    /// The major version of PostgreSQL in it.
    pub(super) fn postgresql(self) -> u32 {
        match self {
            Release::Bookworm => 15,
            Release::Trixie => 17,
        }
    }

    /// The one of the image that is there.
    fn made(lab: &Lab) -> Option<Release> {
        let text = fs::read_to_string(directory(lab).join("etc/os-release")).ok()?;
        Release::ALL.into_iter().find(|r| text.lines().any(|l| l == format!("VERSION_CODENAME={}", r.name())))
    }

    /// The one of the laboratory: of its image, unless another is wanted.
    pub(super) fn of(lab: &Lab, wanted: Option<Release>) -> Release {
        wanted.or_else(|| Release::made(lab)).unwrap_or(Release::Bookworm)
    }

    /// A suite of another release, or of this one, as this one calls it.
    fn suite(self, suite: &str) -> Option<String> {
        let rest = Release::ALL.into_iter().find_map(|r| suite.strip_prefix(r.name()))?;
        (rest.is_empty() || rest.starts_with('-')).then(|| format!("{}{rest}", self.name()))
    }
}

/// What a host has before anything is deployed to it, beside Debian's minimum.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,sudo,iproute2,iputils-ping,procps,\
                        ca-certificates";

/// What is taken for this machine's apt where that names no mirror of Debian's.
const SOURCES: [&str; 3] = [
    "Debian http://deb.debian.org/debian/ bookworm main",
    "Debian http://deb.debian.org/debian/ bookworm-updates main",
    "Debian http://deb.debian.org/debian-security/ bookworm-security main",
];

/// Settings of this machine's apt that hosts need to get packages as it does: proxies, and what a mirror may be like.
const SETTINGS: [&str; 4] = ["Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Languages"];

/// Where this machine's administrator puts certificates.
const CERTIFICATES: &str = "/usr/local/share/ca-certificates";

/// The last of the recipe, run inside. Timers of apt would hold its lock, there is no file system of the host's own to
/// check, and nobody to log in on the console.
const SCRIPT: &str = "\
useradd --create-home --shell /bin/bash --groups sudo vagrant
echo vagrant:vagrant | chpasswd
update-ca-certificates
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer console-getty.service
mkdir -p /var/log/journal
rm -f /etc/ssh/ssh_host_* /var/cache/apt/archives/*.deb
rm -rf /var/lib/apt/lists/*
";

/// What debootstrap says as it goes on to something else.
const STAGES: [&str; 6] = [
    "Retrieving InRelease",
    "Installing core packages",
    "Unpacking required packages",
    "Configuring required packages",
    "Unpacking the base system",
    "Configuring the base system",
];

/// All that decides what the image is.
struct Recipe {
    release: Release,
    /// Lines of sources.list; the first names the mirror for debootstrap.
    sources: Vec<String>,
    /// Files that are written into it.
    files: Vec<(PathBuf, String)>,
}

impl Recipe {
    /// The recipe for this machine.
    fn here(release: Release) -> Result<Recipe> {
        let format = "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)";
        let targets = output_of("apt-get", &["indextargets", "--format", format, "Created-By: Packages"]);
        let sources = sources(&targets, release);
        let mut files = vec![
            ("etc/apt/sources.list".into(), sources.join("\n") + "\n"),
            ("etc/apt/apt.conf.d/90lab".into(), settings(&output_of("apt-config", &["dump", "Acquire"]))),
            // Nobody's data is at stake, and deployments are faster.
            ("etc/default/locale".into(), "LANG=C.UTF-8\n".to_owned()),
            ("etc/dpkg/dpkg.cfg.d/lab".into(), "force-unsafe-io\n".to_owned()),
            ("etc/ssh/sshd_config.d/lab.conf".into(), format!("AuthorizedKeysFile /{}\n", access::AUTHORIZED)),
        ];
        for entry in fs::read_dir(CERTIFICATES).into_iter().flatten() {
            let path = entry.context("list certificates")?.path();
            if path.extension().is_some_and(|e| e == "crt") {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                files.push((path.strip_prefix("/").context("name a certificate")?.to_owned(), text));
            }
        }
        files.sort();
        Ok(Recipe { release, sources, files })
    }

    /// The mirror for debootstrap.
    fn mirror(&self) -> Result<&str> {
        self.sources.first().and_then(|s| s.split(' ').nth(1)).context("find Debian's mirror")
    }

    /// All of it as text: where that is the same, the image is.
    fn stamp(&self) -> String {
        let mut text = format!("{} with {PACKAGES}\n{SCRIPT}", self.release.name());
        for (path, content) in &self.files {
            text += &format!("--- {}\n{content}", path.display());
        }
        text
    }
}

/// Lines of sources.list for those of apt's targets that are Debian's own, in apt's order. A mirror has all releases.
fn sources(targets: &str, release: Release) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in targets.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let ["Debian", uri, suite, component] = fields[..] else { continue };
        let Some(suite) = release.suite(suite) else { continue };
        let source = format!("deb {uri} {suite} {component}");
        if uri.starts_with("http") && !found.contains(&source) {
            found.push(source);
        }
    }
    let main = format!(" {} main", release.name());
    if !found.iter().any(|s| s.ends_with(&main)) {
        return sources(&SOURCES.join("\n"), release);
    }
    // debootstrap takes the first.
    found.sort_by_key(|s| !s.ends_with(&main));
    found
}

/// Those settings of apt that hosts are given, out of all that it has.
fn settings(all: &str) -> String {
    let wanted = |line: &&str| SETTINGS.iter().any(|s| line.starts_with(s)) && !line.ends_with(" \"\";");
    all.lines().filter(wanted).map(|l| format!("{l}\n")).collect()
}

/// What a command prints; nothing where there is no such command.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
}

fn directory(lab: &Lab) -> PathBuf {
    lab.directory.join("image")
}

fn stamp_file(lab: &Lab) -> PathBuf {
    lab.directory.join("image.recipe")
}

/// Makes the image unless it's there and of this recipe, or every host has its disk.
pub(super) fn ensure(lab: &Lab, release: Release) -> Result<()> {
    let recipe = Recipe::here(release)?;
    let image = directory(lab);
    if image.is_dir() && fs::read_to_string(stamp_file(lab)).is_ok_and(|s| s == recipe.stamp()) {
        return Ok(());
    }
    for host in HOSTS.iter().filter(|h| lab.disk(h).is_dir()) {
        say!("{} keeps its disk of an older recipe: 'cargo xtask lab down --wipe' deletes it", host.name);
    }
    if HOSTS.iter().all(|h| lab.disk(h).is_dir()) {
        return Ok(());
    }
    let begun = Instant::now();
    say!("making the image that hosts are copied from: Debian {} from {}", release.name(), recipe.mirror()?);
    let fresh = image.with_extension("new");
    delete(&fresh)?;
    let log = lab.log("image");
    let mut output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    make(&recipe, &fresh, &mut output).with_context(|| format!("make the image, see {}", log.display()))?;
    delete(&image)?;
    fs::rename(&fresh, &image).context("put the image into place")?;
    fs::write(stamp_file(lab), recipe.stamp()).context("keep the image's recipe")?;
    say!("made the image ({:.0} s)", begun.elapsed().as_secs_f64());
    Ok(())
}

fn make(recipe: &Recipe, into: &Path, log: &mut File) -> Result<()> {
    // What debootstrap mounts goes away with the namespace, however it ends.
    let mut command = Command::new("unshare");
    command.args(["--mount", "debootstrap", "--variant=minbase", &format!("--include={PACKAGES}")]);
    command.arg(recipe.release.name()).arg(into).arg(recipe.mirror()?);
    logged(&mut command, log).context("debootstrap")?;
    for (path, content) in &recipe.files {
        write(into, path, content)?;
    }
    let mut script = Command::new("chroot");
    script.arg(into).args(["sh", "-e", "-c", SCRIPT]).env("DEBIAN_FRONTEND", "noninteractive");
    logged(&mut script, log).context("set the image up")
}

/// Runs a command with what it says in a log, and tells its stages.
fn logged(command: &mut Command, log: &mut File) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone().context("open a log")?);
    let mut child = command.spawn().with_context(|| format!("run {}", checkout::shown(command)))?;
    let output = child.stdout.take().context("read a command's output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("read a command's output")?;
        writeln!(log, "{line}").context("write a log")?;
        if let Some(stage) = line.strip_prefix("I: ").filter(|l| STAGES.iter().any(|s| l.starts_with(s))) {
            say!("  {}", stage.trim_end_matches('.').trim());
        }
    }
    let status = child.wait().context("wait for a command")?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

/// Makes a host's disk unless it's there. Returns whether it made it.
pub(super) fn ensure_disk(lab: &Lab, host: &Host) -> Result<bool> {
    let disk = lab.disk(host);
    if disk.is_dir() {
        return Ok(false);
    }
    let fresh = disk.with_extension("new");
    delete(&fresh)?;
    let mut copy = Command::new("cp");
    checkout::run(copy.args(["-a", "--reflink=auto"]).arg(directory(lab)).arg(&fresh))?;
    for (path, content) in own_files(host)? {
        write(&fresh, Path::new(path), &content)?;
    }
    fs::rename(&fresh, &disk).with_context(|| format!("put {}'s disk into place", host.name))?;
    Ok(true)
}

/// Files that tell a host from the others, or name all of them.
fn own_files(host: &Host) -> Result<Vec<(&'static str, String)>> {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").context("make a machine's id")?;
    Ok(vec![
        ("etc/hostname", format!("{}\n", host.name)),
        ("etc/hosts", names()),
        ("etc/resolv.conf", format!("nameserver {}\n", network::RESOLVER)),
        ("etc/machine-id", id.replace('-', "")),
    ])
}

/// hosts(5) for every host.
fn names() -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for host in &HOSTS {
        text += &format!("{} {}\n", host.address, host.name);
    }
    text
}

/// Writes a file of an image. One that is a link, as resolv.conf may be, is replaced: it would lead out of the image.
fn write(image: &Path, path: &Path, content: &str) -> Result<()> {
    let file = image.join(path);
    let told = || format!("write {}", file.display());
    fs::create_dir_all(file.parent().with_context(told)?).with_context(told)?;
    match fs::remove_file(&file) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).with_context(told),
        _ => {}
    }
    fs::write(&file, content).with_context(told)
}

fn delete(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| format!("delete {}", directory.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_debians_own_for_this_release_with_the_release_itself_first() {
        let targets = "Debian http://mirror/debian-security/ bookworm-security main\n\
                       Docker http://mirror/docker/ bookworm main\n\
                       Debian http://mirror/debian/ trixie main\n\
                       Debian http://mirror/debian/ bookworm main\n\
                       Debian http://mirror/debian/ bookworm main\n";
        let expected =
            ["deb http://mirror/debian/ bookworm main", "deb http://mirror/debian-security/ bookworm-security main"];
        assert_eq!(sources(targets, Release::Bookworm), expected);
        let other = expected.map(|line| line.replace("bookworm", "trixie"));
        assert_eq!(sources(targets, Release::Trixie), other);
    }

    #[test]
    fn without_sources_of_this_release_debians_usual_ones_serve() {
        let usual = sources("", Release::Bookworm);
        assert_eq!(usual[0], "deb http://deb.debian.org/debian/ bookworm main");
        assert_eq!(usual.len(), SOURCES.len());
        assert_eq!(sources("Ubuntu http://mirror/ubuntu/ noble main\n", Release::Bookworm), usual);
        assert_eq!(sources("Debian http://mirror/debian/ bookworm-backports main\n", Release::Bookworm), usual);
    }

    #[test]
    fn hosts_are_given_settings_that_say_how_packages_are_got() {
        let all = "Acquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://proxy:3128\";\n\
                   Acquire::Check-Date \"false\";\nAcquire::cdrom::mount \"/media/cdrom/\";\n";
        assert_eq!(settings(all), "Acquire::http::Proxy \"http://proxy:3128\";\nAcquire::Check-Date \"false\";\n");
    }

    #[test]
    fn the_stamp_changes_with_the_mirror_and_with_any_file() {
        let recipe = |mirror: &str, content: &str| {
            let sources = vec![format!("deb {mirror} bookworm main")];
            let files = vec![("etc/apt/sources.list".into(), sources.join("\n")), ("etc/x".into(), content.to_owned())];
            Recipe { release: Release::Bookworm, sources, files }.stamp()
        };
        assert_eq!(recipe("http://a/", "x"), recipe("http://a/", "x"));
        assert_ne!(recipe("http://a/", "x"), recipe("http://b/", "x"));
        assert_ne!(recipe("http://a/", "x"), recipe("http://a/", "y"));
    }

    #[test]
    fn every_host_knows_all_names() {
        let names = names();
        for line in ["192.168.11.101 pg1", "192.168.11.102 pg2", "192.168.11.103 pg3", "192.168.11.104 haproxy"] {
            assert!(names.lines().any(|l| l == line), "{names}");
        }
    }
}
