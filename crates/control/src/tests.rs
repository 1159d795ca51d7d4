//! The service and the client against each other over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ha::access::{Access, Credentials, Peer};
use ha::cluster::{Cluster, HistoryLine, Leader, Member, Revisioned, Term};
use ha::command::{Command, Order, Outcome, Reply, RestartFilter};
use ha::{Lsn, Role, State, Status, Tick};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt as _;

use crate::{Client, ClientOptions, Error, Options, Step, routes};

/// A service on a socket, with everything around it in the test's hands.
struct Bed {
    address: String,
    status: watch::Sender<Arc<Status>>,
    clock: Arc<AtomicU64>,
    orders: mpsc::Receiver<(Order, oneshot::Sender<Reply>)>,
    roots: rustls::RootCertStore,
}

fn status() -> Status {
    let member = |name: &str| Member {
        name: name.to_owned(),
        state: "running".to_owned(),
        xlog_location: Some(Lsn(1000)),
        ..Member::default()
    };
    let cluster = Cluster {
        leader: Some(Leader { name: "pg1".to_owned(), term: Term { dcs_id: 1, revision: 5 }, lease: 7 }),
        members: ["pg1", "pg2"].into_iter().map(|n| (n.to_owned(), member(n))).collect(),
        config: Some(Revisioned { revision: 3, value: json!({"ttl": 30}) }),
        history: vec![HistoryLine {
            timeline: 1,
            lsn: Lsn(5),
            reason: "no recovery target specified".to_owned(),
            timestamp: String::new(),
            new_leader: String::new(),
        }],
        ..Cluster::default()
    };
    Status {
        scope: "otus".to_owned(),
        name: "pg1".to_owned(),
        state: State::Running,
        role: Role::Primary,
        leader_until: Some(Tick::from_millis(20_000)),
        dcs_last_seen: 1_795_414_531,
        cluster: Some(Arc::new(cluster)),
        reason: "leads".to_owned(),
        ..Status::default()
    }
}

impl Bed {
    async fn new() -> Bed {
        Bed::with(Access::default(), false).await
    }

    async fn with(access: Access, tls: bool) -> Bed {
        let (status, published) = watch::channel(Arc::new(status()));
        let clock = Arc::new(AtomicU64::new(Tick::from_millis(10_000).0));
        let time = clock.clone();
        let (sender, orders) = mpsc::channel(1);
        let options = Options { access: watch::channel(Arc::new(access)).1 };
        let routes = routes(options, published, move || Tick(time.load(Ordering::SeqCst)), sender);
        let (acceptor, roots) = certificates();
        let at = serve(routes, tls.then_some(acceptor)).await;
        let address = format!("{}://127.0.0.1:{}/patroni", if tls { "https" } else { "http" }, at.port());
        Bed { address, status, clock, orders, roots }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.address, ClientOptions::default()).await.unwrap()
    }

    fn publish(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }

    /// Answers the next order and returns it.
    async fn answer(&mut self, reply: Reply) -> Order {
        let (order, answer) = soon(self.orders.recv()).await.expect("an order");
        answer.send(reply).expect("someone waits for the answer");
        order
    }

    /// Refuses the order that was just given, and sees that its giver is told so.
    async fn refuses(&mut self, course: Result<crate::Course, Error>, wanted: Command) {
        let reply = Reply::new(Outcome::Precondition, "not now");
        assert_eq!(self.answer(reply.clone()).await.command, wanted);
        let mut lines = Vec::new();
        let end = soon(course.unwrap().finish(|line| lines.push(line.to_owned()))).await.unwrap();
        assert_eq!((end, lines), (reply, vec!["accepted".to_owned()]));
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("in time")
}

/// A certificate of 127.0.0.1 and the roots that trust it.
fn certificates() -> (tokio_rustls::TlsAcceptor, rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (tokio_rustls::TlsAcceptor::from(Arc::new(config)), roots)
}

fn trusting(roots: rustls::RootCertStore) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

async fn serve(routes: tonic::service::Routes, tls: Option<tokio_rustls::TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            let peer = Peer { address: Some(from), certificate: None };
            let service = routes.clone().map_request(move |mut request: http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(peer.clone());
                request
            });
            let tls = tls.clone();
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(service);
                let _ = match tls {
                    None => server.serve_connection(TokioIo::new(stream), service).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => server.serve_connection(TokioIo::new(stream), service).await,
                        Err(_) => Ok(()),
                    },
                };
            });
        }
    });
    address
}

