//! Tests of the module above.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::Excerpt;

/// A message as a whole.
type Whole = (u8, Vec<u8>);

fn encode(messages: &[Whole]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, body) in messages {
        bytes.push(*kind);
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
    }
    bytes
}

/// Cuts into chunks of these lengths, over and over.
fn chunks<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut cut = Vec::new();
    for length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (chunk, rest) = bytes.split_at((*length).min(bytes.len()));
        cut.push(chunk);
        bytes = rest;
    }
    cut
}

/// What a relay that forwards every byte at once sees of the watched messages.
fn seen(scanner: &mut Scanner, chunk: &[u8], watched: Kinds, found: &mut Vec<Whole>) -> Result<(), Fault> {
    let mut at = 0;
    while let Some(item) = scanner.next(chunk, &mut at, watched)? {
        match item {
            Item::Message(message) => {
                found.push((message.kind, message.body_in(chunk).to_vec()));
                assert_eq!(message.body_length(), (message.end - message.body) as u32 + message.left);
            }
            Item::More(more) => {
                let last = found.last_mut().expect("more of nothing");
                assert_eq!(last.0, more.kind);
                last.1.extend_from_slice(&chunk[more.start..more.end]);
            }
            Item::Cut { kind, .. } => assert!(watched.has(kind)),
        }
    }
    assert_eq!(at, chunk.len(), "something was left over");
    Ok(())
}

fn message() -> impl Strategy<Value = Whole> {
    (prop::sample::select(b"ZSENCDTd".to_vec()), vec(any::<u8>(), 0..40))
}

proptest! {
    #[test]
    fn any_chunking_finds_the_same_messages(
        messages in vec(message(), 0..20),
        lengths in vec(1_usize..30, 1..8),
        watched in prop::sample::subsequence(b"ZSENCDTd".to_vec(), 0..=8),
    ) {
        let (bytes, watched) = (encode(&messages), Kinds::of(&watched));
        let (mut scanner, mut found) = (Scanner::default(), Vec::new());
        for chunk in chunks(&bytes, &lengths) {
            seen(&mut scanner, chunk, watched, &mut found)?;
        }
        let expected: Vec<Whole> = messages.into_iter().filter(|(kind, _)| watched.has(*kind)).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(scanner.is_between());
    }

    #[test]
    fn who_holds_cut_headers_back_sees_no_message_begin_earlier(
        messages in vec(message(), 0..20),
        lengths in vec(1_usize..30, 1..8),
    ) {
        let bytes = encode(&messages);
        let (mut scanner, mut forwarded) = (Scanner::default(), Vec::new());
        for chunk in chunks(&bytes, &lengths) {
            let mut buffer = vec![0; scanner.held() + chunk.len()];
            let held = scanner.take_held(&mut buffer);
            buffer[held..].copy_from_slice(chunk);
            let (mut at, mut good) = (0, buffer.len());
            while let Some(item) = scanner.next(&buffer, &mut at, Kinds::ALL)? {
                match item {
                    Item::Message(message) => prop_assert_eq!(message.body - message.start, HEADER),
                    Item::Cut { start, .. } => good = start,
                    Item::More(_) => {}
                }
            }
            forwarded.extend_from_slice(&buffer[..good]);
            prop_assert_eq!(good + scanner.held(), buffer.len());
        }
        prop_assert_eq!(forwarded, bytes);
    }

    #[test]
    fn no_input_panics(bytes in vec(any::<u8>(), 0..200), lengths in vec(1_usize..30, 1..8)) {
        let (mut scanner, mut found) = (Scanner::default(), vec![(0, Vec::new())]);
        for chunk in chunks(&bytes, &lengths) {
            if seen(&mut scanner, chunk, Kinds::ALL, &mut found).is_err() {
                break;
            }
        }
    }
}

#[test]
fn an_impossible_length_is_a_fault_that_shows_the_header() {
    let cases: [(&[u8], &str); 4] = [
        (b"Q\0\0\0\x03", "5100000003"),
        (b"Q\x80\0\0\0abcdef", "5180000000616263"),
        (b"Q\xff\xff\xff\xff", "51ffffffff"),
        (b"Q\0\0\0\0", "5100000000"),
    ];
    for (bytes, shown) in cases {
        let answer = Scanner::default().next(bytes, &mut 0, Kinds::of(&[]));
        assert_eq!(answer.map_err(|fault| fault.to_string()), Err(format!("bad packet header: '{shown}'")));
    }
}

#[test]
fn an_impossible_length_is_a_fault_in_a_header_that_comes_in_parts() {
    let mut scanner = Scanner::default();
    assert_eq!(scanner.next(b"Q\0\0", &mut 0, Kinds::ALL), Ok(Some(Item::Cut { kind: b'Q', start: 0 })));
    let answer = scanner.next(b"\0\x03rest", &mut 0, Kinds::ALL);
    assert_eq!(answer, Err(Fault::BadHeader(Excerpt::of(b"Q\0\0\0\x03"))));
}

#[test]
fn the_longest_body_is_counted_down_without_being_there() {
    let mut scanner = Scanner::default();
    let mut at = 0;
    let found = scanner.next(b"d\x7f\xff\xff\xffxyz", &mut at, Kinds::ALL);
    let left = MAX_LENGTH - 4 - 3;
    assert_eq!(found, Ok(Some(Item::Message(Message { kind: b'd', start: 0, body: 5, end: 8, left }))));
    assert_eq!((at, scanner.left()), (8, left));
    let chunk = [0; 4096];
    assert_eq!(scanner.next(&chunk, &mut 0, Kinds::of(b"Z")), Ok(None));
    assert_eq!(scanner.left(), left - 4096);
}

#[test]
fn a_body_that_begins_with_the_next_chunk_is_reported_then() {
    let mut scanner = Scanner::default();
    let found = scanner.next(b"Z\0\0\0\x05", &mut 0, Kinds::ALL);
    assert_eq!(found, Ok(Some(Item::Message(Message { kind: b'Z', start: 0, body: 5, end: 5, left: 1 }))));
    assert!(!scanner.is_between());
    let found = scanner.next(b"I", &mut 0, Kinds::ALL);
    assert_eq!(found, Ok(Some(Item::More(More { kind: b'Z', start: 0, end: 1, left: 0 }))));
    assert!(scanner.is_between());
}

#[test]
fn a_header_completed_by_a_later_chunk_tells_where_its_body_is() {
    let mut scanner = Scanner::default();
    assert_eq!(scanner.next(b"Z\0\0", &mut 0, Kinds::ALL), Ok(Some(Item::Cut { kind: b'Z', start: 0 })));
    let chunk = b"\0\x05IZ\0\0\0\x05T";
    let mut at = 0;
    let first = scanner.next(chunk, &mut at, Kinds::ALL);
    let expected = Message { kind: b'Z', start: 0, body: 2, end: 3, left: 0 };
    assert_eq!(first, Ok(Some(Item::Message(expected))));
    assert!(expected.is_complete() && !expected.is_whole());
    let second = scanner.next(chunk, &mut at, Kinds::ALL);
    let expected = Message { kind: b'Z', start: 3, body: 8, end: 9, left: 0 };
    assert_eq!(second, Ok(Some(Item::Message(expected))));
    assert!(expected.is_whole());
}
