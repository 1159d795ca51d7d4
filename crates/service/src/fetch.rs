//! One GET of a member's REST API over a connection of its own. What is asked and what the answer means is the caller's.

use std::error::Error;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// No honest answer is larger.
const MAX_BODY: usize = 1 << 20;

/// An error for people.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Status and body of what is at `url`. `tls` is for `https`. Takes as long as it takes: give it a deadline.
///
/// # Errors
/// When nobody answers there, or not in HTTP.
pub async fn get(url: &str, tls: Option<TlsConnector>) -> Result<(StatusCode, Bytes), Failure> {
    let uri: Uri = url.parse()?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let authority = uri.authority().map(|a| a.to_string()).unwrap_or_default();
    let request = Request::get(path).header("host", authority).body(Empty::<Bytes>::new())?;
    if https {
        let connector = tls.ok_or("the member speaks TLS and no certificate authority is configured")?;
        let name = rustls_pki_types::ServerName::try_from(host)?;
        return exchange(connector.connect(name, stream).await?, request).await;
    }
    exchange(stream, request).await
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(StatusCode, Bytes), Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = async {
        // Ends with the answer; what went wrong shows there.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, Limited::new(response.into_body(), MAX_BODY).collect().await?.to_bytes()))
    };
    tokio::select! {
        answer = answer => answer,
        () = driver => Err("the connection was closed".into()),
    }
}
