//! Requests that the pooler itself makes of a server: one simple query at a time, away from any client's traffic.

use std::future::poll_fn;
use std::io;

use super::Server;
use crate::flow::{HEADER, cstr, header};
use crate::vars::{Tracked, Vars};

/// Longest message that is read in these conversations.
const LONGEST: usize = 1 << 20;

/// Why a request of the pooler's own failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It closed.
    #[error("server conn crashed?")]
    Closed,
    /// It broke the protocol.
    #[error("bad packet from server")]
    Broken,
    /// An ErrorResponse: its message.
    #[error("{0}")]
    Refused(String),
}

/// The next message from a stream: its kind and body.
pub(crate) async fn message(stream: &mut crate::stream::Stream, input: &mut Vec<u8>) -> Result<(u8, Vec<u8>), Error> {
    loop {
        if let Some((kind, length)) = header(input).map_err(|_| Error::Broken)? {
            if length > LONGEST {
                return Err(Error::Broken);
            }
            if input.len() >= HEADER + length {
                let body = input[HEADER..HEADER + length].to_vec();
                input.drain(..HEADER + length);
                if input.is_empty() {
                    *input = Vec::new();
                }
                return Ok((kind, body));
            }
        }
        let mut buffer = [0; 2048];
        match poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await? {
            0 => return Err(Error::Closed),
            n => input.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Runs SQL and returns the rows' columns as text.
pub(crate) async fn query(
    server: &mut Server,
    sql: &[u8],
    tracked: &Tracked,
) -> Result<Vec<Vec<Option<Vec<u8>>>>, Error> {
    let mut request = vec![b'Q'];
    let length = u32::try_from(sql.len() + 5).map_err(|_| Error::Broken)?;
    request.extend_from_slice(&length.to_be_bytes());
    request.extend_from_slice(sql);
    request.push(0);
    server.output.drain(&mut server.stream, &request).await?;
    rows(server, tracked).await
}

/// Reads the answer to a simple or an extended query up to its ReadyForQuery.
pub(crate) async fn rows(server: &mut Server, tracked: &Tracked) -> Result<Vec<Vec<Option<Vec<u8>>>>, Error> {
    let mut rows = Vec::new();
    let mut refused = None;
    loop {
        let (kind, body) = message(&mut server.stream, &mut server.input).await?;
        match kind {
            b'D' => rows.push(columns(&body).ok_or(Error::Broken)?),
            b'S' => note_parameter(&body, tracked, &mut server.vars),
            b'E' => refused = Some(error_text(&body)),
            b'Z' => {
                server.replies.status = body.first().copied().unwrap_or(b'I');
                return refused.map_or(Ok(rows), |text| Err(Error::Refused(text)));
            }
            b'G' | b'W' => return Err(Error::Broken),
            _ => {}
        }
    }
}

/// A DataRow's columns.
fn columns(body: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let length = i32::from_be_bytes(*length);
        let Ok(length) = usize::try_from(length) else {
            rest = behind;
            columns.push(None);
            continue;
        };
        let (value, behind) = behind.split_at_checked(length)?;
        columns.push(Some(value.to_vec()));
        rest = behind;
    }
    Some(columns)
}

/// A field of an ErrorResponse or NoticeResponse (PostgreSQL documentation, "Error and Notice Message Fields").
pub(crate) fn error_field(body: &[u8], field: u8) -> Option<String> {
    let mut rest = body;
    while let Some((&kind, behind)) = rest.split_first().filter(|(k, _)| **k != 0) {
        let (value, behind) = cstr(behind)?;
        if kind == field {
            return Some(String::from_utf8_lossy(value).into_owned());
        }
        rest = behind;
    }
    None
}

/// The message of an ErrorResponse.
pub(crate) fn error_text(body: &[u8]) -> String {
    error_field(body, b'M').unwrap_or_else(|| "error without a message".to_owned())
}

/// Takes note of a ParameterStatus.
pub(crate) fn note_parameter(body: &[u8], tracked: &Tracked, vars: &mut Vars) {
    if let Some((name, rest)) = cstr(body)
        && let Some((value, _)) = cstr(rest)
    {
        tracked.set(vars, name, value);
    }
}
