//! Tests of the module above.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::build::frontend;

fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (8 + body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn startup(body: &[u8]) -> Startup<'_> {
    Startup { minor: 0, body }
}

fn refusal(bytes: &[u8]) -> String {
    parse(bytes).expect_err("parsed").to_string()
}

#[test]
fn tells_the_requests_apart_and_how_long_they_are() {
    let mut bytes = Vec::new();
    frontend::ssl_request(&mut bytes);
    bytes.extend_from_slice(b"more");
    assert_eq!(parse(&bytes), Ok(Some((Packet::SslRequest, 8))));
    assert_eq!(parse(&packet(GSS, b"")), Ok(Some((Packet::GssEncRequest, 8))));
    assert_eq!(parse(b"\x16"), Ok(Some((Packet::DirectTls, 0))));
    bytes.clear();
    frontend::cancel_request(&mut bytes, 7, b"12345678");
    let expected = Packet::Cancel(Cancel { pid: 7, key: b"12345678" });
    assert_eq!(parse(&bytes), Ok(Some((expected, 20))));
}

#[test]
fn waits_for_what_is_missing() {
    let bytes = packet(3 << 16, b"user\0u\0\0");
    for end in 0..bytes.len() {
        assert_eq!(parse(&bytes[..end]), Ok(None), "{end}");
    }
    assert!(matches!(parse(&bytes), Ok(Some((Packet::Startup(_), 16)))));
}

#[test]
fn refuses_as_pgbouncer_does() {
    assert_eq!(refusal(&packet(2 << 16, b"anything")), "old V2 protocol not supported");
    assert_eq!(refusal(&packet(4 << 16, b"")), "bad packet header: '0000000800040000'");
    assert_eq!(refusal(&packet(GSS + 1, b"")), "bad packet header: '0000000804d21631'");
    assert_eq!(refusal(&[0; 8]), "bad packet header: '0000000000000000'");
    assert_eq!(refusal(b"\0\0\0\x07\0\x03\0\0"), "bad packet header: '0000000700030000'");
    assert_eq!(refusal(b"\xff\xff\xff\xff\0\x03\0\0x"), "bad packet header: 'ffffffff00030000'");
    assert_eq!(refusal(b"GET / HTTP/1.0\r\n"), "bad packet header: '474554202f204854'");
    assert_eq!(refusal(&packet(CANCEL, &[0; 4])), "bad cancel request");
}

#[test]
fn refuses_what_is_longer_than_postgresql_allows_before_it_is_there() {
    let mut bytes = 10_001_u32.to_be_bytes().to_vec();
    assert_eq!(refusal(&bytes), "bad packet header: '00002711'");
    bytes[3] -= 1;
    assert_eq!(parse(&bytes), Ok(None));
}

#[test]
fn a_cancel_key_has_4_to_256_bytes_and_a_bad_one_is_refused_silently() {
    for length in [0, 3, 257] {
        let fault = parse(&packet(CANCEL, &vec![1; 4 + length])).expect_err("parsed");
        assert!(fault == Fault::BadCancel && fault.is_silent(), "{length}");
    }
    for length in [4, 5, 32, 256] {
        assert!(parse(&packet(CANCEL, &vec![1; 4 + length])).is_ok(), "{length}");
    }
}

#[test]
fn the_last_user_and_database_count() {
    let twice = startup(b"user\0a\0database\0x\0user\0b\0database\0y\0\0");
    assert_eq!((twice.user(), twice.database()), (Ok(b"b".as_slice()), Ok(b"y".as_slice())));
    let unnamed = startup(b"user\0b\0database\0\0\0");
    assert_eq!(unnamed.database(), Ok(b"b".as_slice()));
}

#[test]
fn a_user_must_be_there_and_below_128_bytes() {
    for body in [b"".as_slice(), b"\0", b"user\0\0\0", b"user\0u", b"database\0d\0\0"] {
        assert_eq!(startup(body).user().map_err(|fault| fault.to_string()), Err("no username supplied".to_owned()));
    }
    let named = |length| [b"user\0", "u".repeat(length).as_bytes(), b"\0\0"].concat();
    assert!(startup(&named(127)).user().is_ok());
    assert_eq!(startup(&named(128)).user(), Err(Fault::UserTooLong));
    assert_eq!(Fault::UserTooLong.to_string(), "username too long");
}

#[test]
fn parameters_end_where_pgbouncer_ends_them() {
    let cases: [&[u8]; 5] =
        [b"user\0u\0", b"user\0u\0\0", b"user\0u\0foo\0", b"user\0u\0foo\0ba", b"user\0u\0\0foo\0bar\0\0"];
    for body in cases {
        let found: Vec<_> = startup(body).parameters().collect();
        assert_eq!(found, [(b"user".as_slice(), b"u".as_slice())], "{body:?}");
    }
}

#[test]
fn negotiates_versions_that_are_not_spoken_and_extensions() {
    let agreed = |minor| {
        let startup = Startup { minor, body: b"user\0u\0\0" };
        (startup.agreed_minor(), startup.needs_negotiation())
    };
    assert_eq!(agreed(0), (0, false));
    assert_eq!(agreed(1), (0, true));
    assert_eq!(agreed(2), (2, false));
    assert_eq!(agreed(3), (2, true));
    assert_eq!(agreed(9999), (2, true));
    let extended = startup(b"user\0u\0_pq_.a\x001\0_pq_.b\x002\0\0");
    let names: Vec<_> = extended.extensions().collect();
    assert_eq!(names, [b"_pq_.a", b"_pq_.b"]);
    assert!(extended.needs_negotiation() && extended.agreed_minor() == 0);
}

proptest! {
    #[test]
    fn reads_back_what_is_built(
        minor in any::<u16>(),
        pairs in vec((vec(1_u8.., 1..20), vec(1_u8.., 0..20)), 0..8),
    ) {
        let mut bytes = Vec::new();
        frontend::startup(&mut bytes, minor, pairs.iter().map(|(name, value)| (&name[..], &value[..])));
        let Ok(Some((Packet::Startup(startup), length))) = parse(&bytes) else { panic!("not a startup packet") };
        prop_assert_eq!((startup.minor, length), (minor, bytes.len()));
        let found: Vec<_> = startup.parameters().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        prop_assert_eq!(found, pairs);
    }

    #[test]
    fn no_input_panics_and_more_bytes_do_not_change_an_answer(
        code in prop_oneof![Just(SSL), Just(GSS), Just(CANCEL), Just(3 << 16), Just(2 << 16), any::<u32>()],
        length in prop_oneof![0_u32..300, any::<u32>()],
        body in vec(any::<u8>(), 0..300),
        end in 0_usize..308,
    ) {
        let bytes = [&length.to_be_bytes(), &code.to_be_bytes(), &body[..]].concat();
        let early = parse(&bytes[..end.min(bytes.len())]);
        let answer = parse(&bytes);
        if let Ok(Some((Packet::Startup(startup), _))) = answer {
            let (_, _) = (startup.user(), startup.database());
            prop_assert!(startup.extensions().count() <= startup.parameters().count());
        }
        match early {
            Ok(None) => {}
            Ok(Some(early)) => prop_assert_eq!(Ok(Some(early)), answer),
            Err(_) => prop_assert!(answer.is_err()),
        }
    }
}
