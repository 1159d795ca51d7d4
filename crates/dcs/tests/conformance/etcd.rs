//! What only etcd has: members that are lost or frozen, users, certificates, compaction.

use std::time::{Duration, Instant};

use dcs::etcd::Options;
use dcs::{Condition, Dcs, Error, Etcd};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::time::timeout;

use crate::options;
use crate::server::{Server, Tls};
use crate::suite::{LONG, leased, put, until, value};

const SCOPE: &str = "/service/otus/";
/// A lost member is noticed and replaced within this time, an election included.
const UNNOTICED: Duration = Duration::from_secs(6);

/// A client that talks to the member at `first`, and another one that talks to the rest.
async fn clients(servers: &[Server], first: usize) -> (Etcd, Etcd) {
    let mut addresses: Vec<&str> = servers.iter().map(|s| s.client.as_str()).collect();
    addresses.rotate_left(first);
    let one = Etcd::connect(options(&addresses, SCOPE)).await.unwrap();
    let other = Etcd::connect(options(&addresses[1..], SCOPE)).await.unwrap();
    (one, other)
}

async fn leader_of(servers: &[Server]) -> usize {
    for (index, server) in servers.iter().enumerate() {
        if server.leads().await {
            return index;
        }
    }
    panic!("etcd has no leader");
}

