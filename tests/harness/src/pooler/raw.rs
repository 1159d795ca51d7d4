//! A client that speaks PostgreSQL's protocol message by message (documentation, "Frontend/Backend Protocol"), for what no
//! client library does: odd orders, pipelines, garbage, and the exact answers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest wait for one message.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Protocol 3.0 in a startup packet.
pub const V3_0: i32 = 3 << 16;

/// The code of a cancel request in the place of a protocol version.
pub const CANCEL: i32 = 80_877_102;

/// The code of a request for TLS.
pub const SSL: i32 = 80_877_103;

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

impl Message {
    /// One field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, code: u8) -> Option<String> {
        let found = self.body.split(|b| *b == 0).find(|f| f.first() == Some(&code))?;
        Some(String::from_utf8_lossy(found.get(1..)?).into_owned())
    }

    /// An error's or notice's `SEVERITY: text`.
    pub fn text(&self) -> String {
        let field = |code| self.field(code).unwrap_or_default();
        format!("{}: {}", field(b'S'), field(b'M'))
    }

    /// The columns of a DataRow; NULL is the empty text.
    pub fn columns(&self) -> Vec<String> {
        let mut body = self.body.clone();
        let count = if body.len() < 2 { 0 } else { body.get_u16() };
        let mut columns = Vec::new();
        for _ in 0..count {
            let length = usize::try_from(body.get_i32()).unwrap_or(0);
            columns.push(String::from_utf8_lossy(&body.split_to(length)).into_owned());
        }
        columns
    }

    /// The tag of a CommandComplete, `SELECT 1`.
    pub fn command(&self) -> String {
        String::from_utf8_lossy(self.body.strip_suffix(b"\0").unwrap_or(&self.body)).into_owned()
    }
}

/// The types of messages as one text, such as `TDCZ`.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|m| char::from(m.tag)).collect()
}

/// The first error among messages.
pub fn error(messages: &[Message]) -> Option<String> {
    messages.iter().find(|m| m.tag == b'E').map(Message::text)
}

/// The first column of every row among messages.
pub fn firsts(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|m| m.tag == b'D').map(|m| m.columns().into_iter().next().unwrap_or_default()).collect()
}

/// Messages to the server, to be sent in one piece.
#[derive(Debug, Clone, Default)]
pub struct Batch(Vec<u8>);

impl Batch {
    /// None yet.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Any message.
    pub fn message(mut self, tag: u8, body: &[u8]) -> Batch {
        self.0.push(tag);
        self.0.extend(i32::try_from(body.len() + 4).unwrap_or(i32::MAX).to_be_bytes());
        self.0.extend(body);
        self
    }

    /// Query.
    pub fn query(self, sql: &str) -> Batch {
        self.message(b'Q', &text(&[sql]))
    }

    /// Parse without parameter types.
    pub fn parse(self, statement: &str, sql: &str) -> Batch {
        let mut body = text(&[statement, sql]);
        body.extend(0_u16.to_be_bytes());
        self.message(b'P', &body)
    }

    /// Bind with parameters as text.
    pub fn bind(self, portal: &str, statement: &str, parameters: &[&str]) -> Batch {
        let mut body = text(&[portal, statement]);
        body.extend(0_u16.to_be_bytes());
        body.extend(u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes());
        for parameter in parameters {
            body.extend(u32::try_from(parameter.len()).unwrap_or(u32::MAX).to_be_bytes());
            body.extend(parameter.as_bytes());
        }
        body.extend(0_u16.to_be_bytes());
        self.message(b'B', &body)
    }

    /// Describe of a statement.
    pub fn describe(self, statement: &str) -> Batch {
        self.message(b'D', &[b"S", &*text(&[statement])].concat())
    }

    /// Execute of a portal without a limit of rows.
    pub fn execute(self, portal: &str) -> Batch {
        let mut body = text(&[portal]);
        body.extend(0_u32.to_be_bytes());
        self.message(b'E', &body)
    }

    /// Close of a statement.
    pub fn close(self, statement: &str) -> Batch {
        self.message(b'C', &[b"S", &*text(&[statement])].concat())
    }

    /// Parse, Bind and Execute of unnamed ones.
    pub fn unnamed(self, sql: &str) -> Batch {
        self.parse("", sql).bind("", "", &[]).execute("")
    }

    /// Flush.
    pub fn flush(self) -> Batch {
        self.message(b'H', b"")
    }

    /// Sync.
    pub fn sync(self) -> Batch {
        self.message(b'S', b"")
    }

