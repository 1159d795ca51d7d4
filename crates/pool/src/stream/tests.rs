//! Connections over loopback, bare and under TLS, against the usual implementations.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Start, Stream, accept_tls, connect_tls};
use crate::tls::testing::{Pki, usual_client};
use crate::tls::{Client, Server, SslMode};

mod bare;
mod encrypted;
mod moving;
mod upgrade;

/// Which end of TLS is ours.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    Server,
    Client,
}

/// Both ends' settings.
struct Settings {
    server: Arc<ServerConfig>,
    /// The pooler's, towards servers.
    client: Arc<ClientConfig>,
    /// psql's, so to speak.
    usual: Arc<ClientConfig>,
}

impl Settings {
    fn new() -> Settings {
        Settings::with(SslMode::Require)
    }

    fn with(sslmode: SslMode) -> Settings {
        let pki = Pki::new();
        let options = pki.options(sslmode, &pki.authority.identity("localhost", &["localhost"]));
        Settings {
            server: Server::load(&options).unwrap().current().config.clone().unwrap(),
            client: Client::load(&options).unwrap().current().config.clone().unwrap(),
            usual: Arc::new(usual_client(&pki.authority, None)),
        }
    }
}

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(listener.accept(), TcpStream::connect(address));
    let (near, far) = (near.unwrap().0, far.unwrap());
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// Our end and another's.
async fn pair(role: Role) -> (Stream, TlsStream<TcpStream>) {
    let settings = Settings::new();
    let (near, far) = sockets().await;
    let near = Stream::Tcp(near);
    match role {
        Role::Server => {
            let connector = TlsConnector::from(settings.usual);
            let ours = accept_tls(near, settings.server, Start::Requested, &[]);
            let (ours, theirs) = tokio::join!(ours, connector.connect(localhost(), far));
            (ours.unwrap(), theirs.unwrap().into())
        }
        Role::Client => {
            let acceptor = TlsAcceptor::from(settings.server);
            let ours = connect_tls(near, settings.client, localhost(), &[]);
            let (ours, theirs) = tokio::join!(ours, acceptor.accept(far));
            (ours.unwrap(), theirs.unwrap().into())
        }
    }
}

async fn read(stream: &mut Stream, buffer: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| stream.poll_read(cx, buffer)).await
}

/// Exactly `length` bytes, by reads of at most `piece`.
async fn receive(stream: &mut Stream, length: usize, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; piece];
    while all.len() < length {
        let n = read(stream, &mut buffer).await.unwrap();
        assert!(n > 0, "the end came after {} of {length} bytes", all.len());
        all.extend_from_slice(&buffer[..n]);
    }
    assert_eq!(all.len(), length);
    all
}

async fn send(stream: &mut Stream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let n = poll_fn(|cx| stream.poll_write(cx, bytes)).await.unwrap();
        bytes = &bytes[n..];
    }
    poll_fn(|cx| stream.poll_flush(cx)).await.unwrap();
    assert!(!stream.holds_back());
}

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// Lets the runtime hear what the poller has to say until `condition` holds.
async fn until(mut condition: impl FnMut() -> bool) {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < patience, "it never came to that");
        tokio::task::yield_now().await;
    }
}
