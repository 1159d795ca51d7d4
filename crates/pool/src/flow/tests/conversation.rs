//! Whatever several clients ask of the server that they share, in whatever pieces the bytes come: each sees what it would
//! see of a server of its own.

use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::server::Server;
use crate::flow::requests::{Parses, Renaming, Target};
use crate::flow::{ClientStatements, HEADER, Registry, Replies, Requests, header};
use crate::wire::build::frontend;
use crate::wire::reply::Fields;

/// What a client may do next.
#[derive(Debug, Clone)]
enum Ask {
    Parse(usize, usize),
    Run(usize),
    Describe(usize),
    Close(usize),
    Unnamed(usize),
    Query(usize),
    Sync,
    Flush,
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A client sends something, in two pieces.
    Send { client: usize, ask: Ask, split: usize, serve_between: bool },
    /// The server answers what has come so far.
    Serve,
    /// So many bytes of answers arrive.
    Deliver(usize),
}

const NAMES: [&[u8]; 3] = [b"a", b"b", b"c"];
const TEXTS: [&[u8]; 4] = [b"one", b"two", b"three", b"fail"];
const QUERIES: [&[u8]; 5] = [b"select", b"fail", b"begin", b"commit", b"DEALLOCATE ALL"];

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        3 => (0..3_usize, 0..5_usize).prop_map(|(name, text)| Ask::Parse(name, text)),
        4 => (0..3_usize).prop_map(Ask::Run),
        1 => (0..3_usize).prop_map(Ask::Describe),
        1 => (0..3_usize).prop_map(Ask::Close),
        1 => (0..5_usize).prop_map(Ask::Unnamed),
        2 => (0..5_usize).prop_map(Ask::Query),
        5 => Just(Ask::Sync),
        1 => Just(Ask::Flush),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_usize, ask(), 0..40_usize, any::<bool>())
            .prop_map(|(client, ask, split, serve_between)| Step::Send { client, ask, split, serve_between }),
        2 => Just(Step::Serve),
        2 => (1..60_usize).prop_map(Step::Deliver),
    ]
}

/// What is known of a client's name for a statement before all answers are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Given since the last Sync.
    Given,
    /// Taken back since the last Sync.
    Closed,
    /// Either, before the last Sync.
    Earlier,
}

/// A client, and the server that it would have to itself.
struct Client {
    requests: Requests,
    statements: ClientStatements,
    doubts: BTreeMap<usize, Doubt>,
    /// Whether it has sent more behind a Sync whose answer isn't there.
    ahead: bool,
    seen: Vec<u8>,
    own: Server,
    expected: Vec<u8>,
}

struct World {
    registry: Rc<Registry>,
    parses: Parses,
    clients: Vec<Client>,
    holder: Option<usize>,
    server: Server,
    replies: Replies,
    to_server: Vec<u8>,
    /// Answers under way, and how many of them have come.
    from_server: Vec<u8>,
    input: Vec<u8>,
    bad: usize,
}

impl World {
    fn new() -> World {
        let client = || Client {
            requests: Requests::default(),
            statements: ClientStatements::default(),
            doubts: BTreeMap::new(),
            ahead: false,
            seen: Vec::new(),
            own: Server::new(),
            expected: Vec::new(),
        };
        World {
            registry: Registry::new(0),
            parses: Parses::default(),
            clients: vec![client(), client()],
            holder: None,
            server: Server::new(),
            replies: Replies::default(),
            to_server: Vec::new(),
            from_server: Vec::new(),
            input: Vec::new(),
            bad: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Send { client, ask, split, serve_between } => self.send(*client, ask, *split, *serve_between),
            Step::Serve => self.serve(),
            Step::Deliver(count) => self.deliver(*count),
        }
    }

    /// Texts that can't be parsed are each of its own: a second one would pass for prepared until it's run.
    fn text(&mut self, index: usize) -> Vec<u8> {
        self.bad += 1;
        TEXTS.get(index).map_or_else(|| format!("bad {}", self.bad).into_bytes(), |t| t.to_vec())
    }

