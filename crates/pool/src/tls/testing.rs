//! Certificates for tests, the common and the odd ones that PostgreSQL's users have.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SigningKey,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

use super::{ALPN, Options, SslMode};

/// A directory of PEM files, and the authorities that fill it.
pub(crate) struct Pki {
    directory: TempDir,
    pub(crate) authority: Authority,
    /// One that nobody trusts, with the same name.
    pub(crate) stranger: Authority,
}

/// Someone who issues certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate, or a chain of them, with its key.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        Pki {
            directory: tempfile::tempdir().unwrap(),
            authority: Authority::new("test authority"),
            stranger: Authority::new("test authority"),
        }
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes `NAME.crt` and `NAME.key`.
    pub(crate) fn install(&self, name: &str, identity: &Identity) -> (PathBuf, PathBuf) {
        let chain: String = identity.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        let cert = self.file(&format!("{name}.crt"), &chain);
        (cert, self.file(&format!("{name}.key"), &identity.key.serialize_pem()))
    }

    /// Options with our own certificate as `identity` and the authority as `ca_file`.
    pub(crate) fn options(&self, sslmode: SslMode, identity: &Identity) -> Options {
        let (cert, key) = self.install("ours", identity);
        let authority = self.file("ca.crt", &self.authority.pem());
        Options { sslmode, cert_file: Some(cert), key_file: Some(key), ca_file: Some(authority), ..Options::default() }
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let params = Authority::params(name, BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// One that this one vouches for.
    pub(crate) fn subordinate(&self, name: &str, constraints: BasicConstraints) -> Authority {
        let params = Authority::params(name, constraints);
        Authority(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    /// One with this one's key and another name.
    pub(crate) fn renamed(&self, name: &str) -> Authority {
        let params = Authority::params(name, BasicConstraints::Unconstrained);
        let key = KeyPair::from_pem(&self.0.key().serialize_pem()).unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// One that this one vouches for as far as `change` lets it.
    pub(crate) fn limited(&self, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let mut params = Authority::params("limited", BasicConstraints::Unconstrained);
        change(&mut params);
        Authority(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    fn params(name: &str, constraints: BasicConstraints) -> CertificateParams {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(constraints);
        params
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn issue(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity { chain: vec![params.signed_by(&key, &self.0).unwrap().der().clone()], key }
    }

    /// A usual certificate.
    pub(crate) fn identity(&self, name: &str, hosts: &[&str]) -> Identity {
        self.issue(named(name, hosts))
    }

    /// A certificate of version 1: the same without extensions, signed anew.
    pub(crate) fn old_identity(&self, name: &str) -> Identity {
        let mut identity = self.identity(name, &[]);
        identity.chain[0] = without_extensions(&identity.chain[0], self.0.key());
        identity
    }
}

impl Identity {
    /// One that nobody but itself vouches for, and that says it is an authority: what `openssl req -x509` makes.
    pub(crate) fn self_signed(name: &str, hosts: &[&str]) -> Identity {
        let mut params = named(name, hosts);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Identity { chain: vec![params.self_signed(&key).unwrap().der().clone()], key }
    }

    /// With the certificates between it and an authority.
    pub(crate) fn under(mut self, authorities: &[&Authority]) -> Identity {
        self.chain.extend(authorities.iter().map(|authority| authority.der()));
        self
    }

    /// The certificate of `self` in the hands of someone with another key.
    pub(crate) fn stolen(&self) -> Identity {
        Identity { chain: self.chain.clone(), key: KeyPair::generate().unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.chain[0])
    }

    /// Whether or not the certificate fits the key.
    pub(crate) fn certified_key(&self) -> CertifiedKey {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        CertifiedKey::new(self.chain.clone(), rustls::crypto::ring::sign::any_supported_type(&key).unwrap())
    }
}

/// A certificate's content, valid since long and for long.
pub(crate) fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "pgherd");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub(crate) fn expired(name: &str, hosts: &[&str]) -> CertificateParams {
    let mut params = named(name, hosts);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params
}

pub(crate) fn for_servers_only(name: &str) -> CertificateParams {
    let mut params = named(name, &[]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// A client of the usual kind, with or without a certificate, that trusts `authority`.
pub(crate) fn usual_client(authority: &Authority, identity: Option<&Identity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key()))),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Takes version and extensions out of a certificate and signs what remains.
fn without_extensions(der: &[u8], signer: &KeyPair) -> CertificateDer<'static> {
    let content = split(der).content;
    let Element { content: mut rest, after, .. } = split(content);
    let algorithm = split(after).whole;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let field = split(rest);
        if field.whole[0] != 0xa0 && field.whole[0] != 0xa3 {
            fields.extend_from_slice(field.whole);
        }
        rest = field.after;
    }
    let signed = wrap(0x30, &fields);
    let mut signature = vec![0];
    signature.extend(signer.sign(&signed).unwrap());
    let whole = [signed, algorithm.to_vec(), wrap(0x03, &signature)].concat();
    CertificateDer::from(wrap(0x30, &whole))
}

/// The first element of some DER.
struct Element<'a> {
    whole: &'a [u8],
    content: &'a [u8],
    after: &'a [u8],
}

fn split(der: &[u8]) -> Element<'_> {
    let (header, length) = match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(der[2])),
        _ => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
    };
    let end = header + length;
    Element { whole: &der[..end], content: &der[header..end], after: &der[end..] }
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], length.as_slice(), content].concat()
}
