//! Who may have signed the other side's certificate, and whether they did.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::Error;
use super::certificate::{Certificate, OutOfDate, Purpose};
use super::files::Files;

/// Files that may hold the system's certificate authorities: Debian's, Red Hat's, SUSE's, Alpine's.
const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Certificates between the other side's own and an authority's, at most; as in OpenSSL's use by pgbouncer.
const DEEPEST: usize = 6;
/// Signatures that are looked at for one handshake, so that a made-up chain can't keep us busy.
const MOST_CHECKS: usize = 64;

/// Certificate authorities of one file.
#[derive(Debug, Clone)]
pub(super) struct Authorities {
    pub(super) store: Arc<RootCertStore>,
    certificates: Arc<Vec<CertificateDer<'static>>>,
    /// Whether a client is told their names, to choose a certificate by.
    pub(super) announced: bool,
}

impl Authorities {
    /// Those of `ca_file`. One that can't be used is warned of.
    pub(super) fn load(files: &mut Files, file: &Path) -> Result<Authorities, Error> {
        let mut store = RootCertStore::empty();
        let mut certificates = Vec::new();
        let mut last = None;
        for (index, certificate) in files.authorities(file)?.into_iter().enumerate() {
            let place = format!("certificate {} in \"{}\"", index + 1, file.display());
            match store.add(certificate.clone()) {
                Err(e) => {
                    files.warn("ca_file", format!("{place} can't be used and is left out: {e}"));
                    last = Some(e);
                }
                Ok(()) => {
                    let parsed = Certificate::parse(&certificate).ok();
                    if let Some(Err(fault)) = parsed.map(|parsed| parsed.valid_at(UnixTime::now())) {
                        files.warn("ca_file", format!("{place} {}", fault.as_str()));
                    }
                    certificates.push(certificate);
                }
            }
        }
        match last {
            Some(e) if store.is_empty() => Err(files.refusal("ca_file", format!("\"{}\": {e}", file.display()))),
            _ => Ok(Authorities { store: Arc::new(store), certificates: Arc::new(certificates), announced: true }),
        }
    }

    /// The system's, which pgbouncer falls back on. Single ones that rustls can't use are left out.
    pub(super) fn of_the_system(files: &mut Files) -> Result<Authorities, Error> {
        let Some(file) = SYSTEM.iter().map(Path::new).find(|file| file.is_file()) else {
            let why = "it isn't set, and the system has no file of authorities";
            return Err(files.refusal("ca_file", why));
        };
        let mut store = RootCertStore::empty();
        let certificates = files.authorities(file)?;
        store.add_parsable_certificates(certificates.iter().cloned());
        files.warn("ca_file", format!("it isn't set, so every authority in \"{}\" is trusted", file.display()));
        Ok(Authorities { store: Arc::new(store), certificates: Arc::new(certificates), announced: false })
    }

    /// Whether an [unusual](Certificate::is_unusual) certificate comes from one of these: what rustls does for others,
    /// as far as such certificates need it.
    pub(super) fn check_unusual(
        &self,
        leaf: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), CertificateError> {
        in_date(leaf, now)?;
        if !leaf.serves(purpose) {
            return Err(CertificateError::InvalidPurpose);
        }
        let anchors: Vec<_> = self.certificates.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        let between: Vec<_> = intermediates.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        let mut search = Search { anchors: &anchors, between: &between, now, algorithms, checks: MOST_CHECKS };
        if search.leads_up(leaf, 0) { Ok(()) } else { Err(CertificateError::UnknownIssuer) }
    }
}

fn in_date(certificate: &Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
    certificate.valid_at(now).map_err(|fault| match fault {
        OutOfDate::Expired => CertificateError::Expired,
        OutOfDate::NotYet => CertificateError::NotValidYet,
    })
}

struct Search<'a> {
    anchors: &'a [Certificate<'a>],
    between: &'a [Certificate<'a>],
    now: UnixTime,
    algorithms: &'a WebPkiSupportedAlgorithms,
    checks: usize,
}

impl Search<'_> {
    /// Whether a chain of signatures leads from `certificate`, which has `below` intermediate ones under it, to an
    /// authority.
    fn leads_up(&mut self, certificate: &Certificate<'_>, below: usize) -> bool {
        let (anchors, between) = (self.anchors, self.between);
        if anchors.iter().any(|anchor| self.is_issued_by(certificate, anchor)) {
            return true;
        }
        below < DEEPEST
            && between.iter().any(|issuer| {
                issuer.may_issue(below)
                    && issuer.valid_at(self.now).is_ok()
                    && self.is_issued_by(certificate, issuer)
                    && self.leads_up(issuer, below + 1)
            })
    }

    fn is_issued_by(&mut self, certificate: &Certificate<'_>, issuer: &Certificate<'_>) -> bool {
        if self.checks == 0 || !certificate.names_as_issuer(issuer) {
            return false;
        }
        self.checks -= 1;
        certificate.is_signed_by(issuer, self.algorithms.all)
    }
}
