//! A client and the server that it holds, as the flow between them sees them.

use std::rc::Rc;

use crate::flow::requests::{Parses, Renaming, Target};
use crate::flow::{ClientStatements, Registry, Replies, Requests};

/// Both sides of a conversation.
#[derive(Debug)]
pub(super) struct Pair {
    registry: Rc<Registry>,
    parses: Parses,
    requests: Requests,
    statements: ClientStatements,
    replies: Replies,
}

impl Pair {
    pub(super) fn new() -> Pair {
        Pair {
            registry: Registry::new(0),
            parses: Parses::default(),
            requests: Requests::default(),
            statements: ClientStatements::default(),
            replies: Replies::default(),
        }
    }

    /// The client sends; what the server gets.
    pub(super) fn ask(&mut self, data: &[u8]) -> Vec<u8> {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut target = Target {
            owed: &mut self.replies.owed,
            copy_in: &mut self.replies.copy_in,
            statements: &mut self.replies.statements,
            status: self.replies.status,
        };
        let renaming =
            Renaming { registry: &self.registry, client: &mut self.statements, most: 10, parses: &self.parses };
        let out = (&mut to_server, &mut to_client);
        let taken = self.requests.take(data, &mut target, Some(renaming), 1 << 20, out).unwrap();
        if taken.rewritten { to_server } else { data[..taken.used].to_vec() }
    }

    /// The server sends; what the client gets.
    pub(super) fn answer(&mut self, data: &[u8]) -> Vec<u8> {
        let mut to_client = Vec::new();
        let seen = self.replies.take(data, Some(&mut self.statements), &mut to_client, &mut |_| ()).unwrap();
        if seen.rewritten { to_client } else { data[..seen.used].to_vec() }
    }

    pub(super) fn is_free(&self) -> bool {
        self.replies.is_free()
    }
}

/// A message, or several.
pub(super) fn sent(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    build(&mut out);
    out
}
