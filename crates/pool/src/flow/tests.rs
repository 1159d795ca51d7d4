//! Tests of the flow between a client and its server: one pair of them, without sockets.

mod conversation;
mod pair;
mod server;

use pair::{Pair, sent};

use crate::wire::build::{backend, frontend};

#[test]
fn a_simple_query_passes_unchanged_and_frees_the_server_with_its_answer() {
    let mut pair = Pair::new();
    let query = sent(|out| frontend::query(out, b"select 1"));
    assert_eq!(pair.ask(&query), query);
    assert!(!pair.is_free());
    let rows = sent(|out| backend::command_complete(out, b"SELECT 1"));
    assert_eq!(pair.answer(&rows), rows);
    assert!(!pair.is_free());
    let ready = sent(|out| backend::ready_for_query(out, b'I'));
    assert_eq!(pair.answer(&ready), ready);
    assert!(pair.is_free());
}

#[test]
fn a_server_in_a_transaction_is_not_free() {
    let mut pair = Pair::new();
    pair.ask(&sent(|out| frontend::query(out, b"begin")));
    pair.answer(&sent(|out| backend::ready_for_query(out, b'T')));
    assert!(!pair.is_free());
}
