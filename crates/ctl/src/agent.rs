//! Orders to a member's agent: over gRPC to pgherd's, over REST to Patroni's. Which order, and to whom, is decided by the
//! verbs.

use std::sync::Arc;
use std::time::Duration;

use control::{Client, ClientOptions, Error};
use ha::Member;
use ha::command::{Outcome, RestartFilter};
use http::Method;
use serde_json::{Value, json};
use service::tls::{self, ClientFiles};

use crate::console::Progress;
use crate::context::Context;
use crate::fault::{Fault, Result};
use crate::rest::{Broken, Rest};

/// How long an agent may take to say anything at all.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// How long a Patroni may take for a change of leader or a reload; it gives up earlier itself.
const REST_LIMIT: Duration = Duration::from_secs(120);

/// The agent of one member.
pub(crate) struct Agent {
    /// The member's name.
    pub(crate) name: String,
    link: Link,
}

enum Link {
    /// pgherd's control plane.
    Control(Client),
    /// Patroni's REST API.
    Rest(Rest),
}

/// Something that a member is told to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Order {
    /// Planned change of leader.
    Switchover { leader: String, candidate: Option<String> },
    /// Change of leader to a named member.
    Failover { candidate: String },
    /// Restart of PostgreSQL.
    Restart(RestartFilter),
    /// A fresh clone.
    Reinitialize { force: bool, from_leader: bool },
    /// Read the configuration file again.
    Reload,
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// In the REST API's codes.
    pub(crate) status: u16,
    /// For people.
    pub(crate) message: String,
}

impl Answer {
    /// Done or accepted.
    pub(crate) fn is_success(&self) -> bool {
        self.status < 400
    }
}

/// What an agent says about itself.
pub(crate) struct About {
    /// `pgherd` or `Patroni`.
    pub(crate) program: &'static str,
    /// Its version.
    pub(crate) version: String,
    /// server_version_num of its PostgreSQL.
    pub(crate) server_version: Option<u64>,
    /// State of its PostgreSQL.
    pub(crate) state: String,
}

/// Finds out what a member speaks. The error says why it can't be reached.
pub(crate) async fn reach(context: &Context, member: &Member) -> std::result::Result<Agent, String> {
    if member.api_url.is_empty() {
        return Err("it has published no api_url".to_owned());
    }
    let tls = match member.api_url.starts_with("https") {
        true => {
            let files = ClientFiles::of(&context.config.ctl, &context.config.restapi);
            Some(Arc::new(tls::client(&files).map_err(|e| e.to_string())?))
        }
        false => None,
    };
    let credentials = context.config.ctl.authentication.as_ref().map(|basic| ha::access::Credentials {
        user: basic.username.clone(),
        password: basic.password.expose().to_owned(),
    });
    let rest = Rest::new(&member.api_url, tls.clone(), credentials.as_ref().map(|c| c.header()))?;
    let agent = |link| Ok(Agent { name: member.name.clone(), link });
    let options = ClientOptions { tls, credentials, ..ClientOptions::default() };
    // A question first: an order whose fate is unknown must not be given a second time over REST.
    let asked = async {
        let client = Client::connect(&member.api_url, options).await?;
        client.status().await.map(|_| client)
    };
    match tokio::time::timeout(PROBE_LIMIT, asked).await {
        Ok(Ok(client)) => agent(Link::Control(client)),
        Ok(Err(Error::NotControl(_))) => agent(Link::Rest(rest)),
        // A TLS server that insists on HTTP/1 ends the handshake.
        Ok(Err(Error::Unreachable(reason))) if member.api_url.starts_with("https") => match rest.probe().await {
            Ok(()) => agent(Link::Rest(rest)),
            Err(_) => Err(reason),
        },
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("its agent doesn't answer within {} s", PROBE_LIMIT.as_secs())),
    }
}

impl Agent {
    /// Gives an order and waits for its end.
    pub(crate) async fn order(&self, context: &Context, order: &Order, progress: &Progress) -> Result<Answer> {
        context.console.order_is_out(true);
        let answer = match &self.link {
            Link::Control(client) => self.over_control(client, order, progress).await,
            Link::Rest(rest) => self.over_rest(rest, order).await,
        };
        context.console.order_is_out(false);
        match answer {
            Ok(answer) if !answer.is_success() && is_open(&answer.message) => Err(self.unanswered(&answer.message)),
            answer => answer,
        }
    }

    async fn over_control(&self, client: &Client, order: &Order, progress: &Progress) -> Result<Answer> {
        let course = match order.clone() {
            Order::Switchover { leader, candidate } => client.switchover(Some(leader), candidate).await,
            Order::Failover { candidate } => client.failover(candidate).await,
            Order::Restart(filter) => client.restart(filter).await,
            Order::Reinitialize { force, from_leader } => client.reinitialize(force, from_leader).await,
            Order::Reload => {
                let reply = client.reload().await;
                return reply.map(|message| Answer { status: 202, message }).or_else(|e| self.judge(e));
            }
        };
        let reply = match course {
            Ok(course) => course.finish(|line| progress.step(line)).await,
            Err(e) => Err(e),
        };
        match reply {
            Ok(reply) => Ok(Answer { status: status(reply.outcome), message: reply.message }),
            Err(e) => self.judge(e),
        }
    }

