//! Tests of the module above.

use super::backend::Report;
use super::{backend, frontend};

type Builder = fn(&mut Vec<u8>);

fn built(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    build(&mut out);
    out
}

#[test]
fn messages_without_a_body_are_their_kind_and_a_length_of_four() {
    let builders: [(Builder, u8); 8] = [
        (backend::empty_query, b'I'),
        (backend::parse_complete, b'1'),
        (backend::bind_complete, b'2'),
        (backend::close_complete, b'3'),
        (backend::no_data, b'n'),
        (frontend::sync, b'S'),
        (frontend::flush, b'H'),
        (frontend::terminate, b'X'),
    ];
    for (build, kind) in builders {
        assert_eq!(built(build), [kind, 0, 0, 0, 4]);
    }
}

#[test]
fn builders_append() {
    let mut out = b"before".to_vec();
    backend::ready_for_query(&mut out, b'I');
    backend::ready_for_query(&mut out, b'T');
    assert_eq!(out, b"beforeZ\0\0\0\x05IZ\0\0\0\x05T");
}

#[test]
fn an_error_is_laid_out_as_documented() {
    let out = built(|out| backend::error_response(out, &Report::fatal("08P01", "no")));
    assert_eq!(out, b"E\0\0\0\x1eSFATAL\0VFATAL\0C08P01\0Mno\0\0");
    let notice = built(|out| backend::notice_response(out, &Report::notice("00000", "x")));
    assert_eq!((notice[0], &notice[5..13]), (b'N', b"SNOTICE\0".as_slice()));
}

#[test]
fn columns_are_described_with_their_types_lengths() {
    let out = built(|out| backend::row_description(out, &[("a", 25), ("b", 23), ("c", 20)]));
    let column = |name: u8, oid: u8, length: [u8; 2]| {
        let mut bytes = vec![name, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, oid];
        bytes.extend_from_slice(&length);
        bytes.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0]);
        bytes
    };
    let columns = [column(b'a', 25, [0xff, 0xff]), column(b'b', 23, [0, 4]), column(b'c', 20, [0, 8])].concat();
    assert_eq!(out, [b"T\0\0\0\x42\0\x03".as_slice(), &columns].concat());
}

#[test]
fn a_refused_version_and_unknown_extensions_are_named() {
    let out = built(|out| backend::negotiate_protocol_version(out, 2, [b"_pq_.a".as_slice(), b"_pq_.b"]));
    assert_eq!(out, b"v\0\0\0\x1a\0\x03\0\x02\0\0\0\x02_pq_.a\0_pq_.b\0");
    let none = built(|out| backend::negotiate_protocol_version(out, 0, []));
    assert_eq!(none, b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0");
}

#[test]
fn parameter_types_are_counted() {
    let out = built(|out| backend::parameter_description(out, &[23, 25]));
    assert_eq!(out, b"t\0\0\0\x0e\0\x02\0\0\0\x17\0\0\0\x19");
}

#[test]
fn a_string_ends_at_a_zero_byte_so_that_it_cannot_add_fields() {
    let out = built(|out| frontend::startup(out, 0, [(b"user".as_slice(), b"u\0database\0x".as_slice())]));
    assert_eq!(out, b"\0\0\0\x10\0\x03\0\0user\0u\0\0");
    let out = built(|out| backend::parameter_status(out, b"a\0b", b"c"));
    assert_eq!(out, b"S\0\0\0\x08a\0c\0");
}

#[test]
fn a_startup_parameter_without_a_name_is_left_out() {
    let out = built(|out| frontend::startup(out, 2, [(b"".as_slice(), b"x".as_slice()), (b"user", b"u")]));
    assert_eq!(out, b"\0\0\0\x10\0\x03\0\x02user\0u\0\0");
}
