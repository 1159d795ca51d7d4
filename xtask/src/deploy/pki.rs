//! The certificates of a site: a small authority of its own, kept beside the inventory, and a certificate for each host
//! that is good for its name and addresses. Where they go on a host is in `role`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::inventory::{Host, Inventory, Presence, Role};

/// The directory with the authority and everything that it has signed.
#[derive(Debug)]
pub(crate) struct Pki {
    directory: PathBuf,
}

/// A host's certificate and key (PEM).
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pki {
    /// The one in `pki/CLUSTER` beside the inventory.
    fn beside(inventory: &Inventory, path: &Path) -> Pki {
        Pki { directory: path.parent().unwrap_or(Path::new(".")).join("pki").join(&inventory.cluster) }
    }

    /// A copy, to see what would be made.
    fn copy(&self, directory: &Path) -> Result<Pki> {
        let copy = Pki { directory: directory.to_owned() };
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let to = directory.join(entry.file_name());
            fs::copy(entry.path(), to).with_context(|| format!("read {}", entry.path().display()))?;
        }
        Ok(copy)
    }

    /// Makes an authority where there is none. Returns whether it did.
    fn establish(&self, cluster: &str) -> Result<bool> {
        let lost: Vec<&str> = ["ca.key", "ca.crt"].into_iter().filter(|name| !self.path(name).exists()).collect();
        match lost[..] {
            [] => return Ok(false),
            [name] => bail!(
                "{} is missing: bring it back from where you keep it. Another authority would lock out every host; where none has been deployed yet, delete {}",
                self.path(name).display(),
                self.directory.display()
            ),
            _ => {}
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.directory).context("make a directory for certificates")?;
        let (key, params) = (KeyPair::generate().context("make a key")?, authority(cluster));
        let certificate = params.self_signed(&key).context("make an authority")?;
        self.write("ca.key", &key.serialize_pem())?;
        // Last: its presence says that the authority is complete.
        self.write("ca.crt", &certificate.pem())?;
        Ok(true)
    }

    /// The authority's certificate (PEM).
    pub(crate) fn authority(&self) -> Result<String> {
        self.read("ca.crt")
    }

    /// A host's certificate, made when the names that it must be good for have changed.
    pub(crate) fn pair(&self, inventory: &Inventory, host: &Host) -> Result<Pair> {
        let names = names(inventory, host);
        let [certificate, key, good_for] = ["crt", "key", "names"].map(|suffix| format!("{host}.{suffix}"));
        if self.read(&good_for).is_ok_and(|text| text == names.join("\n")) {
            return Ok(Pair { certificate: self.read(&certificate)?, key: self.read(&key)? });
        }
        let pair = self.sign(inventory, host, &names)?;
        self.write(&key, &pair.key)?;
        self.write(&certificate, &pair.certificate)?;
        self.write(&good_for, &names.join("\n"))?;
        Ok(pair)
    }

    fn sign(&self, inventory: &Inventory, host: &Host, names: &[String]) -> Result<Pair> {
        let key = KeyPair::from_pem(&self.read("ca.key")?).context("read the authority's key")?;
        let issuer = Issuer::new(authority(&inventory.cluster), key);
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&host.name);
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().context("name a host")?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // etcd's members are each other's clients.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().context("make a key")?;
        let certificate = params.signed_by(&key, &issuer).context("sign a certificate")?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.path(name)).with_context(|| format!("read {}", self.path(name).display()))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = opened.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        written.with_context(|| format!("write {}", path.display()))
    }
}

