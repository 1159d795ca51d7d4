//! Orders to agents: pgherd's over gRPC, Patroni's over REST, dead ones.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ha::access::{Access, Credentials};
use ha::command::{Command, Order, Outcome, Reply};
use ha::{Status, Tick};
use service::config::{HostPort, VerifyClient};
use service::listen;
use service::tls::{self, ServerFiles};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::place::{Place, finish};

/// An agent of pgherd that is only its listener: the test carries its orders out.
struct Herd {
    address: String,
    orders: mpsc::Receiver<(Order, oneshot::Sender<Reply>)>,
    _status: watch::Sender<Arc<Status>>,
    _stop: tokio_util::sync::DropGuard,
}

fn herd() -> Herd {
    herd_with(Access::default(), None)
}

fn herd_with(access: Access, tls: Option<tls::Server>) -> Herd {
    let status = Status {
        name: "pg1".into(),
        scope: "otus".into(),
        version: "0.1.0".into(),
        server_version: Some(150_004),
        ..Status::default()
    };
    let (status, receiver) = watch::channel(Arc::new(status));
    let (sender, orders) = mpsc::channel(8);
    let (_, access) = watch::channel(Arc::new(access));
    let routes = control::routes(control::Options { access }, receiver, || Tick(0), sender);
    let token = CancellationToken::new();
    let options = listen::Options::new("agent", HostPort { host: "127.0.0.1".into(), port: 0 }, tls);
    let (rest, grpc) = (listen::service(routes.clone()), listen::service(routes));
    let handle = listen::serve(options, rest, Some(grpc), token.clone()).unwrap();
    let address = handle.local_addr().to_string();
    Herd { address, orders, _status: status, _stop: token.drop_guard() }
}

#[tokio::test]
async fn a_switchover_asks_orders_and_shows_the_result() {
    let mut herd = herd();
    let place = Place::with_members(&herd.address).await;
    let agent = async {
        let (order, answer) = herd.orders.recv().await.unwrap();
        let wanted = Command::Switchover { leader: Some("pg1".into()), candidate: Some("pg2".into()) };
        assert_eq!(order.command, wanted);
        place.put(&[("leader", "pg2")]).await;
        answer.send(Reply::new(Outcome::Done, "Successfully switched over to \"pg2\"")).unwrap();
    };
    let (run, ()) = tokio::join!(place.run("-v switchover", "\npg2\n\ny\n"), agent);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.out.starts_with("Primary [pg1]: Candidate ['pg2', 'pg3'] []: When should the switchover take place (e.g. ")
    );
    let asked = " )  [now]: Current cluster topology\n+ Cluster: otus (7575894273613416871) ";
    assert!(run.out.contains(asked), "{run:?}");
    let sure = "Are you sure you want to switchover cluster otus, demoting current leader pg1? [y/N]: ";
    let after = run.out.split(sure).nth(1).unwrap();
    let (line, table) = after.split_once('\n').unwrap();
    assert!(line.starts_with("20") && line.ends_with(" Successfully switched over to \"pg2\""), "{line}");
    assert!(table.contains("| pg2    | pg2  | Leader  |"), "{table}");
    assert!(run.err.contains("switchover ordered from pg1\naccepted\n"), "progress with -v: {run:?}");
}

#[tokio::test]
async fn a_refused_switchover_fails_with_the_reason() {
    let mut herd = herd();
    let place = Place::with_members(&herd.address).await;
    let agent = async {
        let (_, answer) = herd.orders.recv().await.unwrap();
        answer.send(Reply::new(Outcome::Precondition, "pg3 lags too far behind")).unwrap();
    };
    let (run, ()) = tokio::join!(place.run("switchover --candidate pg3 --force", ""), agent);
    assert_eq!(run.code, Some(1));
    assert_eq!(run.err, "Error: Switchover failed, details: 412, pg3 lags too far behind\n");
}

