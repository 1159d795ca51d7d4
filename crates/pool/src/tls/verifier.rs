//! Judges of the other side's certificate. Whatever they make of it, the handshake's signature must be by its key.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::authorities::Authorities;
use super::certificate::{Certificate, Purpose};

/// Which servers are believed.
#[derive(Debug)]
pub(super) enum Trust {
    /// `allow`, `prefer` and `require`.
    Anyone,
    /// `verify-ca`, and with `names` `verify-full`.
    Authorities { authorities: Authorities, names: bool },
}

/// Judges servers' certificates.
#[derive(Debug)]
pub(super) struct Servers {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Servers {
    pub(super) fn new(trust: Trust, provider: &Arc<CryptoProvider>) -> Servers {
        Servers { trust, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Authorities { authorities, names } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let leaf = read(end_entity)?;
        if leaf.is_unusual() {
            authorities.check_unusual(&leaf, intermediates, Purpose::Server, now, &self.algorithms)?;
        } else {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            let all = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &authorities.store, intermediates, now, all)?;
        }
        if *names {
            check_name(end_entity, &leaf, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Judges clients' certificates. One that is shown is judged even where none is demanded.
#[derive(Debug)]
pub(super) struct Clients {
    usual: Arc<dyn ClientCertVerifier>,
    authorities: Authorities,
    demanded: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Clients {
    pub(super) fn new(
        authorities: Authorities,
        demanded: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Clients, VerifierBuilderError> {
        let usual = WebPkiClientVerifier::builder_with_provider(Arc::clone(&authorities.store), Arc::clone(provider));
        let usual = if authorities.announced { usual } else { usual.clear_root_hint_subjects() };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Clients { usual: usual.build()?, authorities, demanded, algorithms })
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.demanded
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.usual.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let leaf = read(end_entity)?;
        if !leaf.is_unusual() {
            return self.usual.verify_client_cert(end_entity, intermediates, now);
        }
        self.authorities.check_unusual(&leaf, intermediates, Purpose::Client, now, &self.algorithms)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn read<'a>(certificate: &'a CertificateDer<'_>) -> Result<Certificate<'a>, Error> {
    Certificate::parse(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// As libpq: the subject's common name counts where the certificate has no alternative names for hosts.
fn check_name(der: &CertificateDer<'_>, leaf: &Certificate<'_>, host: &ServerName<'_>) -> Result<(), Error> {
    if leaf.names_hosts() {
        return verify_server_name(&ParsedCertificate::try_from(der)?, host);
    }
    if leaf.is_named(host) { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
}

fn tls12_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let parsed = read(certificate)?;
    if !parsed.is_old() {
        return verify_tls12_signature(message, certificate, signed, algorithms);
    }
    let Some((_, possible)) = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme) else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    if parsed.signed_message(possible, message, signed.signature()) {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

fn tls13_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let parsed = read(certificate)?;
    if parsed.is_old() {
        return verify_tls13_signature_with_raw_key(message, &parsed.key_info(), signed, algorithms);
    }
    verify_tls13_signature(message, certificate, signed, algorithms)
}
