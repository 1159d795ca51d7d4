//! The write calls: who may make them, what they mean as orders, and which code an outcome becomes.

use std::time::Duration;

use bytes::Bytes;
use ha::access::{Denied, Peer};
use ha::command::{Command, Order, Outcome, Reply, RestartFilter};
use ha::settings::{parse_bool, parse_duration};
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Body;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::{Api, reply};

/// The longest body that is read.
const BODY_LIMIT: usize = 1 << 20;
/// How long a client may take to send it.
const BODY_TIME: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// The calls that exist.
#[derive(Clone, Copy, PartialEq)]
enum Call {
    PatchConfig,
    PutConfig,
    Reload,
    Restart,
    DeleteRestart,
    Switchover,
    Failover,
    DeleteSwitchover,
    Reinitialize,
    Failsafe,
}

impl Call {
    fn of(method: &Method, path: &str) -> Option<Call> {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        Some(match (method.as_str(), first) {
            ("PATCH", "config") => Call::PatchConfig,
            ("PUT", "config") => Call::PutConfig,
            ("POST", "reload") => Call::Reload,
            ("POST", "restart") => Call::Restart,
            ("DELETE", "restart") => Call::DeleteRestart,
            ("POST", "switchover") => Call::Switchover,
            ("POST", "failover") => Call::Failover,
            ("DELETE", "switchover") => Call::DeleteSwitchover,
            ("POST", "reinitialize") => Call::Reinitialize,
            ("POST", "failsafe") => Call::Failsafe,
            _ => return None,
        })
    }

    /// Whether Patroni refuses the call without a body.
    fn needs_body(self) -> bool {
        matches!(self, Call::PatchConfig | Call::PutConfig | Call::Switchover | Call::Failover)
    }

    fn has_body(self) -> bool {
        self.needs_body() || matches!(self, Call::Restart | Call::Reinitialize)
    }

    /// Patroni's code for an outcome of this call.
    fn code(self, outcome: Outcome) -> StatusCode {
        use StatusCode as S;
        match (self, outcome) {
            (Call::Reload, Outcome::Done) => S::ACCEPTED,
            (Call::Reinitialize | Call::PatchConfig | Call::PutConfig, Outcome::Accepted) => S::OK,
            (_, Outcome::Done) => S::OK,
            (_, Outcome::Accepted) => S::ACCEPTED,
            (_, Outcome::Invalid) => S::BAD_REQUEST,
            (_, Outcome::Unprocessable) => S::UNPROCESSABLE_ENTITY,
            (Call::PutConfig, _) => S::BAD_GATEWAY,
            (_, Outcome::Conflict) => S::CONFLICT,
            (Call::Switchover | Call::Failover, Outcome::Precondition) => S::PRECONDITION_FAILED,
            (_, Outcome::Precondition | Outcome::Failed | Outcome::Dcs) => S::SERVICE_UNAVAILABLE,
        }
    }

    /// What Patroni says when all went well and the agent had nothing to add.
    fn success_text(self) -> &'static str {
        match self {
            Call::Reload => "reload scheduled",
            Call::Restart => "restarted successfully",
            Call::Reinitialize => "reinitialize started",
            _ => "",
        }
    }
}

