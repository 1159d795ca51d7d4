//! Files that can't be used, files that change, and names out of certificates.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{DnType, DnValue, KeyPair};

use super::{host, shake};
use crate::tls::testing::{Identity, Pki, expired, named, usual_client};
use crate::tls::{Client, Options, Server, SslMode, common_name};

fn scene(sslmode: SslMode) -> (Pki, Options) {
    let pki = Pki::new();
    let options = pki.options(sslmode, &pki.authority.identity("pooler", &["localhost"]));
    (pki, options)
}

/// Both sides' refusals of options that are changed by `change`; the second with `server` for `client`.
fn refusals(change: impl Fn(&Pki, &mut Options)) -> (Pki, String, String) {
    let (pki, mut options) = scene(SslMode::VerifyFull);
    change(&pki, &mut options);
    let client = Server::load(&options).unwrap_err().to_string();
    let server = Client::load(&options).unwrap_err().to_string();
    (pki, client, server)
}

#[test]
fn settings_that_need_each_other_are_asked_for() {
    let (_, options) = scene(SslMode::Allow);
    for half in [Options { key_file: None, ..options.clone() }, Options { cert_file: None, ..options.clone() }] {
        let fault = Server::load(&half).unwrap_err().to_string();
        let expected =
            "To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be set.";
        assert_eq!(fault, expected);
    }
    let (_, mut options) = scene(SslMode::VerifyFull);
    options.ca_file = None;
    let fault = Server::load(&options).unwrap_err().to_string();
    assert_eq!(fault, "client_tls_sslmode requires client_tls_ca_file");
    options.key_file = None;
    assert_eq!(Client::load(&options).unwrap_err().to_string(), "server_tls_cert_file needs server_tls_key_file");
    (options.cert_file, options.key_file) = (None, Some(PathBuf::from("x")));
    assert_eq!(Client::load(&options).unwrap_err().to_string(), "server_tls_key_file needs server_tls_cert_file");
}

#[test]
fn a_file_that_is_missing_is_named() {
    for (kind, setting) in [("private key", "key_file"), ("certificate", "cert_file"), ("CA", "ca_file")] {
        let (pki, client, server) = refusals(|pki, options| {
            let file = Some(pki.path("nosuch"));
            match setting {
                "key_file" => options.key_file = file,
                "cert_file" => options.cert_file = file,
                _ => options.ca_file = file,
            }
        });
        let expected = |prefix: &str| {
            let file = pki.path("nosuch");
            let why = "No such file or directory (os error 2)";
            format!("TLS setup failed: failed to load {kind} file \"{}\" ({prefix}_{setting}): {why}", file.display())
        };
        assert_eq!((client, server), (expected("client_tls"), expected("server_tls")));
    }
}

#[test]
fn an_authorities_file_is_not_looked_at_where_nobody_is_verified() {
    let (pki, mut options) = scene(SslMode::Require);
    options.ca_file = Some(pki.path("nosuch"));
    assert!(Client::load(&options).is_ok());
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let ends = |change: fn(&Pki, &mut Options), end: &str| {
        let (_, client, server) = refusals(change);
        assert!(client.ends_with(end), "{client}");
        assert!(server.ends_with(end), "{server}");
    };
    ends(|pki, options| options.cert_file = Some(pki.path("ours.key")), ": it has no CERTIFICATE section");
    ends(|pki, options| options.ca_file = Some(pki.path("ours.key")), ": it has no CERTIFICATE section");
    ends(|pki, options| options.key_file = Some(pki.path("ours.crt")), ": it has no PRIVATE KEY section");
    ends(
        |pki, options| options.cert_file = Some(pki.file("bad.crt", &bad_pem("CERTIFICATE"))),
        ": its certificate can't be read",
    );
    ends(
        |pki, options| options.key_file = Some(pki.file("bad.key", &bad_pem("PRIVATE KEY"))),
        "it must be RSA of 2048 bits or more, ECDSA over P-256 or P-384, or Ed25519",
    );
    ends(
        |pki, options| options.key_file = Some(pki.file("locked.key", &bad_pem("ENCRYPTED PRIVATE KEY"))),
        ": its key is encrypted: decrypt it with \"openssl pkey -in OLD -out NEW\" (mode 0600)",
    );
    let (pki, client, _) = refusals(|pki, options| {
        options.key_file = Some(pki.file("other.key", &KeyPair::generate().unwrap().serialize_pem()));
    });
    let certificate = pki.path("ours.crt");
    let expected = format!(": key values mismatch: it doesn't belong to certificate \"{}\"", certificate.display());
    assert!(client.ends_with(&expected), "{client}");
}

fn bad_pem(label: &str) -> String {
    format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n")
}

#[test]
fn authorities_that_make_no_sense_are_left_out_if_others_remain() {
    let (pki, mut options) = scene(SslMode::VerifyFull);
    let both = bad_pem("CERTIFICATE") + &pki.authority.pem();
    options.ca_file = Some(pki.file("both.crt", &both));
    let server = Server::load(&options).unwrap().current();
    assert_eq!(server.warnings.len(), 1);
    assert!(server.warnings[0].starts_with("client_tls_ca_file: certificate 1 in "), "{:?}", server.warnings);
    let alice = pki.authority.identity("alice", &[]);
    let client = Arc::new(usual_client(&pki.authority, Some(&alice)));
    assert!(shake(server.config.as_ref().unwrap(), &client, host("localhost")).is_ok());

    options.ca_file = Some(pki.file("bad.crt", &bad_pem("CERTIFICATE")));
    let fault = Server::load(&options).unwrap_err().to_string();
    assert!(fault.starts_with("TLS setup failed: client_tls_ca_file can't be used: "), "{fault}");
}

