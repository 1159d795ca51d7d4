//! Conversations under TLS.

use std::io::IoSlice;
use std::task::Poll;

use super::*;

const ROLES: [Role; 2] = [Role::Server, Role::Client];

fn inside(stream: &Stream) -> &crate::stream::Encrypted<Stream> {
    match stream {
        Stream::Tls(s) => s,
        _ => panic!("not encrypted"),
    }
}

#[tokio::test]
async fn a_conversation_of_any_size_goes_both_ways() {
    for role in ROLES {
        let (mut ours, mut theirs) = pair(role).await;
        for (length, piece) in [(1, 1), (5, 1), (4096, 100), (16384, 16384), (100_000, 7), (1_000_000, 65536)] {
            let sent = pattern(length);
            let (_, received) = tokio::join!(
                async {
                    theirs.write_all(&sent).await.unwrap();
                    theirs.flush().await.unwrap();
                },
                receive(&mut ours, length, piece)
            );
            assert!(received == sent);
            let mut back = vec![0; length];
            let (_, read) = tokio::join!(send(&mut ours, &sent), theirs.read_exact(&mut back));
            read.unwrap();
            assert!(back == sent);
        }
        assert!(ours.is_quiet());
        assert!(inside(&ours).keeps_nothing());
    }
}

#[tokio::test]
async fn what_is_decrypted_is_read_though_the_socket_has_no_more() {
    for role in ROLES {
        let (mut ours, mut theirs) = pair(role).await;
        theirs.write_all(b"abc").await.unwrap();
        theirs.flush().await.unwrap();
        assert_eq!(receive(&mut ours, 1, 1).await, b"a");
        assert!(!ours.is_quiet());
        let ready = poll_fn(|cx| Poll::Ready(ours.poll_readable(cx).is_ready())).await;
        assert!(ready);
        let mut byte = [0];
        for expected in [b"b", b"c"] {
            let polled = poll_fn(|cx| Poll::Ready(ours.poll_read(cx, &mut byte).map_ok(|n| n == 1))).await;
            assert!(matches!(polled, Poll::Ready(Ok(true))));
            assert_eq!(&byte, expected);
        }
        assert!(ours.is_quiet());
        assert_eq!(ours.try_read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let pending = poll_fn(|cx| Poll::Ready(ours.poll_read(cx, &mut byte).is_pending())).await;
        assert!(pending);
    }
}

#[tokio::test]
async fn several_buffers_leave_as_one_record() {
    let (mut ours, mut theirs) = pair(Role::Server).await;
    let parts = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two "), IoSlice::new(b"three")];
    assert_eq!(poll_fn(|cx| ours.poll_write_vectored(cx, &parts)).await.unwrap(), 13);
    let mut buffer = [0; 100];
    // The other implementation gives one record at a time.
    assert_eq!(theirs.read(&mut buffer).await.unwrap(), 13);
    assert_eq!(&buffer[..13], b"one two three");
    assert_eq!(poll_fn(|cx| ours.poll_write_vectored(cx, &[])).await.unwrap(), 0);
}

#[tokio::test]
async fn little_is_kept_for_a_reader_that_does_not_read() {
    for role in ROLES {
        let (mut ours, mut theirs) = pair(role).await;
        let sent = pattern(16 * 1024 * 1024);
        let mut at = 0;
        loop {
            match ours.write_now(&sent[at..]) {
                Ok(n) => at += n,
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert!(ours.holds_back());
        assert!(inside(&ours).kept() < 40 * 1024);
        let flushing = poll_fn(|cx| Poll::Ready(ours.poll_flush(cx).is_pending())).await;
        assert!(flushing);
        for _ in 0..10 {
            let waiting = poll_fn(|cx| Poll::Ready(ours.poll_write(cx, b"more").is_pending())).await;
            assert!(waiting);
        }
        assert!(inside(&ours).kept() < 40 * 1024);
        let rest = sent[at..].to_vec();
        let mut received = vec![0; sent.len()];
        let (read, ()) = tokio::join!(theirs.read_exact(&mut received), send(&mut ours, &rest));
        read.unwrap();
        assert!(received == sent);
        assert!(inside(&ours).keeps_nothing());
    }
}

#[tokio::test]
async fn the_end_is_said_and_heard() {
    for role in ROLES {
        let (mut ours, mut theirs) = pair(role).await;
        theirs.write_all(b"bye").await.unwrap();
        theirs.shutdown().await.unwrap();
        assert_eq!(receive(&mut ours, 3, 10).await, b"bye");
        assert_eq!(read(&mut ours, &mut [0; 10]).await.unwrap(), 0);
        assert_eq!(read(&mut ours, &mut [0; 10]).await.unwrap(), 0);
        assert!(!ours.is_quiet());
        send(&mut ours, b"bye, too").await;
        poll_fn(|cx| ours.poll_shutdown(cx)).await.unwrap();
        let late = poll_fn(|cx| ours.poll_write(cx, b"late")).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
        let mut all = Vec::new();
        // The other implementation fails at an end that wasn't said.
        theirs.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"bye, too");

        let (ours, mut theirs) = pair(role).await;
        ours.close();
        assert_eq!(theirs.read(&mut [0; 10]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_end_that_was_not_said_is_an_end() {
    for role in ROLES {
        let (mut ours, theirs) = pair(role).await;
        drop(theirs);
        assert_eq!(read(&mut ours, &mut [0; 10]).await.unwrap(), 0);
        assert!(!ours.is_quiet());
    }
}

#[tokio::test]
async fn a_forged_record_breaks_the_connection() {
    for role in ROLES {
        let (mut ours, mut theirs) = pair(role).await;
        let forged = [&[23, 3, 3, 0, 32][..], &[0; 32]].concat();
        theirs.get_mut().0.write_all(&forged).await.unwrap();
        let fault = read(&mut ours, &mut [0; 10]).await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&mut ours, &mut [0; 10]).await.unwrap(), 0);
        assert!(!ours.is_quiet());
        let told = theirs.read(&mut [0; 10]).await.unwrap_err();
        assert!(told.to_string().contains("BadRecordMac"), "{told}");
    }
}

#[tokio::test]
async fn half_a_record_is_not_quiet() {
    for role in ROLES {
        let (mut ours, mut theirs) = pair(role).await;
        theirs.get_mut().0.write_all(&[23, 3, 3, 0, 32, 1, 2]).await.unwrap();
        poll_fn(|cx| ours.poll_readable(cx)).await.unwrap();
        assert!(!ours.is_quiet());
        assert!(!ours.is_quiet());
    }
}

#[tokio::test]
async fn new_keys_are_no_news() {
    for role in ROLES {
        let (mut ours, mut theirs) = pair(role).await;
        for _ in 0..3 {
            match &mut theirs {
                TlsStream::Client(s) => s.get_mut().1.refresh_traffic_keys().unwrap(),
                TlsStream::Server(s) => s.get_mut().1.refresh_traffic_keys().unwrap(),
            }
            theirs.flush().await.unwrap();
            poll_fn(|cx| ours.poll_readable(cx)).await.unwrap();
            assert!(ours.is_quiet());
            send(&mut ours, b"question").await;
            let mut question = [0; 8];
            theirs.read_exact(&mut question).await.unwrap();
            theirs.write_all(b"answer").await.unwrap();
            theirs.flush().await.unwrap();
            assert_eq!(receive(&mut ours, 6, 10).await, b"answer");
        }
        assert!(inside(&ours).keeps_nothing());
    }
}

#[tokio::test]
async fn it_tells_of_its_tls_and_of_its_socket() {
    let (ours, theirs) = pair(Role::Client).await;
    assert!(ours.is_tls());
    let description = ours.tls_description().unwrap();
    assert_eq!(description, "TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH=prime256v1");
    let shown = ours.peer_certificate().unwrap();
    assert_eq!(crate::tls::common_name(shown).as_deref(), Some("localhost"));
    assert_eq!(ours.peer_addr().unwrap(), Some(theirs.get_ref().0.local_addr().unwrap()));
    assert_eq!(ours.peer_credentials().unwrap(), None);
    let (ours, _theirs) = pair(Role::Server).await;
    assert_eq!(ours.tls_description().unwrap(), "TLSv1.3/TLS_AES_256_GCM_SHA384");
    assert_eq!(ours.peer_certificate(), None);
}

#[tokio::test]
async fn a_conversation_over_a_unix_socket_is_no_different() {
    let settings = Settings::new();
    let (near, far) = UnixStream::pair().unwrap();
    let ours = accept_tls(Stream::Unix(near), settings.server, Start::Requested, &[]);
    let theirs = connect_tls(Stream::Unix(far), settings.client, localhost(), &[]);
    let (ours, theirs) = tokio::join!(ours, theirs);
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    let sent = pattern(300_000);
    let (received, ()) = tokio::join!(receive(&mut theirs, sent.len(), 10_000), send(&mut ours, &sent));
    assert!(received == sent);
    assert!(ours.peer_credentials().unwrap().is_some());
}
