//! A typed client of the Control service. It follows no leader and tries nothing again: its callers know better.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ha::Lsn;
use ha::access::Credentials;
use ha::cluster::{Cluster, HistoryLine, Revisioned, Term};
use ha::command::{Outcome, Reply, RestartFilter};
use ha::status::Standby;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Streaming};

use crate::proto;
use crate::proto::control_client::ControlClient;

/// How to reach an agent.
#[derive(Debug, Clone)]
pub struct Options {
    /// TLS, needed for `https` addresses. The protocol (ALPN) is chosen by the client.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Basic credentials for orders.
    pub credentials: Option<Credentials>,
    /// How long TCP and TLS may take.
    pub connect_timeout: Duration,
    /// How long an answer may take to begin.
    pub timeout: Duration,
}

impl Default for Options {
    /// No TLS and no credentials; 2 s to connect, 30 s to answer.
    fn default() -> Options {
        Options {
            tls: None,
            credentials: None,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(30),
        }
    }
}

/// What can go wrong. Callers tell these cases apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The address can't be used as given.
    #[error("{0}")]
    Address(String),
    /// No connection: nobody listens there, the host is dead, or TLS fails.
    #[error("can't connect: {0}")]
    Unreachable(String),
    /// Something answers there that doesn't offer this service, a Patroni for example.
    #[error("no pgherd control service there: {0}")]
    NotControl(String),
    /// The agent is there but can't do it now, or tried and failed.
    #[error("{0}")]
    Unavailable(String),
    /// The agent doesn't take orders from here.
    #[error("{0}")]
    Refused(String),
    /// The request makes no sense to the agent.
    #[error("{0}")]
    Invalid(String),
    /// Not possible in the present state.
    #[error("{0}")]
    Precondition(String),
    /// Someone else changed the same thing first.
    #[error("{0}")]
    Conflict(String),
    /// No answer in time. An order may or may not have been carried out.
    #[error("no answer in time: {0}")]
    TimedOut(String),
    /// The connection broke or carried something unexpected. An order may or may not have been carried out.
    #[error("{0}")]
    Protocol(String),
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Error {
        use tonic::Code;
        let message = chain(&status, status.message());
        // A status made by this side of the connection carries the fault that it was made of.
        let broken = std::error::Error::source(&status).is_some();
        match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => Error::TimedOut(message),
            Code::Unimplemented => Error::NotControl(message),
            _ if broken => Error::NotControl(message),
            Code::Unavailable => Error::Unavailable(message),
            Code::Unauthenticated | Code::PermissionDenied => Error::Refused(message),
            Code::InvalidArgument => Error::Invalid(message),
            Code::FailedPrecondition => Error::Precondition(message),
            Code::Aborted => Error::Conflict(message),
            _ => Error::Protocol(message),
        }
    }
}

/// A fault with what caused it.
fn chain(fault: &dyn std::error::Error, text: &str) -> String {
    let mut text = text.to_owned();
    let mut source = fault.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = if text.is_empty() { cause_text } else { format!("{text}: {cause_text}") };
        }
        source = cause.source();
    }
    text
}

/// The cluster as an agent sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Name of the cluster.
    pub scope: String,
    /// The member that answered.
    pub answered_by: String,
    /// What it read.
    pub cluster: Cluster,
    /// When it read it.
    pub read_at: Option<jiff::Timestamp>,
}

/// An agent and its PostgreSQL, with the moments of its own clock as spans.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Name of the cluster.
    pub scope: String,
    /// Name of the member.
    pub name: String,
    /// pgherd's version there.
    pub version: String,
    /// State of PostgreSQL in Patroni's words.
    pub state: String,
    /// `primary`, `replica` or `uninitialized`.
    pub role: String,
    /// For how much longer it may call itself leader; `None` when it may not.
    pub leader_for: Option<Duration>,
    /// The term that it leads.
    pub term: Option<Term>,
    /// How long ago it last completed a decision.
    pub decided_ago: Duration,
    /// server_version_num.
    pub server_version: Option<u32>,
    /// When the postmaster started.
    pub postmaster_start_time: Option<jiff::Timestamp>,
    /// Timeline.
    pub timeline: Option<u32>,
    /// System identifier.
    pub system_identifier: Option<String>,
    /// Write position of a primary.
    pub location: Option<Lsn>,
    /// What a replica has received.
    pub received_location: Option<Lsn>,
    /// What a replica has replayed.
    pub replayed_location: Option<Lsn>,
    /// `streaming`, `in archive recovery`, or absent.
    pub replication_state: Option<String>,
    /// Standbys connected to it.
    pub replication: Vec<Standby>,
    /// A synchronous standby according to the DCS.
    pub sync_standby: bool,
    /// Parameters that wait for a restart.
    pub pending_restart: Map<String, Value>,
    /// Tags.
    pub tags: Map<String, Value>,
    /// Maintenance mode.
    pub pause: bool,
    /// When it last read the DCS.
    pub dcs_last_seen: Option<jiff::Timestamp>,
    /// Why its last decision was made.
    pub reason: String,
    /// The same as a short stable label.
    pub reason_label: String,
    /// A fault that a person must look at.
    pub trouble: Option<String>,
}

