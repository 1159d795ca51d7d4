//! Tests of the module above.

use std::num::NonZeroU32;

use super::*;
use crate::auth::login::Login;
use crate::auth::scram::Seed;
use crate::wire::HEADER;
use crate::wire::build::frontend;

/// The answer's body, as the relay would hand it over.
fn body(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    build(&mut out);
    out.split_off(HEADER)
}

fn secret(text: &str) -> Option<Arc<Secret>> {
    Some(Arc::new(Secret::parse(text)))
}

fn ask(demand: Demand) -> (Admission, Vec<u8>) {
    let mut out = Vec::new();
    let admission = Admission::begin(b"u", demand, &mut out);
    (admission, out)
}

fn answer(demand: Demand, answer: &[u8]) -> Result<Progress, Refusal> {
    let mut out = Vec::new();
    let progress = ask(demand).0.answer(&body(|out| frontend::password(out, answer)), &mut out);
    assert!(out.is_empty());
    progress
}

fn scram(text: Option<&str>) -> Demand {
    let secret = text.map(Secret::parse);
    let verifier = Verifier::of(secret.as_ref(), b"u", NonZeroU32::MIN, &Seed::fixed([1; 32]));
    Demand::Scram(Arc::new(verifier), Nonce::fixed("server"))
}

#[test]
fn a_password_in_clear_text_is_asked_for_and_judged() {
    assert_eq!(ask(Demand::Password(None)).1, b"R\0\0\0\x08\0\0\0\x03");
    assert_eq!(answer(Demand::Password(secret("pw")), b"pw"), Ok(Progress::Admitted(None)));
    assert_eq!(answer(Demand::Password(secret("pw")), b"px"), Err(Refusal::Password));
    assert_eq!(answer(Demand::Password(None), b"pw"), Err(Refusal::Password));
    assert_eq!(answer(Demand::Password(None), b""), Err(Refusal::EmptyPassword));
    assert_eq!(answer(Demand::Password(secret("")), b""), Err(Refusal::EmptyPassword));
}

#[test]
fn an_md5_hash_is_asked_for_and_judged() {
    let salt = [1, 2, 3, 4];
    let right = Secret::parse("pw").md5_answer(b"u", salt).expect("an answer");
    assert_eq!(ask(Demand::Md5(None, salt)).1, b"R\0\0\0\x0c\0\0\0\x05\x01\x02\x03\x04");
    assert_eq!(answer(Demand::Md5(secret("pw"), salt), &right), Ok(Progress::Admitted(None)));
    assert_eq!(answer(Demand::Md5(secret("px"), salt), &right), Err(Refusal::Password));
    assert_eq!(answer(Demand::Md5(None, salt), &right), Err(Refusal::Password));
    assert_eq!(answer(Demand::Md5(secret("pw"), salt), b""), Err(Refusal::EmptyPassword));
}

/// Lets the pooler's own client side log in; gives what it was admitted with and the last message for it.
fn exchange(demand: Demand, password: &str) -> Result<(Progress, Vec<u8>), Refusal> {
    let (mut admission, request) = ask(demand);
    let mut login = Login::new(b"u", Arc::new(Secret::parse(password)), None, Nonce::fixed("client"));
    let mut to_server = Vec::new();
    login.answer(&request[HEADER..], Keys::derive, &mut to_server).expect("a first message");
    let mut to_client = Vec::new();
    assert_eq!(admission.answer(&to_server[HEADER..], &mut to_client), Ok(Progress::Asked));
    to_server.clear();
    login.answer(&to_client[HEADER..], Keys::derive, &mut to_server).expect("a last message");
    to_client.clear();
    let progress = admission.answer(&to_server[HEADER..], &mut to_client)?;
    login.answer(&to_client[HEADER..], Keys::derive, &mut Vec::new()).expect("a right signature");
    let again = admission.answer(&to_server[HEADER..], &mut Vec::new());
    assert_eq!(again, Err(Refusal::Message(Fault::UnknownKind(b'p'))));
    Ok((progress, to_client))
}

#[test]
fn a_scram_exchange_admits_who_knows_the_password_and_gives_its_keys() {
    assert_eq!(ask(scram(Some("pw"))).1, b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0");
    let (progress, last) = exchange(scram(Some("pw")), "pw").expect("admitted");
    assert!(matches!(progress, Progress::Admitted(Some(_))));
    assert_eq!(&last[..9], b"R\0\0\0\x36\0\0\0\x0c");
}

#[test]
fn a_failed_scram_exchange_tells_the_client_less_than_the_log() {
    let cases = [
        (Some("other"), "password authentication failed"),
        (None, "password authentication failed"),
        (Some("md5ad16ab8cb9f9946be08171afa599199d"), "SCRAM authentication failed: user has MD5 secret"),
    ];
    for (secret, detail) in cases {
        let refusal = exchange(scram(secret), "pw").expect_err("admitted");
        assert_eq!(refusal.to_string(), "SASL authentication failed");
        assert_eq!(refusal.detail().as_deref(), Some(detail));
    }
}

#[test]
fn a_mechanism_that_was_not_offered_is_refused() {
    let others = ["SCRAM-SHA-256-PLUS", "PLAIN", ""];
    for mechanism in others {
        let body = body(|out| frontend::sasl_initial(out, mechanism, b"n,,n=,r=abc"));
        let refusal = ask(scram(Some("pw"))).0.answer(&body, &mut Vec::new());
        assert_eq!(refusal, Err(Refusal::Mechanism), "{mechanism}");
    }
    for body in [b"".as_slice(), b"password\0", b"SCRAM-SHA-256\0\0\0\0\x09n,,"] {
        assert_eq!(ask(scram(Some("pw"))).0.answer(body, &mut Vec::new()), Err(Refusal::Mechanism), "{body:?}");
    }
}

#[test]
fn absent_first_data_is_refused_like_empty_data() {
    let refusal = ask(scram(Some("pw"))).0.answer(b"SCRAM-SHA-256\0\xff\xff\xff\xff", &mut Vec::new());
    let detail = refusal.map_err(|refusal| refusal.detail());
    let expected = "malformed SCRAM message (unexpected channel-binding flag \"0x00\")";
    assert_eq!(detail, Err(Some(expected.to_owned())));
}

#[test]
fn an_answer_that_is_no_string_is_a_fault_of_the_message() {
    for body in [b"".as_slice(), b"pw", b"pw\0x\0"] {
        let refusal = ask(Demand::Password(secret("pw"))).0.answer(body, &mut Vec::new());
        assert_eq!(refusal, Err(Refusal::Message(Fault::BadBody(b'p'))), "{body:?}");
    }
}
