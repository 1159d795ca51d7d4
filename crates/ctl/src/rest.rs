//! Patroni's REST API, for members that offer nothing better. One connection a call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a connection, TLS included, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A member's REST API.
#[derive(Clone)]
pub(crate) struct Rest {
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    authorization: Option<String>,
}

/// A call that brought no answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Nothing was sent.
    Unsent(String),
    /// It may have been carried out.
    Unanswered(String),
}

impl Broken {
    /// What went wrong.
    pub(crate) fn reason(self) -> String {
        match self {
            Broken::Unsent(reason) | Broken::Unanswered(reason) => reason,
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Rest {
    /// The API at a member's `api_url`. Nothing is sent yet.
    pub(crate) fn new(
        api_url: &str,
        tls: Option<Arc<rustls::ClientConfig>>,
        authorization: Option<String>,
    ) -> Result<Rest, String> {
        let bad = || format!("{api_url:?} is not the address of a REST API");
        let uri: Uri = api_url.parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(tls.ok_or("no TLS settings")?),
            _ => return Err(bad()),
        };
        Ok(Rest { host, port: uri.port_u16().unwrap_or(8008), tls, authorization })
    }

    /// Whether something accepts connections there.
    pub(crate) async fn probe(&self) -> Result<(), String> {
        self.dial().await.map(|_| ())
    }

    /// One call: status code and body. The answer may take `limit`.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Option<Duration>,
    ) -> Result<(u16, String), Broken> {
        let io = self.dial().await.map_err(Broken::Unsent)?;
        let unsent = |e: &dyn std::error::Error| Broken::Unsent(e.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| unsent(&e))?;
        let request = self.request(method, path, body).map_err(|e| unsent(&e))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let exchange = async {
            tokio::select! {
                answer = exchange => answer,
                // The connection does the work and may end before the answer has been looked at.
                Err(e) = connection => Err(e),
            }
        };
        let answer = match limit {
            None => exchange.await,
            Some(limit) => tokio::time::timeout(limit, exchange)
                .await
                .map_err(|_| Broken::Unanswered(format!("no answer within {} s", limit.as_secs())))?,
        };
        answer.map_err(|e| Broken::Unanswered(e.to_string()))
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, http::Error> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{host}:{}", self.port))
            .header(header::USER_AGENT, concat!("pgherdctl/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
    }

    async fn dial(&self) -> Result<Box<dyn Io>, String> {
        let dial = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| e.to_string())?;
            let Some(tls) = &self.tls else { return Ok(Box::new(tcp) as Box<dyn Io>) };
            let mut tls = (**tls).clone();
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            let name = self.host.clone().try_into().map_err(|_| format!("{} is no host name", self.host))?;
            let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(|e| e.to_string())?;
            Ok(Box::new(stream) as Box<dyn Io>)
        };
        let dialled = tokio::time::timeout(CONNECT_TIMEOUT, dial).await;
        dialled.unwrap_or_else(|_| Err(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))
    }
}
