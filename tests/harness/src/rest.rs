//! A small client for the members' REST interface.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("read JSON from {:?}", self.body))
    }
}

/// Sends a request to port 8008 and reads the answer.
pub async fn request(address: Ipv4Addr, method: Method, path: &str, body: &str) -> Result<Answer> {
    tokio::time::timeout(TIMEOUT, exchange(address, method.clone(), path, body))
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", TIMEOUT.as_secs()))
        .flatten()
        .with_context(|| format!("{method} http://{address}:8008{path}"))
}

/// GET.
pub async fn get(address: Ipv4Addr, path: &str) -> Result<Answer> {
    request(address, Method::GET, path, "").await
}

async fn exchange(address: Ipv4Addr, method: Method, path: &str, body: &str) -> Result<Answer> {
    let stream = TcpStream::connect((address, 8008)).await.context("connect")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", format!("{address}:8008"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_owned())))
        .context("build the request")?;
    let response = sender.send_request(request).await.context("send the request")?;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.context("read the answer")?.to_bytes();
    driver.abort();
    Ok(Answer { code, body: String::from_utf8_lossy(&bytes).into_owned() })
}
