//! The REST API, Patroni's: health checks, views of the cluster, metrics and orders, over the published status. The
//! listener, TLS and what becomes of an order are elsewhere.

mod checks;
mod json;
mod metrics;
mod orders;
mod query;
mod reply;
mod report;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ha::access::{Access, Peer};
use ha::command::{Order, Reply};
use ha::{Status, Tick};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use tokio::sync::{mpsc, oneshot, watch};

use query::Query;

/// Where orders go, each with the place for its answer.
pub type Orders = mpsc::Sender<(Order, oneshot::Sender<Reply>)>;

/// What the API needs beside the status.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may give orders. A reload publishes a new value.
    pub access: watch::Receiver<Arc<Access>>,
    /// Headers put on every answer (`restapi.http_extra_headers`).
    pub extra_headers: HeaderMap,
}

/// How long `/patroni` waits for a look at PostgreSQL: members compare positions in it, and one that is a second old would
/// let another lead that has less. A server that can't be looked at mustn't hold an answer up.
const LOOK_LIMIT: Duration = Duration::from_millis(250);
/// A look as young as this will do.
const FRESH: Duration = Duration::from_millis(20);

/// The API of one agent. It holds no state of its own and asks PostgreSQL and the DCS nothing: it answers truthfully and at
/// once (`/patroni` in a moment), however stuck the agent is.
pub struct Api {
    options: Options,
    status: watch::Receiver<Arc<Status>>,
    clock: Box<dyn Fn() -> Tick + Send + Sync>,
    orders: Orders,
    look: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Api {
    /// An API over the published status. `clock` reads CLOCK_BOOTTIME.
    pub fn new(
        options: Options,
        status: watch::Receiver<Arc<Status>>,
        clock: impl Fn() -> Tick + Send + Sync + 'static,
        orders: Orders,
    ) -> Api {
        Api { options, status, clock: Box::new(clock), orders, look: None }
    }

    /// The same, with a way to have PostgreSQL looked at before `/patroni` answers.
    #[must_use]
    pub fn looking(mut self, look: impl Fn() + Send + Sync + 'static) -> Api {
        self.look = Some(Box::new(look));
        self
    }

    /// Answers one request. Reads need no credentials; orders are checked against the access rules.
    pub async fn handle<B>(&self, request: Request<B>, peer: &Peer) -> Response<Full<Bytes>>
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut response = match *request.method() {
            Method::GET | Method::HEAD | Method::OPTIONS => {
                if *request.method() == Method::GET && request.uri().path() == "/patroni" {
                    self.refresh().await;
                }
                self.read(request.method(), request.uri())
            }
            _ => self.write(request, peer).await,
        };
        response.headers_mut().extend(self.options.extra_headers.clone());
        response
    }

    /// Waits for a status from after this moment, in its bounds.
    async fn refresh(&self) {
        let Some(look) = &self.look else { return };
        let asked = (self.clock)();
        let since = asked.before(FRESH);
        let fresh = |status: &Arc<Status>| status.looked_at.is_some_and(|at| at >= since);
        if fresh(&self.status.borrow()) {
            return;
        }
        look();
        // Without one the last status is the best there is.
        let _ = tokio::time::timeout(LOOK_LIMIT, self.status.clone().wait_for(fresh)).await;
    }

    fn moment(&self) -> Moment {
        let status = self.status.borrow().clone();
        // The clock is read after the status, so that a lease never seems longer than it is.
        Moment { status, now: (self.clock)() }
    }

    fn read(&self, method: &Method, uri: &http::Uri) -> Response<Full<Bytes>> {
        let moment = self.moment();
        let query = Query::parse(uri.query().unwrap_or_default());
        let response = get(uri.path(), &query, &moment);
        if method == Method::GET { response } else { reply::empty(response.status()) }
    }
}

/// The status with the time at which it is looked at.
struct Moment {
    status: Arc<Status>,
    now: Tick,
}

impl Moment {
    /// Whether this node holds the leader key and its lease certainly still lives.
    fn leads(&self) -> bool {
        self.status.leader_until.is_some_and(|until| self.now < until)
    }
}

fn get(path: &str, query: &Query, moment: &Moment) -> Response<Full<Bytes>> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "liveness" => reply::empty(checks::code(checks::is_alive(moment))),
        "readiness" => reply::empty(checks::code(checks::is_ready(query, moment))),
        "patroni" => reply::json(StatusCode::OK, &report::patroni(moment)),
        "cluster" => match report::cluster(&moment.status) {
            Some(cluster) => reply::json(StatusCode::OK, &cluster),
            None => reply::text(StatusCode::SERVICE_UNAVAILABLE, "the DCS has not been read yet"),
        },
        "history" => reply::json(StatusCode::OK, &report::history(&moment.status)),
        "config" => match moment.status.cluster.as_ref().and_then(|c| c.config.as_ref()) {
            Some(config) => reply::json(StatusCode::OK, &config.value),
            None => reply::text(StatusCode::BAD_GATEWAY, "there is no dynamic configuration"),
        },
        "metrics" => reply::metrics(metrics::render(moment)),
        "failsafe" => reply::text(StatusCode::BAD_GATEWAY, "failsafe mode is off"),
        _ => reply::json(checks::code(checks::passes(path, query, moment)), &report::patroni(moment)),
    }
}
