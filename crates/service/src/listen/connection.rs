//! One accepted connection: TLS, protocol detection, time limits, and which service a request goes to.

use std::pin::pin;

use super::*;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// A dead peer of an idle HTTP/2 connection is found by pings.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 64;
/// Bytes of an HTTP/1 head, and of HTTP/2 headers.
const HEAD_BYTES: usize = 16 * 1024;

/// Serves a connection until its end or the listener's.
pub(super) async fn serve(
    stream: TcpStream,
    from: SocketAddr,
    options: &Options,
    services: (Service, Option<Service>),
    cancel: CancellationToken,
    entry: Entry,
) {
    let mut peer = Peer { address: Some(from), certificate: None };
    let Some(tls) = &options.tls else {
        return http(stream, peer, options, services, cancel, entry).await;
    };
    let handshake = TlsAcceptor::from(tls.config()).accept(stream);
    let handshake = tokio::time::timeout(options.header_timeout, handshake);
    let Some(shaken) = entry.evicted.run_until_cancelled(handshake).await else { return };
    match shaken {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            peer.certificate = certificates.and_then(|chain| tls::subject(chain.first()?));
            http(stream, peer, options, services, cancel, entry).await;
        }
        Ok(Err(e)) => tracing::debug!(listener = options.name, %from, "TLS handshake failed: {e}"),
        Err(_) => tracing::debug!(listener = options.name, %from, "TLS handshake took too long"),
    }
}

async fn http<I>(
    io: I,
    peer: Peer,
    options: &Options,
    (rest, grpc): (Service, Option<Service>),
    cancel: CancellationToken,
    entry: Entry,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = builder(options);
    let asked = Arc::new(AtomicBool::new(false));
    let (seen, evicted) = (asked.clone(), entry.evicted.clone());
    let from = peer.address;
    let dispatch = service_fn(move |mut request: Request<Incoming>| {
        if !seen.swap(true, Ordering::Relaxed) {
            entry.spoke();
        }
        request.extensions_mut().insert(peer.clone());
        let service = if is_grpc(&request) { grpc.clone() } else { Some(rest.clone()) };
        async move {
            match service {
                Some(service) => service.oneshot(request).await,
                None => Ok(unimplemented()),
            }
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), dispatch));
    // The limits of hyper begin once it knows the protocol, which a silent client never tells.
    let mut first = pin!(tokio::time::sleep(options.header_timeout));
    let (mut waiting, mut stopping) = (true, false);
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(e) = result {
                    tracing::debug!(listener = options.name, ?from, "connection ended: {e}");
                }
                return;
            }
            () = first.as_mut(), if waiting => {
                waiting = false;
                if !asked.load(Ordering::Relaxed) {
                    tracing::debug!(listener = options.name, ?from, "no request in time");
                    return;
                }
            }
            () = evicted.cancelled() => {
                tracing::debug!(listener = options.name, ?from, "no request yet, and others wait for a connection");
                return;
            }
            () = cancel.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn builder(options: &Options) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_headers(options.max_headers)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX));
    builder
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// gRPC's way to say that there is no such service (code 12), for ports that only speak REST.
fn unimplemented() -> Response<Body> {
    let body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("12"));
    headers.insert("grpc-message", HeaderValue::from_static("this port serves REST only"));
    response
}
