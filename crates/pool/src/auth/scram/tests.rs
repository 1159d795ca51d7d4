//! Tests of the module above, and of both sides of the exchange against each other.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A user list entry that pgbouncer takes for the password `secret`.
const SECRET: &str = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$bpSY5Ze9NUH+I35LC3gVq+DpBfK46iXBxvhAKqVu9pE=:\
                      VpYlBuxyzeCI1KnctrefdljpB1mk3Gp7sBI/t11+NkQ=";

fn few() -> NonZeroU32 {
    NonZeroU32::MIN
}

fn seed() -> Seed {
    Seed::fixed([7; 32])
}

fn challenge(salt: &[u8]) -> Challenge {
    Challenge { salt: salt.into(), iterations: few() }
}

/// A client with these keys, or with keys made from this password, logs in where this verifier is.
fn log_in(verifier: &Verifier, keys: impl FnOnce(&Challenge) -> Keys) -> Result<Keys, Fault> {
    let (client, first) = client::Exchange::begin(Nonce::fixed("client"));
    let (server, answer) = server::Exchange::begin(Arc::new(verifier.clone()), &first, &Nonce::fixed("server"))?;
    let client = client.challenged(&answer)?;
    let keys = keys(client.challenge());
    let (client, last) = client.prove(&keys);
    let proved = server.finish(&last)?;
    client.finish(&proved.answer)?;
    Ok(proved.keys)
}

#[test]
fn a_secret_in_postgresqls_form_fits_its_password() {
    let verifier = Verifier::parse(SECRET).expect("a secret");
    assert_eq!(verifier.challenge().iterations.get(), 4096);
    assert_eq!(&*verifier.challenge().salt, b"0123456789abcdef");
    assert!(verifier.fits(b"secret") && !verifier.fits(b"Secret"));
    assert_eq!(verifier, Verifier::derive(b"secret", verifier.challenge().clone()));
}

#[test]
fn keys_that_a_client_showed_serve_where_the_secret_is_the_same_and_nowhere_else() {
    let verifier = Verifier::derive(b"secret", challenge(b"salt"));
    let shown = log_in(&verifier, |challenge| Keys::derive(b"secret", challenge)).expect("logged in");
    assert_eq!(shown, Keys::derive(b"secret", verifier.challenge()));
    assert!(log_in(&verifier, |_| shown.clone()).is_ok());
    let salted = Verifier::derive(b"secret", challenge(b"other"));
    assert_eq!(log_in(&salted, |_| shown.clone()), Err(Fault::Proof));
}

#[test]
fn users_that_cannot_log_in_fail_at_the_end_and_look_the_same_each_time() {
    let (md5, empty) = (Secret::parse("md5ad16ab8cb9f9946be08171afa599199d"), Secret::parse(""));
    for (secret, fault) in [(None, Fault::Proof), (Some(&md5), Fault::Md5Secret), (Some(&empty), Fault::Proof)] {
        let verifier = Verifier::of(secret, b"u", few(), &seed());
        assert_eq!(log_in(&verifier, |challenge| Keys::derive(b"", challenge)), Err(fault));
        assert_eq!(Verifier::of(secret, b"u", few(), &seed()), verifier);
    }
}

#[test]
fn keys_of_zeros_do_not_satisfy_a_mock() {
    let verifier = Verifier::of(None, b"u", few(), &seed());
    let zeros = Keys { client: [0; LENGTH], server: [0; LENGTH] };
    assert_eq!(log_in(&verifier, |_| zeros), Err(Fault::Proof));
}

#[test]
fn a_user_with_a_password_and_a_made_up_one_are_challenged_alike() {
    let known = Verifier::of(Some(&Secret::parse("secret")), b"u", few(), &seed());
    let unknown = Verifier::of(None, b"u", few(), &seed());
    assert_eq!(known.challenge(), unknown.challenge());
    assert_eq!(known.challenge().salt.len(), 16);
    assert_ne!(known.challenge(), Verifier::of(None, b"v", few(), &seed()).challenge());
    assert_ne!(known.challenge(), Verifier::of(None, b"u", few(), &Seed::fixed([8; 32])).challenge());
}

