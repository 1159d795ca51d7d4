//! Tests of the listener over real sockets: both protocols and both services on one port, TLS, client certificates,
//! and clients that behave badly.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use http::Version;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::config::VerifyClient;
use crate::tls::{ClientFiles, Server, ServerFiles};

const PATIENCE: Duration = Duration::from_secs(10);

/// Answers with version, path and who asks.
fn rest() -> Service {
    service(tower::service_fn(|request: Request<Incoming>| async move {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        assert!(peer.address.is_some_and(|a| a.ip().is_loopback()));
        let who = peer.certificate.unwrap_or_else(|| "nobody".to_owned());
        let text = format!("{:?} {} {who}", request.version(), request.uri().path());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    }))
}

/// tonic's standard health service, as a program would plug its own in.
async fn grpc() -> Service {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("pgherd", tonic_health::ServingStatus::Serving).await;
    service(tonic::service::Routes::new(health))
}

fn options(tls: Option<Server>) -> Options {
    Options::new("test", HostPort { host: "127.0.0.1".to_owned(), port: 0 }, tls)
}

struct Running {
    handle: Handle,
    cancel: CancellationToken,
}

impl Running {
    async fn start(options: Options) -> Running {
        let cancel = CancellationToken::new();
        let handle = serve(options, rest(), Some(grpc().await), cancel.clone()).unwrap();
        Running { handle, cancel }
    }

    fn addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.handle.ended()).await.expect("the listener doesn't stop");
    }
}

async fn get<I>(io: I, version: Version) -> Result<String, BoxError>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get("http://localhost/patroni").header("host", "localhost").body(Empty::<Bytes>::new())?;
    let response = if version == Version::HTTP_2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?)
}

async fn check(channel: Channel) -> Result<i32, tonic::Status> {
    let request = HealthCheckRequest { service: "pgherd".to_owned() };
    Ok(HealthClient::new(channel).check(request).await?.into_inner().status)
}

#[tokio::test]
async fn rest_and_grpc_share_a_plain_port() {
    let running = Running::start(options(None)).await;
    let connect = || TcpStream::connect(running.addr());
    assert_eq!(get(connect().await.unwrap(), Version::HTTP_11).await.unwrap(), "HTTP/1.1 /patroni nobody");
    assert_eq!(get(connect().await.unwrap(), Version::HTTP_2).await.unwrap(), "HTTP/2.0 /patroni nobody");
    let channel = Endpoint::from_shared(format!("http://{}", running.addr())).unwrap().connect().await.unwrap();
    assert_eq!(check(channel.clone()).await.unwrap(), 1);
    // The connection of the channel is idle now and must not hold up the stop.
    running.stop().await;
    assert!(check(channel).await.is_err());
}

#[tokio::test]
async fn a_port_without_grpc_says_so() {
    let cancel = CancellationToken::new();
    let handle = serve(options(None), rest(), None, cancel.clone()).unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", handle.local_addr())).unwrap().connect().await.unwrap();
    assert_eq!(check(channel).await.unwrap_err().code(), tonic::Code::Unimplemented);
    cancel.cancel();
}

#[tokio::test]
async fn port_in_use_names_address_and_remedy() {
    let running = Running::start(options(None)).await;
    let taken = HostPort { host: "127.0.0.1".to_owned(), port: running.addr().port() };
    let error = serve(Options::new("x", taken.clone(), None), rest(), None, CancellationToken::new()).unwrap_err();
    assert!(matches!(error, Error::Bind(_)));
    assert!(error.to_string().contains(&taken.to_string()) && error.to_string().contains("choose another"), "{error}");
    let port = running.addr().port();
    running.stop().await;
    let free = HostPort { host: "127.0.0.1".to_owned(), port };
    let cancel = CancellationToken::new();
    serve(Options::new("x", free, None), rest(), None, cancel.clone()).expect("the port is free once it has ended");
    cancel.cancel();
}

