//! Who a client is: the method that applies to it, and the conversation that the method asks for.

use std::sync::Arc;

use super::ask;
use super::login::{Login, Refusal, Wish};
use crate::admin::talk;
use crate::auth::admission::{Admission, Demand, MAX_ANSWER, Progress};
use crate::auth::scram::Nonce;
use crate::auth::{self, Secret};
use crate::client::Origin;
use crate::config::{Attempt, AuthType, Database, hba};
use crate::secrets::Known;
use crate::server::authenticate::Credential;

/// What a client is told whose certificate doesn't let it in.
const NO_CERTIFICATE: &str = "certificate authentication failed";

/// What a client is told whose system user doesn't let it in.
const NO_PEER: &str = "unix socket login rejected";

/// How a client is to prove who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Method {
    Any,
    Trust,
    Plain,
    Md5,
    Scram,
    Cert(Option<String>),
    Peer(Option<String>),
}

/// Lets a client prove who it is. Returns what its pool may log in to servers with.
pub(super) async fn authenticate(
    login: &mut Login<'_>,
    wish: &Wish,
    entry: Option<&Database>,
) -> Result<Credential, Refusal> {
    let method = method(login, wish)?;
    if method == Method::Any {
        if entry.is_some_and(|e| e.user.is_none()) {
            tracing::error!(target: "pooler", "auth_type=any requires forced user");
            return Err(Refusal::told("bouncer config error"));
        }
        return Ok(Credential::default());
    }
    let worker = login.seat.worker.clone();
    let known = match worker.shared.secrets.listed(&wish.user) {
        Some(known) => Some(known),
        None => match entry {
            Some(entry) => ask::secret(&worker, entry, &wish.user).await?,
            None => None,
        },
    };
    match method {
        Method::Any => {}
        Method::Trust if known.is_some() => {}
        Method::Trust => return Err(Refusal::told("\"trust\" authentication failed")),
        Method::Cert(map) => {
            if let Err(fault) = certificate(login, wish, map.as_deref()) {
                // The log says what the client has no business to know.
                tracing::error!(target: "pooler", "{} {fault}", super::login::name(&login.seat.presence));
                return Err(Refusal::told(NO_CERTIFICATE));
            }
            known.is_some().then_some(()).ok_or_else(|| Refusal::told(NO_CERTIFICATE))?;
        }
        Method::Peer(map) => {
            peer(login, wish, map.as_deref())?;
            known.is_some().then_some(()).ok_or_else(|| Refusal::told(NO_PEER))?;
        }
        Method::Plain | Method::Md5 | Method::Scram => return prove(login, wish, known, &method).await,
    }
    Ok(Credential { known, keys: None })
}

fn method(login: &Login<'_>, wish: &Wish) -> Result<Method, Refusal> {
    let config = login.seat.worker.config();
    Ok(match config.settings.auth_type {
        AuthType::Any => Method::Any,
        AuthType::Trust => Method::Trust,
        AuthType::Plain => Method::Plain,
        AuthType::Md5 => Method::Md5,
        AuthType::Scram => Method::Scram,
        AuthType::Cert => Method::Cert(None),
        AuthType::Hba => {
            let attempt = Attempt {
                address: match login.seat.presence.origin {
                    Origin::Tcp(peer, _) => Some(peer.ip().to_canonical()),
                    Origin::Unix(_) => None,
                },
                tls: login.stream.is_tls(),
                database: &wish.database,
                user: &wish.user,
                replication: wish.replication.as_deref().is_some_and(|r| r != b"database"),
            };
            let rule = config.hba.as_ref().and_then(|hba| hba.matches(&attempt));
            let rule = rule.ok_or_else(|| Refusal::told("no authentication method is found"))?;
            match rule.method {
                hba::Method::Trust => Method::Trust,
                hba::Method::Reject => return Err(Refusal::told("login rejected")),
                hba::Method::Md5 => Method::Md5,
                hba::Method::Scram => Method::Scram,
                hba::Method::Plain => Method::Plain,
                hba::Method::Cert => Method::Cert(rule.map.clone()),
                hba::Method::Peer => Method::Peer(rule.map.clone()),
            }
        }
    })
}

/// Asks for a password or a proof of it.
async fn prove(
    login: &mut Login<'_>,
    wish: &Wish,
    known: Option<Arc<Known>>,
    method: &Method,
) -> Result<Credential, Refusal> {
    let secrets = &login.seat.worker.shared.secrets;
    let secret = known.as_ref().map(|k| k.secret.clone());
    let scram =
        *method == Method::Scram || (*method == Method::Md5 && matches!(secret.as_deref(), Some(Secret::Scram(_))));
    let random = |_| Refusal::told("no random bytes to be had");
    let demand = if scram {
        let iterations = login.seat.worker.config().settings.scram_iterations;
        Demand::Scram(secrets.verifier(known.as_deref(), &wish.user, iterations), Nonce::random().map_err(random)?)
    } else if *method == Method::Plain {
        Demand::Password(secret)
    } else {
        Demand::Md5(secret, auth::random().map_err(random)?)
    };
    let mut out = Vec::new();
    let mut admission = Admission::begin(wish.user.as_bytes(), demand, &mut out);
    loop {
        login.send(&out).await?;
        out.clear();
        let (kind, body) = talk::message(login, MAX_ANSWER).await?;
        if kind != b'p' {
            return Err(Refusal::Silent("bad packet".to_owned()));
        }
        match admission.answer(&body, &mut out) {
            Ok(Progress::Asked) => {}
            Ok(Progress::Admitted(keys)) => {
                login.send(&out).await?;
                return Ok(Credential { known, keys });
            }
            Err(refusal) => {
                if let Some(detail) = refusal.detail() {
                    super::login::log(&login.seat.presence, &format!("SASL authentication failed: {detail}"));
                }
                return Err(Refusal::told(refusal.to_string()));
            }
        }
    }
}

/// The name in the client's certificate has to be the user, or one that the map allows to be.
fn certificate(login: &Login<'_>, wish: &Wish, map: Option<&str>) -> Result<(), &'static str> {
    if !login.stream.is_tls() {
        return Err("TLS connection required");
    }
    let name = login.stream.peer_certificate().and_then(crate::tls::common_name);
    let name = name.ok_or("TLS client certificate required")?;
    match map {
        Some(map) if login.seat.worker.config().idents.allows(map, &name, &wish.user) => Ok(()),
        None if name == wish.user => Ok(()),
        _ => Err("TLS certificate name mismatch"),
    }
}

/// The system user at the other end of a Unix socket has to be the user, or one that the map allows to be.
fn peer(login: &Login<'_>, wish: &Wish, map: Option<&str>) -> Result<(), Refusal> {
    let failed = || Refusal::told(NO_PEER);
    let credentials = login.stream.peer_credentials().ok().flatten().ok_or_else(failed)?;
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(credentials.user)).ok().flatten();
    let name = user.ok_or_else(failed)?.name;
    match map {
        Some(map) if login.seat.worker.config().idents.allows(map, &name, &wish.user) => Ok(()),
        None if name == wish.user => Ok(()),
        _ => Err(failed()),
    }
}
