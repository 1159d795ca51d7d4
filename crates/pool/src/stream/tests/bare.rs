//! TCP and Unix sockets.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;

use super::*;
use crate::stream::{Credentials, Tuning};

async fn both() -> Vec<(Stream, Stream)> {
    let (a, b) = sockets().await;
    let (c, d) = UnixStream::pair().unwrap();
    vec![(Stream::Tcp(a), Stream::Tcp(b)), (Stream::Unix(c), Stream::Unix(d))]
}

#[tokio::test]
async fn bytes_go_both_ways_until_the_end() {
    for (mut near, mut far) in both().await {
        send(&mut near, b"question").await;
        assert_eq!(receive(&mut far, 8, 3).await, b"question");
        let parts = [IoSlice::new(b"ans"), IoSlice::new(b""), IoSlice::new(b"wer")];
        assert_eq!(poll_fn(|cx| far.poll_write_vectored(cx, &parts)).await.unwrap(), 6);
        assert_eq!(receive(&mut near, 6, 100).await, b"answer");
        poll_fn(|cx| near.poll_shutdown(cx)).await.unwrap();
        assert_eq!(read(&mut far, &mut [0; 10]).await.unwrap(), 0);
        send(&mut far, b"still here").await;
        assert_eq!(receive(&mut near, 10, 10).await, b"still here");
        far.close();
        assert_eq!(read(&mut near, &mut [0; 10]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn quiet_is_what_has_nothing_to_read_and_is_open() {
    for (mut near, mut far) in both().await {
        assert!(near.is_quiet());
        assert_eq!(near.try_read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(&mut far, b"psst").await;
        poll_fn(|cx| near.poll_readable(cx)).await.unwrap();
        assert!(!near.is_quiet());
        assert_eq!(near.try_read(&mut [0; 100]).unwrap(), 4);
        assert!(near.is_quiet());
        far.close();
        poll_fn(|cx| near.poll_readable(cx)).await.unwrap();
        assert!(!near.is_quiet());
    }
}

#[tokio::test]
async fn a_full_buffer_that_happened_to_be_all_leaves_it_quiet() {
    for (mut near, mut far) in both().await {
        send(&mut far, b"four").await;
        assert_eq!(receive(&mut near, 4, 4).await, b"four");
        assert!(near.is_quiet());
        let pending = poll_fn(|cx| Poll::Ready(near.poll_read(cx, &mut [0; 4]).is_pending())).await;
        assert!(pending);
    }
}

#[tokio::test]
async fn a_write_need_not_wait_for_the_poller_s_first_word() {
    let (near, far) = sockets().await;
    let mut far = Stream::Tcp(far);
    let mut near = Stream::Tcp(near).detach().unwrap().attach().unwrap();
    assert_eq!(near.try_write(b"early").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(near.write_now(b"early").unwrap(), 5);
    assert_eq!(receive(&mut far, 5, 5).await, b"early");
    until(|| near.try_write(b"!").is_ok()).await;
    assert_eq!(receive(&mut far, 1, 5).await, b"!");
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer() {
    for (mut near, mut far) in both().await {
        let sent = pattern(16 * 1024 * 1024);
        let mut at = 0;
        while at < sent.len() {
            match near.write_now(&sent[at..]) {
                Ok(n) => at += n,
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert!(at < sent.len());
        let rest = sent[at..].to_vec();
        let (received, ()) = tokio::join!(receive(&mut far, sent.len(), 65536), send(&mut near, &rest));
        assert!(received == sent);
    }
}

#[tokio::test]
async fn addresses_and_credentials_are_told() {
    for (near, far) in both().await {
        assert_eq!(near.peer_addr().unwrap(), far.local_addr().unwrap());
        assert!(!near.is_tls());
        assert_eq!(near.tls_description(), None);
        assert_eq!(near.peer_certificate(), None);
        let me = Credentials {
            user: rustix::process::getuid().as_raw(),
            process: Some(rustix::process::getpid().as_raw_nonzero().get()),
        };
        match near {
            Stream::Unix(_) => assert_eq!(near.peer_credentials().unwrap(), Some(me)),
            _ => assert_eq!(near.peer_credentials().unwrap(), None),
        }
    }
}

#[tokio::test]
async fn tuning_sets_what_it_says_and_leaves_the_rest() {
    let tuning = Tuning {
        keepalive: true,
        keepalive_count: 4,
        keepalive_idle: Duration::from_secs(30),
        keepalive_interval: Duration::from_secs(5),
        user_timeout: Duration::from_millis(12500),
        buffer: 65536,
    };
    for (near, far) in both().await {
        let Stream::Tcp(_) = near else { continue };
        tuning.apply(&near).unwrap();
        Tuning::default().apply(&far).unwrap();
        let (tuned, untouched) = (SockRef::from(&near), SockRef::from(&far));
        assert!(tuned.keepalive().unwrap() && !untouched.keepalive().unwrap());
        assert_eq!(tuned.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(tuned.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        assert_eq!(tuned.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
        assert_eq!(tuned.tcp_user_timeout().unwrap(), Some(Duration::from_millis(12500)));
        assert_eq!(untouched.tcp_user_timeout().unwrap(), None);
        // Linux doubles what it is asked for.
        assert_eq!(tuned.send_buffer_size().unwrap(), 131072);
        assert_eq!(tuned.recv_buffer_size().unwrap(), 131072);
        assert!(tuned.tcp_nodelay().unwrap() && untouched.tcp_nodelay().unwrap());
    }
}

#[tokio::test]
async fn connections_inherit_the_listener_s_switches() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for keepalive in [true, false] {
        Tuning { keepalive, ..Tuning::default() }.apply_switches(&listener.as_fd()).unwrap();
        let (near, _far) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let near = near.unwrap().0;
        let near = SockRef::from(&near);
        assert!(near.keepalive().unwrap() == keepalive && near.tcp_nodelay().unwrap());
    }
}

#[test]
fn a_connection_is_little_more_than_its_socket() {
    assert!(size_of::<Stream>() <= size_of::<TcpStream>() + 8);
}