impl Api {
    pub(crate) async fn write<B>(&self, request: Request<B>, peer: &Peer) -> Answer
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some(call) = Call::of(request.method(), request.uri().path()) else {
            let what = format!("{} {} is not supported", request.method(), request.uri().path());
            return reply::text(StatusCode::NOT_IMPLEMENTED, what);
        };
        let who = match self.authorize(request.headers(), peer) {
            Ok(who) => who,
            Err(answer) => return *answer,
        };
        let body = match read_body(call, request).await {
            Ok(body) => body,
            Err(answer) => return *answer,
        };
        match self.command(call, &body) {
            Ok(command) => self.execute(call, command, who, peer).await,
            Err(answer) => *answer,
        }
    }

    fn authorize(&self, headers: &HeaderMap, peer: &Peer) -> Result<String, Box<Answer>> {
        let header = headers.get(AUTHORIZATION).map(|v| v.to_str().unwrap_or_default());
        let cluster = self.status.borrow().cluster.clone();
        let access = self.options.access.borrow().clone();
        access.check(peer, header, cluster.as_deref()).map_err(|denied| {
            tracing::info!("Refused an order of {} over REST: {}", peer.address_text(), denied.message());
            Box::new(match denied {
                Denied::Address | Denied::Certificate => reply::text(StatusCode::FORBIDDEN, denied.message()),
                Denied::NoCredentials | Denied::WrongCredentials => reply::unauthorized(denied.message()),
            })
        })
    }

    /// The order that a call means, or the answer where it means none.
    fn command(&self, call: Call, body: &Map<String, Value>) -> Result<Command, Box<Answer>> {
        match call {
            Call::PatchConfig => Ok(Command::PatchConfig { patch: Value::Object(body.clone()), revision: None }),
            Call::PutConfig => Ok(Command::PutConfig { config: Value::Object(body.clone()), revision: None }),
            Call::Reload => Ok(Command::Reload),
            Call::Restart => restart(body).map(Command::Restart),
            Call::Switchover => change_of_leader(body, false),
            Call::Failover => change_of_leader(body, true),
            Call::Reinitialize => {
                let flag = |name: &str| body.get(name).and_then(parse_bool).unwrap_or(false);
                Ok(Command::Reinitialize { force: flag("force"), from_leader: flag("from_leader") })
            }
            Call::DeleteRestart => Err(refuse(StatusCode::NOT_FOUND, "no restarts are scheduled")),
            Call::DeleteSwitchover => Err(self.delete_switchover()),
            Call::Failsafe => Err(refuse(StatusCode::BAD_GATEWAY, "failsafe mode is off")),
        }
    }

    /// pgherd schedules nothing itself, but a Patroni member may have.
    fn delete_switchover(&self) -> Box<Answer> {
        let cluster = self.status.borrow().cluster.clone();
        let failover = cluster.as_deref().and_then(|c| c.failover.as_ref());
        match failover.and_then(|f| f.value.scheduled_at.as_ref()) {
            None => refuse(StatusCode::NOT_FOUND, "no switchover is scheduled"),
            Some(at) => {
                let text = format!("this version of pgherd can't delete the switchover scheduled at {at}");
                refuse(StatusCode::NOT_IMPLEMENTED, &text)
            }
        }
    }

    async fn execute(&self, call: Call, command: Command, who: String, peer: &Peer) -> Answer {
        let (answer, reply) = oneshot::channel();
        let order = Order { command, who, from: format!("{} over REST", peer.address_text()) };
        if self.orders.try_send((order, answer)).is_err() {
            return reply::text(StatusCode::SERVICE_UNAVAILABLE, "the agent is not taking orders now");
        }
        let unanswered = || Reply::new(Outcome::Failed, "the agent stopped before it answered");
        let answer = reply.await.unwrap_or_else(|_| unanswered());
        let code = call.code(answer.outcome);
        match answer.body {
            Some(body) if code.is_success() => reply::json(code, &body),
            _ if answer.message.is_empty() && code.is_success() => reply::text(code, call.success_text()),
            _ => reply::text(code, answer.message),
        }
    }
}

fn refuse(status: StatusCode, text: &str) -> Box<Answer> {
    Box::new(reply::text(status, text))
}

