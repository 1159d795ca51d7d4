//! Tests of the module above. The texts are those that pgbouncer wrote to its log for the same messages.

use std::num::NonZeroU32;

use super::*;
use crate::auth::scram::Challenge;

const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

/// The verifier in RFC 7677, section 3.
fn pencil() -> Arc<Verifier> {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("a salt");
    let iterations = NonZeroU32::new(4096).expect("iterations");
    Arc::new(Verifier::derive(b"pencil", Challenge { salt: salt.into(), iterations }))
}

fn begin(first: &[u8]) -> Result<(Exchange, Vec<u8>), Fault> {
    Exchange::begin(pencil(), first, &Nonce::fixed("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"))
}

fn finish(last: &str) -> Result<Proved, Fault> {
    begin(FIRST)?.0.finish(last.as_bytes())
}

#[test]
fn the_published_exchange_is_answered_as_published() {
    let (exchange, answer) = begin(FIRST).expect("begun");
    let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    assert_eq!(String::from_utf8_lossy(&answer), expected);
    let proved = exchange.finish(LAST.as_bytes()).expect("proved");
    assert_eq!(proved.answer, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert_eq!(proved.keys, Keys::derive(b"pencil", pencil().challenge()));
}

#[test]
fn a_bad_first_message_is_refused_in_pgbouncers_words() {
    let cases: [(&[u8], &str); 13] = [
        (b"p=tls-server-end-point,,n=,r=abc", "client requires SCRAM channel binding, but it is not supported"),
        (b"x,,n=,r=abc", "malformed SCRAM message (unexpected channel-binding flag \"'x'\")"),
        (b"", "malformed SCRAM message (unexpected channel-binding flag \"0x00\")"),
        (b"n,a=foo,n=,r=abc", "client uses authorization identity, but it is not supported"),
        (b"nn,n=,r=abc", "malformed SCRAM message (comma expected, but found character \"'n'\")"),
        (b"n,foo,n=,r=abc", "malformed SCRAM message (unexpected attribute \"'f'\" in client-first-message)"),
        (b"n,,m=x,n=,r=abc", "client requires an unsupported SCRAM extension"),
        (b"n,,r=abc", "malformed SCRAM message (attribute \"n\" expected)"),
        (b"n,,", "malformed SCRAM message (attribute \"n\" expected)"),
        (b"n,,n=", "malformed SCRAM message (attribute \"r\" expected)"),
        (b"n,,nx,r=abc", "malformed SCRAM message (expected \"=\" after attribute \"n\")"),
        (b"n,,n=,r=a\x07bc", "non-printable characters in SCRAM nonce"),
        (b"n,,n=,r=a bc", "non-printable characters in SCRAM nonce"),
    ];
    for (first, text) in cases {
        let fault = begin(first).map(|_| ()).expect_err("begun");
        assert_eq!(fault.to_string(), text);
    }
}

#[test]
fn a_bad_last_message_is_refused_in_pgbouncers_words() {
    let (unproved, proof) = LAST.split_at(LAST.find(",p=").expect("a proof"));
    let malformed = |what: &str| format!("malformed SCRAM message ({what})");
    let cases = [
        (LAST.replace("biws", "eSws"), "unexpected SCRAM channel-binding attribute in client-final-message".into()),
        (LAST.replace("biws", "@@@@"), "unexpected SCRAM channel-binding attribute in client-final-message".into()),
        (LAST.replace("r=", "r=z"), "invalid SCRAM response (nonce does not match)".into()),
        (unproved.into(), malformed("attribute expected, but found invalid character \"0x00\"")),
        (format!("{unproved},p=@@"), malformed("malformed proof in client-final-message")),
        (format!("{unproved},p=YWJj"), malformed("malformed proof in client-final-message")),
        (format!("{unproved},p="), malformed("malformed proof in client-final-message")),
        (format!("{LAST},x=1"), malformed("garbage at the end of client-final-message")),
        (format!("{LAST},"), malformed("garbage at the end of client-final-message")),
        (String::new(), malformed("attribute \"c\" expected")),
        (LAST.replace("c=biws,", ""), malformed("attribute \"c\" expected")),
        (format!("{unproved},x=1{proof}"), "password authentication failed".into()),
        (LAST.replace("p=d", "p=e"), "password authentication failed".into()),
    ];
    for (last, text) in cases {
        assert_eq!(finish(&last).map_err(|fault| fault.to_string()), Err(text), "{last}");
    }
    assert!(finish(LAST).is_ok());
}

#[test]
fn a_client_that_could_bind_channels_must_say_so_in_both_messages() {
    let (exchange, _) = begin(b"y,,n=user,r=rOprNGfwEbeRWgbNEkqO").expect("begun");
    assert_eq!(exchange.finish(LAST.as_bytes()), Err(Fault::ChannelBindingChanged));
    // The proof covers the header, so the published one is wrong for another header.
    let (exchange, _) = begin(b"y,,n=user,r=rOprNGfwEbeRWgbNEkqO").expect("begun");
    assert_eq!(exchange.finish(LAST.replace("biws", "eSws").as_bytes()), Err(Fault::Proof));
}
