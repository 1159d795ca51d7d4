//! Tests of the module above. Success by SCRAM is tested with the other side, in `admission`.

use super::*;
use crate::wire::build::backend;
use crate::wire::{self, HEADER};

/// A user list entry that PostgreSQL would have for the password `secret`.
const SCRAM: &str = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$bpSY5Ze9NUH+I35LC3gVq+DpBfK46iXBxvhAKqVu9pE=:\
                     VpYlBuxyzeCI1KnctrefdljpB1mk3Gp7sBI/t11+NkQ=";
const MD5: &str = "md5ad16ab8cb9f9946be08171afa599199d";

fn login(secret: &str) -> Login {
    Login::new(b"md5u", Arc::new(Secret::parse(secret)), None, Nonce::fixed("client"))
}

/// Gives a request to a login; its answer is a message or nothing.
fn give(login: &mut Login, build: impl FnOnce(&mut Vec<u8>)) -> Result<(Progress, Vec<u8>), Fault> {
    let (mut request, mut out) = (Vec::new(), Vec::new());
    build(&mut request);
    let progress = login.answer(&request[HEADER..], Keys::derive, &mut out)?;
    Ok((progress, out))
}

fn sasl(out: &mut Vec<u8>) {
    backend::authentication_sasl(out, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
}

#[test]
fn a_server_that_trusts_is_believed() {
    assert_eq!(give(&mut login(""), backend::authentication_ok), Ok((Progress::Admitted, vec![])));
}

#[test]
fn passwords_and_hashes_are_given_as_asked_for() {
    let mut plain = login("secret");
    let sent = give(&mut plain, backend::authentication_cleartext);
    assert_eq!(sent, Ok((Progress::Waiting, b"p\0\0\0\x0bsecret\0".to_vec())));
    assert_eq!(give(&mut plain, backend::authentication_ok), Ok((Progress::Admitted, vec![])));
    for secret in ["secret", MD5] {
        let sent = give(&mut login(secret), |out| backend::authentication_md5(out, [1, 2, 3, 4]));
        let expected = b"p\0\0\0\x28md574d422b0eeebba2baecebf90de5ddaae\0".to_vec();
        assert_eq!(sent, Ok((Progress::Waiting, expected)), "{secret}");
    }
}

#[test]
fn a_secret_is_never_sent_as_if_it_were_the_password() {
    for secret in [MD5, SCRAM] {
        let fault = give(&mut login(secret), backend::authentication_cleartext).expect_err("sent");
        assert_eq!(fault.to_string(), "cannot do cleartext authentication: wrong password type");
        assert_eq!(fault.told(), Some("wrong password type"));
    }
}

#[test]
fn what_the_secret_does_not_serve_for_is_said_in_pgbouncers_words() {
    let text = |secret, build: &dyn Fn(&mut Vec<u8>)| {
        let fault = give(&mut login(secret), build).expect_err("sent");
        (fault.to_string(), fault.told())
    };
    let wrong = Some("wrong password type");
    assert_eq!(
        text(SCRAM, &|out| backend::authentication_md5(out, [0; 4])),
        ("cannot do MD5 authentication: wrong password type".to_owned(), wrong)
    );
    assert_eq!(text(MD5, &sasl), ("cannot do SCRAM authentication: wrong password type".to_owned(), wrong));
    let (said, told) = text(SCRAM, &sasl);
    assert!(said.ends_with("password is SCRAM secret but client authentication did not provide SCRAM keys"), "{said}");
    assert_eq!(told, wrong);
    let none = "none of the server's SASL authentication mechanisms are supported";
    let other = |out: &mut Vec<u8>| backend::authentication_sasl(out, &["OAUTHBEARER"]);
    assert_eq!(text("secret", &other), (none.to_owned(), Some(none)));
}

#[test]
fn methods_that_are_not_spoken_are_told_by_number() {
    let mut out = Vec::new();
    let fault = login("secret").answer(&[0, 0, 0, 7], Keys::derive, &mut out).expect_err("answered");
    assert_eq!((fault.to_string(), fault.told()), ("unknown/unsupported auth method: 7".to_owned(), None));
    let fault = login("secret").answer(b"\0\0\0\x05ab", Keys::derive, &mut out);
    assert_eq!(fault, Err(Fault::Message(wire::Fault::BadBody(b'R'))));
    assert!(out.is_empty());
}

/// A login that waits for the server's signature.
fn proved() -> Login {
    let mut login = login("secret");
    give(&mut login, sasl).expect("a first message");
    let challenge = |out: &mut Vec<u8>| backend::authentication_sasl_continue(out, b"r=clientserver,s=c2FsdA==,i=1");
    give(&mut login, challenge).expect("a last message");
    login
}

#[test]
fn a_server_that_skips_its_signature_is_not_believed() {
    assert_eq!(give(&mut proved(), backend::authentication_ok), Err(Fault::Order));
    let mut login = login("secret");
    give(&mut login, sasl).expect("a first message");
    assert_eq!(give(&mut login, backend::authentication_ok), Err(Fault::Order));
}

#[test]
fn a_server_that_does_not_know_the_password_is_not_believed() {
    let wrong = b"v=eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=";
    let fault = give(&mut proved(), |out| backend::authentication_sasl_final(out, wrong)).expect_err("believed");
    let text = "invalid server signature";
    assert_eq!((fault.to_string().as_str(), fault.told()), (text, Some(text)));
}

#[test]
fn requests_out_of_order_are_faults() {
    assert_eq!(give(&mut proved(), sasl), Err(Fault::Order));
    assert_eq!(give(&mut proved(), backend::authentication_cleartext), Err(Fault::Order));
    let mut plain = login("secret");
    give(&mut plain, backend::authentication_cleartext).expect("sent");
    assert_eq!(give(&mut plain, backend::authentication_cleartext), Err(Fault::Order));
    let early = |out: &mut Vec<u8>| backend::authentication_sasl_continue(out, b"r=client,s=c2FsdA==,i=1");
    assert_eq!(give(&mut login("secret"), early), Err(Fault::Order));
}

#[test]
fn keys_of_a_client_serve_in_place_of_the_password() {
    let secret = Secret::parse(SCRAM);
    let Secret::Scram(verifier) = &secret else { panic!("not a SCRAM secret") };
    let keys = Keys::derive(b"secret", verifier.challenge());
    let mut login = Login::new(b"u", Arc::new(secret.clone()), Some(keys), Nonce::fixed("client"));
    give(&mut login, sasl).expect("a first message");
    let never = |_: &[u8], _: &Challenge| -> Keys { panic!("derived") };
    let mut out = Vec::new();
    let request = [b"\0\0\0\x0b".as_slice(), b"r=clientserver,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=4096"].concat();
    assert_eq!(login.answer(&request, never, &mut out), Ok(Progress::Waiting));
    assert!(out.starts_with(b"p"));
}
