//! Versions, cipher suites, curves and the protocol's name.

use std::sync::Arc;

use rustls::server::ServerSessionMemoryCache;
use rustls::{CipherSuite, Error, HandshakeKind, NamedGroup, ProtocolVersion};

use super::{Shaken, host, shake};
use crate::tls::testing::{Pki, usual_client};
use crate::tls::{Client, Options, Server, Side, SslMode, describe};

fn meet(change: impl FnOnce(&mut Options)) -> Result<(Shaken, Vec<String>), String> {
    let pki = Pki::new();
    let mut options = pki.options(SslMode::Require, &pki.authority.identity("pooler", &["localhost"]));
    change(&mut options);
    let acceptor = Server::load(&options).map_err(|e| e.to_string())?.current();
    let client = Arc::new(usual_client(&pki.authority, None));
    let shaken = shake(acceptor.config.as_ref().unwrap(), &client, host("localhost")).map_err(|e| format!("{e:?}"))?;
    Ok((shaken, acceptor.warnings.clone()))
}

fn suite(shaken: &Shaken) -> CipherSuite {
    shaken.server.negotiated_cipher_suite().unwrap().suite()
}

fn group(shaken: &Shaken) -> NamedGroup {
    shaken.server.negotiated_key_exchange_group().unwrap().name()
}

#[test]
fn protocols_are_the_versions_that_are_spoken() {
    for (text, version) in [
        ("secure", ProtocolVersion::TLSv1_3),
        ("", ProtocolVersion::TLSv1_3),
        ("TLSv1.2, tlsv1.3", ProtocolVersion::TLSv1_3),
        ("tlsv1.2", ProtocolVersion::TLSv1_2),
        ("tlsv1.3", ProtocolVersion::TLSv1_3),
        ("!tlsv1.3:!tlsv1.0:!tlsv1.1", ProtocolVersion::TLSv1_2),
        ("secure,!tlsv1.3", ProtocolVersion::TLSv1_2),
    ] {
        let (shaken, warnings) = meet(|options| options.protocols = text.to_owned()).unwrap();
        assert_eq!(shaken.server.protocol_version(), Some(version), "{text}");
        assert_eq!(warnings, Vec::<String>::new());
    }
}

#[test]
fn versions_that_are_gone_are_warned_of_and_alone_refused() {
    for text in ["all", "legacy", "tlsv1", "tlsv1.0,tlsv1.1,tlsv1.2"] {
        let (_, warnings) = meet(|options| options.protocols = text.to_owned()).unwrap();
        let expected = "client_tls_protocols: tlsv1.0 and tlsv1.1 can't be had, they are no longer secure";
        assert_eq!(warnings, [expected]);
    }
    for text in ["tlsv1.0", "tlsv1.1:tlsv1.0", "tlsv1.2,!tlsv1.2"] {
        let fault = meet(|options| options.protocols = text.to_owned()).unwrap_err();
        assert_eq!(fault, format!("invalid client_tls_protocols: {text}: only tlsv1.2 and tlsv1.3 can be had"));
    }
    for text in ["tlsv1.9", "ssl", "tlsv1.2,,"] {
        let fault = meet(|options| options.protocols = text.to_owned()).unwrap_err();
        assert_eq!(fault, format!("invalid client_tls_protocols: {text}"));
    }
}

#[test]
fn no_common_version_is_no_connection() {
    let pki = Pki::new();
    let mut options = pki.options(SslMode::Require, &pki.authority.identity("db", &["db"]));
    options.protocols = "tlsv1.3".to_owned();
    let server = Server::load(&options).unwrap().current();
    options.protocols = "tlsv1.2".to_owned();
    let client = Client::load(&options).unwrap().current();
    let (side, _) = shake(server.config.as_ref().unwrap(), client.config.as_ref().unwrap(), host("db")).unwrap_err();
    assert_eq!(side, "server");
}

/// What a list makes of a handshake in TLS 1.2 with a key of the ECDSA kind.
fn tls12(list: &str) -> Result<(CipherSuite, Vec<String>), String> {
    let (shaken, warnings) = meet(|options| {
        options.protocols = "tlsv1.2".to_owned();
        options.ciphers = list.to_owned();
    })?;
    Ok((suite(&shaken), warnings))
}