#[tokio::test]
async fn foreign_and_unknown_addresses_are_explained() {
    for (host, hint) in [("192.0.2.1", "doesn't have the address"), ("no.such.host.invalid", "host name")] {
        let listen = HostPort { host: host.to_owned(), port: 1 };
        let error = serve(Options::new("x", listen, None), rest(), None, CancellationToken::new()).unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn star_listens_on_both_families() {
    let running = Running::start(Options::new("x", HostPort { host: "*".to_owned(), port: 0 }, None)).await;
    let at = SocketAddr::new([127, 0, 0, 1].into(), running.addr().port());
    assert!(get(TcpStream::connect(at).await.unwrap(), Version::HTTP_11).await.is_ok());
    running.stop().await;
}

/// Reads until the server closes, on a thread that may block.
async fn until_closed(addr: SocketAddr, say: &'static [u8]) -> Duration {
    tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(say).unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset, "still open after {:?}", begun.elapsed()),
        }
        begun.elapsed()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn clients_that_dawdle_are_cut() {
    let limit = Duration::from_millis(300);
    let running = Running::start(Options { header_timeout: limit, ..options(None) }).await;
    for say in [&b""[..], b"GET /patr", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"PRI * HTTP/2.0\r\n\r\nSM"] {
        let took = until_closed(running.addr(), say).await;
        assert!(took >= limit, "{say:?} was cut after {took:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn tls_clients_that_dawdle_are_cut_too() {
    let files = Files::new();
    let tls = Some(Server::load(files.server(VerifyClient::None)).unwrap());
    let running = Running::start(Options { header_timeout: Duration::from_millis(300), ..options(tls) }).await;
    until_closed(running.addr(), b"").await;
    running.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_slots_come_back() {
    let running = Running::start(Options { max_connections: 1, ..options(None) }).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(
        TcpStream::connect(running.addr()).await.unwrap(),
    ))
    .await
    .unwrap();
    let first = tokio::spawn(connection);
    let request = || Request::get("/").header("host", "x").body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(request()).await.unwrap();
    until_closed(running.addr(), b"").await;
    drop(sender);
    first.await.unwrap().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while get(TcpStream::connect(running.addr()).await.unwrap(), Version::HTTP_11).await.is_err() {
        assert!(Instant::now() < deadline, "the slot doesn't come back");
        tokio::task::yield_now().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn those_who_ask_nothing_give_way() {
    use tokio::io::AsyncWriteExt;
    let running = Running::start(Options { max_connections: 4, ..options(None) }).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(running.addr()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
        silent.push(stream);
        get(TcpStream::connect(running.addr()).await.unwrap(), Version::HTTP_11).await.unwrap();
    }
    running.stop().await;
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let running = Running::start(options(None)).await;
    let mut request = Request::get("/").header("host", "x");
    for i in 0..100 {
        request = request.header(format!("x-{i}"), "1");
    }
    let io = TokioIo::new(TcpStream::connect(running.addr()).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    running.stop().await;
}

/// A certificate authority with a server's and a client's certificate, in a directory.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let files = Files { dir: tempfile::tempdir().unwrap() };
        files.issue("CN of nobody in particular");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes new files of every kind; the client's subject is `CN=<client>`.
    fn issue(&self, client: &str) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(self.path("ca.pem"), ca.pem()).unwrap();
        for (name, subject) in [("server", "pg1"), ("client", client)] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, subject);
            let certificate = params.signed_by(&key, &ca).unwrap();
            std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
    }

    fn server(&self, verify: VerifyClient) -> ServerFiles {
        ServerFiles {
            cert: self.path("server.pem"),
            key: Some(self.path("server.key")),
            client_ca: Some(self.path("ca.pem")),
            verify,
        }
    }

    fn client(&self, certificate: bool) -> ClientFiles {
        ClientFiles {
            ca: Some(self.path("ca.pem")),
            insecure: false,
            cert: certificate.then(|| self.path("client.pem")),
            key: certificate.then(|| self.path("client.key")),
        }
    }
}

async fn get_tls(addr: SocketAddr, files: &ClientFiles, version: Version) -> Result<String, BoxError> {
    let mut config = tls::client(files)?;
    config.alpn_protocols = vec![if version == Version::HTTP_2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let stream = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    get(stream, version).await
}

#[tokio::test]
async fn tls_carries_both_protocols_and_the_certificates_subject() {
    let files = Files::new();
    files.issue("ops");
    let tls = Server::load(files.server(VerifyClient::Optional)).unwrap();
    let running = Running::start(options(Some(tls))).await;
    let ask = |files: ClientFiles, version| {
        let addr = running.addr();
        async move { get_tls(addr, &files, version).await }
    };
    assert_eq!(ask(files.client(false), Version::HTTP_11).await.unwrap(), "HTTP/1.1 /patroni nobody");
    let shown = ask(files.client(true), Version::HTTP_2).await.unwrap();
    assert!(shown.starts_with("HTTP/2.0 /patroni ") && shown.contains("CN=ops"), "{shown}");
    let foreign = Files::new();
    let mixed = ClientFiles { ca: Some(files.path("ca.pem")), ..foreign.client(true) };
    assert!(ask(mixed, Version::HTTP_11).await.is_err(), "a certificate of another authority was taken");
    assert!(ask(foreign.client(false), Version::HTTP_11).await.is_err(), "the server wasn't verified");
    let insecure = ClientFiles { insecure: true, ..ClientFiles::default() };
    assert!(ask(insecure, Version::HTTP_11).await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn required_certificates_are_required() {
    let files = Files::new();
    let running = Running::start(options(Some(Server::load(files.server(VerifyClient::Required)).unwrap()))).await;
    assert!(get_tls(running.addr(), &files.client(false), Version::HTTP_11).await.is_err());
    assert!(get_tls(running.addr(), &files.client(true), Version::HTTP_11).await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn certificates_are_read_again_and_bad_ones_change_nothing() {
    let files = Files::new();
    let tls = Server::load(files.server(VerifyClient::None)).unwrap();
    let running = Running::start(options(Some(tls.clone()))).await;
    files.issue("new");
    assert!(get_tls(running.addr(), &files.client(false), Version::HTTP_11).await.is_err());
    tls.reload(tls.files()).unwrap();
    assert!(get_tls(running.addr(), &files.client(false), Version::HTTP_11).await.is_ok());
    std::fs::write(files.path("server.pem"), "nonsense").unwrap();
    let error = tls.reload(tls.files()).unwrap_err().to_string();
    assert!(error.contains("server.pem") && error.contains("CERTIFICATE"), "{error}");
    assert!(get_tls(running.addr(), &files.client(false), Version::HTTP_11).await.is_ok());
    running.stop().await;
}

#[test]
fn unusable_keys_are_explained() {
    let files = Files::new();
    let load = || Server::load(files.server(VerifyClient::None)).map(|_| ()).unwrap_err().to_string();
    std::fs::copy(files.path("client.key"), files.path("server.key")).unwrap();
    assert!(load().contains("can't be used together"), "{}", load());
    std::fs::write(files.path("server.key"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
    assert!(load().contains("decrypt it with"), "{}", load());
    std::fs::remove_file(files.path("server.key")).unwrap();
    assert!(load().contains("can't read"), "{}", load());
}