    /// CopyData.
    pub fn copy_data(self, data: &[u8]) -> Batch {
        self.message(b'd', data)
    }

    /// CopyDone.
    pub fn copy_done(self) -> Batch {
        self.message(b'c', b"")
    }

    /// CopyFail.
    pub fn copy_fail(self, reason: &str) -> Batch {
        self.message(b'f', &text(&[reason]))
    }

    /// Terminate.
    pub fn terminate(self) -> Batch {
        self.message(b'X', b"")
    }
}

/// Each text with the zero byte that ends it.
fn text(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|p| p.bytes().chain([0])).collect()
}

/// A startup packet: its length, the protocol and a body.
pub fn startup(protocol: i32, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 8).unwrap_or(i32::MAX);
    [&length.to_be_bytes()[..], &protocol.to_be_bytes()[..], body].concat()
}

/// The body of a startup packet with parameters.
pub fn parameters(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut body: Vec<u8> = pairs.iter().flat_map(|(k, v)| text(&[k, v])).collect();
    body.push(0);
    body
}

/// A connection.
pub struct Raw {
    stream: Box<dyn Wire>,
    input: BytesMut,
    /// What ParameterStatus told so far.
    pub parameters: BTreeMap<String, String>,
    /// The body of BackendKeyData: process number and secret.
    pub key: Bytes,
}

impl Raw {
    /// Speaks over a stream.
    pub fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Raw {
        Raw { stream: Box::new(stream), input: BytesMut::new(), parameters: BTreeMap::new(), key: Bytes::new() }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = tokio::time::timeout(TIMEOUT, self.stream.write_all(bytes)).await;
        sent.map_err(|_| anyhow!("the pooler doesn't read"))?.context("send")
    }