#[test]
fn certificates_out_of_date_are_warned_of() {
    let pki = Pki::new();
    let ours = pki.authority.issue(expired("pooler", &["localhost"]));
    let mut options = pki.options(SslMode::VerifyFull, &ours);
    let old = Identity::self_signed("old", &[]);
    assert_eq!(Client::load(&options).unwrap().current().warnings.len(), 1);
    options.ca_file = Some(pki.file("old.crt", &pki.authority.issue(expired("old", &[])).pem()));
    let warnings = Server::load(&options).unwrap().current().warnings.clone();
    let expected = [
        format!("client_tls_ca_file: certificate 1 in \"{}\" has expired", pki.path("old.crt").display()),
        format!("client_tls_cert_file: the certificate in \"{}\" has expired", pki.path("ours.crt").display()),
    ];
    assert_eq!(warnings, expected);
    options.ca_file = Some(pki.file("fresh.crt", &old.pem()));
    assert_eq!(Server::load(&options).unwrap().current().warnings.len(), 1);
}

#[test]
fn a_certificate_of_version_1_can_be_ours() {
    let pki = Pki::new();
    let options = pki.options(SslMode::Require, &pki.authority.old_identity("localhost"));
    let server = Server::load(&options).unwrap().current().config.clone().unwrap();
    let client = Client::load(&Options { sslmode: SslMode::VerifyFull, ..options }).unwrap().current();
    assert!(shake(&server, client.config.as_ref().unwrap(), host("localhost")).is_ok());
    let mut wrong = pki.options(SslMode::Require, &pki.authority.old_identity("localhost"));
    wrong.key_file = Some(pki.file("other.key", &KeyPair::generate().unwrap().serialize_pem()));
    let fault = Server::load(&wrong).unwrap_err().to_string();
    assert!(fault.contains("key values mismatch"), "{fault}");
}

#[test]
fn a_reload_serves_the_new_certificate_and_a_bad_one_changes_nothing() {
    let (pki, options) = scene(SslMode::Require);
    let server = Server::load(&options).unwrap();
    let shared = server.clone();
    let shown = || {
        let client = Arc::new(usual_client(&pki.authority, None));
        let shaken = shake(shared.current().config.as_ref().unwrap(), &client, host("localhost")).unwrap();
        common_name(&shaken.client.peer_certificates().unwrap()[0]).unwrap()
    };
    assert_eq!(shown(), "pooler");
    pki.install("ours", &pki.authority.identity("renewed", &["localhost"]));
    server.reload(&options).unwrap();
    assert_eq!(shown(), "renewed");
    pki.file("ours.key", "nothing");
    assert!(server.reload(&options).is_err());
    assert_eq!(shown(), "renewed");
    server.reload(&Options::default()).unwrap();
    assert!(shared.current().config.is_none());
}

#[test]
fn servers_connections_are_renewed_only_where_something_changed() {
    let (pki, options) = scene(SslMode::VerifyFull);
    let client = Client::load(&options).unwrap();
    assert!(!client.reload(&options).unwrap());
    pki.install("ours", &pki.authority.identity("renewed", &[]));
    assert!(client.reload(&options).unwrap());
    assert!(!client.reload(&options).unwrap());
    let options = Options { sslmode: SslMode::VerifyCa, ..options };
    assert!(client.reload(&options).unwrap());
    pki.file("ca.crt", &pki.stranger.pem());
    assert!(client.reload(&options).unwrap());
    assert!(client.reload(&Options::default()).unwrap());
    assert!(!client.reload(&Options::default()).unwrap());
    assert!(client.current().config.is_none());
}

#[test]
fn a_common_name_is_the_only_one_and_plain_text() {
    let pki = Pki::new();
    let of = |names: Vec<DnValue>| {
        let mut params = named("x", &[]);
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (place, name) in names.into_iter().enumerate() {
            // The same type twice would replace the first.
            let kind = if place == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
            params.distinguished_name.push(kind, name);
        }
        common_name(&pki.authority.issue(params).chain[0])
    };
    let text = |text: &str| DnValue::Utf8String(text.to_owned());
    assert_eq!(of(vec![text("alice")]).as_deref(), Some("alice"));
    assert_eq!(of(vec![text("Zoë Müller")]).as_deref(), Some("Zoë Müller"));
    assert_eq!(of(vec![DnValue::PrintableString("bob".try_into().unwrap())]).as_deref(), Some("bob"));
    assert_eq!(of(vec![DnValue::BmpString("bob".try_into().unwrap())]), None);
    assert_eq!(of(vec![]), None);
    assert_eq!(of(vec![text("")]), None);
    assert_eq!(of(vec![text("alice\0.evil")]), None);
    assert_eq!(of(vec![text("alice"), text("bob")]), None);
    assert_eq!(common_name(&pki.authority.old_identity("alice").chain[0]).as_deref(), Some("alice"));
    assert_eq!(common_name(&b"rubbish".to_vec().into()), None);
    let longer = [&pki.authority.identity("alice", &[]).chain[0][..], b"!"].concat();
    assert_eq!(common_name(&longer.into()), None);
}

#[test]
fn modes_are_read_in_pgbouncer_s_words() {
    for mode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
        assert_eq!(SslMode::parse(&mode.to_uppercase()).unwrap().to_string(), mode);
    }
    assert_eq!(SslMode::parse("verify"), None);
    assert!(SslMode::Require.is_demanded() && !SslMode::Prefer.is_demanded());
    assert!(SslMode::VerifyCa.verifies() && !SslMode::Require.verifies());
}
