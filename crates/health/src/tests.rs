//! The API over real sockets: the bed on which the tests stand. The tests are in the files below.

mod orders;
mod reads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ha::access::{Access, Peer};
use ha::cluster::{Cluster, Leader, Member, Optime, Revisioned, Term};
use ha::command::{Order, Outcome, Reply};
use ha::status::Standby;
use ha::{Lsn, Role, State, Status, Tick};
use http::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::{Api, Options};

/// An API on a socket, with everything around it in the test's hands.
struct Bed {
    address: SocketAddr,
    status: watch::Sender<Arc<Status>>,
    clock: Arc<AtomicU64>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// What a request for a look at PostgreSQL leads to.
    look: Arc<OnLook>,
}

type OnLook = std::sync::Mutex<Option<Box<dyn Fn() + Send>>>;

/// A raw answer.
struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Bed {
    async fn new(status: Status) -> Bed {
        Bed::with(status, Access::default(), Reply::new(Outcome::Done, "")).await
    }

    /// A bed whose agent answers every order with `reply`.
    async fn with(status: Status, access: Access, reply: Reply) -> Bed {
        let (status, published) = watch::channel(Arc::new(status));
        let clock = Arc::new(AtomicU64::new(Tick::from_millis(100_000).0));
        let (sender, mut received): (crate::Orders, _) = mpsc::channel(4);
        let (seen, orders) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((order, answer)) = received.recv().await {
                seen.send(order).unwrap();
                let _: Result<(), Reply> = answer.send(reply.clone());
            }
        });
        let mut extra_headers = HeaderMap::new();
        extra_headers.insert("x-site", "test".parse().unwrap());
        let options = Options { access: watch::channel(Arc::new(access)).1, extra_headers };
        let time = clock.clone();
        let look = Arc::<OnLook>::default();
        let on_look = look.clone();
        let api = Api::new(options, published, move || Tick(time.load(Ordering::SeqCst)), sender).looking(move || {
            if let Some(look) = &*on_look.lock().unwrap() {
                look();
            }
        });
        let address = serve(Arc::new(api)).await;
        Bed { address, status, clock, orders, look }
    }

    fn set_clock(&self, ms: u64) {
        self.clock.store(Tick::from_millis(ms).0, Ordering::SeqCst);
    }

    fn publish(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }

    async fn get(&self, path: &str) -> Answer {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }

    async fn code(&self, path: &str) -> u16 {
        self.get(path).await.code
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send_with(method, path, "", body).await
    }

    /// A call with further header lines, each ended by a line break.
    async fn send_with(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    async fn raw(&self, request: &str) -> Answer {
        let talk = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            // The server may answer and close before it has read everything.
            let _: Result<(), std::io::Error> = stream.write_all(request.as_bytes()).await;
            let mut text = Vec::new();
            let _: Result<usize, std::io::Error> = stream.read_to_end(&mut text).await;
            String::from_utf8(text).unwrap()
        };
        let text = tokio::time::timeout(Duration::from_secs(20), talk).await.expect("an answer in time");
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { code, head: head.to_lowercase(), body: body.to_owned() }
    }

    /// The only order given since the last look.
    fn order(&mut self) -> Order {
        let order = self.orders.try_recv().expect("an order");
        assert!(self.orders.try_recv().is_err(), "one order only");
        order
    }
}

async fn serve(api: Arc<Api>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            let api = api.clone();
            let service = hyper::service::service_fn(move |request| {
                let api = api.clone();
                async move {
                    let peer = Peer { address: Some(from), certificate: None };
                    Ok::<_, std::convert::Infallible>(api.handle(request, &peer).await)
                }
            });
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

fn member(name: &str, port: u16, position: u64) -> Member {
    Member {
        name: name.to_owned(),
        conn_url: format!("postgres://127.0.0.1:{port}/postgres"),
        api_url: format!("http://127.0.0.1:{}/patroni", port + 3000),
        state: "running".to_owned(),
        xlog_location: Some(Lsn(position)),
        timeline: Some(1),
        ..Member::default()
    }
}

fn cluster() -> Cluster {
    let replica = Member {
        receive_lsn: Some(Lsn(1000)),
        replay_lsn: Some(Lsn(900)),
        replication_state: Some("streaming".to_owned()),
        ..member("pg2", 5433, 1000)
    };
    let stopped = Member { state: "stopped".to_owned(), xlog_location: None, timeline: None, ..member("pg3", 5434, 0) };
    let members = [member("pg1", 5432, 1000), replica, stopped];
    Cluster {
        leader: Some(Leader { name: "pg1".to_owned(), term: Term { dcs_id: 1, revision: 5 }, lease: 7 }),
        members: members.into_iter().map(|m| (m.name.clone(), m)).collect(),
        config: Some(Revisioned { revision: 3, value: json!({"ttl": 30, "loop_wait": 10}) }),
        status: Some(Optime { optime: Lsn(1000), ..Optime::default() }),
        ..Cluster::default()
    }
}

/// pg1 at 100 s after boot, leading until 120 s.
fn primary() -> Status {
    Status {
        scope: "batman".to_owned(),
        name: "pg1".to_owned(),
        version: "4.1.4".to_owned(),
        state: State::Running,
        role: Role::Primary,
        leader_until: Some(Tick::from_millis(120_000)),
        term: Some(Term { dcs_id: 1, revision: 5 }),
        decided_at: Tick::from_millis(99_000),
        server_version: Some(150_020),
        postmaster_start_time: Some("2026-11-23 06:13:28.171607+00:00".to_owned()),
        timeline: Some(1),
        system_identifier: Some("7412".to_owned()),
        location: Some(Lsn(1000)),
        dcs_last_seen: 1_795_414_531,
        cluster: Some(Arc::new(cluster())),
        reason: "leads".to_owned(),
        reason_label: "lead",
        replication: vec![Standby {
            usename: "replicator".to_owned(),
            application_name: "pg2".to_owned(),
            client_addr: Some("127.0.0.1".to_owned()),
            state: "streaming".to_owned(),
            sync_state: "async".to_owned(),
            sync_priority: 0,
            flush_lsn: Some(Lsn(990)),
        }],
        ..Status::default()
    }
}

/// pg2, 100 bytes behind.
fn replica() -> Status {
    Status {
        name: "pg2".to_owned(),
        role: Role::Replica,
        leader_until: None,
        term: None,
        location: None,
        received_location: Some(Lsn(1000)),
        replayed_location: Some(Lsn(900)),
        replayed_timestamp: Some("2026-11-23 06:13:30.5+00:00".to_owned()),
        replication_state: Some("streaming".to_owned()),
        replication: Vec::new(),
        ..primary()
    }
}