#[tokio::test]
async fn a_whole_cluster_is_restarted_member_by_member() {
    let mut herd = herd();
    let place = Place::with_members(&herd.address).await;
    let agent = async {
        for outcome in [Outcome::Done, Outcome::Failed, Outcome::Done] {
            let (order, answer) = herd.orders.recv().await.unwrap();
            let Command::Restart(filter) = order.command else { panic!("{order:?}") };
            assert_eq!(filter.postgres_version.as_deref(), Some("16.0"));
            answer.send(Reply::new(outcome, "too slow")).unwrap();
        }
    };
    let (run, ()) = tokio::join!(place.run("restart otus", "\ny\n16\n"), agent);
    assert_eq!(run.code, Some(1));
    let asked = "Are you sure you want to restart members pg1, pg2, pg3? [y/N]: Restart if the PostgreSQL version is \
                 less than provided (e.g. 9.5.2)  []: Success: restart on member pg2\nFailed: restart for member pg3, \
                 status code=503, (too slow)\nSuccess: restart on member pg1\n";
    assert!(run.out.ends_with(asked), "{run:?}");
    assert_eq!(run.err, "Error: restart failed on 1 member\n");
}

#[tokio::test]
async fn versions_of_members_are_told() {
    let herd = herd();
    let place = Place::with_members(&herd.address).await;
    let run = place.run("version otus pg2", "").await;
    assert_eq!(
        run.out,
        format!("pgherdctl version {}\n\npg2: pgherd 0.1.0 PostgreSQL 15.4\n", env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn nothing_is_done_when_no_agent_can_be_reached() {
    let place = Place::with_members("127.0.77.9:1").await;
    let run = place.run("switchover --force", "").await;
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("no agent of the cluster can be reached, so nothing was done"), "{run:?}");
    let run = place.run("restart otus pg2 --force", "").await;
    assert!(
        run.out.contains("Failed: restart for member pg2, status code=503, (its agent can't be reached"),
        "{run:?}"
    );
    assert_eq!(run.code, Some(1));
}

/// What a Patroni was asked, and the answers it gives: HTTP/1 only. An empty answer closes the connection.
struct Patroni {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// The answers come in turn, the last one again and again.
fn patroni(answers: &'static [&'static str]) -> Patroni {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let answer = move |n: usize| answers[n.min(answers.len() - 1)];
    std::thread::spawn(move || listener.incoming().for_each(|stream| serve(&stream.unwrap(), answer, &seen)));
    Patroni { address, asked }
}

fn serve(mut stream: &TcpStream, answer: impl Fn(usize) -> &'static str, asked: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while reader.read_line(&mut head).is_ok_and(|n| n > 2) {
        let line = head.lines().last().unwrap_or_default().to_lowercase();
        length = line.strip_prefix("content-length: ").map_or(length, |n| n.parse().unwrap());
    }
    if head.starts_with("PRI") {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        return;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
    let mut asked = asked.lock().unwrap();
    let answer = answer(asked.len());
    asked.push(format!("{line} {}", String::from_utf8(body).unwrap()));
    let _ = stream.write_all(answer.as_bytes());
}

#[tokio::test]
async fn a_patroni_is_ordered_over_rest() {
    let patroni = patroni(&["HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\nrestarted successfully"]);
    let place = Place::with_members(&patroni.address).await;
    let run = place.run("restart otus pg2 --timeout 60 --force", "").await;
    assert!(run.code == Some(0) && run.out.ends_with("Success: restart on member pg2\n"), "{run:?}");
    let run = place.run("switchover --candidate pg2 --force", "").await;
    assert!(run.code == Some(0) && run.out.contains(" restarted successfully\n"), "{run:?}");
    let expected = ["POST /restart {\"timeout\":60}", "POST /switchover {\"leader\":\"pg1\",\"candidate\":\"pg2\"}"];
    assert_eq!(*patroni.asked.lock().unwrap(), expected);
}

#[tokio::test]
async fn patronis_refusals_are_passed_on() {
    let patroni = patroni(&["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"]);
    let place = Place::with_members(&patroni.address).await;
    let run = place.run("reinit otus pg2 --force", "").await;
    assert!(run.out.contains("Failed: reinitialize for member pg2, status code=503, (busy)"), "{run:?}");
    assert_eq!(run.code, Some(1));
}

#[tokio::test]
async fn an_order_without_an_answer_has_an_unknown_outcome() {
    let patroni = patroni(&[""]);
    let place = Place::with_members(&patroni.address).await;
    let run = place.run("switchover --force", "").await;
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("how it ended is not known"), "{run:?}");
    assert_eq!(patroni.asked.lock().unwrap().len(), 1, "given once only");
}

#[tokio::test]
async fn an_answer_that_nobody_knows_is_no_failure() {
    let patroni = patroni(&["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 25\r\n\r\nSwitchover status unknown"]);
    let place = Place::with_members(&patroni.address).await;
    let run = place.run("switchover --force", "").await;
    assert!(run.code == Some(3) && run.err.contains("(Switchover status unknown)"), "{run:?}");
}

#[tokio::test]
async fn a_reinitialisation_is_waited_for() {
    let patroni = patroni(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nreinitialize started",
        "HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{\"state\":\"creating replica\"}",
        "HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"state\":\"running\"}",
    ]);
    let place = Place::with_members(&patroni.address).await;
    let run = place.run("reinit --wait otus", "pg3\ny\n").await;
    let expected = "Which member do you want to reinitialize [pg2, pg3]? []: Are you sure you want to reinitialize members \
                    pg3? [y/N]: Success: reinitialize for member pg3\nWaiting for reinitialize to complete on: pg3\n\
                    Reinitialize is completed on: pg3\n";
    assert!(run.code == Some(0) && run.out.ends_with(expected), "{run:?}");
    let asked = ["POST /reinitialize {\"force\":false,\"from_leader\":false}", "GET /patroni ", "GET /patroni "];
    assert_eq!(*patroni.asked.lock().unwrap(), asked);
}

