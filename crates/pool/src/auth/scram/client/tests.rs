//! Tests of the module above. The texts are those that pgbouncer wrote to its log for the same messages.

use super::*;

const ANSWER: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const SIGNATURE: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

/// The exchange in RFC 7677, section 3.
fn begin() -> Exchange {
    Exchange::begin_as("user", Nonce::fixed("rOprNGfwEbeRWgbNEkqO")).0
}

fn proved() -> (Proved, Vec<u8>) {
    let challenged = begin().challenged(ANSWER.as_bytes()).expect("challenged");
    let keys = Keys::derive(b"pencil", challenged.challenge());
    challenged.prove(&keys)
}

#[test]
fn the_published_exchange_goes_as_published() {
    let (proved, last) = proved();
    let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert_eq!(String::from_utf8_lossy(&last), expected);
    assert_eq!(proved.finish(SIGNATURE.as_bytes()), Ok(()));
}

#[test]
fn the_first_message_names_nobody_and_binds_nothing() {
    let (_, first) = Exchange::begin(Nonce::fixed("abc"));
    assert_eq!(first, b"n,,n=,r=abc");
}

#[test]
fn a_bad_challenge_is_refused_in_pgbouncers_words() {
    let malformed = |what: &str| format!("malformed SCRAM message ({what})");
    let cases = [
        (ANSWER.replace("r=r", "r=z"), "invalid SCRAM response (nonce mismatch)".into()),
        (ANSWER.replace("s=W22", "s=@@@"), malformed("invalid salt")),
        ("r=rOprNGfwEbeRWgbNEkqOxyz".into(), malformed("attribute \"s\" expected")),
        (ANSWER.replace("i=4096", "i=x"), malformed("invalid iteration count")),
        (ANSWER.replace("i=4096", "i=0"), malformed("invalid iteration count")),
        (ANSWER.replace("i=4096", "i=-1"), malformed("invalid iteration count")),
        (ANSWER.replace("i=4096", "i=2147483648"), malformed("invalid iteration count")),
        (ANSWER.replace(",i=4096", ""), malformed("attribute \"i\" expected")),
        (format!("{ANSWER},x=1"), malformed("garbage at end of server-first-message")),
        (format!("m=x,{ANSWER}"), malformed("attribute \"r\" expected")),
    ];
    for (answer, text) in cases {
        let challenged = begin().challenged(answer.as_bytes()).map(|_| ());
        assert_eq!(challenged.map_err(|fault| fault.to_string()), Err(text), "{answer}");
    }
}

#[test]
fn a_server_that_does_not_know_the_password_is_refused() {
    let malformed = |what: &str| format!("malformed SCRAM message ({what})");
    let cases = [
        ("v=eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=".into(), "invalid server signature".into()),
        ("v=@@".into(), malformed("malformed server signature")),
        ("v=YWJj".into(), malformed("malformed server signature")),
        ("e=invalid-proof".into(), "error received from server in SCRAM exchange: invalid-proof".into()),
        ("x".into(), malformed("attribute \"v\" expected")),
        (String::new(), malformed("attribute \"v\" expected")),
        (format!("{SIGNATURE},x=1"), malformed("garbage at end of server-final-message")),
    ];
    for (answer, text) in cases {
        let finished = proved().0.finish(answer.as_bytes());
        assert_eq!(finished.map_err(|fault| fault.to_string()), Err(text), "{answer}");
    }
}
