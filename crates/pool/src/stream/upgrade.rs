//! Turns a bare connection into one under TLS, on either side.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use super::Stream;
use super::encrypted::Encrypted;
use super::engine::{Session, invalid};
use crate::tls::ALPN;

/// How a client came to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// By an SSLRequest, which was answered with `S`.
    Requested,
    /// Its first byte was TLS's. Such a client must name the protocol (ALPN).
    Direct,
}

/// Completes TLS with a client. `read` is what was read of it and isn't used up.
///
/// # Errors
/// The handshake failed, or after an SSLRequest `read` holds anything: whoever is on the wire could have put it there
/// for us to take as part of the encrypted conversation. The connection is of no use any more.
pub async fn accept_tls(stream: Stream, config: Arc<ServerConfig>, start: Start, read: &[u8]) -> io::Result<Stream> {
    if start == Start::Requested && !read.is_empty() {
        return Err(invalid("received unencrypted data after SSL request"));
    }
    let encrypted = begin(stream, UnbufferedServerConnection::new(config).map(Session::Server), read)?;
    let encrypted = shake_hands(encrypted).await?;
    if start == Start::Direct && encrypted.protocol() != Some(ALPN) {
        return Err(invalid("received direct SSL connection request without ALPN protocol negotiation extension"));
    }
    Ok(Stream::Tls(encrypted))
}

/// Completes TLS with a server that answered `S` to an SSLRequest. `read` is what came after that byte.
///
/// # Errors
/// The handshake failed, or `read` holds anything: see [`accept_tls`].
pub async fn connect_tls(
    stream: Stream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    read: &[u8],
) -> io::Result<Stream> {
    if !read.is_empty() {
        return Err(invalid("received unencrypted data after SSL response"));
    }
    let encrypted = begin(stream, UnbufferedClientConnection::new(config, name).map(Session::Client), &[])?;
    Ok(Stream::Tls(shake_hands(encrypted).await?))
}

/// Puts the session where it stays, so that no future has to hold it.
fn begin(stream: Stream, session: Result<Session, rustls::Error>, read: &[u8]) -> io::Result<Box<Encrypted<Stream>>> {
    if stream.is_tls() {
        return Err(invalid("TLS within TLS"));
    }
    Ok(Box::new(Encrypted::new(stream, session.map_err(invalid)?, read)))
}

async fn shake_hands(mut encrypted: Box<Encrypted<Stream>>) -> io::Result<Box<Encrypted<Stream>>> {
    poll_fn(|cx| encrypted.poll_handshake(cx)).await?;
    Ok(encrypted)
}
