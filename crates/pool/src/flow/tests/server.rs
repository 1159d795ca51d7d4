//! A PostgreSQL as far as prepared statements and transactions go: what it answers to each request. Texts of statements say
//! what comes of them: `bad...` can't be parsed, `fail...` fails when it's executed, everything else returns itself.

use std::collections::BTreeMap;

use crate::flow::{HEADER, cstr, header};
use crate::wire::build::backend::{self, Report};

/// The server.
#[derive(Debug)]
pub(super) struct Server {
    statements: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What the portal with no name executes.
    portal: Option<Vec<u8>>,
    status: u8,
    skipping: bool,
}

/// SQLSTATE and text of an error.
type Refusal = (&'static str, &'static str);

impl Server {
    pub(super) fn new() -> Server {
        Server { statements: BTreeMap::new(), portal: None, status: b'I', skipping: false }
    }

    /// Answers whole requests.
    pub(super) fn answer(&mut self, mut requests: &[u8], out: &mut Vec<u8>) {
        while let Ok(Some((kind, length))) = header(requests) {
            let body = &requests[HEADER..HEADER + length];
            self.request(kind, body, out);
            requests = &requests[HEADER + length..];
        }
        assert!(requests.is_empty(), "half a request: {requests:?}");
    }

    fn request(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) {
        if kind == b'S' {
            self.skipping = false;
            if self.status != b'T' {
                self.portal = None;
            }
            return backend::ready_for_query(out, self.status);
        }
        if self.skipping {
            return;
        }
        let result = match kind {
            b'Q' => self.query(body, out),
            b'P' => self.parse(body, out),
            b'B' => self.bind(body, out),
            b'D' => self.describe(body, out),
            b'E' => self.execute(out),
            b'C' => {
                self.statements.remove(name(&body[1..]));
                out.extend_from_slice(b"3\0\0\0\x04");
                Ok(())
            }
            b'H' => Ok(()),
            other => panic!("unexpected {:?}", char::from(other)),
        };
        if let Err((code, text)) = result {
            backend::error_response(out, &Report::error(code, text));
            if self.status == b'T' {
                self.status = b'E';
            }
            self.skipping = kind != b'Q';
        }
        if kind == b'Q' {
            backend::ready_for_query(out, self.status);
        }
    }

    fn query(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        self.portal = None;
        match name(body) {
            b"commit" => self.status = b'I',
            _ if self.status == b'E' => return Err(ABORTED),
            b"begin" => self.status = b'T',
            b"DEALLOCATE ALL" => self.statements.clear(),
            text => return run(text, out),
        }
        backend::command_complete(out, name(body));
        Ok(())
    }

    fn parse(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (name, rest) = cstr(body).unwrap();
        let (text, _) = cstr(rest).unwrap();
        if self.status == b'E' {
            return Err(ABORTED);
        }
        if text.starts_with(b"bad") {
            return Err(("42601", "syntax error"));
        }
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err(("42P05", "prepared statement already exists"));
        }
        self.statements.insert(name.to_vec(), text.to_vec());
        out.extend_from_slice(b"1\0\0\0\x04");
        Ok(())
    }

    fn bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (_, rest) = cstr(body).unwrap();
        let text = self.statements.get(name(rest)).ok_or(MISSING)?;
        if self.status == b'E' {
            return Err(ABORTED);
        }
        self.portal = Some(text.clone());
        out.extend_from_slice(b"2\0\0\0\x04");
        Ok(())
    }

    fn describe(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let text = self.statements.get(name(&body[1..])).ok_or(MISSING)?;
        if self.status == b'E' {
            return Err(ABORTED);
        }
        out.extend_from_slice(b"t\0\0\0\x06\0\0");
        out.push(b'T');
        out.extend_from_slice(&(text.len() as u32 + 4).to_be_bytes());
        out.extend_from_slice(text);
        Ok(())
    }

    fn execute(&mut self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        if self.status == b'E' {
            return Err(ABORTED);
        }
        let text = self.portal.clone().ok_or(("34000", "portal does not exist"))?;
        run(&text, out)
    }
}

const ABORTED: Refusal = ("25P02", "current transaction is aborted");
const MISSING: Refusal = ("26000", "prepared statement does not exist");

fn run(text: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    if text.starts_with(b"fail") {
        return Err(("22012", "division by zero"));
    }
    out.push(b'D');
    out.extend_from_slice(&(text.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(text);
    backend::command_complete(out, b"SELECT 1");
    Ok(())
}

fn name(bytes: &[u8]) -> &[u8] {
    cstr(bytes).unwrap().0
}
