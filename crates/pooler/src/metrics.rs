//! The HTTP server for monitoring: Prometheus metrics at `/metrics`, `/health` and `/ready`, on a thread of its own. What
//! the numbers are is told by `pool::metrics`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use pool::config::Settings;
use pool::metrics::Health;
use pool::pooler::Pooler;
use service::config::HostPort;
use service::listen::{self, Handle, Options, Service};
use service::tasks::Tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

#[cfg(test)]
mod tests;

/// How soon an address that can't be listened on is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Connections at a time; monitoring needs few.
const MOST_CONNECTIONS: usize = 64;

/// A server for monitoring, or the attempt to have one.
pub(crate) struct Metrics {
    stop: CancellationToken,
    stopped: watch::Receiver<bool>,
}

/// Where to serve; `None`: nowhere.
pub(crate) fn address(settings: &Settings) -> Result<Option<HostPort>, String> {
    let text = settings.metrics_listen.trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|e| format!("metrics_listen: \"{text}\" is not an address: {e}"))
}

impl Metrics {
    /// Serves until the tasks end or it's stopped. An address that is taken is tried again and again: clients don't
    /// depend on it.
    pub(crate) fn start(pooler: Arc<Pooler>, at: HostPort, tasks: &Tasks) -> Metrics {
        Metrics::start_trying(pooler, at, tasks, RETRY)
    }

    fn start_trying(pooler: Arc<Pooler>, at: HostPort, tasks: &Tasks, retry: Duration) -> Metrics {
        let stop = tasks.token().child_token();
        let (sender, stopped) = watch::channel(false);
        let own = stop.clone();
        tasks.spawn_graceful("metrics", |ending| async move {
            if let Some(mut handle) = own.run_until_cancelled(listen(&pooler, &at, &own, retry)).await {
                handle.ended().await;
                if !own.is_cancelled() {
                    error!(target: "pooler", "metrics_listen: the server has ended by itself, metrics are gone");
                }
            }
            sender.send_replace(true);
            ending.cancelled().await;
        });
        Metrics { stop, stopped }
    }

    /// Stops serving; returns when the port is free.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        // An error means that the task has ended, and the server with it.
        let _ = self.stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Listens as soon as it's possible.
async fn listen(pooler: &Arc<Pooler>, at: &HostPort, stop: &CancellationToken, retry: Duration) -> Handle {
    let mut told = false;
    loop {
        let mut options = Options::new("metrics", at.clone(), None);
        options.max_connections = MOST_CONNECTIONS;
        let (service, stop) = (service(pooler.clone()), stop.clone());
        // A name may take its time to be looked up, and signals don't wait.
        let begun = tokio::task::spawn_blocking(move || listen::serve(options, service, None, stop)).await;
        let problem = match begun {
            Ok(Ok(handle)) => {
                info!(target: "pooler", "metrics and health at {at}");
                return handle;
            }
            Ok(Err(e)) => e.to_string(),
            Err(e) => e.to_string(),
        };
        if !told {
            warn!(target: "pooler", "metrics_listen: {problem}; serving clients without metrics, trying again");
            told = true;
        }
        tokio::time::sleep(retry).await;
    }
}

fn service(pooler: Arc<Pooler>) -> Service {
    listen::service(tower::service_fn(move |request: Request<Incoming>| {
        let pooler = pooler.clone();
        async move { Ok::<_, Infallible>(answer(&pooler, request.method(), request.uri().path()).await) }
    }))
}

async fn answer(pooler: &Pooler, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/metrics" | "/health" | "/ready" if !reads => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/metrics" => {
            let mut response = Response::new(Full::from(pooler.metrics().await));
            let kind = HeaderValue::from_static(pool::metrics::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/health" => verdict(pooler.health().await, Health::is_alive),
        "/ready" => verdict(pooler.health().await, Health::is_ready),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /health and /ready"),
    }
}

fn verdict(health: Health, good: fn(Health) -> bool) -> Response<Full<Bytes>> {
    let status = if good(health) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = text(status, &health.to_string());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{line}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