fn authority(cluster: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name = named(&format!("pgherd cluster {cluster}"));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// What clients may call a host. Those who come through HAProxy meet a pooler's certificate under HAProxy's name.
fn names(inventory: &Inventory, host: &Host) -> Vec<String> {
    let mut names = vec![host.name.clone(), host.address.to_string()];
    names.extend(["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()]);
    if host.roles.contains(&Role::Pooler) {
        let doors = inventory.hosts.iter().filter(|h| h.state == Presence::Present && h.roles.contains(&Role::Proxy));
        names.extend(doors.filter(|h| h.name != host.name).flat_map(|h| [h.name.clone(), h.address.to_string()]));
    }
    names
}

/// The certificates that a site needs, or none.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    pub(crate) authority: String,
    pairs: std::collections::BTreeMap<String, Pair>,
}

impl Certificates {
    /// For every host of an inventory that wants TLS. What is new is kept beside the inventory, unless this is only a
    /// `check`.
    pub(crate) fn of(inventory: &Inventory, path: &Path, check: bool) -> Result<Option<Certificates>> {
        if !inventory.tls {
            return Ok(None);
        }
        let kept = Pki::beside(inventory, path);
        let scratch = tempfile::tempdir().context("make a directory")?;
        let pki = if check { kept.copy(scratch.path())? } else { kept };
        if pki.establish(&inventory.cluster)? && !check {
            let directory = pki.directory.display();
            say!("new certificate authority in {directory}: keep ca.key safe, and out of version control");
        }
        let mut pairs = std::collections::BTreeMap::new();
        for host in &inventory.hosts {
            pairs.insert(host.name.clone(), pki.pair(inventory, host)?);
        }
        Ok(Some(Certificates { authority: pki.authority()?, pairs }))
    }

    /// A host's.
    pub(crate) fn pair(&self, host: &Host) -> Option<&Pair> {
        self.pairs.get(&host.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> Inventory {
        Inventory::parse(include_str!("../../../deploy/inventory/otus.toml")).unwrap()
    }

    #[test]
    fn certificates_are_made_once_and_again_when_names_change() {
        let directory = tempfile::tempdir().unwrap();
        let beside = directory.path().join("otus.toml");
        let mut inventory = inventory();
        inventory.tls = true;
        let mut first_host = |door: &str| {
            inventory.hosts[3].name = door.to_owned();
            let made = Certificates::of(&inventory, &beside, false).unwrap().unwrap();
            made.pair(&inventory.hosts[0]).unwrap().certificate.clone()
        };
        let first = first_host("haproxy");
        assert_eq!(first, first_host("haproxy"));
        assert_ne!(first, first_host("door"));
    }

    #[test]
    fn a_check_leaves_no_certificates() {
        let directory = tempfile::tempdir().unwrap();
        let beside = directory.path().join("otus.toml");
        let mut inventory = inventory();
        inventory.tls = true;
        assert!(Certificates::of(&inventory, &beside, true).unwrap().is_some());
        assert!(!directory.path().join("pki").exists());
        let made = Certificates::of(&inventory, &beside, false).unwrap().unwrap();
        let checked = Certificates::of(&inventory, &beside, true).unwrap().unwrap();
        assert_eq!(made.authority, checked.authority);
    }

    #[test]
    fn a_lost_key_is_not_replaced_by_another_authority() {
        let directory = tempfile::tempdir().unwrap();
        let beside = directory.path().join("otus.toml");
        let pki = Pki::beside(&inventory(), &beside);
        assert!(pki.establish("otus").unwrap());
        let authority = pki.authority().unwrap();
        fs::remove_file(pki.path("ca.key")).unwrap();
        let told = pki.establish("otus").unwrap_err().to_string();
        assert!(told.contains("ca.key is missing"), "{told}");
        assert_eq!(pki.authority().unwrap(), authority);
    }

    #[test]
    fn a_poolers_certificate_is_good_for_the_door_in_front_of_it() {
        let inventory = inventory();
        let names = names(&inventory, &inventory.hosts[0]);
        for name in ["pg1", "192.168.11.101", "localhost", "127.0.0.1", "haproxy", "192.168.11.104"] {
            assert!(names.iter().any(|n| n == name), "{name} is missing in {names:?}");
        }
    }
}