#[test]
fn cipher_lists_choose_in_their_order() {
    let aes256 = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
    let aes128 = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    let chacha = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    for (list, expected) in [
        ("default", aes256),
        ("Fast", aes256),
        ("normal", aes256),
        ("secure", aes256),
        ("compat", aes256),
        ("all", aes256),
        ("", aes256),
        ("HIGH:MEDIUM:+3DES:!aNULL", aes256),
        ("HIGH+EECDH:HIGH+EDH:!SSLv3:!SHA384:!SHA256:!DSS:!aNULL", aes256),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", aes128),
        ("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384", aes128),
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", aes128),
        ("HIGH:!AES256:!CHACHA20", aes128),
        ("EECDH+AESGCM:!AES256", aes128),
        ("ECDHE+CHACHA20:HIGH", chacha),
        ("HIGH:+AES256", chacha),
        ("HIGH:-AES:ECDHE-ECDSA-AES128-GCM-SHA256", chacha),
        ("AES128:CHACHA20:@STRENGTH", chacha),
        ("!AES256:HIGH", chacha),
        ("DEFAULT@SECLEVEL=2:!AES256:!CHACHA20:AES128", aes128),
    ] {
        let (chosen, _) = tls12(list).unwrap_or_else(|e| panic!("{list}: {e}"));
        assert_eq!(chosen, expected, "{list}");
    }
}

