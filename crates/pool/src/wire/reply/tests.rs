//! Tests of the module above.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::HEADER;
use crate::wire::build::backend::{self, Report};

/// Builds one message and gives its body.
fn body(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    build(&mut out);
    out.split_off(HEADER)
}

#[test]
fn authentication_requests_are_read_back_as_built() {
    let read = |build: fn(&mut Vec<u8>)| format!("{:?}", Authentication::read(&body(build)));
    assert_eq!(read(backend::authentication_ok), "Ok(Ok)");
    assert_eq!(read(backend::authentication_cleartext), "Ok(Cleartext)");
    assert_eq!(read(|out| backend::authentication_md5(out, [1, 2, 3, 4])), "Ok(Md5([1, 2, 3, 4]))");
    assert_eq!(read(|out| backend::authentication_sasl_continue(out, b"ab")), "Ok(SaslContinue([97, 98]))");
    assert_eq!(read(|out| backend::authentication_sasl_final(out, b"ab")), "Ok(SaslFinal([97, 98]))");
    assert_eq!(Authentication::read(&7_u32.to_be_bytes()), Ok(Authentication::Other(7)));
    let sasl = body(|out| backend::authentication_sasl(out, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]));
    let Ok(Authentication::Sasl(mechanisms)) = Authentication::read(&sasl) else { panic!("not SASL") };
    assert_eq!(mechanisms.iter().count(), 2);
    assert!(mechanisms.has("SCRAM-SHA-256") && !mechanisms.has("SCRAM-SHA"));
}

#[test]
fn session_facts_are_read_back_as_built() {
    assert_eq!(backend_key_data(&body(|out| backend::backend_key_data(out, 9, b"abcd"))), Ok((9, b"abcd".as_slice())));
    let long = [7; 256];
    assert_eq!(backend_key_data(&body(|out| backend::backend_key_data(out, 9, &long))), Ok((9, long.as_slice())));
    let status = body(|out| backend::parameter_status(out, b"TimeZone", b"GMT"));
    assert_eq!(parameter_status(&status), Ok((b"TimeZone".as_slice(), b"GMT".as_slice())));
    for state in *b"ITE" {
        assert_eq!(ready_for_query(&body(|out| backend::ready_for_query(out, state))), Ok(state));
    }
    assert_eq!(command_complete(&body(|out| backend::command_complete(out, b"SELECT 1"))), Ok(b"SELECT 1".as_slice()));
    let negotiate = body(|out| backend::negotiate_protocol_version(out, 2, [b"_pq_.x".as_slice()]));
    assert_eq!(negotiate_protocol_version(&negotiate), Ok(2));
}

#[test]
fn fields_of_an_error_are_found_by_letter() {
    let report = Report { detail: Some("why"), hint: Some("what"), ..Report::error("42601", "syntax error") };
    let body = body(|out| backend::error_response(out, &report));
    let fields = Fields::of(&body);
    assert_eq!(fields.severity(), b"ERROR");
    assert_eq!((fields.code(), fields.message()), (b"42601".as_slice(), b"syntax error".as_slice()));
    assert_eq!((fields.get(b'D'), fields.get(b'H')), (b"why".as_slice(), b"what".as_slice()));
    assert_eq!(fields.get(b'W'), b"");
}

#[test]
fn the_english_severity_is_preferred_and_the_other_one_taken_where_it_is_alone() {
    assert_eq!(Fields::of("SОШИБКА\0VERROR\0\0".as_bytes()).severity(), b"ERROR");
    assert_eq!(Fields::of(b"SPANIC\0\0").severity(), b"PANIC");
}

#[test]
fn broken_bodies_are_faults_of_their_kind() {
    assert_eq!(ready_for_query(b""), Err(Fault::BadBody(b'Z')));
    assert_eq!(ready_for_query(b"X"), Err(Fault::BadBody(b'Z')));
    assert_eq!(ready_for_query(b"II"), Err(Fault::BadBody(b'Z')));
    assert_eq!(backend_key_data(b"1234567"), Err(Fault::BadBody(b'K')));
    assert_eq!(backend_key_data(&[0; 4 + 257]), Err(Fault::BadBody(b'K')));
    assert_eq!(parameter_status(b"a\0b"), Err(Fault::BadBody(b'S')));
    assert_eq!(parameter_status(b"a\0b\0c"), Err(Fault::BadBody(b'S')));
    assert_eq!(command_complete(b"SELECT"), Err(Fault::BadBody(b'C')));
    assert_eq!(Authentication::read(b"\0\0\0\x05abc"), Err(Fault::BadBody(b'R')));
    assert_eq!(Authentication::read(b"\0\0\0"), Err(Fault::BadBody(b'R')));
    assert_eq!(negotiate_protocol_version(b"\0\x02\0\0"), Err(Fault::BadBody(b'v')));
    for body in [b"".as_slice(), b"\0\x01", b"\0\x01\0\0\0\x02a", b"\0\x01\0\0\0\x01ab", b"\0\0x"] {
        assert_eq!(data_row(body), Err(Fault::BadBody(b'D')), "{body:?}");
    }
}

proptest! {
    #[test]
    fn rows_are_read_back_as_built(values in vec(prop::option::of(vec(any::<u8>(), 0..20)), 0..10)) {
        let values: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
        let body = body(|out| backend::data_row(out, values.iter().copied()));
        prop_assert_eq!(data_row(&body), Ok(values));
    }

    #[test]
    fn no_body_panics(body in vec(prop_oneof![Just(0_u8), any::<u8>()], 0..60)) {
        let fields = Fields::of(&body);
        let _ = (fields.severity(), fields.code(), fields.get(b'M'));
        if let Ok(Authentication::Sasl(mechanisms)) = Authentication::read(&body) {
            prop_assert!(mechanisms.iter().count() <= body.len());
        }
        let _ = (backend_key_data(&body), parameter_status(&body), ready_for_query(&body), command_complete(&body));
        let _ = (negotiate_protocol_version(&body), data_row(&body));
    }
}
