//! Tests of the server for monitoring over real sockets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use pool::config::Config;
use pool::console::Shutdown;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_millis(10);

fn pooler() -> Arc<Pooler> {
    let mut config = Config::default();
    config.settings.workers = 1;
    Arc::new(Pooler::start(config, Vec::new()).unwrap())
}

/// A listener that holds a free port, and where it is.
fn taken() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.41.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn request(at: SocketAddr, method: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The answer of the server, which may have to begin.
async fn ask(at: SocketAddr, method: &'static str, path: &'static str) -> String {
    let asking = async {
        loop {
            match tokio::task::spawn_blocking(move || request(at, method, path)).await.unwrap() {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(SOON).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("nobody answers")
}

/// Status and body of an answer.
fn parts(answer: &str) -> (u16, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

/// A server at a port that was free a moment ago.
fn start(pooler: &Arc<Pooler>, tasks: &Tasks) -> (Metrics, SocketAddr) {
    let (listener, at) = taken();
    drop(listener);
    (Metrics::start_trying(pooler.clone(), at.to_string().parse().unwrap(), tasks, SOON), at)
}

#[tokio::test]
async fn metrics_are_served_in_the_text_format() {
    let (pooler, tasks) = (pooler(), Tasks::new());
    let (_metrics, at) = start(&pooler, &tasks);
    let answer = ask(at, "GET", "/metrics").await;
    let (status, body) = parts(&answer);
    assert_eq!(status, 200);
    assert!(answer.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(body.contains("\npgbouncer_up 1\n"), "{body}");
    let answer = ask(at, "HEAD", "/metrics").await;
    assert_eq!(parts(&answer), (200, ""));
    tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let (pooler, tasks) = (pooler(), Tasks::new());
    let (_metrics, at) = start(&pooler, &tasks);
    for (method, path, status) in
        [("GET", "/", 404), ("POST", "/nothing", 404), ("POST", "/metrics", 405), ("DELETE", "/health", 405)]
    {
        let answer = ask(at, method, path).await;
        assert_eq!(parts(&answer).0, status, "{method} {path}");
        assert_eq!(answer.contains("\r\nallow: GET, HEAD\r\n"), status == 405, "{answer}");
    }
    tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn health_and_readiness_follow_the_pooler() {
    let (pooler, tasks) = (pooler(), Tasks::new());
    let (_metrics, at) = start(&pooler, &tasks);
    assert_eq!(parts(&ask(at, "GET", "/health").await), (200, "serving\n"));
    assert_eq!(parts(&ask(at, "GET", "/ready").await), (200, "serving\n"));
    pooler.pause().await.unwrap();
    assert_eq!(parts(&ask(at, "GET", "/health").await), (200, "paused\n"));
    assert_eq!(parts(&ask(at, "GET", "/ready").await), (503, "paused\n"));
    pooler.resume().unwrap();
    pooler.shut_down(Shutdown::WaitForClients);
    assert_eq!(parts(&ask(at, "GET", "/health").await), (503, "shutting down\n"));
    assert_eq!(parts(&ask(at, "HEAD", "/ready").await), (503, ""));
    tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_until_it_is_free() {
    let (pooler, stop) = (pooler(), CancellationToken::new());
    let (listener, at) = taken();
    let wanted = at.to_string().parse().unwrap();
    let mut listening = std::pin::pin!(listen(&pooler, &wanted, &stop, SOON));
    assert!(tokio::time::timeout(5 * SOON, &mut listening).await.is_err(), "two programs at one port");
    drop(listener);
    let mut handle = tokio::time::timeout(PATIENCE, listening).await.unwrap();
    assert_eq!(parts(&ask(at, "GET", "/health").await).0, 200);
    stop.cancel();
    handle.ended().await;
}

#[tokio::test]
async fn the_port_is_free_once_it_has_stopped() {
    let (pooler, tasks) = (pooler(), Tasks::new());
    let (metrics, at) = start(&pooler, &tasks);
    ask(at, "GET", "/health").await;
    metrics.stop().await;
    let next = Metrics::start(pooler, at.to_string().parse().unwrap(), &tasks);
    ask(at, "GET", "/health").await;
    next.stop().await;
    assert!(request(at, "GET", "/health").is_err());
    assert_eq!(tasks.cause(), None, "stopping one server must not end the program");
    tasks.shutdown(PATIENCE).await.unwrap();
}

#[test]
fn the_setting_is_an_address_or_empty() {
    let of = |text: &str| address(&Settings { metrics_listen: text.to_owned(), ..Settings::default() });
    assert_eq!(of(" "), Ok(None));
    assert_eq!(of("*:9127"), Ok(Some(HostPort { host: "*".to_owned(), port: 9127 })));
    assert_eq!(address(&Settings::default()).unwrap().unwrap().to_string(), "127.0.0.1:9127");
    let refused = of("9127").unwrap_err();
    assert!(refused.starts_with("metrics_listen: \"9127\" is not an address: the port is missing"), "{refused}");
}