#[tokio::test]
async fn reads_tell_what_is_published() {
    let bed = Bed::new().await;
    let client = bed.client().await;
    let published = status();
    let view = client.cluster().await.unwrap();
    assert_eq!((view.scope.as_str(), view.answered_by.as_str()), ("otus", "pg1"));
    assert_eq!(Some(&view.cluster), published.cluster.as_deref());
    assert_eq!(view.read_at.unwrap().as_second(), 1_795_414_531);
    assert_eq!(client.config().await.unwrap(), Revisioned { revision: 3, value: json!({"ttl": 30}) });
    assert_eq!(client.history().await.unwrap(), view.cluster.history);
    assert_eq!(client.status().await.unwrap().leader_for, Some(Duration::from_secs(10)));

    bed.publish(|s| s.cluster = Some(Arc::default()));
    assert!(matches!(client.config().await, Err(Error::Precondition(_))));
    bed.publish(|s| s.cluster = None);
    assert!(matches!(client.cluster().await, Err(Error::Unavailable(_))));
    assert!(matches!(client.config().await, Err(Error::Unavailable(_))));
    assert!(matches!(client.history().await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn watching_shows_each_change_of_the_cluster_once() {
    let bed = Bed::new().await;
    let mut views = bed.client().await.watch_cluster().await.unwrap();
    let leader = |view: Option<crate::View>| view.unwrap().cluster.leader.map(|l| l.name);
    assert_eq!(leader(soon(views.next()).await.unwrap()).as_deref(), Some("pg1"));

    bed.publish(|s| s.reason = "only the reason changed".to_owned());
    bed.publish(|s| s.cluster = Some(Arc::new(Cluster { leader: None, ..(**s.cluster.as_ref().unwrap()).clone() })));
    assert_eq!(leader(soon(views.next()).await.unwrap()), None);

    // What the client doesn't read in time is joined: three changes, the last of which arrives last.
    for name in ["pg2", "pg3", "pg4"] {
        bed.publish(|s| {
            let leader = Some(Leader { name: name.to_owned(), term: Term::default(), lease: 0 });
            s.cluster = Some(Arc::new(Cluster { leader, ..(**s.cluster.as_ref().unwrap()).clone() }));
        });
    }
    let mut seen = leader(soon(views.next()).await.unwrap());
    while seen.as_deref() != Some("pg4") {
        seen = leader(soon(views.next()).await.unwrap());
    }
    drop(bed.status);
    assert_eq!(soon(views.next()).await.unwrap(), None, "the stream ends with the agent's loop");
}

#[tokio::test]
async fn long_orders_show_their_progress() {
    let mut bed = Bed::new().await;
    let client = bed.client().await;
    let mut course = client.switchover(Some("pg1".to_owned()), Some("pg2".to_owned())).await.unwrap();
    let (order, answer) = soon(bed.orders.recv()).await.unwrap();
    let wanted = Command::Switchover { leader: Some("pg1".to_owned()), candidate: Some("pg2".to_owned()) };
    assert_eq!((order.command, order.who.as_str()), (wanted, "anonymous"));
    assert!(order.from.starts_with("127.0.0.1:") && order.from.ends_with(" over gRPC"), "{}", order.from);
    assert_eq!(soon(course.next()).await.unwrap(), Step::Line("accepted".to_owned()));

    bed.publish(|s| s.timeline = Some(9));
    bed.publish(|s| {
        s.state = State::Stopping;
        s.reason = "hands over to pg2".to_owned();
    });
    let line = Step::Line("pg1 is stopping: hands over to pg2".to_owned());
    assert_eq!(soon(course.next()).await.unwrap(), line);

    let done = Reply::new(Outcome::Done, "Successfully switched over to \"pg2\"");
    answer.send(done.clone()).unwrap();
    assert_eq!(soon(course.next()).await.unwrap(), Step::End(done));
}

#[tokio::test]
async fn every_long_order_arrives_as_it_was_meant() {
    let mut bed = Bed::new().await;
    let client = bed.client().await;
    let filter = RestartFilter { restart_pending: true, timeout_secs: Some(60), ..RestartFilter::default() };
    bed.refuses(client.failover("pg2".to_owned()).await, Command::Failover { candidate: "pg2".to_owned() }).await;
    bed.refuses(client.restart(filter.clone()).await, Command::Restart(filter)).await;
    let reinitialize = Command::Reinitialize { force: true, from_leader: false };
    bed.refuses(client.reinitialize(true, false).await, reinitialize).await;
    assert!(matches!(client.failover(String::new()).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_failed_order_also_ends_with_its_code() {
    use crate::proto::control_client::ControlClient;
    let mut bed = Bed::new().await;
    let mut raw = ControlClient::connect(bed.address.clone()).await.unwrap();
    let request = crate::proto::FailoverRequest { candidate: "pg9".to_owned() };
    let mut stream = raw.failover(request).await.unwrap().into_inner();
    bed.answer(Reply::new(Outcome::Precondition, "candidate does not exists")).await;
    assert!(!soon(stream.message()).await.unwrap().unwrap().done);
    assert!(soon(stream.message()).await.unwrap().unwrap().done);
    let status = soon(stream.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::FailedPrecondition, "candidate does not exists"));
}

#[tokio::test]
async fn an_agent_that_ends_mid_order_is_reported() {
    let mut bed = Bed::new().await;
    let client = bed.client().await;
    let course = client.restart(RestartFilter::default()).await.unwrap();
    drop(soon(bed.orders.recv()).await.unwrap());
    assert_eq!(soon(course.finish(|_| ())).await.unwrap().outcome, Outcome::Failed);

    // The queue of one is full now; the next order is refused at once.
    let waiting = client.restart(RestartFilter::default()).await.unwrap();
    assert!(matches!(client.restart(RestartFilter::default()).await, Err(Error::Unavailable(_))));
    drop(waiting);
    bed.orders.close();
    assert!(matches!(client.reload().await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn configuration_is_changed_by_revision() {
    let mut bed = Bed::new().await;
    let client = bed.client().await;
    let changed = Reply { body: Some(json!({"ttl": 20})), ..Reply::new(Outcome::Done, "") };
    let patch = json!({"ttl": 20, "pause": null});
    let (result, order) = tokio::join!(client.patch_config(&patch, Some(3)), bed.answer(changed.clone()));
    assert_eq!(order.command, Command::PatchConfig { patch, revision: Some(3) });
    assert_eq!(result.unwrap(), Some(json!({"ttl": 20})));

    let config = json!({"ttl": 20});
    let (result, order) = tokio::join!(client.put_config(&config, None), bed.answer(changed));
    assert_eq!(order.command, Command::PutConfig { config: config.clone(), revision: None });
    assert_eq!(result.unwrap(), Some(config.clone()));

    let lost = Reply::new(Outcome::Conflict, "the configuration has changed");
    let (result, _) = tokio::join!(client.put_config(&config, Some(2)), bed.answer(lost));
    assert_eq!(result, Err(Error::Conflict("the configuration has changed".to_owned())));
    assert!(matches!(client.patch_config(&json!([1]), None).await, Err(Error::Invalid(_))));

    let done = Reply::new(Outcome::Done, "");
    let (result, order) = tokio::join!(client.pause(), bed.answer(done.clone()));
    result.unwrap();
    assert_eq!(order.command, Command::PatchConfig { patch: json!({"pause": true}), revision: None });
    let (result, order) = tokio::join!(client.resume(), bed.answer(done));
    result.unwrap();
    assert_eq!(order.command, Command::PatchConfig { patch: json!({"pause": null}), revision: None });

    let (result, order) = tokio::join!(client.reload(), bed.answer(Reply::new(Outcome::Accepted, "reload scheduled")));
    assert_eq!((result.unwrap().as_str(), order.command), ("reload scheduled", Command::Reload));
}

#[tokio::test]
async fn orders_need_credentials_and_reads_do_not() {
    let credentials = Credentials { user: "admin".to_owned(), password: "secret".to_owned() };
    let mut bed = Bed::with(Access { credentials: Some(credentials.clone()), ..Access::default() }, false).await;
    let anonymous = bed.client().await;
    anonymous.cluster().await.unwrap();
    let refused = |e: &Error| matches!(e, Error::Refused(_));
    assert!(refused(&anonymous.reload().await.unwrap_err()));
    assert!(refused(&anonymous.pause().await.unwrap_err()));
    assert!(refused(&anonymous.patch_config(&json!({"ttl": 1}), None).await.unwrap_err()));
    assert!(refused(&anonymous.put_config(&json!({"ttl": 1}), None).await.unwrap_err()));
    assert!(refused(&anonymous.resume().await.unwrap_err()));
    assert!(refused(&anonymous.switchover(None, None).await.unwrap_err()));
    assert!(refused(&anonymous.failover("pg2".to_owned()).await.unwrap_err()));
    assert!(refused(&anonymous.restart(RestartFilter::default()).await.unwrap_err()));
    assert!(refused(&anonymous.reinitialize(false, false).await.unwrap_err()));
    assert!(bed.orders.try_recv().is_err());

    let options = ClientOptions { credentials: Some(credentials), ..ClientOptions::default() };
    let admin = Client::connect(&bed.address, options).await.unwrap();
    let (result, order) = tokio::join!(admin.reload(), bed.answer(Reply::new(Outcome::Accepted, "")));
    result.unwrap();
    assert_eq!(order.who, "admin");

    let certified = Bed::with(Access { client_certificate: true, ..Access::default() }, false).await;
    let error = certified.client().await.reload().await.unwrap_err();
    assert_eq!(error, Error::Refused("client certificate required".to_owned()));
}

#[tokio::test]
async fn tls_is_spoken_and_checked() {
    let bed = Bed::with(Access::default(), true).await;
    let with = |tls| ClientOptions { tls, ..ClientOptions::default() };
    let client = Client::connect(&bed.address, with(Some(trusting(bed.roots.clone())))).await.unwrap();
    assert_eq!(client.cluster().await.unwrap().scope, "otus");
    let distrusting = with(Some(trusting(rustls::RootCertStore::empty())));
    assert!(matches!(Client::connect(&bed.address, distrusting).await, Err(Error::Unreachable(_))));
    assert!(matches!(Client::connect(&bed.address, with(None)).await, Err(Error::Address(_))));
}

#[tokio::test]
async fn addresses_that_lead_nowhere_are_told_apart() {
    for bad in ["", "127.0.0.1:8008", "ftp://127.0.0.1:1/", "http://"] {
        let error = Client::connect(bad, ClientOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::Address(_)), "{bad}: {error:?}");
    }
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let error = Client::connect(&nobody, ClientOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_server_without_http2_is_no_control_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            stream.write_all(b"HTTP/1.0 505 HTTP Version Not Supported\r\n\r\n").await.unwrap();
        }
    });
    let result = match Client::connect(&address, ClientOptions::default()).await {
        Ok(client) => soon(client.cluster()).await.map(drop),
        Err(e) => Err(e),
    };
    assert!(matches!(result, Err(Error::NotControl(_))), "{result:?}");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let options = ClientOptions { timeout: Duration::from_millis(100), ..ClientOptions::default() };
    let client = Client::connect(&address, options).await.unwrap();
    let error = soon(client.cluster()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut(_)), "{error:?}");
}

#[tokio::test]
async fn the_health_service_follows_the_lease_of_a_stuck_agent() {
    let bed = Bed::new().await;
    let channel = tonic::transport::Endpoint::from_shared(bed.address.clone()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut serving = async |service: &str| {
        health.check(ask(service)).await.map(|r| r.into_inner().status() == ServingStatus::Serving)
    };
    for service in ["", "pgherd.control.v1.Control", "leader", "primary"] {
        assert!(serving(service).await.unwrap(), "{service}");
    }
    assert_eq!(serving("nonsense").await.unwrap_err().code(), tonic::Code::NotFound);
    bed.publish(|s| s.role = Role::Replica);
    assert!(serving("leader").await.unwrap() && !serving("primary").await.unwrap());
    bed.publish(|s| s.role = Role::Primary);

    let mut watcher = HealthClient::new(channel);
    let mut primary = watcher.watch(ask("primary")).await.unwrap().into_inner();
    assert_eq!(soon(primary.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    bed.clock.store(Tick::from_millis(20_000).0, Ordering::SeqCst);
    assert!(!serving("leader").await.unwrap() && !serving("primary").await.unwrap() && serving("").await.unwrap());
    assert_eq!(soon(primary.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
}
