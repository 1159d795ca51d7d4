//! `client_tls_sslmode`: whose certificates are asked for, and whose are good.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints};
use rustls::{CertificateError, ClientConfig, Error};

use super::{Shaken, host, shake};
use crate::tls::testing::{Authority, Identity, Pki, expired, for_servers_only, named, usual_client};
use crate::tls::{Acceptor, Options, Server, SslMode, common_name};

struct Scene {
    pki: Pki,
    options: Options,
}

impl Scene {
    fn new(sslmode: SslMode) -> Scene {
        let pki = Pki::new();
        let options = pki.options(sslmode, &pki.authority.identity("pooler", &["localhost"]));
        Scene { pki, options }
    }

    fn without_authority(mut self) -> Scene {
        self.options.ca_file = None;
        self
    }

    fn acceptor(&self) -> Arc<Acceptor> {
        Server::load(&self.options).unwrap().current()
    }

    fn meet(&self, identity: Option<&Identity>) -> Result<Shaken, Error> {
        self.meet_as(usual_client(&self.pki.authority, identity))
    }

    fn meet_as(&self, client: ClientConfig) -> Result<Shaken, Error> {
        let config = self.acceptor().config.clone().unwrap();
        shake(&config, &Arc::new(client), host("localhost")).map_err(|(_, e)| e)
    }

    /// The common name that a session learns.
    fn learns(&self, identity: &Identity) -> Result<Option<String>, Error> {
        let shaken = self.meet(Some(identity))?;
        Ok(shaken.server.peer_certificates().and_then(|chain| common_name(&chain[0])))
    }
}

fn refused(result: Result<impl std::fmt::Debug, Error>) -> CertificateError {
    match result.unwrap_err() {
        Error::InvalidCertificate(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn disable_needs_no_files_and_makes_nothing() {
    let acceptor = Server::load(&Options::default()).unwrap().current();
    assert!(acceptor.config.is_none());
    assert!(acceptor.warnings.is_empty());
}

#[test]
fn without_an_authority_no_client_is_asked_who_it_is() {
    for sslmode in [SslMode::Allow, SslMode::Prefer, SslMode::Require] {
        let scene = Scene::new(sslmode).without_authority();
        let alice = scene.pki.stranger.identity("alice", &[]);
        assert_eq!(scene.learns(&alice).unwrap(), None);
        assert!(scene.meet(None).is_ok());
    }
}

#[test]
fn with_an_authority_a_certificate_is_voluntary_but_must_be_good() {
    for sslmode in [SslMode::Allow, SslMode::Prefer, SslMode::Require] {
        let scene = Scene::new(sslmode);
        assert!(scene.meet(None).is_ok());
        let alice = scene.pki.authority.identity("alice", &[]);
        assert_eq!(scene.learns(&alice).unwrap().as_deref(), Some("alice"));
        let stranger = scene.pki.stranger.identity("alice", &[]);
        refused(scene.meet(Some(&stranger)));
    }
}

#[test]
fn verify_demands_a_certificate_of_the_authority() {
    for sslmode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        let scene = Scene::new(sslmode);
        assert_eq!(scene.meet(None).unwrap_err(), Error::NoCertificatesPresented);
        let alice = scene.pki.authority.identity("alice", &[]);
        assert_eq!(scene.learns(&alice).unwrap().as_deref(), Some("alice"));
        refused(scene.meet(Some(&scene.pki.stranger.identity("alice", &[]))));
        let old = scene.pki.authority.issue(expired("alice", &[]));
        assert!(matches!(refused(scene.meet(Some(&old))), CertificateError::ExpiredContext { .. }));
        let server = scene.pki.authority.issue(for_servers_only("alice"));
        assert!(matches!(refused(scene.meet(Some(&server))), CertificateError::InvalidPurposeContext { .. }));
    }
}

#[test]
fn a_certificate_of_version_1_is_as_good() {
    let scene = Scene::new(SslMode::VerifyFull);
    let alice = scene.pki.authority.old_identity("alice");
    assert_eq!(scene.learns(&alice).unwrap().as_deref(), Some("alice"));
    let forged = scene.pki.stranger.old_identity("alice");
    assert_eq!(refused(scene.meet(Some(&forged))), CertificateError::UnknownIssuer);
    let elsewhere = scene.pki.authority.renamed("another name").old_identity("alice");
    assert_eq!(refused(scene.meet(Some(&elsewhere))), CertificateError::UnknownIssuer);
}

#[test]
fn a_self_signed_certificate_is_good_if_it_is_among_the_authorities() {
    let mut scene = Scene::new(SslMode::VerifyFull);
    let alice = Identity::self_signed("alice", &[]);
    assert_eq!(refused(scene.meet(Some(&alice))), CertificateError::UnknownIssuer);
    let both = scene.pki.authority.pem() + &alice.pem();
    scene.options.ca_file = Some(scene.pki.file("both.crt", &both));
    assert_eq!(scene.learns(&alice).unwrap().as_deref(), Some("alice"));
    assert_eq!(refused(scene.meet(Some(&Identity::self_signed("alice", &[])))), CertificateError::UnknownIssuer);
}

#[test]
fn a_certificate_is_worth_nothing_without_its_key() {
    let scene = Scene::new(SslMode::VerifyFull);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for identity in [scene.pki.authority.identity("alice", &[]), scene.pki.authority.old_identity("alice")] {
            for (identity, good) in [(&identity, true), (&identity.stolen(), false)] {
                let usual = usual_client(&scene.pki.authority, Some(identity));
                let builder = ClientConfig::builder_with_provider(usual.crypto_provider().clone());
                let resolver = Arc::clone(&usual.client_auth_cert_resolver);
                let mut roots = rustls::RootCertStore::empty();
                roots.add(scene.pki.authority.der()).unwrap();
                let client = builder.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots);
                let result = scene.meet_as(client.with_client_cert_resolver(resolver));
                match good {
                    true => assert_eq!(result.unwrap().server.protocol_version(), Some(version.version)),
                    false => assert_eq!(refused(result), CertificateError::BadSignature),
                }
            }
        }
    }
}

