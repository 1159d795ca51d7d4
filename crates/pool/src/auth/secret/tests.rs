//! Tests of the module above.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A user list entry that pgbouncer takes for the password `secret`.
const SCRAM: &str = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$bpSY5Ze9NUH+I35LC3gVq+DpBfK46iXBxvhAKqVu9pE=:\
                     VpYlBuxyzeCI1KnctrefdljpB1mk3Gp7sBI/t11+NkQ=";

/// The same for user `md5u`.
const MD5: &str = "md5ad16ab8cb9f9946be08171afa599199d";

#[test]
fn tells_the_forms_of_secrets_apart() {
    let form = |text: &str| format!("{:?}", Secret::parse(text));
    assert_eq!(form(SCRAM), "Scram");
    assert_eq!(form(MD5), "Md5");
    let passwords = [
        "",
        "secret",
        "md5",
        "md5AD16AB8CB9F9946BE08171AFA599199D",
        "md5ad16ab8cb9f9946be08171afa599199",
        "md5ad16ab8cb9f9946be08171afa599199dd",
        "SCRAM-SHA-256",
        "SCRAM-SHA-256$4096:c2FsdA==$x:y",
        &SCRAM.replace("4096", "0"),
        &SCRAM.replace("4096", "+4096"),
        &SCRAM.replace("4096", "99999999999"),
        &SCRAM.replace("-256", "-1"),
        &SCRAM.replace("MDEy", "@@@@"),
        &format!("{SCRAM}$"),
        &SCRAM[..SCRAM.len() - 5],
    ];
    for text in passwords {
        assert_eq!(form(text), "Plain", "{text}");
    }
    assert!(Secret::parse("").is_empty() && !Secret::parse("x").is_empty());
}

#[test]
fn a_password_is_checked_against_every_form() {
    for text in ["secret", MD5, SCRAM] {
        let secret = Secret::parse(text);
        assert_eq!(secret.check_password(b"md5u", b"secret"), Ok(()), "{text}");
        assert_eq!(secret.check_password(b"md5u", b"secreT"), Err(Refusal::Password), "{text}");
        assert_eq!(secret.check_password(b"md5u", b""), Err(Refusal::EmptyPassword), "{text}");
    }
    assert_eq!(Secret::parse(MD5).check_password(b"other", b"secret"), Err(Refusal::Password));
    assert_eq!(Secret::parse(MD5).check_password(b"md5u", MD5.as_bytes()), Err(Refusal::Password));
}

#[test]
fn an_md5_answer_is_as_postgresql_expects_it() {
    let expected = b"md574d422b0eeebba2baecebf90de5ddaae";
    for text in ["secret", MD5] {
        let secret = Secret::parse(text);
        assert_eq!(secret.md5_answer(b"md5u", [1, 2, 3, 4]).as_ref(), Some(expected), "{text}");
        assert_eq!(secret.check_md5(b"md5u", [1, 2, 3, 4], expected), Ok(()), "{text}");
        assert_eq!(secret.check_md5(b"md5u", [1, 2, 3, 5], expected), Err(Refusal::Password), "{text}");
        assert_eq!(secret.check_md5(b"md5u", [1, 2, 3, 4], b"secret"), Err(Refusal::Password), "{text}");
        assert_eq!(secret.check_md5(b"md5u", [1, 2, 3, 4], b""), Err(Refusal::EmptyPassword), "{text}");
    }
    assert_eq!(Secret::parse(SCRAM).md5_answer(b"md5u", [1, 2, 3, 4]), None);
    assert_eq!(Secret::parse(SCRAM).check_md5(b"md5u", [1, 2, 3, 4], expected), Err(Refusal::Password));
}

#[test]
fn an_empty_password_lets_nobody_in() {
    let secret = Secret::parse("");
    let answer = secret.md5_answer(b"u", [0; 4]).expect("an answer");
    assert_eq!(secret.check_md5(b"u", [0; 4], &answer), Err(Refusal::Password));
    assert_eq!(secret.check_password(b"u", b""), Err(Refusal::EmptyPassword));
}

#[test]
fn no_secret_is_shown_in_debugging_output() {
    for text in ["secret", MD5, SCRAM] {
        let shown = format!("{:?}", Secret::parse(text));
        assert!(shown.len() < 6, "{shown}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_a_password_fits_itself_alone(
        text in vec(any::<u8>(), 0..60), other in vec(any::<u8>(), 0..60), salt in any::<[u8; 4]>(),
    ) {
        let secret = Secret::parse(&text);
        if let Secret::Plain(password) = &secret {
            let fits = secret.check_password(b"u", &other).is_ok();
            prop_assert_eq!(fits, !other.is_empty() && **password == other[..]);
            prop_assert_eq!(secret.check_password(b"u", password).is_ok(), !password.is_empty());
        }
        prop_assert!(secret.check_md5(b"u", salt, &other).is_err());
    }
}
