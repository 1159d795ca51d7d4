//! The interfaces of the agent: REST and gRPC on one port, or gRPC on one of its own. What they answer is in `health` and
//! `control`.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ha::Status;
use ha::access::Peer;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use hyper::body::Incoming;
use instance::now;
use service::config::Config;
use service::listen::{self, Handle};
use service::tls;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::event::Event;
use crate::node::Node;

/// Orders that wait for the engine at a time; further ones are refused.
const ORDERS: usize = 16;

/// The running listeners.
pub(crate) struct Listeners {
    cancel: CancellationToken,
    handles: Vec<Handle>,
}

impl Listeners {
    /// Stops them and waits for the ports to be free.
    pub(crate) async fn stop(mut self) {
        self.cancel.cancel();
        for handle in &mut self.handles {
            handle.ended().await;
        }
    }
}

/// Starts listening.
pub(crate) fn serve(
    node: &Arc<Node>,
    status: watch::Receiver<Arc<Status>>,
    events: mpsc::Sender<Event>,
) -> Result<Listeners> {
    let config = node.config();
    let tls = match tls::ServerFiles::of(&config.restapi) {
        Some(files) => Some(tls::Server::load(files).context("restapi")?),
        None => None,
    };
    let orders = forward_orders(events);
    let rest = rest_service(&config, node, status.clone(), orders.clone())?;
    let routes = control::routes(control::Options { access: node.access() }, status, now, orders);
    let grpc = listen::service(routes);
    let cancel = CancellationToken::new();
    let start = |name: &'static str, at: &service::config::HostPort, rest, grpc| {
        let options = listen::Options::new(name, at.clone(), tls.clone());
        listen::serve(options, rest, grpc, cancel.clone())
    };
    let mut handles = Vec::new();
    match &config.control.listen {
        None => handles.push(start("rest", &config.restapi.listen, rest, Some(grpc))?),
        Some(own) => {
            handles.push(start("rest", &config.restapi.listen, rest.clone(), None)?);
            handles.push(start("control", own, rest, Some(grpc))?);
        }
    }
    if let Some(server) = tls {
        // Set once: the listeners are started once.
        let _ = node.certificates.set(server);
    }
    Ok(Listeners { cancel, handles })
}

fn rest_service(
    config: &Config,
    node: &Node,
    status: watch::Receiver<Arc<Status>>,
    orders: health::Orders,
) -> Result<listen::Service> {
    let extra_headers = extra_headers(config)?;
    let options = health::Options { access: node.access(), extra_headers };
    let looker = node.looker.clone();
    let api = Arc::new(health::Api::new(options, status, now, orders).looking(move || looker.notify_one()));
    Ok(listen::service(tower::service_fn(move |request: Request<Incoming>| {
        let api = api.clone();
        async move {
            let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
            Ok::<_, Infallible>(api.handle(request, &peer).await)
        }
    })))
}

fn extra_headers(config: &Config) -> Result<HeaderMap> {
    let r = &config.restapi;
    let over_tls = r.certfile.is_some().then_some(&r.https_extra_headers);
    let mut headers = HeaderMap::new();
    for (name, value) in r.http_extra_headers.iter().chain(over_tls.into_iter().flatten()) {
        let bad = || format!("restapi.http_extra_headers: {name}: {value:?} is not a header");
        let name: HeaderName = name.parse().with_context(bad)?;
        headers.insert(name, HeaderValue::from_str(value).with_context(bad)?);
    }
    Ok(headers)
}

/// Carries orders from the interfaces to the engine.
fn forward_orders(events: mpsc::Sender<Event>) -> health::Orders {
    let (sender, mut receiver) = mpsc::channel(ORDERS);
    tokio::spawn(async move {
        while let Some((order, answer)) = receiver.recv().await {
            if events.send(Event::Order(order, answer)).await.is_err() {
                return;
            }
        }
    });
    sender
}