#[test]
fn authorities_in_between_count_if_they_are_sent_and_may_sign() {
    let scene = Scene::new(SslMode::VerifyFull);
    let root = &scene.pki.authority;
    let between = root.subordinate("between", BasicConstraints::Unconstrained);
    for leaf in [|by: &Authority| by.old_identity("alice"), |by: &Authority| by.identity("alice", &[])] {
        let alice = || leaf(&between);
        assert_eq!(refused(scene.meet(Some(&alice()))), CertificateError::UnknownIssuer);
        assert_eq!(scene.learns(&alice().under(&[&between])).unwrap().as_deref(), Some("alice"));

        let last = root.subordinate("last", BasicConstraints::Constrained(0));
        let beyond = last.subordinate("beyond", BasicConstraints::Unconstrained);
        assert!(scene.meet(Some(&leaf(&last).under(&[&last]))).is_ok());
        refused(scene.meet(Some(&leaf(&beyond).under(&[&beyond, &last]))));
    }
}

#[test]
fn an_authority_in_between_must_be_allowed_to_sign() {
    let scene = Scene::new(SslMode::VerifyFull);
    let root = &scene.pki.authority;
    let through = |between: Authority| scene.meet(Some(&between.old_identity("alice").under(&[&between])));
    assert!(through(root.limited(|_| ())).is_ok());
    assert!(through(root.limited(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign])).is_ok());
    let limits: [fn(&mut CertificateParams); 6] = [
        |params| params.is_ca = IsCa::NoCa,
        |params| params.is_ca = IsCa::ExplicitNoCa,
        |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
        |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1),
        |params| params.not_before = rcgen::date_time_ymd(2500, 1, 1),
        |params| {
            let nothing = vec![GeneralSubtree::DirectoryName(named("nobody", &[]).distinguished_name)];
            let constraints = NameConstraints { permitted_subtrees: nothing, excluded_subtrees: vec![] };
            params.name_constraints = Some(constraints);
        },
    ];
    for limit in limits {
        refused(through(root.limited(limit)));
    }
}

#[test]
fn an_authority_shown_as_a_client_must_be_fit_for_it() {
    let scene = Scene::new(SslMode::VerifyFull);
    let show = |change: fn(&mut CertificateParams)| {
        let mut params = named("alice", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        scene.meet(Some(&scene.pki.authority.issue(params)))
    };
    assert!(show(|_| ()).is_ok());
    assert!(show(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]).is_ok());
    let fault = refused(show(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]));
    assert_eq!(fault, CertificateError::InvalidPurpose);
    let fault = refused(show(|params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]));
    assert_eq!(fault, CertificateError::InvalidPurpose);
    assert_eq!(refused(show(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1))), CertificateError::Expired);
    let fault = refused(show(|params| params.not_before = rcgen::date_time_ymd(2500, 1, 1)));
    assert_eq!(fault, CertificateError::NotValidYet);
    let fault = refused(show(|params| {
        let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions = vec![unknown];
    }));
    assert_eq!(fault, CertificateError::InvalidPurpose);
}
