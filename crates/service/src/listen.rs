//! One port for REST and gRPC, HTTP/1.1 and HTTP/2, plain or TLS, on a thread of its own, so that health checks are
//! answered however busy the program is. What the services answer is theirs.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use ha::access::Peer;
use http::{HeaderValue, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::BoxCloneService;
use tower::{BoxError, ServiceExt};

use self::silent::{Entry, Silent};
use crate::config::HostPort;
use crate::tls;

mod bind;
mod connection;
mod silent;

#[cfg(test)]
mod tests;

/// Body of every answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A service that the listener hands requests to. Make one with [`service`].
pub type Service = BoxCloneService<Request<Incoming>, Response<Body>, Infallible>;

/// Boxes a tower service, whatever its body: tonic's `Routes` as it is, or a `tower::service_fn`. Each request carries
/// its [`ha::access::Peer`] as an extension.
pub fn service<S, B>(service: S) -> Service
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let boxed = |response: Response<B>| response.map(|body| body.map_err(Into::into).boxed_unsync());
    BoxCloneService::new(service.map_response(boxed))
}

/// Where and how to listen.
#[derive(Clone)]
pub struct Options {
    /// Name of the thread and in log lines, such as `rest`.
    pub name: &'static str,
    /// Where; port 0 takes a free one.
    pub listen: HostPort,
    /// TLS; `None` is plain TCP.
    pub tls: Option<tls::Server>,
    /// How long a client may take for the TLS handshake and the head of a request, and stay without a first one.
    pub header_timeout: Duration,
    /// Connections at a time; a further one takes the place of the oldest that has asked nothing yet, or is closed at once.
    pub max_connections: usize,
    /// Headers of a request.
    pub max_headers: usize,
    /// How long answers under way may take once the listener stops.
    pub grace: Duration,
}

impl Options {
    /// The usual limits: 10 s for a head, 512 connections, 64 headers, 2 s of grace.
    pub fn new(name: &'static str, listen: HostPort, tls: Option<tls::Server>) -> Options {
        Options {
            name,
            listen,
            tls,
            header_timeout: Duration::from_secs(10),
            max_connections: 512,
            max_headers: 64,
            grace: Duration::from_secs(2),
        }
    }
}

/// The listener can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address can't be listened on: a matter of configuration. The text names it and says what to do.
    #[error("{0}")]
    Bind(String),
    /// The machine refuses a thread or the like.
    #[error("can't start the listener: {0}")]
    Start(#[from] io::Error),
}

/// A running listener. It stops on its cancellation token; dropping the handle doesn't stop it.
#[derive(Debug)]
pub struct Handle {
    addresses: Vec<SocketAddr>,
    ended: watch::Receiver<bool>,
}

impl Handle {
    /// The first address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All addresses it listens on, never empty.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until the listener has stopped and its port is free. Can be called from any runtime, again and again.
    pub async fn ended(&mut self) {
        // An error means that the thread is gone, which is what is waited for.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

/// Starts listening. Requests whose content type is gRPC's go to `grpc`, all others to `rest`.
///
/// # Errors
/// The address can't be listened on.
pub fn serve(
    options: Options,
    rest: Service,
    grpc: Option<Service>,
    cancel: CancellationToken,
) -> Result<Handle, Error> {
    let listeners = bind::bind(&options.listen)?;
    let addresses: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr()).collect::<io::Result<_>>()?;
    if addresses.is_empty() {
        return Err(Error::Bind(format!("can't listen on {}: it names no address", options.listen)));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, ended) = watch::channel(false);
    thread::Builder::new().name(options.name.to_owned()).spawn(move || {
        let end = End(sender);
        runtime.block_on(run(options, listeners, rest, grpc, cancel));
        runtime.shutdown_background();
        drop(end);
    })?;
    Ok(Handle { addresses, ended })
}

/// Tells the end of the thread, also when it panics.
struct End(watch::Sender<bool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

async fn run(
    options: Options,
    listeners: Vec<std::net::TcpListener>,
    rest: Service,
    grpc: Option<Service>,
    cancel: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let grace = options.grace;
    let slots = Arc::new(Semaphore::new(options.max_connections));
    let options = Arc::new(options);
    let crowded = Arc::new(AtomicBool::new(false));
    let silent = Silent::default();
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let door = Door {
            options: options.clone(),
            slots: slots.clone(),
            rest: rest.clone(),
            grpc: grpc.clone(),
            tracker: tracker.clone(),
            cancel: cancel.clone(),
            crowded: crowded.clone(),
            silent: silent.clone(),
        };
        accepting.spawn(door.accept_all(listener));
    }
    while accepting.join_next().await.is_some() {}
    tracker.close();
    if tokio::time::timeout(grace, tracker.wait()).await.is_err() {
        tracing::debug!(listener = options.name, connections = tracker.len(), "closing connections still in use");
    }
}

/// One listening socket.
struct Door {
    options: Arc<Options>,
    slots: Arc<Semaphore>,
    rest: Service,
    grpc: Option<Service>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    /// The limit of connections was reached and reported.
    crowded: Arc<AtomicBool>,
    silent: Silent,
}

impl Door {
    async fn accept_all(self, listener: std::net::TcpListener) {
        let name = self.options.name;
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(e) => return tracing::error!(listener = name, "can't listen: {e}"),
        };
        let mut failures = 0_u32;
        while let Some(accepted) = self.cancel.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, from)) => {
                    failures = 0;
                    self.admit(stream, from);
                }
                Err(e) if is_of_one_connection(&e) => {}
                Err(e) => {
                    // Out of file descriptors or memory: connections wait in the kernel meanwhile.
                    if failures.is_power_of_two() || failures == 0 {
                        tracing::warn!(listener = name, "can't accept a connection: {e}; trying again");
                    }
                    failures += 1;
                    let pause = Duration::from_millis(50) * failures.min(20);
                    let _ = self.cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, from: SocketAddr) {
        let slot = self.slots.clone().try_acquire_owned().ok();
        if slot.is_none() {
            let place = self.silent.evict();
            if !self.crowded.swap(true, Ordering::Relaxed) {
                let (limit, name) = (self.options.max_connections, self.options.name);
                let what = if place { "those that ask nothing give way" } else { "closing new ones" };
                tracing::warn!(listener = name, %from, "all {limit} connections are in use: {what}");
            }
            if !place {
                return;
            }
        }
        if self.slots.available_permits() > self.options.max_connections / 2 {
            self.crowded.store(false, Ordering::Relaxed);
        }
        // Answers are small and somebody waits for each.
        let _ = stream.set_nodelay(true);
        // A socket of both families shows IPv4 clients as mapped addresses, which no allowlist or reader wants to see.
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let (rest, grpc) = (self.rest.clone(), self.grpc.clone());
        let (options, cancel) = (self.options.clone(), self.cancel.clone());
        let (slots, entry) = (self.slots.clone(), self.silent.enter());
        self.tracker.spawn(async move {
            let slot = match slot {
                Some(slot) => Some(slot),
                // The one that gives way frees it at once.
                None => match entry.evicted.run_until_cancelled(slots.acquire_owned()).await {
                    Some(slot) => slot.ok(),
                    None => return,
                },
            };
            connection::serve(stream, from, &options, (rest, grpc), cancel, entry).await;
            drop(slot);
        });
    }
}

/// Errors that accept(2) reports for a connection that is already gone.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