async fn read_body<B>(call: Call, request: Request<B>) -> Result<Map<String, Value>, Box<Answer>>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !call.has_body() {
        return Ok(Map::new());
    }
    if call.needs_body() && !request.headers().contains_key(CONTENT_LENGTH) {
        return Err(refuse(StatusCode::LENGTH_REQUIRED, "the request must state its Content-Length"));
    }
    let body = Box::pin(tokio::time::timeout(BODY_TIME, Limited::new(request.into_body(), BODY_LIMIT).collect()));
    let bytes = match body.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB"));
        }
        Ok(Err(e)) => return Err(refuse(StatusCode::BAD_REQUEST, &format!("the body can't be read: {e}"))),
        Err(_) => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body didn't come in time")),
    };
    if bytes.is_empty() && !call.needs_body() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(body)) if !body.is_empty() || !call.needs_body() => Ok(body),
        Ok(_) => Err(refuse(StatusCode::BAD_REQUEST, "the body must be a JSON object with something in it")),
        Err(e) => Err(refuse(StatusCode::BAD_REQUEST, &format!("the body is not JSON: {e}"))),
    }
}

fn restart(body: &Map<String, Value>) -> Result<RestartFilter, Box<Answer>> {
    let bad = |text: String| refuse(StatusCode::BAD_REQUEST, &text);
    let mut filter = RestartFilter::default();
    for (key, value) in body {
        match key.as_str() {
            "schedule" => return Err(unscheduled("restart")),
            "role" => match value.as_str() {
                Some(role @ ("primary" | "standby_leader" | "replica")) => filter.role = Some(role.to_owned()),
                _ => {
                    let text = "PostgreSQL role should be either primary, standby_leader, or replica";
                    return Err(bad(text.to_owned()));
                }
            },
            "postgres_version" => match value.as_str().filter(|v| is_version(v)) {
                Some(version) => filter.postgres_version = Some(version.to_owned()),
                None => return Err(bad(format!("{value} is not a version of PostgreSQL such as \"15.4\""))),
            },
            "timeout" => match parse_duration(value).map(|d| d.as_secs()) {
                Some(seconds) if seconds > 0 => filter.timeout_secs = Some(seconds),
                _ => return Err(bad("Timeout should be a positive number of seconds".to_owned())),
            },
            "restart_pending" => filter.restart_pending = parse_bool(value).unwrap_or(false),
            _ => return Err(bad(format!("Unknown filter for the scheduled restart: {key}"))),
        }
    }
    Ok(filter)
}

fn is_version(text: &str) -> bool {
    let parts = text.split('.');
    (1..=3).contains(&parts.clone().count())
        && parts.into_iter().all(|p| !p.is_empty() && p.len() <= 4 && p.bytes().all(|b| b.is_ascii_digit()))
}

fn unscheduled(what: &str) -> Box<Answer> {
    let text = format!("this version of pgherd can't schedule a {what}: leave the time out to do it now");
    refuse(StatusCode::NOT_IMPLEMENTED, &text)
}

/// The order of a switchover or failover. A failover that names the leader is a switchover.
fn change_of_leader(body: &Map<String, Value>, failover: bool) -> Result<Command, Box<Answer>> {
    let bad = |text: &str| Err(refuse(StatusCode::BAD_REQUEST, text));
    let named = |key: &str| match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => Ok(Some(name.clone()).filter(|n| !n.is_empty())),
        Some(other) => Err(refuse(StatusCode::BAD_REQUEST, &format!("{key} must be a name, not {other}"))),
    };
    let leader = named("leader")?;
    let candidate = named("candidate")?.or(named("member")?);
    if body.get("scheduled_at").is_some_and(|v| !v.is_null() && v.as_str() != Some("")) {
        return if failover { bad("Failover can't be scheduled") } else { Err(unscheduled("switchover")) };
    }
    match (failover, leader, candidate) {
        (true, _, None) => bad("Failover could be performed only to a specific candidate"),
        (false, None, _) => bad("Switchover could be performed only from a specific leader"),
        (_, Some(leader), Some(candidate)) if leader == candidate => bad("Switchover target and source are the same"),
        (true, None, Some(candidate)) => Ok(Command::Failover { candidate }),
        (_, leader, candidate) => Ok(Command::Switchover { leader, candidate }),
    }
}