    /// The next message, whatever its type.
    pub async fn message(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.take_message() {
                self.remember(&message);
                return Ok(message);
            }
            if self.read().await? == 0 {
                bail!("the connection was closed");
            }
        }
    }

    /// Reads what is there; 0 at the end.
    async fn read(&mut self) -> Result<usize> {
        let read = tokio::time::timeout(TIMEOUT, self.stream.read_buf(&mut self.input)).await;
        match read.map_err(|_| anyhow!("no message within {} s", TIMEOUT.as_secs()))? {
            Ok(count) => Ok(count),
            // The pooler closed a socket that still held input.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(0),
            Err(e) => Err(e).context("receive"),
        }
    }

    fn take_message(&mut self) -> Option<Message> {
        let header = self.input.get(..5)?;
        let length = usize::try_from(i32::from_be_bytes(header[1..5].try_into().ok()?)).ok()?;
        if self.input.len() <= length {
            return None;
        }
        let tag = self.input.get_u8();
        self.input.advance(4);
        Some(Message { tag, body: self.input.split_to(length - 4).freeze() })
    }

    fn remember(&mut self, message: &Message) {
        if message.tag == b'K' {
            self.key = message.body.clone();
        }
        if message.tag == b'S' {
            let mut parts = message.body.split(|b| *b == 0).map(|p| String::from_utf8_lossy(p).into_owned());
            if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                self.parameters.insert(name, value);
            }
        }
    }

    /// All messages up to and with ReadyForQuery. ParameterStatus isn't among them.
    pub async fn until_ready(&mut self) -> Result<Vec<Message>> {
        self.until(b'Z').await
    }

    /// All messages up to and with one of a type. ParameterStatus isn't among them.
    pub async fn until(&mut self, tag: u8) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            let told = error(&messages).map_or_else(String::new, |e| format!(" after {e}"));
            let message = self.message().await.with_context(|| format!("wait for {:?}{told}", char::from(tag)))?;
            if message.tag != b'S' {
                messages.push(message);
            }
            if messages.last().is_some_and(|m| m.tag == tag) {
                return Ok(messages);
            }
        }
    }

    /// Everything until the connection is closed.
    pub async fn until_closed(&mut self) -> Result<Vec<Message>> {
        while self.read().await? > 0 {}
        let mut messages = Vec::new();
        while let Some(message) = self.take_message() {
            messages.push(message);
        }
        ensure!(self.input.is_empty(), "half a message before the end: {:?}", self.input);
        Ok(messages)
    }

    /// One byte that is no message, such as the answer to a request for TLS.
    pub async fn byte(&mut self) -> Result<u8> {
        while self.input.is_empty() {
            ensure!(self.read().await? > 0, "the connection was closed");
        }
        Ok(self.input.get_u8())
    }

    /// Sends messages.
    pub async fn batch(&mut self, batch: Batch) -> Result<()> {
        self.send(batch.bytes()).await
    }

    /// Sends messages that end in one ReadyForQuery and returns the answers.
    pub async fn roundtrip(&mut self, batch: Batch) -> Result<Vec<Message>> {
        self.batch(batch).await?;
        self.until_ready().await
    }

    /// Runs a simple query and returns the answers.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Message>> {
        self.roundtrip(Batch::new().query(sql)).await
    }

    /// The first column of every row of a simple query's answer; an error where the server told one.
    pub async fn firsts(&mut self, sql: &str) -> Result<Vec<String>> {
        let messages = self.query(sql).await?;
        if let Some(error) = error(&messages) {
            bail!("{error}");
        }
        Ok(firsts(&messages))
    }

    /// The first value of a simple query's answer.
    pub async fn value(&mut self, sql: &str) -> Result<String> {
        self.firsts(sql).await?.into_iter().next().with_context(|| format!("{sql:?} has no rows"))
    }

    /// The error that a simple query gets; the session goes on.
    pub async fn refused(&mut self, sql: &str) -> Result<String> {
        error(&self.query(sql).await?).with_context(|| format!("{sql:?} has no error"))
    }

    /// The process number of its server.
    pub async fn backend(&mut self) -> Result<String> {
        self.value("SELECT pg_backend_pid()").await
    }

    /// The error that closes the connection.
    pub async fn last_words(&mut self) -> Result<String> {
        error(&self.until_closed().await?).context("closed without an error")
    }

    /// Starts a session and logs in. An error holds the server's text.
    pub async fn log_in(&mut self, pairs: &[(&str, &str)], password: &str) -> Result<()> {
        self.log_in_speaking(V3_0, pairs, password).await
    }

    /// The same in another version of the protocol.
    pub async fn log_in_speaking(&mut self, protocol: i32, pairs: &[(&str, &str)], password: &str) -> Result<()> {
        self.send(&startup(protocol, &parameters(pairs))).await?;
        let user = pairs.iter().find(|(k, _)| *k == "user").map_or("", |(_, v)| v);
        self.authenticate(user, password).await?;
        let messages = self.until_ready_or_error().await?;
        error(&messages).map_or(Ok(()), |e| Err(anyhow!(e)))
    }

    async fn until_ready_or_error(&mut self) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            let message = self.message().await?;
            let last = matches!(message.tag, b'Z' | b'E');
            messages.push(message);
            if last {
                return Ok(messages);
            }
        }
    }

    async fn authenticate(&mut self, user: &str, password: &str) -> Result<()> {
        loop {
            let mut message = self.message().await?;
            match (message.tag, if message.tag == b'R' { message.body.get_i32() } else { 0 }) {
                (b'R', 0) => return Ok(()),
                (b'R', 3) => self.batch(Batch::new().message(b'p', &text(&[password]))).await?,
                (b'R', 5) => {
                    let salt: [u8; 4] = message.body.as_ref().try_into().context("read a salt")?;
                    let hash = md5_hash(user.as_bytes(), password.as_bytes(), salt);
                    self.batch(Batch::new().message(b'p', &text(&[&hash]))).await?;
                }
                (b'R', 10) => self.scram(password).await?,
                (b'E', _) => bail!("{}", message.text()),
                (tag, code) => bail!("unexpected {:?} {code} at login", char::from(tag)),
            }
        }
    }

    async fn scram(&mut self, password: &str) -> Result<()> {
        let mut scram = sasl::ScramSha256::new(password.as_bytes(), sasl::ChannelBinding::unsupported());
        let mut body = text(&["SCRAM-SHA-256"]);
        body.extend(u32::try_from(scram.message().len()).unwrap_or(0).to_be_bytes());
        body.extend(scram.message());
        self.batch(Batch::new().message(b'p', &body)).await?;
        let mut answer = self.sasl_answer(11).await?;
        scram.update(&answer).context("read the server's first message")?;
        self.batch(Batch::new().message(b'p', scram.message())).await?;
        answer = self.sasl_answer(12).await?;
        scram.finish(&answer).context("verify the server")
    }

    async fn sasl_answer(&mut self, code: i32) -> Result<Bytes> {
        let mut message = self.message().await?;
        if message.tag == b'E' {
            bail!("{}", message.text());
        }
        ensure!(message.tag == b'R' && message.body.get_i32() == code, "unexpected answer {message:?} at login");
        Ok(message.body)
    }
}
