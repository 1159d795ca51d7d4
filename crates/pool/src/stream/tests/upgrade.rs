//! From bare to encrypted, and what goes wrong on the way.

use super::*;

#[tokio::test]
async fn bytes_before_the_handshake_are_refused() {
    let settings = Settings::new();
    let (near, far) = sockets().await;
    let early = accept_tls(Stream::Tcp(near), settings.server, Start::Requested, b"Q").await.unwrap_err();
    assert_eq!(early.to_string(), "received unencrypted data after SSL request");
    let early = connect_tls(Stream::Tcp(far), settings.client, localhost(), b"Z").await.unwrap_err();
    assert_eq!(early.to_string(), "received unencrypted data after SSL response");
}

/// A client that starts with TLS, of whose first words `pieces` were read by someone else.
async fn direct(alpn: bool, pieces: &[usize]) -> io::Result<()> {
    let settings = Settings::new();
    let (near, far) = sockets().await;
    let mut usual = (*settings.usual).clone();
    if !alpn {
        usual.alpn_protocols.clear();
    }
    let connector = TlsConnector::from(Arc::new(usual));
    let client = async {
        let mut theirs = connector.connect(localhost(), far).await?;
        theirs.write_all(b"hello").await?;
        theirs.flush().await?;
        Ok::<_, io::Error>(theirs)
    };
    let server = async {
        let mut near = Stream::Tcp(near);
        let first = receive(&mut near, pieces.iter().sum(), pieces[0]).await;
        let mut ours = accept_tls(near, settings.server, Start::Direct, &first).await?;
        assert_eq!(receive(&mut ours, 5, 100).await, b"hello");
        Ok::<_, io::Error>(ours)
    };
    let (client, server) = tokio::join!(client, server);
    server?;
    client.map(drop)
}

#[tokio::test]
async fn a_client_may_start_with_tls_if_it_names_the_protocol() {
    for pieces in [&[1][..], &[8], &[5, 5], &[100]] {
        direct(true, pieces).await.unwrap();
    }
    let fault = direct(false, &[8]).await.unwrap_err();
    let expected = "received direct SSL connection request without ALPN protocol negotiation extension";
    assert_eq!(fault.to_string(), expected);
}

#[tokio::test]
async fn a_refused_client_is_told_why() {
    let settings = Settings::with(SslMode::VerifyFull);
    let (near, far) = sockets().await;
    let ours = accept_tls(Stream::Tcp(near), settings.server, Start::Requested, &[]);
    let connector = TlsConnector::from(settings.usual);
    let theirs = async { connector.connect(localhost(), far).await?.read(&mut [0; 10]).await };
    let (ours, theirs) = tokio::join!(ours, theirs);
    assert_eq!(ours.unwrap_err().to_string(), "peer sent no certificates");
    let told = theirs.unwrap_err().to_string();
    assert!(told.contains("CertificateRequired"), "{told}");
}

#[tokio::test]
async fn a_server_that_is_not_believed_is_told_why() {
    let (ours, others) = (Settings::with(SslMode::VerifyFull), Settings::new());
    let (near, far) = sockets().await;
    let acceptor = TlsAcceptor::from(others.server);
    let asking = connect_tls(Stream::Tcp(near), ours.client, localhost(), &[]);
    let (asking, accepting) = tokio::join!(asking, acceptor.accept(far));
    let fault = asking.unwrap_err();
    assert_eq!(fault.kind(), io::ErrorKind::InvalidData);
    assert_eq!(fault.to_string(), "invalid peer certificate: BadSignature");
    let told = accepting.unwrap_err().to_string();
    assert!(told.contains("DecryptError"), "{told}");
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let plain = b"\0\0\0\x08\x04\xd2\x16\x2f and more of it, and more, and more".as_slice();
    let endless = [&[22, 3, 1, 0x40, 0][..], &[1; 0x4000]].concat();
    for rubbish in [plain, &endless] {
        let settings = Settings::new();
        let (near, mut far) = sockets().await;
        let (ours, sent) =
            tokio::join!(accept_tls(Stream::Tcp(near), settings.server, Start::Requested, &[]), far.write_all(rubbish));
        sent.unwrap();
        assert_eq!(ours.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn an_end_in_the_handshake_is_a_fault() {
    let settings = Settings::new();
    let (near, mut far) = sockets().await;
    far.write_all(&[22, 3, 1]).await.unwrap();
    drop(far);
    let fault = accept_tls(Stream::Tcp(near), settings.server, Start::Requested, &[]).await.unwrap_err();
    assert_eq!(fault.kind(), io::ErrorKind::UnexpectedEof);

    let settings = Settings::new();
    let (near, mut far) = sockets().await;
    let ours = connect_tls(Stream::Tcp(near), settings.client, localhost(), &[]);
    let theirs = async {
        // A whole hello, so that the end is no reset.
        let mut header = [0; 5];
        far.read_exact(&mut header).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        far.read_exact(&mut hello).await.unwrap();
        drop(far);
    };
    let (ours, ()) = tokio::join!(ours, theirs);
    assert_eq!(ours.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_handshake_byte_by_byte_is_a_handshake() {
    let settings = Settings::new();
    let (near, far) = sockets().await;
    let (middle, beyond) = sockets().await;
    let (mut far_read, mut far_write) = far.into_split();
    let (mut middle_read, mut middle_write) = middle.into_split();
    let drip = async {
        let mut byte = [0];
        while middle_read.read(&mut byte).await.unwrap() > 0 {
            far_write.write_all(&byte).await.unwrap();
        }
    };
    let back = async { tokio::io::copy(&mut far_read, &mut middle_write).await };
    let connector = TlsConnector::from(settings.usual);
    let talk = async {
        let ours = accept_tls(Stream::Tcp(near), settings.server, Start::Requested, &[]);
        let (ours, theirs) = tokio::join!(ours, connector.connect(localhost(), beyond));
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        let sent = pattern(20_000);
        let (received, wrote) = tokio::join!(receive(&mut ours, sent.len(), 50_000), theirs.write_all(&sent));
        wrote.unwrap();
        assert!(received == sent);
    };
    tokio::select! {
        () = talk => {}
        () = drip => panic!("the client went away"),
        _ = back => panic!("the server went away"),
    }
}

#[tokio::test]
async fn encryption_is_not_encrypted_again() {
    let (ours, _theirs) = pair(Role::Server).await;
    let fault = accept_tls(ours, Settings::new().server, Start::Requested, &[]).await.unwrap_err();
    assert_eq!(fault.to_string(), "TLS within TLS");
}

#[tokio::test]
async fn a_handshake_in_a_future_takes_little_room() {
    let settings = Settings::new();
    let (near, far) = sockets().await;
    let accepting = accept_tls(Stream::Tcp(near), settings.server, Start::Requested, &[]);
    let asking = connect_tls(Stream::Tcp(far), settings.client, localhost(), &[]);
    assert!(size_of_val(&accepting) <= 256 && size_of_val(&asking) <= 256);
    let (ours, theirs) = tokio::join!(accepting, asking);
    assert!(ours.unwrap().is_tls() && theirs.unwrap().is_tls());
}