    /// An error is an answer when it says that nothing was done.
    fn judge(&self, error: Error) -> Result<Answer> {
        let status = match &error {
            Error::Address(_) | Error::Unreachable(_) | Error::Unavailable(_) => 503,
            Error::Refused(_) => 403,
            Error::Invalid(_) => 400,
            Error::Precondition(_) => 412,
            Error::Conflict(_) => 409,
            Error::NotControl(_) | Error::TimedOut(_) | Error::Protocol(_) => {
                return Err(self.unanswered(&error.to_string()));
            }
        };
        Ok(Answer { status, message: error.to_string() })
    }

    fn unanswered(&self, reason: &str) -> Fault {
        Fault::Unknown(format!(
            "{} was given the order, and how it ended is not known ({reason}); look with \
             `pgherdctl list` before trying again",
            self.name
        ))
    }

    async fn over_rest(&self, rest: &Rest, order: &Order) -> Result<Answer> {
        let (path, body) = rest_call(order);
        let limit = match order {
            Order::Restart(_) | Order::Reinitialize { .. } => None,
            _ => Some(REST_LIMIT),
        };
        match rest.call(Method::POST, path, Some(&body), limit).await {
            Ok((status, message)) => Ok(Answer { status, message: message.trim().to_owned() }),
            Err(Broken::Unsent(reason)) => Ok(Answer { status: 503, message: reason }),
            Err(Broken::Unanswered(reason)) => Err(self.unanswered(&reason)),
        }
    }

    /// Asks the agent about itself. The error says why it can't be told.
    pub(crate) async fn about(&self) -> std::result::Result<About, String> {
        match &self.link {
            Link::Control(client) => {
                let report = client.status().await.map_err(|e| e.to_string())?;
                let server_version = report.server_version.map(u64::from);
                Ok(About { program: "pgherd", version: report.version, server_version, state: report.state })
            }
            Link::Rest(rest) => {
                let called = rest.call(Method::GET, "/patroni", None, Some(PROBE_LIMIT)).await;
                let (_, body) = called.map_err(Broken::reason)?;
                let status: Value = serde_json::from_str(&body).map_err(|e| format!("no JSON from /patroni: {e}"))?;
                let text = |v: &Value| v.as_str().unwrap_or("unknown").to_owned();
                Ok(About {
                    program: "Patroni",
                    version: text(&status["patroni"]["version"]),
                    server_version: status["server_version"].as_u64(),
                    state: text(&status["state"]),
                })
            }
        }
    }
}

/// Whether an agent, pgherd's or Patroni's, says that it doesn't know how an order ended.
fn is_open(message: &str) -> bool {
    message.ends_with("status unknown") || message.contains("may or may not")
}

/// Path and body of a REST call.
fn rest_call(order: &Order) -> (&'static str, Value) {
    let mut body = json!({});
    let path = match order {
        Order::Switchover { leader, candidate } => {
            body["leader"] = leader.as_str().into();
            body["candidate"] = candidate.as_deref().into();
            "/switchover"
        }
        Order::Failover { candidate } => {
            body["candidate"] = candidate.as_str().into();
            "/failover"
        }
        Order::Restart(filter) => {
            if let Some(role) = &filter.role {
                body["role"] = role.as_str().into();
            }
            if let Some(version) = &filter.postgres_version {
                body["postgres_version"] = version.as_str().into();
            }
            if filter.restart_pending {
                body["restart_pending"] = true.into();
            }
            if let Some(seconds) = filter.timeout_secs {
                body["timeout"] = seconds.into();
            }
            "/restart"
        }
        Order::Reinitialize { force, from_leader } => {
            body = json!({"force": force, "from_leader": from_leader});
            "/reinitialize"
        }
        Order::Reload => "/reload",
    };
    (path, body)
}

/// The REST API's code for an outcome.
fn status(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Done => 200,
        Outcome::Accepted => 202,
        Outcome::Invalid => 400,
        Outcome::Conflict => 409,
        Outcome::Precondition => 412,
        Outcome::Unprocessable => 422,
        Outcome::Dcs => 502,
        Outcome::Failed => 503,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_bodies_are_patronis() {
        let switchover = Order::Switchover { leader: "pg1".into(), candidate: None };
        assert_eq!(rest_call(&switchover), ("/switchover", json!({"leader": "pg1", "candidate": null})));
        let restart =
            Order::Restart(RestartFilter { restart_pending: true, timeout_secs: Some(5), ..Default::default() });
        assert_eq!(rest_call(&restart), ("/restart", json!({"restart_pending": true, "timeout": 5})));
        assert_eq!(rest_call(&Order::Restart(RestartFilter::default())), ("/restart", json!({})));
    }
}