#[test]
fn a_scram_secret_is_its_own_verifier() {
    let secret = Secret::parse(SECRET);
    assert_eq!(Some(Verifier::of(Some(&secret), b"u", few(), &seed())), Verifier::parse(SECRET));
}

#[test]
fn passwords_are_prepared_as_postgresql_does() {
    let prepared = |text: &str| prepare(text.as_bytes()).into_owned();
    assert_eq!(prepared("I\u{ad}X"), b"IX");
    assert_eq!(prepared("\u{2168}"), b"IX");
    assert_eq!(prepared("a\u{a0}b"), b"a b");
    // Where the preparation is impossible, or leaves nothing, the password is taken as it is.
    assert_eq!(prepared("\u{7}"), b"\x07");
    assert_eq!(prepared("\u{627}\u{31}"), "\u{627}\u{31}".as_bytes());
    assert_eq!(prepared("\u{ad}"), "\u{ad}".as_bytes());
    assert_eq!(&*prepare(b"\xff\xfe"), b"\xff\xfe");
}

#[test]
fn keys_are_derived_once_for_each_challenge() {
    let (first, second) = (challenge(b"first"), challenge(b"second"));
    let mut derived = Derived::default();
    assert_eq!(derived.known(&first), None);
    let keys = derived.keys(b"secret", &first);
    assert_eq!((&keys, derived.known(&first)), (&Keys::derive(b"secret", &first), Some(&keys)));
    // Another password would give other keys, if it were asked for.
    assert_eq!(derived.keys(b"unused", &first), keys);
    assert_eq!(derived.keys(b"secret", &second), Keys::derive(b"secret", &second));
    assert_eq!(derived.known(&first), None);
}

#[test]
fn nonces_are_printable_and_differ() {
    let nonces: Vec<String> = (0..50).map(|_| Nonce::random().expect("randomness").0).collect();
    for (at, nonce) in nonces.iter().enumerate() {
        assert!(nonce.len() == 24 && message::is_printable(nonce.as_bytes()), "{nonce}");
        assert!(!nonces[..at].contains(nonce));
    }
}

#[test]
fn no_secret_is_shown_in_debugging_output() {
    let verifier = Verifier::parse(SECRET).expect("a secret");
    let shown = format!("{verifier:?} {:?} {:?}", Keys::derive(b"secret", &challenge(b"salt")), seed());
    assert!(!shown.contains("110, 148") && shown.ends_with("Keys Seed"), "{shown}");
}

proptest! {
    #[test]
    fn who_knows_the_password_gets_in_and_nobody_else(
        password in vec(any::<u8>(), 1..30), other in vec(any::<u8>(), 0..30), salt in vec(any::<u8>(), 0..20),
    ) {
        prop_assume!(prepare(&password) != prepare(&other));
        let verifier = Verifier::derive(&password, challenge(&salt));
        let expected = Keys::derive(&password, verifier.challenge());
        prop_assert_eq!(log_in(&verifier, |challenge| Keys::derive(&password, challenge)), Ok(expected));
        prop_assert_eq!(log_in(&verifier, |challenge| Keys::derive(&other, challenge)), Err(Fault::Proof));
        prop_assert!(verifier.fits(&password) && !verifier.fits(&other));
    }

    #[test]
    fn no_message_panics(
        first in "([nyp],,)?n=[a-c]{0,2},r=[a-c=,]{0,8}|[nyp,=r]{0,9}",
        last in "(c=biws,r=[a-c]{0,3}s)?[cprv=,a-c]{0,12}",
        bytes in vec(any::<u8>(), 0..40),
    ) {
        for text in [first.as_bytes(), last.as_bytes(), &bytes] {
            let verifier = Arc::new(Verifier::of(None, b"u", few(), &seed()));
            if let Ok((exchange, _)) = server::Exchange::begin(verifier, text, &Nonce::fixed("s")) {
                prop_assert!(exchange.finish(last.as_bytes()).is_err());
            }
            let (exchange, _) = client::Exchange::begin(Nonce::fixed("c"));
            prop_assert!(exchange.challenged(text).is_err() || text.starts_with(b"r="));
        }
        prop_assert!(std::str::from_utf8(&bytes).ok().and_then(Verifier::parse).is_none());
    }
}