#[test]
fn ciphers_that_are_not_there_are_named() {
    let (_, warnings) = tls12("AES256-SHA:ECDHE-ECDSA-AES128-GCM-SHA256:FOO:!BAR:kEDH+AES").unwrap();
    assert_eq!(warnings, ["client_tls_ciphers: AES256-SHA, FOO, kEDH+AES can't be had and is left out"]);
    for list in ["AES256-SHA:FOO", "HIGH:!ALL", "!HIGH:HIGH", "RC4"] {
        let fault = tls12(list).unwrap_err();
        assert!(fault.starts_with(&format!("invalid client_tls_ciphers: {list}: none of these")), "{fault}");
    }
    // They don't concern TLS 1.3.
    let (_, warnings) = meet(|options| {
        options.protocols = "tlsv1.3".to_owned();
        options.ciphers = "RC4".to_owned();
    })
    .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn tls13_has_ciphers_of_its_own() {
    let list = |text: &str| meet(|options| options.tls13_ciphers = text.to_owned());
    assert_eq!(suite(&list("").unwrap().0), CipherSuite::TLS13_AES_256_GCM_SHA384);
    let (shaken, warnings) =
        list("TLS_AES_128_CCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256").unwrap();
    assert_eq!(suite(&shaken), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    assert_eq!(warnings, ["client_tls13_ciphers: TLS_AES_128_CCM_SHA256 can't be had and is left out"]);
    let fault = list("TLS_AES_128_CCM_SHA256").unwrap_err();
    assert!(fault.starts_with("invalid client_tls13_ciphers: TLS_AES_128_CCM_SHA256: none of these"), "{fault}");
}

#[test]
fn curves_are_chosen_by_name() {
    let curve = |text: &str| meet(|options| options.ecdhcurve = text.to_owned());
    assert_eq!(group(&curve("auto").unwrap().0), NamedGroup::X25519);
    assert_eq!(group(&curve("prime256v1").unwrap().0), NamedGroup::secp256r1);
    assert_eq!(group(&curve("secp384r1:secp384r1").unwrap().0), NamedGroup::secp384r1);
    let (shaken, warnings) = curve("secp521r1:P-384").unwrap();
    assert_eq!(group(&shaken), NamedGroup::secp384r1);
    assert_eq!(warnings, ["client_tls_ecdhcurve: secp521r1 can't be had and is left out"]);
    let (_, warnings) = curve("none").unwrap();
    assert!(warnings[0].starts_with("client_tls_ecdhcurve: none can't be had"), "{warnings:?}");
    let fault = curve("secp521r1").unwrap_err();
    let expected = "invalid client_tls_ecdhcurve: secp521r1: only X25519, prime256v1 and secp384r1 can be had";
    assert_eq!(fault, expected);
}

#[test]
fn a_server_of_old_needs_no_second_hello() {
    let pki = Pki::new();
    let mut options = pki.options(SslMode::Require, &pki.authority.identity("db", &["db"]));
    options.ecdhcurve = "prime256v1".to_owned();
    let server = Server::load(&options).unwrap().current();
    let client = Client::load(&options).unwrap().current();
    let shaken = shake(server.config.as_ref().unwrap(), client.config.as_ref().unwrap(), host("db")).unwrap();
    assert_eq!(shaken.client.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn no_session_is_kept_to_be_resumed() {
    let pki = Pki::new();
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        let mut options = pki.options(SslMode::Require, &pki.authority.identity("db", &["db"]));
        options.protocols = protocols.to_owned();
        let server = Server::load(&options).unwrap().current().config.clone().unwrap();
        let client = Client::load(&options).unwrap().current().config.clone().unwrap();
        let usual = Arc::new(usual_client(&pki.authority, None));
        let mut generous = (*server).clone();
        generous.send_tls13_tickets = 2;
        generous.session_storage = ServerSessionMemoryCache::new(32);
        let generous = Arc::new(generous);
        for (server, client) in [(&server, &usual), (&generous, &client)] {
            for _ in 0..2 {
                let shaken = shake(server, client, host("db")).unwrap();
                assert_eq!(shaken.server.handshake_kind(), Some(HandshakeKind::Full));
                if !Arc::ptr_eq(server, &generous) {
                    assert_eq!(shaken.client.tls13_tickets_received(), 0);
                }
            }
        }
        // The usual ones would.
        shake(&generous, &usual, host("db")).unwrap();
        let again = shake(&generous, &usual, host("db")).unwrap();
        assert_eq!(again.server.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn finite_field_parameters_are_no_use() {
    let parameters = |text: &str| meet(|options| options.dheparams = text.to_owned());
    assert_eq!(parameters("none").unwrap().1, Vec::<String>::new());
    let (_, warnings) = parameters("legacy").unwrap();
    assert_eq!(warnings, ["client_tls_dheparams: legacy has no effect, DHE key exchange isn't offered"]);
    assert_eq!(parameters("foo").unwrap_err(), "invalid client_tls_dheparams: foo");
}

#[test]
fn the_description_is_pgbouncer_s() {
    let (shaken, _) = meet(|_| ()).unwrap();
    assert_eq!(describe(&shaken.server, Side::Accepted), "TLSv1.3/TLS_AES_256_GCM_SHA384");
    assert_eq!(describe(&shaken.client, Side::Asked), "TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH=X25519");
    let (shaken, _) = meet(|options| {
        options.protocols = "tlsv1.2".to_owned();
        options.ecdhcurve = "prime256v1".to_owned();
    })
    .unwrap();
    let expected = "TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384/ECDH=prime256v1";
    assert_eq!(describe(&shaken.server, Side::Accepted), expected);
    assert_eq!(describe(&shaken.client, Side::Asked), expected);
}

#[test]
fn the_protocol_s_name_is_agreed_on_where_the_client_says_one() {
    let pki = Pki::new();
    let options = pki.options(SslMode::Require, &pki.authority.identity("pooler", &["localhost"]));
    let server = Server::load(&options).unwrap().current().config.clone().unwrap();
    let as_client = |names: &[&[u8]]| {
        let mut client = usual_client(&pki.authority, None);
        client.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        shake(&server, &Arc::new(client), host("localhost"))
    };
    assert_eq!(as_client(&[b"h2", b"postgresql"]).unwrap().server.alpn_protocol(), Some(&b"postgresql"[..]));
    assert_eq!(as_client(&[]).unwrap().server.alpn_protocol(), None);
    let (side, fault) = as_client(&[b"h2"]).unwrap_err();
    assert_eq!((side, fault), ("server", Error::NoApplicationProtocol));
    // A server that hasn't heard of such names is no obstacle.
    let connector = Client::load(&options).unwrap().current();
    let mut silent = (*server).clone();
    silent.alpn_protocols = Vec::new();
    assert!(shake(&Arc::new(silent), connector.config.as_ref().unwrap(), host("localhost")).is_ok());
}
