//! A server that speaks as much of PostgreSQL's protocol as the tests need: it lets everybody in, answers each query with
//! nothing, and runs the query `wait` until it's cancelled.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

/// Request codes in the place of a protocol version (PostgreSQL's documentation, "Message Formats").
const CANCEL: u32 = 80_877_102;
const ENCRYPTION: u32 = 80_877_103;

/// A server. It runs until the test ends.
pub(crate) struct Postgres {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    next: AtomicU32,
    running: Mutex<HashMap<u32, mpsc::Sender<()>>>,
}

impl Postgres {
    pub(crate) fn start(host: &str) -> Postgres {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = shared.clone();
                // A connection that is cut is the pooler's choice.
                thread::spawn(move || state.serve(stream.unwrap()));
            }
        });
        Postgres { address, state }
    }

    /// Queries that wait to be cancelled.
    pub(crate) fn waiting(&self) -> usize {
        self.state.running.lock().unwrap().len()
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let startup = loop {
            let packet = body(&mut stream)?;
            if number(&packet) != ENCRYPTION {
                break packet;
            }
            stream.write_all(b"N")?;
        };
        if number(&startup) == CANCEL {
            if let Some(cancel) = self.running.lock().unwrap().remove(&number(&startup[4..])) {
                cancel.send(()).unwrap();
            }
            return Ok(());
        }
        let pid = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut welcome = message(b'R', &[0; 4]);
        welcome.extend(message(b'K', &[pid.to_be_bytes(), [1; 4]].concat()));
        welcome.extend(message(b'Z', b"I"));
        stream.write_all(&welcome)?;
        loop {
            let mut kind = [0];
            stream.read_exact(&mut kind)?;
            let body = body(&mut stream)?;
            let mut answer = match (kind[0], body.as_slice()) {
                (b'X', _) => return Ok(()),
                (_, b"wait\0") => {
                    let (cancel, cancelled) = mpsc::channel();
                    self.running.lock().unwrap().insert(pid, cancel);
                    cancelled.recv().unwrap();
                    message(b'E', b"SERROR\0C57014\0Mcanceled\0\0")
                }
                _ => message(b'C', b"SELECT 0\0"),
            };
            answer.extend(message(b'Z', b"I"));
            stream.write_all(&answer)?;
        }
    }
}

/// What follows a length.
fn body(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap() + 4;
    [&[kind], &length.to_be_bytes()[..], body].concat()
}