/// A connection to one agent. Clones share it; it is made again when it breaks.
#[derive(Debug, Clone)]
pub struct Client {
    control: ControlClient<Channel>,
    authorization: Option<MetadataValue<tonic::metadata::Ascii>>,
}

impl Client {
    /// Connects to `http(s)://host:port`, the agent's REST or control address. A path is ignored, so that a member's
    /// `api_url` will do.
    pub async fn connect(address: &str, options: Options) -> Result<Client, Error> {
        let target = Target::parse(address, options.tls)?;
        let authorization = options.credentials.as_ref().map(metadata).transpose()?;
        let channel = Endpoint::from(target.endpoint.clone())
            .origin(target.origin.clone())
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .connect_with_connector(tower::service_fn(move |_: Uri| target.clone().dial()))
            .await
            .map_err(|e| Error::Unreachable(chain(&e, "")))?;
        Ok(Client { control: ControlClient::new(channel), authorization })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = &self.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        request
    }

    /// The cluster as the agent last read it.
    pub async fn cluster(&self) -> Result<View, Error> {
        let request = self.request(proto::GetClusterRequest {});
        self.control.clone().get_cluster(request).await?.into_inner().try_into()
    }

    /// The same now and after every change.
    pub async fn watch_cluster(&self) -> Result<ClusterStream, Error> {
        let request = self.request(proto::WatchClusterRequest {});
        Ok(ClusterStream(self.control.clone().watch_cluster(request).await?.into_inner()))
    }

    /// The agent itself.
    pub async fn status(&self) -> Result<Report, Error> {
        let request = self.request(proto::GetStatusRequest {});
        self.control.clone().get_status(request).await?.into_inner().try_into()
    }

    /// Planned change of leader; see [`ha::command::Command::Switchover`].
    pub async fn switchover(&self, leader: Option<String>, candidate: Option<String>) -> Result<Course, Error> {
        let request = self.request(proto::SwitchoverRequest { leader, candidate });
        Ok(Course(self.control.clone().switchover(request).await?.into_inner()))
    }

    /// Change of leader although the leader may be gone.
    pub async fn failover(&self, candidate: String) -> Result<Course, Error> {
        let request = self.request(proto::FailoverRequest { candidate });
        Ok(Course(self.control.clone().failover(request).await?.into_inner()))
    }

    /// Restart of the agent's PostgreSQL.
    pub async fn restart(&self, filter: RestartFilter) -> Result<Course, Error> {
        let request = self.request(proto::RestartRequest::from(filter));
        Ok(Course(self.control.clone().restart(request).await?.into_inner()))
    }

    /// A fresh clone of the agent's data directory; see [`ha::command::Command::Reinitialize`].
    pub async fn reinitialize(&self, force: bool, from_leader: bool) -> Result<Course, Error> {
        let request = self.request(proto::ReinitializeRequest { force, from_leader });
        Ok(Course(self.control.clone().reinitialize(request).await?.into_inner()))
    }

    /// Makes the agent read its configuration again. The answer is for people.
    pub async fn reload(&self) -> Result<String, Error> {
        let request = self.request(proto::ReloadRequest {});
        Ok(self.control.clone().reload(request).await?.into_inner().message)
    }

    /// The dynamic configuration with its revision.
    pub async fn config(&self) -> Result<Revisioned<Value>, Error> {
        let request = self.request(proto::GetConfigRequest {});
        let config = self.control.clone().get_config(request).await?.into_inner().config;
        config.ok_or_else(|| Error::Protocol("an answer without the configuration".to_owned()))?.try_into()
    }

    /// Merges into the dynamic configuration (`null` deletes) and returns the new one where the agent tells it.
    /// [`Error::Conflict`] when it has changed since `revision`.
    pub async fn patch_config(&self, patch: &Value, revision: Option<i64>) -> Result<Option<Value>, Error> {
        let request = self.request(proto::PatchConfigRequest { patch_json: patch.to_string(), revision });
        new_config(&self.control.clone().patch_config(request).await?.into_inner().config_json)
    }

    /// Replaces the dynamic configuration. [`Error::Conflict`] when it has changed since `revision`.
    pub async fn put_config(&self, config: &Value, revision: Option<i64>) -> Result<Option<Value>, Error> {
        let request = self.request(proto::PutConfigRequest { config_json: config.to_string(), revision });
        new_config(&self.control.clone().put_config(request).await?.into_inner().config_json)
    }

