//! A live connection changes threads in the middle of a conversation.

use std::future::Future;
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::*;
use crate::stream::Detached;

fn on_a_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Answers `count` questions, each of eight bytes and answered by its own bytes turned round.
async fn answer(stream: &mut Stream, count: usize) {
    for _ in 0..count {
        let mut question = receive(stream, 8, 8).await;
        question.reverse();
        send(stream, &question).await;
    }
}

async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), count: usize) {
    for i in 0..count as u64 {
        stream.write_all(&i.to_be_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.read_u64_le().await.unwrap(), i);
    }
}

/// Answers on this thread's own runtime what the other thread left, and hands it back.
fn helper(jobs: Receiver<Detached>, back: Sender<Detached>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        on_a_runtime(async {
            for job in std::iter::from_fn(|| jobs.recv().ok()) {
                let mut stream = job.attach().unwrap();
                answer(&mut stream, 10).await;
                back.send(stream.detach().unwrap()).unwrap();
            }
        });
    })
}

/// Ten times: ten answers here, ten there.
fn to_and_fro<F: Future<Output = Stream>>(make: impl FnOnce() -> F) {
    let (jobs, received) = channel();
    let (back, returned) = channel();
    let other = helper(received, back);
    on_a_runtime(async {
        let mut stream = make().await;
        for _ in 0..10 {
            answer(&mut stream, 10).await;
            jobs.send(stream.detach().unwrap()).unwrap();
            stream = returned.recv().unwrap().attach().unwrap();
        }
        assert_eq!(read(&mut stream, &mut [0; 1]).await.unwrap(), 0);
    });
    drop(jobs);
    other.join().unwrap();
}

fn listen() -> (std::net::TcpListener, std::net::SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn accept(listener: &std::net::TcpListener) -> Stream {
    let socket = listener.accept().unwrap().0;
    socket.set_nonblocking(true).unwrap();
    Stream::Tcp(TcpStream::from_std(socket).unwrap())
}

#[test]
fn over_tcp() {
    let (listener, address) = listen();
    let asking = thread::spawn(move || {
        on_a_runtime(async {
            let mut far = TcpStream::connect(address).await.unwrap();
            ask(&mut far, 200).await;
        });
    });
    to_and_fro(|| async { accept(&listener) });
    asking.join().unwrap();
}

#[test]
fn over_a_unix_socket() {
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    let asking = thread::spawn(move || {
        on_a_runtime(async { ask(&mut UnixStream::from_std(far).unwrap(), 200).await });
    });
    to_and_fro(|| async { Detached::Unix(near).attach().unwrap() });
    asking.join().unwrap();
}

#[test]
fn under_tls() {
    let settings = Settings::new();
    let (listener, address) = listen();
    let usual = settings.usual;
    let asking = thread::spawn(move || {
        on_a_runtime(async {
            let far = TcpStream::connect(address).await.unwrap();
            let mut far = TlsConnector::from(usual).connect(localhost(), far).await.unwrap();
            ask(&mut far, 200).await;
            far.shutdown().await.unwrap();
        });
    });
    to_and_fro(|| async { accept_tls(accept(&listener), settings.server, Start::Requested, &[]).await.unwrap() });
    asking.join().unwrap();
}

#[tokio::test]
async fn what_is_in_pieces_moves_along() {
    let (mut ours, mut theirs) = pair(Role::Server).await;
    // Plaintext that wasn't read, and a record of which half came.
    let mut records = Vec::new();
    {
        let TlsStream::Client(theirs) = &mut theirs else { panic!("not the client") };
        let (socket, session) = theirs.get_mut();
        session.writer().write_all(b"abcdef").unwrap();
        session.write_tls(&mut records).unwrap();
        let half = records.len() + 10;
        session.writer().write_all(b"ghijkl").unwrap();
        session.write_tls(&mut records).unwrap();
        socket.write_all(&records[..half]).await.unwrap();
        records.drain(..half);
    }
    assert_eq!(receive(&mut ours, 2, 2).await, b"ab");
    assert_eq!(receive(&mut ours, 1, 1).await, b"c");
    // Ciphertext that the socket had no room for.
    let sent = pattern(16 * 1024 * 1024);
    let mut at = 0;
    while let Ok(n) = ours.write_now(&sent[at..]) {
        at += n;
    }
    assert!(ours.holds_back());

    let detached = ours.detach().unwrap();
    let (told, heard) = tokio::sync::oneshot::channel();
    let other = thread::spawn(move || {
        on_a_runtime(async {
            let mut ours = detached.attach().unwrap();
            assert!(ours.holds_back());
            poll_fn(|cx| ours.poll_flush(cx)).await.unwrap();
            let unread = receive(&mut ours, 3, 100).await;
            told.send(()).unwrap();
            [unread, receive(&mut ours, 6, 100).await].concat()
        })
    });
    let mut received = vec![0; at];
    theirs.read_exact(&mut received).await.unwrap();
    assert!(received == sent[..at]);
    heard.await.unwrap();
    theirs.get_mut().0.write_all(&records).await.unwrap();
    assert_eq!(other.join().unwrap(), b"defghijkl");
}
