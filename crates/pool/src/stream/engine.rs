//! Drives rustls without its buffers: ciphertext in, plaintext and ciphertext out, all in memory of the caller's.
//! No socket is here.

use std::io;

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};

/// What a record adds to its content, at most, in any version.
const RECORD_OVERHEAD: usize = 5 + 8 + 16 + 1;
/// Content of a record, at most.
const RECORD_CONTENT: usize = 16 * 1024;
/// A record as it is sent, at most.
pub(super) const RECORD: usize = RECORD_CONTENT + 2048 + 5;

/// One end of TLS.
// A connection is one of these for all its life, behind a box.
#[allow(clippy::large_enum_variant)]
pub(super) enum Session {
    /// With a client.
    Server(UnbufferedServerConnection),
    /// With a server.
    Client(UnbufferedClientConnection),
}

/// What to do beside reading, and what came of it.
#[derive(Default)]
pub(super) struct Job<'a> {
    /// To be encrypted.
    pub(super) write: Option<&'a [u8]>,
    /// To be said: that we write no more.
    pub(super) goodbye: bool,
    /// How much of the ciphertext is used up.
    pub(super) used: usize,
    /// Whether the handshake is done.
    pub(super) established: bool,
    /// Whether the other side writes no more.
    pub(super) ended: bool,
}

impl Session {
    pub(super) fn common(&self) -> &CommonState {
        match self {
            Session::Server(s) => s,
            Session::Client(s) => s,
        }
    }

    /// Works on `incoming` as far as it goes: gives plaintext to `plain` and adds ciphertext to `outgoing`. What isn't
    /// used up must come again, first, with the next call. After an error `outgoing` may have a last word.
    pub(super) fn run(
        &mut self,
        incoming: &mut [u8],
        job: &mut Job<'_>,
        plain: &mut dyn FnMut(&[u8]),
        outgoing: &mut Vec<u8>,
    ) -> io::Result<()> {
        match self {
            Session::Server(s) => run(s, incoming, job, plain, outgoing),
            Session::Client(s) => run(s, incoming, job, plain, outgoing),
        }
    }
}

/// What rustls's two kinds of connection have in common.
trait Engine {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Engine for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(incoming)
    }
}

impl Engine for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(incoming)
    }
}

fn run<E: Engine>(
    engine: &mut E,
    incoming: &mut [u8],
    job: &mut Job<'_>,
    plain: &mut dyn FnMut(&[u8]),
    outgoing: &mut Vec<u8>,
) -> io::Result<()> {
    loop {
        let UnbufferedStatus { mut discard, state } = engine.process(&mut incoming[job.used..]);
        let mut done = false;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(invalid)?;
                    discard += record.discard;
                    plain(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, outgoing)?,
            // It is the caller's to send, after this.
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => job.ended = true,
            Ok(ConnectionState::Closed) => {
                job.ended = true;
                done = true;
            }
            Ok(ConnectionState::BlockedHandshake) => done = true,
            Ok(ConnectionState::WriteTraffic(traffic)) => {
                job.established = true;
                done = true;
                write(traffic, job, outgoing)?;
            }
            Ok(_) => return Err(invalid("TLS came to a state that isn't known here")),
            Err(e) => {
                last_word(engine, &mut incoming[job.used + discard..], outgoing);
                return Err(invalid(e));
            }
        }
        job.used += discard;
        if done {
            return Ok(());
        }
    }
}

fn write<D>(mut traffic: WriteTraffic<'_, D>, job: &mut Job<'_>, outgoing: &mut Vec<u8>) -> io::Result<()> {
    let lacking = |e| match e {
        EncryptError::InsufficientSize(e) => Lacking::Room(e.required_size),
        EncryptError::EncryptExhausted => Lacking::Sense(e.to_string()),
    };
    if let Some(bytes) = job.write.take() {
        let records = bytes.len().div_ceil(RECORD_CONTENT);
        let likely = bytes.len() + records * RECORD_OVERHEAD;
        append(outgoing, likely, |room| traffic.encrypt(bytes, room).map_err(lacking))?;
    }
    if job.goodbye {
        append(outgoing, 64, |room| traffic.queue_close_notify(room).map_err(lacking))?;
    }
    Ok(())
}

/// The alert that tells the other side what was wrong with what it sent.
fn last_word<E: Engine>(engine: &mut E, incoming: &mut [u8], outgoing: &mut Vec<u8>) {
    if let Ok(ConnectionState::EncodeTlsData(data)) = engine.process(incoming).state {
        let _ = encode(data, outgoing);
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> io::Result<()> {
    append(outgoing, 512, |room| match data.encode(room) {
        Err(EncodeError::InsufficientSize(e)) => Err(Lacking::Room(e.required_size)),
        other => other.map_err(|e| Lacking::Sense(e.to_string())),
    })
}

/// Why something couldn't be encoded.
enum Lacking {
    /// So many bytes are needed.
    Room(usize),
    /// It can't be done at all.
    Sense(String),
}

/// Lets `encode` write behind what `outgoing` holds, into `likely` bytes or as many as it then asks for.
fn append(
    outgoing: &mut Vec<u8>,
    likely: usize,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, Lacking>,
) -> io::Result<()> {
    let start = outgoing.len();
    let mut room = likely;
    loop {
        outgoing.resize(start + room, 0);
        match encode(&mut outgoing[start..]) {
            Ok(n) => {
                outgoing.truncate(start + n);
                return Ok(());
            }
            Err(Lacking::Room(needed)) if needed > room => room = needed,
            Err(Lacking::Room(_)) => return Err(invalid("TLS can't say how much room it needs")),
            Err(Lacking::Sense(why)) => return Err(invalid(why)),
        }
    }
}

/// The other side, or TLS itself, broke the rules.
pub(super) fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
