//! `server_tls_sslmode`: which servers are believed.

use std::sync::Arc;

use rcgen::BasicConstraints;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, Error, ServerConfig, SupportedProtocolVersion};

use super::{host, shake};
use crate::tls::testing::{Identity, Pki, expired};
use crate::tls::{Client, Connector, Options, SslMode};

struct Scene {
    pki: Pki,
    connector: Arc<Connector>,
}

impl Scene {
    fn new(sslmode: SslMode) -> Scene {
        let pki = Pki::new();
        let authority = pki.file("ca.crt", &pki.authority.pem());
        let options = Options { sslmode, ca_file: Some(authority), ..Options::default() };
        let connector = Client::load(&options).unwrap().current();
        Scene { pki, connector }
    }

    /// The other side's fault, or none.
    fn meet(&self, server: &Identity, name: &str) -> Option<CertificateError> {
        let faults: Vec<_> = [&rustls::version::TLS12, &rustls::version::TLS13]
            .into_iter()
            .map(|version| self.meet_in(version, server, name))
            .collect();
        assert_eq!(faults[0], faults[1]);
        faults.into_iter().next().unwrap()
    }

    fn meet_in(
        &self,
        version: &'static SupportedProtocolVersion,
        server: &Identity,
        name: &str,
    ) -> Option<CertificateError> {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(server.certified_key())));
        let ours = self.connector.config.clone().unwrap();
        match shake(&Arc::new(config), &ours, self.connector.server_name(name).unwrap()) {
            Ok(_) => None,
            Err(("client", Error::InvalidCertificate(why))) => Some(why),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Leaves out what the fault says of the details.
fn is_wrong_name(fault: Option<CertificateError>) -> bool {
    matches!(fault, Some(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
}

#[test]
fn up_to_require_any_certificate_will_do_but_its_key_must_be_there() {
    for sslmode in [SslMode::Allow, SslMode::Prefer, SslMode::Require] {
        let scene = Scene::new(sslmode);
        let stranger = &scene.pki.stranger;
        let certificates = [
            stranger.identity("elsewhere", &["elsewhere"]),
            stranger.old_identity("elsewhere"),
            stranger.issue(expired("elsewhere", &[])),
            Identity::self_signed("elsewhere", &[]),
        ];
        for server in certificates {
            assert_eq!(scene.meet(&server, "db"), None);
            assert_eq!(scene.meet(&server, "not.a valid name"), None);
            assert_eq!(scene.meet(&server.stolen(), "db"), Some(CertificateError::BadSignature));
        }
    }
}

#[test]
fn verify_looks_at_who_issued_it_and_only_full_at_the_name() {
    for sslmode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        let scene = Scene::new(sslmode);
        let (ours, stranger) = (&scene.pki.authority, &scene.pki.stranger);
        for server in [ours.identity("db", &["db"]), ours.identity("db", &[]), ours.old_identity("db")] {
            assert_eq!(scene.meet(&server, "db"), None);
            assert_eq!(scene.meet(&server.stolen(), "db"), Some(CertificateError::BadSignature));
            match sslmode {
                SslMode::VerifyFull => assert!(is_wrong_name(scene.meet(&server, "other"))),
                _ => assert_eq!(scene.meet(&server, "other"), None),
            }
        }
        for server in [stranger.identity("db", &["db"]), stranger.old_identity("db"), Identity::self_signed("db", &[])]
        {
            let fault = scene.meet(&server, "db");
            assert!(
                matches!(fault, Some(CertificateError::UnknownIssuer | CertificateError::BadSignature)),
                "{fault:?}"
            );
        }
        let fault = scene.meet(&ours.issue(expired("db", &["db"])), "db");
        assert!(matches!(fault, Some(CertificateError::ExpiredContext { .. })), "{fault:?}");
        let between = ours.subordinate("between", BasicConstraints::Unconstrained);
        assert_eq!(scene.meet(&between.old_identity("db").under(&[&between]), "db"), None);
        assert_eq!(scene.meet(&between.identity("db", &["db"]).under(&[&between]), "db"), None);
    }
}

#[test]
fn a_server_s_own_certificate_may_be_the_authority() {
    let pki = Pki::new();
    for hosts in [&["db"][..], &[]] {
        let server = Identity::self_signed("db", hosts);
        let authority = pki.file("self.crt", &server.pem());
        let options = Options { sslmode: SslMode::VerifyFull, ca_file: Some(authority), ..Options::default() };
        let scene = Scene { pki: Pki::new(), connector: Client::load(&options).unwrap().current() };
        assert_eq!(scene.meet(&server, "db"), None);
        assert!(is_wrong_name(scene.meet(&server, "other")));
        assert!(scene.meet(&Identity::self_signed("db", hosts), "db").is_some());
    }
}

#[test]
fn names_are_checked_as_libpq_does() {
    let scene = Scene::new(SslMode::VerifyFull);
    let ours = &scene.pki.authority;
    let hosts = ours.identity("common", &["a.example.com", "*.wild.example.com", "127.0.0.1"]);
    for name in ["a.example.com", "A.Example.COM", "x.wild.example.com", "127.0.0.1"] {
        assert_eq!(scene.meet(&hosts, name), None, "{name}");
    }
    // The common name doesn't count beside others.
    for name in ["common", "wild.example.com", "x.y.wild.example.com", "127.0.0.2", "::1"] {
        assert!(is_wrong_name(scene.meet(&hosts, name)), "{name}");
    }
    for server in [ours.identity("10.1.2.3", &[]), ours.old_identity("10.1.2.3")] {
        assert_eq!(scene.meet(&server, "10.1.2.3"), None);
        assert!(is_wrong_name(scene.meet(&server, "10.1.2.4")));
    }
    let wild = ours.old_identity("*.example.com");
    assert_eq!(scene.meet(&wild, "a.example.com"), None);
    assert!(is_wrong_name(scene.meet(&wild, "example.com")));
    // Who owns "evil" may have had a certificate made out for "db\0.evil".
    assert!(is_wrong_name(scene.meet(&ours.identity("db\0.evil", &[]), "db")));
    let nameless = scene.connector.server_name("no such name").unwrap_err();
    assert_eq!(nameless.to_string(), "server_tls_sslmode=verify-full can't check the host name \"no such name\"");
}

#[test]
fn a_server_that_asks_gets_our_certificate() {
    let pki = Pki::new();
    let demanding = pki.options(SslMode::VerifyFull, &pki.authority.identity("db", &["db"]));
    let demanding = crate::tls::Server::load(&demanding).unwrap().current().config.clone().unwrap();
    for identity in [pki.authority.identity("pooler", &[]), pki.authority.old_identity("pooler")] {
        let options = pki.options(SslMode::VerifyFull, &identity);
        let connector = Client::load(&options).unwrap().current();
        let shaken = shake(&demanding, connector.config.as_ref().unwrap(), host("db")).unwrap();
        let shown = &shaken.server.peer_certificates().unwrap()[0];
        assert_eq!(crate::tls::common_name(shown).as_deref(), Some("pooler"));
    }
}