    /// Begins maintenance mode. Members acknowledge it in their keys.
    pub async fn pause(&self) -> Result<(), Error> {
        self.control.clone().pause(self.request(proto::PauseRequest {})).await?;
        Ok(())
    }

    /// Ends maintenance mode.
    pub async fn resume(&self) -> Result<(), Error> {
        self.control.clone().resume(self.request(proto::ResumeRequest {})).await?;
        Ok(())
    }

    /// The promotions the cluster has seen, oldest first.
    pub async fn history(&self) -> Result<Vec<HistoryLine>, Error> {
        let request = self.request(proto::GetHistoryRequest {});
        let lines = self.control.clone().get_history(request).await?.into_inner().lines;
        Ok(lines.into_iter().map(Into::into).collect())
    }
}

fn metadata(credentials: &Credentials) -> Result<MetadataValue<tonic::metadata::Ascii>, Error> {
    let mut value = MetadataValue::try_from(credentials.header()).map_err(|e| Error::Address(e.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn new_config(json: &str) -> Result<Option<Value>, Error> {
    if json.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(json).map(Some).map_err(|e| Error::Protocol(format!("the new configuration: {e}")))
}

/// Views of the cluster as they come.
#[derive(Debug)]
pub struct ClusterStream(Streaming<proto::WatchClusterResponse>);

impl ClusterStream {
    /// The next view; `None` when the agent ends.
    pub async fn next(&mut self) -> Result<Option<View>, Error> {
        let message = self.0.message().await?;
        message.map(|m| proto::GetClusterResponse::from(m).try_into()).transpose()
    }
}

/// What an agent says about an order under way.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Something happened, in words for people.
    Line(String),
    /// It is over.
    End(Reply),
}

/// The course of an order that takes long.
#[derive(Debug)]
pub struct Course(Streaming<proto::Progress>);

impl Course {
    /// What happens next. After [`Step::End`] there is nothing more to ask for.
    pub async fn next(&mut self) -> Result<Step, Error> {
        let broken = || Error::Protocol("the agent ended the answer without an outcome".to_owned());
        let message = self.0.message().await?.ok_or_else(broken)?;
        if !message.done {
            return Ok(Step::Line(message.message));
        }
        let outcome = Outcome::try_from(message.outcome())?;
        Ok(Step::End(Reply::new(outcome, message.message)))
    }

    /// Waits for the end and hands each line before it to `show`.
    pub async fn finish(mut self, mut show: impl FnMut(&str)) -> Result<Reply, Error> {
        loop {
            match self.next().await? {
                Step::Line(line) => show(&line),
                Step::End(reply) => return Ok(reply),
            }
        }
    }
}

/// A connection's two directions, in the clear or not.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where to connect, and how.
#[derive(Clone)]
struct Target {
    host: String,
    port: u16,
    tls: Option<(tokio_rustls::TlsConnector, rustls::pki_types::ServerName<'static>)>,
    /// What tonic thinks it connects to. TLS is done here, so that it must not do it again.
    endpoint: Uri,
    /// The scheme and authority that requests name.
    origin: Uri,
}

impl Target {
    fn parse(address: &str, tls: Option<Arc<rustls::ClientConfig>>) -> Result<Target, Error> {
        let bad = |why: &str| Error::Address(format!("{address:?} is no address of an agent: {why}"));
        let uri: Uri = address.parse().map_err(|_| bad("write http://host:port"))?;
        let authority = uri.authority().ok_or_else(|| bad("write http://host:port"))?.clone();
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(8008);
        let tls = match (uri.scheme_str(), tls) {
            (Some("http"), _) => None,
            (Some("https"), None) => return Err(bad("it wants TLS, and no TLS settings are given")),
            (Some("https"), Some(config)) => {
                let mut config = (*config).clone();
                config.alpn_protocols = vec![b"h2".to_vec()];
                let name = host.clone().try_into().map_err(|_| bad("the host's name is malformed"))?;
                Some((tokio_rustls::TlsConnector::from(Arc::new(config)), name))
            }
            _ => return Err(bad("write http:// or https://")),
        };
        let with = |scheme: &str| {
            let parts = Uri::builder().scheme(scheme).authority(authority.clone()).path_and_query("/");
            parts.build().map_err(|_| bad("write http://host:port"))
        };
        let origin = with(if tls.is_some() { "https" } else { "http" })?;
        Ok(Target { host, port, tls, endpoint: with("http")?, origin })
    }

    async fn dial(self) -> io::Result<TokioIo<Box<dyn Io>>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        let io: Box<dyn Io> = match self.tls {
            None => Box::new(tcp),
            Some((connector, name)) => Box::new(connector.connect(name, tcp).await?),
        };
        Ok(TokioIo::new(io))
    }
}