    fn send(&mut self, client: usize, ask: &Ask, split: usize, serve_between: bool) {
        if self.holder.is_some_and(|h| h != client) || !self.is_certain(client, ask) {
            return;
        }
        let bytes = self.bytes(ask);
        let Client { own, expected, .. } = &mut self.clients[client];
        own.answer(&bytes, expected);
        self.holder = Some(client);
        let mut input = bytes[..split.min(bytes.len())].to_vec();
        self.requests(client, &mut input);
        if serve_between {
            self.deliver(7);
        }
        // It was let go where the first piece was too little to be sent on.
        self.holder = Some(client);
        input.extend_from_slice(&bytes[split.min(bytes.len())..]);
        self.requests(client, &mut input);
        assert!(input.is_empty(), "a whole request waits: {input:?}");
        self.clients[client].note(ask);
        self.let_go();
        if bytes == self.bytes(&Ask::Query(QUERIES.len() - 1)) {
            // What is prepared before the answer comes counts as dropped with the rest.
            self.serve();
            self.deliver(usize::MAX);
        }
    }

    /// Whether what was sent before decides what is to come of this. What is sent beyond a Sync while the answers up to it
    /// are under way may differ from a server of the client's own: a name that may not be there counts as there.
    fn is_certain(&self, client: usize, ask: &Ask) -> bool {
        let client = &self.clients[client];
        match ask {
            // The pooler answers for a statement that the server has, before it can know that the transaction has failed.
            Ask::Parse(..) if client.ahead => false,
            Ask::Parse(name, _) => !matches!(client.doubts.get(name), Some(Doubt::Given | Doubt::Earlier)),
            Ask::Run(name) | Ask::Describe(name) | Ask::Close(name) => client.doubts.get(name) != Some(&Doubt::Earlier),
            Ask::Query(n) if QUERIES[*n] == b"DEALLOCATE ALL" => self.holder.is_none(),
            _ => true,
        }
    }

    fn bytes(&mut self, ask: &Ask) -> Vec<u8> {
        let mut out = Vec::new();
        match ask {
            Ask::Parse(name, text) => frontend::parse(&mut out, NAMES[*name], &self.text(*text), &[]),
            Ask::Run(name) => {
                frontend::bind(&mut out, b"", NAMES[*name], &[]);
                frontend::execute(&mut out, b"", 0);
            }
            Ask::Describe(name) => frontend::describe(&mut out, b'S', NAMES[*name]),
            Ask::Close(name) => frontend::close(&mut out, b'S', NAMES[*name]),
            Ask::Unnamed(text) => {
                frontend::parse(&mut out, b"", &self.text(*text), &[]);
                frontend::bind(&mut out, b"", b"", &[]);
                frontend::execute(&mut out, b"", 0);
            }
            Ask::Query(query) => frontend::query(&mut out, QUERIES[*query]),
            Ask::Sync => frontend::sync(&mut out),
            Ask::Flush => frontend::flush(&mut out),
        }
        out
    }

    fn requests(&mut self, client: usize, input: &mut Vec<u8>) {
        let Client { requests, statements, seen, .. } = &mut self.clients[client];
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let replies = &mut self.replies;
        let mut target = Target {
            owed: &mut replies.owed,
            copy_in: &mut replies.copy_in,
            statements: &mut replies.statements,
            status: replies.status,
        };
        let renaming = Renaming { registry: &self.registry, client: statements, most: 2, parses: &self.parses };
        let out = (&mut to_server, &mut to_client);
        let taken = requests.take(input, &mut target, Some(renaming), 1 << 20, out).unwrap();
        self.to_server.extend_from_slice(if taken.rewritten { &to_server } else { &input[..taken.used] });
        seen.extend_from_slice(&to_client);
        input.drain(..taken.used);
    }

    fn serve(&mut self) {
        // Whole requests only, as the server itself takes them.
        let mut end = 0;
        while let Ok(Some((_, length))) = header(&self.to_server[end..])
            && self.to_server.len() >= end + HEADER + length
        {
            end += HEADER + length;
        }
        let requests: Vec<u8> = self.to_server.drain(..end).collect();
        self.server.answer(&requests, &mut self.from_server);
    }

    fn deliver(&mut self, count: usize) {
        let count = count.min(self.from_server.len());
        self.input.extend(self.from_server.drain(..count));
        let Some(holder) = self.holder else { return assert_eq!(count, 0, "an answer for nobody") };
        let Client { statements, seen, .. } = &mut self.clients[holder];
        let mut to_client = Vec::new();
        let taken = self.replies.take(&self.input, Some(statements), &mut to_client, &mut |_| ()).unwrap();
        seen.extend_from_slice(if taken.rewritten { &to_client } else { &self.input[..taken.used] });
        self.input.drain(..taken.used);
        self.let_go();
    }