/// Takes a member away under a client that uses it for everything, watch and lease included.
async fn loses(servers: &mut [Server], victim: usize, lose: impl FnOnce(&mut Server)) {
    let (client, other) = clients(servers, victim).await;
    let lease = client.grant(Duration::from_secs(30)).await.unwrap();
    client.keep_alive(lease).await.unwrap();
    let at = client.commit(&[], &[leased("leader", "pg1", lease)]).await.unwrap().unwrap();
    // The watch is open on the member before it is lost.
    let early = timeout(Duration::from_millis(100), client.changed(at)).await;
    assert!(early.is_err(), "{early:?}");
    lose(&mut servers[victim]);
    let begun = Instant::now();
    let watched = async {
        timeout(LONG, client.changed(at)).await.unwrap().unwrap();
        begun.elapsed()
    };
    let used = async {
        let seen = client.read().await.unwrap();
        client.keep_alive(lease).await.unwrap();
        client.grant(Duration::from_secs(5)).await.unwrap();
        let unchanged = Condition::CreatedAt("leader".into(), seen.entries["leader"].created);
        client.commit(&[unchanged], &[put("status", "1")]).await.unwrap().expect("the condition holds");
        let took = begun.elapsed();
        other.commit(&[], &[put("config", "{}")]).await.unwrap();
        took
    };
    let (woken, used) = tokio::join!(watched, used);
    assert!(used < UNNOTICED && woken < UNNOTICED, "used after {used:?}, woken after {woken:?}");
    assert_eq!(value(&client.read().await.unwrap(), "config"), Some("{}"));
    // Once another member is in use, nothing waits any more.
    let begun = Instant::now();
    client.read().await.unwrap();
    client.keep_alive(lease).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn killed_member_is_not_missed() {
    let mut servers = Server::three();
    let follower = (leader_of(&servers).await + 1) % 3;
    loses(&mut servers, follower, Server::kill).await;
}

#[tokio::test]
async fn killed_leader_is_not_missed() {
    let mut servers = Server::three();
    let leader = leader_of(&servers).await;
    loses(&mut servers, leader, Server::kill).await;
}

#[tokio::test]
async fn frozen_member_is_not_missed() {
    let mut servers = Server::three();
    let follower = (leader_of(&servers).await + 1) % 3;
    loses(&mut servers, follower, |s| s.stop()).await;
}

#[tokio::test]
async fn frozen_leader_is_not_missed() {
    let mut servers = Server::three();
    let leader = leader_of(&servers).await;
    loses(&mut servers, leader, |s| s.stop()).await;
}

#[tokio::test]
async fn frozen_member_under_an_idle_watch_is_not_missed() {
    let servers = Server::three();
    let follower = (leader_of(&servers).await + 1) % 3;
    let (client, other) = clients(&servers, follower).await;
    let at = client.read().await.unwrap().revision;
    assert!(timeout(Duration::from_millis(100), client.changed(at)).await.is_err());
    servers[follower].stop();
    let begun = Instant::now();
    let write = [put("k", "1")];
    let (woken, committed) = tokio::join!(timeout(LONG, client.changed(at)), other.commit(&[], &write));
    committed.unwrap();
    woken.unwrap().unwrap();
    assert!(begun.elapsed() < UNNOTICED, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn frozen_leader_of_etcd_is_not_missed_by_a_client_of_another_member() {
    let servers = Server::three();
    let leader = leader_of(&servers).await;
    let (client, _) = clients(&servers, (leader + 1) % 3).await;
    let lease = client.grant(Duration::from_secs(30)).await.unwrap();
    client.commit(&[], &[leased("leader", "pg1", lease)]).await.unwrap();
    servers[leader].stop();
    let begun = Instant::now();
    client.keep_alive(lease).await.unwrap();
    client.read().await.unwrap();
    assert!(begun.elapsed() < UNNOTICED, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn transaction_sent_to_a_frozen_member_is_unknown_or_done() {
    let servers = Server::three();
    let (client, other) = clients(&servers, 0).await;
    client.read().await.unwrap();
    servers[0].stop();
    match client.commit(&[Condition::Absent("k".into())], &[put("k", "1")]).await {
        Err(Error::Unknown(_)) => {}
        answer => panic!("{answer:?}"),
    }
    // The same client asks another member next.
    client.commit(&[], &[put("later", "1")]).await.unwrap();
    assert_eq!(value(&other.read().await.unwrap(), "later"), Some("1"));
}

/// The old leader answers keep-alives from memory until it steps down: none of them may count.
#[tokio::test]
async fn without_a_quorum_nothing_is_confirmed() {
    let mut servers = Server::three();
    let leader = leader_of(&servers).await;
    servers.swap(0, leader);
    let addresses: Vec<&str> = servers.iter().map(|s| s.client.as_str()).collect();
    let short = Options { timeout: Duration::from_secs(2), ..options(&addresses, SCOPE) };
    let client = Etcd::connect(short).await.unwrap();
    let lease = client.grant(Duration::from_secs(30)).await.unwrap();
    client.keep_alive(lease).await.unwrap();
    servers[1].stop();
    servers[2].stop();
    let begun = Instant::now();
    let renewal = client.keep_alive(lease).await;
    assert!(matches!(renewal, Err(Error::Unavailable(_))), "{renewal:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(matches!(client.read().await, Err(Error::Unavailable(_))));
    assert!(matches!(client.commit(&[], &[put("k", "1")]).await, Err(Error::Unavailable(_) | Error::Unknown(_))));
    assert!(matches!(client.revoke(lease).await, Err(Error::Unavailable(_) | Error::Unknown(_))));
    let watch = timeout(LONG, client.changed(1)).await.unwrap();
    assert!(matches!(watch, Err(Error::Unavailable(_))), "{watch:?}");
}

#[tokio::test]
async fn etcd_may_be_down_at_first() {
    let mut server = Server::single();
    server.kill();
    let client = Etcd::connect(options(&[&server.client], SCOPE)).await.unwrap();
    server.restart();
    client.commit(&[], &[put("k", "1")]).await.unwrap().unwrap();
}

#[tokio::test]
async fn compacted_changes_are_lost_and_said_so() {
    let server = Server::single();
    let client = Etcd::connect(options(&[&server.client], SCOPE)).await.unwrap();
    let first = client.commit(&[], &[put("k", "1")]).await.unwrap().unwrap();
    client.commit(&[], &[put("k", "2")]).await.unwrap();
    let last = client.commit(&[], &[put("k", "3")]).await.unwrap().unwrap();
    server.ctl(&["compaction", &last.to_string()]);
    let watch = timeout(LONG, client.changed(first - 1)).await.unwrap();
    assert!(matches!(watch, Err(Error::Lost(_))), "{watch:?}");
    until(&client, "the last value", |s| value(s, "k") == Some("3")).await;
}

fn with_user(server: &Server, prefix: &str, user: &str, password: &str) -> Options {
    Options { user: Some(user.into()), password: Some(password.into()), ..options(&[&server.client], prefix) }
}

#[tokio::test]
async fn users_are_checked_and_tokens_renewed() {
    let mut server = Server::single();
    for command in [
        "user add root:top",
        "user add otus:secret",
        "role add otus",
        "role grant-permission otus --prefix=true readwrite /service/otus/",
        "user grant-role otus otus",
        "user grant-role root root",
        "auth enable",
    ] {
        server.ctl(&command.split(' ').collect::<Vec<_>>());
    }
    for (options, word) in [
        (with_user(&server, SCOPE, "otus", "wrong"), "password"),
        (with_user(&server, SCOPE, "nobody", "secret"), "password"),
        (options(&[&server.client], SCOPE), "user name"),
        (with_user(&server, "/service/other/", "otus", "secret"), "grant"),
    ] {
        let refused = Etcd::connect(options).await;
        assert!(matches!(&refused, Err(Error::Refused(m)) if m.contains(word)), "{refused:?}");
    }
    let client = Etcd::connect(with_user(&server, SCOPE, "otus", "secret")).await.unwrap();
    let lease = client.grant(Duration::from_secs(60)).await.unwrap();
    client.commit(&[], &[leased("leader", "pg1", lease)]).await.unwrap();
    client.keep_alive(lease).await.unwrap();
    let at = client.read().await.unwrap().revision;
    assert!(timeout(Duration::from_millis(100), client.changed(at)).await.is_err());
    // A restarted etcd has forgotten its tokens.
    server.kill();
    server.restart();
    let used = async {
        client.keep_alive(lease).await.unwrap();
        client.commit(&[], &[put("k", "1")]).await.unwrap();
    };
    let (watched, ()) = tokio::join!(timeout(LONG, client.changed(at)), used);
    watched.unwrap().unwrap();
    assert_eq!(value(&client.read().await.unwrap(), "k"), Some("1"));
}

#[tokio::test]
async fn user_is_accepted_where_authentication_is_off() {
    let server = Server::single();
    let client = Etcd::connect(with_user(&server, SCOPE, "otus", "secret")).await.unwrap();
    client.commit(&[], &[put("k", "1")]).await.unwrap();
}

/// An authority, and a certificate by it for 127.0.0.1 with its key, as PEM.
fn certificate() -> (String, String, String) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let cert = leaf.signed_by(&key, &ca).unwrap();
    (ca.pem(), cert.pem(), key.serialize_pem())
}

#[tokio::test]
async fn client_certificates_are_used_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, cert, key) = certificate();
    let file = |name: &str, content: &str| {
        std::fs::write(dir.path().join(name), content).unwrap();
        dir.path().join(name)
    };
    let tls = Tls { ca: file("ca", &ca), cert: file("cert", &cert), key: file("key", &key) };
    let server = Server::with_tls(&tls);
    let bytes = |pem: &str| Some(pem.as_bytes().to_vec());
    let right = Options { ca: bytes(&ca), cert: bytes(&cert), key: bytes(&key), ..options(&[&server.client], SCOPE) };
    let client = Etcd::connect(right.clone()).await.unwrap();
    let at = client.commit(&[], &[put("k", "1")]).await.unwrap().unwrap();
    assert_eq!(client.read().await.unwrap().revision, at);
    let (other_ca, other_cert, other_key) = certificate();
    for (what, wrong) in [
        ("another authority", Options { ca: bytes(&other_ca), ..right.clone() }),
        ("no client certificate", Options { cert: None, key: None, ..right.clone() }),
        ("another client", Options { cert: bytes(&other_cert), key: bytes(&other_key), ..right.clone() }),
        ("no authority", Options { ca: None, ..right.clone() }),
        ("no key", Options { key: None, ..right.clone() }),
        ("garbage", Options { ca: bytes("garbage"), ..right.clone() }),
        ("no scheme", options(&["127.0.0.1:2379"], SCOPE)),
        ("nothing", options(&[], SCOPE)),
    ] {
        let refused = Etcd::connect(wrong).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{what}: {refused:?}");
    }
}