#[tokio::test]
async fn ctrl_c_does_not_take_an_order_back() {
    let mut herd = herd();
    let place = Place::with_members(&herd.address).await;
    let child = place.start("restart otus pg1 --force", None);
    let (_, answer) = herd.orders.recv().await.unwrap();
    let killed = std::process::Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    let run = finish(child, "").await;
    assert!(run.code == Some(3) && run.err.contains("The order was given already and goes on"), "{run:?}");
    drop(answer);
}

#[tokio::test]
async fn credentials_come_from_the_file() {
    let credentials = Credentials { user: "admin".into(), password: "secret".into() };
    let mut herd = herd_with(Access { credentials: Some(credentials), ..Access::default() }, None);
    let place = Place::with_members(&herd.address).await;
    let run = place.run("reload otus pg1 --force", "").await;
    assert!(run.out.contains("Failed: reload for member pg1, status code=403, (no auth header received)"), "{run:?}");
    // An agent's file has them in section restapi.
    place.configure("restapi:\n  authentication: {username: admin, password: secret}\n");
    let agent = async {
        let (order, answer) = herd.orders.recv().await.unwrap();
        assert_eq!((order.command, order.who.as_str()), (Command::Reload, "admin"));
        answer.send(Reply::new(Outcome::Accepted, "reload scheduled")).unwrap();
    };
    let (run, ()) = tokio::join!(place.run("reload otus pg1 --force", ""), agent);
    let expected = "Reload request received for member pg1 and will be processed within 1 seconds\n";
    assert!(run.code == Some(0) && run.out.ends_with(expected), "{run:?}");
}

#[tokio::test]
async fn agents_certificates_are_verified_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let cert = folder.path().join("agent.crt");
    let text = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
    std::fs::write(&cert, text).unwrap();
    let files = ServerFiles { cert: cert.clone(), key: None, client_ca: None, verify: VerifyClient::None };
    let herd = herd_with(Access::default(), Some(tls::Server::load(files).unwrap()));
    let place = Place::with_members(&herd.address).await;
    let member = format!("{{\"api_url\":\"https://{}/patroni\"}}", herd.address);
    place.put(&[("members/pg2", &member)]).await;
    let known = format!("pgherdctl version {}\n\npg2: pgherd 0.1.0 PostgreSQL 15.4\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(place.run("-k version otus pg2", "").await.out, known);
    place.configure(&format!("ctl:\n  cacert: {}\n", cert.display()));
    assert_eq!(place.run("version otus pg2", "").await.out, known);
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&cert, other.cert.pem()).unwrap();
    let run = place.run("version otus pg2", "").await;
    assert!(run.code == Some(1) && run.out.contains("pg2: failed to get version: "), "{run:?}");
    assert!(run.out.to_lowercase().contains("certificate"), "{run:?}");
}