    fn let_go(&mut self) {
        let Some(holder) = self.holder else { return };
        if self.replies.is_settled() && !self.clients[holder].requests.is_inside() {
            self.clients[holder].doubts.clear();
            self.clients[holder].ahead = false;
            if self.replies.is_free() {
                self.holder = None;
            }
        }
    }

    /// Lets everything come to its end.
    fn settle(&mut self) {
        let commit = QUERIES.iter().position(|q| *q == b"commit").unwrap();
        for ask in [Ask::Sync, Ask::Query(commit)] {
            if let Some(holder) = self.holder {
                self.send(holder, &ask, 0, false);
            }
            self.serve();
            self.deliver(usize::MAX);
        }
        assert_eq!(self.holder, None, "the server is never free: {:?}", self.replies);
    }
}

impl Client {
    fn note(&mut self, ask: &Ask) {
        match ask {
            Ask::Parse(name, _) => _ = self.doubts.insert(*name, Doubt::Given),
            Ask::Close(name) => _ = self.doubts.insert(*name, Doubt::Closed),
            Ask::Sync | Ask::Query(_) => {
                self.ahead = true;
                self.doubts.values_mut().for_each(|d| *d = Doubt::Earlier);
            }
            _ => {}
        }
    }
}

/// Messages, and of errors the code alone: the server's name for a statement isn't the client's.
fn told(mut bytes: &[u8]) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(Some((kind, length))) = header(bytes) {
        let body = &bytes[HEADER..HEADER + length];
        let body = if kind == b'E' { Fields::of(body).get(b'C') } else { body };
        told.push(format!("{} {}", char::from(kind), String::from_utf8_lossy(body)));
        bytes = &bytes[HEADER + length..];
    }
    assert!(bytes.is_empty(), "half an answer: {bytes:?}");
    told
}

/// What each client sees after these steps, and what a server of its own would say.
fn play(steps: &[Step]) -> Vec<(Vec<String>, Vec<String>)> {
    let mut world = World::new();
    for step in steps {
        world.step(step);
    }
    world.settle();
    world.clients.iter().map(|client| (told(&client.seen), told(&client.expected))).collect()
}

fn send(ask: Ask) -> Step {
    Step::Send { client: 0, ask, split: 0, serve_between: false }
}

#[test]
fn an_answer_of_the_poolers_own_waits_for_the_end_of_the_servers_message() {
    let described = [send(Ask::Parse(0, 0)), send(Ask::Describe(0)), Step::Serve];
    for part in 1..60 {
        let mut steps = described.to_vec();
        steps.extend([Step::Deliver(part), send(Ask::Parse(1, 0)), Step::Deliver(1), send(Ask::Sync)]);
        for (seen, expected) in play(&steps) {
            assert_eq!(seen, expected, "{part} bytes had come");
        }
    }
}

#[test]
fn a_statement_that_an_error_may_yet_skip_is_taught_again_behind_the_sync() {
    let forgotten = [send(Ask::Parse(1, 0)), send(Ask::Sync), Step::Serve, Step::Deliver(usize::MAX)];
    // The server gives it up for two others.
    let others = [Ask::Parse(0, 1), Ask::Parse(2, 2), Ask::Sync].map(send);
    let fails = [Ask::Unnamed(4), Ask::Run(1), Ask::Sync, Ask::Run(1), Ask::Sync].map(send);
    let again = [Step::Serve, Step::Deliver(usize::MAX), send(Ask::Run(1)), send(Ask::Sync)];
    let steps = [&forgotten[..], &others, &again[..2], &fails, &again].concat();
    for (seen, expected) in play(&steps) {
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_failed_transaction_refuses_what_the_server_has_already_behind_a_close_too() {
    let fails = [Ask::Parse(0, 3), Ask::Query(2), Ask::Run(1), Ask::Sync].map(send);
    let answered = [Step::Serve, Step::Deliver(usize::MAX)];
    let steps = [&fails[..], &answered, &[Ask::Close(1), Ask::Parse(1, 3), Ask::Sync].map(send)].concat();
    for (seen, expected) in play(&steps) {
        assert!(seen == expected, "{seen:?}\n{expected:?}");
    }
}

proptest! {
    #[test]
    fn fuzz_each_client_sees_a_server_of_its_own(steps in vec(step(), 0..80)) {
        for (seen, expected) in play(&steps) {
            prop_assert_eq!(seen, expected);
        }
    }
}
