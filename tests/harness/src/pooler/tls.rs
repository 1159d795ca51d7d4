//! Certificates for one test: an authority, one for both servers, and one for each client.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use super::postgres::owned_file;

/// Clients that get a certificate, which bears the user's name.
const CLIENTS: &[&str] = &["alice", "bob"];

/// Makes `ca.crt`, `server.crt`, `server.key` and `alice.crt`, `alice.key` and so on in a directory. The server's is good
/// for `localhost` and the addresses. A second authority, `stranger.crt`, has signed none of them.
pub(super) fn make(directory: &Path, addresses: &[Ipv4Addr]) -> Result<()> {
    std::fs::create_dir_all(directory).context("make a directory for certificates")?;
    let authority = authority("tests")?;
    write(directory, "ca.crt", &authority.pem())?;
    write(directory, "stranger.crt", &self::authority("strangers")?.pem())?;
    let mut names = vec![SanType::DnsName("localhost".try_into().context("name a server")?)];
    names.extend(addresses.iter().map(|a| SanType::IpAddress((*a).into())));
    sign(directory, &authority, "server", "localhost", names)?;
    for client in CLIENTS {
        sign(directory, &authority, client, client, Vec::new())?;
        // psql reads these, and it runs as this process's user.
        let key = directory.join(format!("{client}.key"));
        nix::unistd::chown(&key, Some(nix::unistd::geteuid()), None).context("own a client's key")?;
    }
    Ok(())
}

/// Signs the server's certificate anew, as at a renewal.
pub(super) fn renew(directory: &Path, authority_name: &str) -> Result<()> {
    let authority = authority(authority_name)?;
    write(directory, "ca.crt", &authority.pem())?;
    let names = vec![SanType::DnsName("localhost".try_into().context("name a server")?)];
    sign(directory, &authority, "server", "localhost", names)
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("Authority of {name}"));
    let key = KeyPair::generate().context("make a key")?;
    CertifiedIssuer::self_signed(params, key).context("make an authority")
}

fn sign(
    directory: &Path,
    authority: &CertifiedIssuer<'static, KeyPair>,
    file: &str,
    name: &str,
    names: Vec<SanType>,
) -> Result<()> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().context("make a key")?;
    let certificate = params.signed_by(&key, authority).context("sign a certificate")?;
    write(directory, &format!("{file}.crt"), &certificate.pem())?;
    write(directory, &format!("{file}.key"), &key.serialize_pem())
}

fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
    owned_file(&directory.join(name), text, mode)
}
