//! Tests of the module above.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::header::Header;

fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(1_u8.., 0..30)
}

/// Splits a built message, whose length must be right, into kind and body.
fn split(message: &[u8]) -> (u8, &[u8]) {
    let (head, body) = message.split_first_chunk::<HEADER>().expect("a header");
    let header = Header::read(*head).expect("a good header");
    assert_eq!(header.body as usize, body.len());
    (header.kind, body)
}

proptest! {
    #[test]
    fn a_parse_is_read_and_renamed(name in text(), query in text(), types in vec(any::<u32>(), 0..5), new in text()) {
        let mut built = Vec::new();
        frontend::parse(&mut built, &name, &query, &types);
        let (kind, body) = split(&built);
        let parse = Parse::read(body)?;
        prop_assert_eq!((kind, parse.statement, parse.query), (b'P', &name[..], &query[..]));
        prop_assert_eq!(parse.types().len(), 2 + 4 * types.len());
        let (mut renamed, mut expected) = (Vec::new(), Vec::new());
        parse.write(&new, &mut renamed)?;
        frontend::parse(&mut expected, &new, &query, &types);
        prop_assert_eq!(renamed, expected);
    }

    #[test]
    fn a_bind_is_renamed_while_its_values_stream(
        portal in text(), name in text(), new in text(), values in vec(any::<u8>(), 0..50),
    ) {
        let body = [&portal, b"\0".as_slice(), &name, b"\0", &values].concat();
        for there in 0..body.len() {
            let names = portal.len() + 1 + name.len() + 1;
            let enough = there >= names;
            prop_assert_eq!(Bind::read(&body[..there]).is_some(), enough);
        }
        let bind = Bind::read(&body).expect("names");
        prop_assert_eq!((bind.portal, bind.statement), (&portal[..], &name[..]));
        let mut renamed = Vec::new();
        bind.write_head(&new, body.len() as u32, &mut renamed)?;
        renamed.extend_from_slice(&body[bind.rest()..]);
        let expected = [&portal, b"\0".as_slice(), &new, b"\0", &values].concat();
        prop_assert_eq!(split(&renamed), (b'B', &expected[..]));
    }

    #[test]
    fn targets_are_read_back_as_written(name in text(), portal in any::<bool>()) {
        let target = if portal { Target::Portal(&name) } else { Target::Statement(&name) };
        let mut out = Vec::new();
        target.write_describe(&mut out);
        prop_assert_eq!(split(&out).0, b'D');
        prop_assert_eq!(Target::read_describe(split(&out).1), Ok(target));
        out.clear();
        target.write_close(&mut out);
        prop_assert_eq!(split(&out).0, b'C');
        prop_assert_eq!(Target::read_close(split(&out).1), Ok(target));
    }

    #[test]
    fn no_body_panics(body in vec(prop_oneof![Just(0_u8), any::<u8>()], 0..60)) {
        let _ = (Target::read_describe(&body), Target::read_close(&body), Execute::read(&body));
        if let Some(bind) = Bind::read(&body) {
            prop_assert!(bind.rest() <= body.len());
        }
        if let Ok(parse) = Parse::read(&body) {
            let types = parse.types();
            prop_assert!(types.len() >= 2 + 4 * usize::from(u16::from_be_bytes([types[0], types[1]])));
        }
    }
}

#[test]
fn broken_bodies_are_faults_of_their_kind() {
    for body in [b"".as_slice(), b"s"] {
        assert_eq!(Parse::read(body), Err(Fault::BadBody(b'P')), "{body:?}");
    }
    for body in [b"s\0".as_slice(), b"s\0q", b"s\0q\0", b"s\0q\0\0", b"s\0q\0\0\x01abc"] {
        assert_eq!(Parse::read(body), Err(Fault::BrokenParse), "{body:?}");
    }
    for body in [b"".as_slice(), b"S", b"Sx", b"Sx\0y", b"Xx\0"] {
        assert_eq!(Target::read_describe(body), Err(Fault::BadBody(b'D')), "{body:?}");
        assert_eq!(Target::read_close(body), Err(Fault::BadBody(b'C')), "{body:?}");
    }
    for body in [b"".as_slice(), b"p", b"p\0\0\0\0", b"p\0\0\0\0\0\0"] {
        assert_eq!(Execute::read(body), Err(Fault::BadBody(b'E')), "{body:?}");
    }
    assert_eq!(Execute::read(b"p\0\0\0\0\x07"), Ok(Execute { portal: b"p", rows: 7 }));
}

#[test]
fn a_name_that_makes_the_message_too_long_is_refused_and_so_is_a_body_shorter_than_its_names() {
    let bind = Bind::read(b"\0s\0").expect("names");
    let mut out = Vec::new();
    assert_eq!(bind.write_head(b"longer", MAX_LENGTH - 4, &mut out), Err(Fault::BadBody(b'B')));
    assert_eq!(bind.write_head(b"longer", 2, &mut out), Err(Fault::BadBody(b'B')));
    assert!(out.is_empty());
    assert_eq!(bind.write_head(b"t", MAX_LENGTH - 4, &mut out), Ok(()));
}

#[test]
fn what_follows_the_types_is_passed_on() {
    let parse = Parse::read(b"s\0q\0\0\0more").expect("a Parse");
    let mut out = Vec::new();
    parse.write(b"t", &mut out).expect("room");
    assert_eq!(split(&out).1, b"t\0q\0\0\0more");
}
