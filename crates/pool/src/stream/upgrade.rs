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
    let session = UnbufferedServerConnection::new(config).map_err(invalid)?;
    let stream = shake_hands(stream, Session::Server(session), read).await?;
    match &stream {
        Stream::Tls(s) if start == Start::Direct && s.protocol() != Some(ALPN) => {
            Err(invalid("received direct SSL connection request without ALPN protocol negotiation extension"))
        }
        _ => Ok(stream),
    }
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
    let session = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    shake_hands(stream, Session::Client(session), &[]).await
}

async fn shake_hands(stream: Stream, session: Session, read: &[u8]) -> io::Result<Stream> {
    if stream.is_tls() {
        return Err(invalid("TLS within TLS"));
    }
    let mut encrypted = Box::new(Encrypted::new(stream, session, read));
    poll_fn(|cx| encrypted.poll_handshake(cx)).await?;
    Ok(Stream::Tls(encrypted))
}
