//! What etcd's and gRPC's errors mean: whether the request was carried out, and who can do something about it. Texts
//! are those of etcd's `api/v3rpc/rpctypes/error.go`, which are the same from 3.4 to 3.6.

use std::error::Error as StdError;

use tonic::{Code, Status};

use crate::Error;

/// Why one attempt at one member failed.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The request certainly was not carried out; another member may do better.
    NotDone(String),
    /// The request may have been carried out, or may yet be.
    Unclear(String),
    /// TLS with this member fails, so that it carries nothing out.
    Untrusted(String),
    /// The authentication token is not valid (any more); the request was not carried out.
    TokenInvalid(String),
    /// No member would answer anything else.
    Final(Error),
}

impl Fault {
    /// What went wrong, for people.
    pub(super) fn message(&self) -> String {
        match self {
            Fault::NotDone(m) | Fault::Unclear(m) | Fault::Untrusted(m) | Fault::TokenInvalid(m) => m.clone(),
            Fault::Final(e) => e.to_string(),
        }
    }
}

impl From<etcd_client::Error> for Fault {
    fn from(error: etcd_client::Error) -> Fault {
        match &error {
            etcd_client::Error::GRpcStatus(status) => of_status(status),
            etcd_client::Error::LeaseKeepAliveError(m) if m == "lease not found" => Fault::Final(Error::LeaseGone),
            etcd_client::Error::TransportError(e) => of_chain(e, chain(e)),
            _ => Fault::Unclear(chain(&error)),
        }
    }
}

fn of_status(status: &Status) -> Fault {
    let said = status.message();
    let has = |part: &str| said.contains(part);
    let refused = |m: String| Fault::Final(Error::Refused(m));
    match status.code() {
        Code::NotFound if has("requested lease not found") => Fault::Final(Error::LeaseGone),
        Code::Unauthenticated => Fault::TokenInvalid(said.to_owned()),
        Code::InvalidArgument | Code::Unknown if has("invalid auth token") || has("revision of auth store is old") => {
            Fault::TokenInvalid(said.to_owned())
        }
        Code::InvalidArgument if has("user name is empty") => {
            Fault::TokenInvalid("etcd wants a user name and a password".to_owned())
        }
        Code::InvalidArgument if has("authentication failed") => {
            refused("etcd rejects the user name or password: correct username and password of the etcd section".into())
        }
        Code::PermissionDenied => refused(
            "the etcd user may not read and write the cluster's keys: grant its role readwrite on their prefix".into(),
        ),
        Code::ResourceExhausted if has("database space exceeded") => Fault::Final(Error::Unavailable(
            "etcd is out of space and takes no writes: compact and defragment it, then run `etcdctl alarm disarm`"
                .into(),
        )),
        Code::ResourceExhausted if has("too many requests") => Fault::NotDone(said.to_owned()),
        // Said before the request is looked at, because it asks for a member that knows a leader.
        Code::Unavailable if said == "etcdserver: no leader" => Fault::NotDone(said.to_owned()),
        Code::OutOfRange if has("compacted") => Fault::Final(Error::Lost(said.to_owned())),
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented if has("etcdserver:") => {
            Fault::Final(Error::Protocol(said.to_owned()))
        }
        _ => of_chain(status, chain(status)),
    }
}

/// Judges errors of the connection itself.
fn of_chain(error: &(dyn StdError + 'static), message: String) -> Fault {
    const TLS: [&str; 4] =
        ["invalid peer certificate", "received fatal alert", "received corrupt message", "HandshakeFailure"];
    let not_sent = sources(error).any(|e| e.is::<tonic::ConnectError>());
    if TLS.iter().any(|t| message.contains(t)) {
        // With TLS 1.3 a server's verdict on the client certificate comes after the client has sent its request.
        return Fault::Untrusted(message);
    }
    if not_sent { Fault::NotDone(message) } else { Fault::Unclear(message) }
}

fn sources<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |e: &&'a (dyn StdError + 'static)| (*e).source())
}

/// An error with its causes, each said once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for source in sources(error) {
        let text = match source.downcast_ref::<Status>() {
            Some(status) => status.message().to_owned(),
            None => source.to_string(),
        };
        if !text.is_empty() && !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, message: &str) -> Fault {
        Fault::from(etcd_client::Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn time_outs_and_lost_leaders_leave_it_unclear() {
        for message in [
            "etcdserver: request timed out",
            "etcdserver: request timed out, possibly due to previous leader failure",
            "etcdserver: leader changed",
            "etcdserver: server stopped",
            "broken pipe",
        ] {
            assert!(matches!(of(Code::Unavailable, message), Fault::Unclear(_)), "{message}");
        }
        assert!(matches!(of(Code::Unknown, "raft proposal dropped"), Fault::Unclear(_)));
    }

    #[test]
    fn refusals_name_what_to_do() {
        let wrong = of(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
        assert!(matches!(&wrong, Fault::Final(Error::Refused(m)) if m.contains("password")), "{wrong:?}");
        let denied = of(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(matches!(&denied, Fault::Final(Error::Refused(m)) if m.contains("grant")), "{denied:?}");
    }

    #[test]
    fn requests_without_a_leader_or_a_lease_are_not_done() {
        assert!(matches!(of(Code::Unavailable, "etcdserver: no leader"), Fault::NotDone(_)));
        assert!(matches!(of(Code::Unauthenticated, "etcdserver: invalid auth token"), Fault::TokenInvalid(_)));
        let gone = of(Code::NotFound, "etcdserver: requested lease not found");
        assert!(matches!(gone, Fault::Final(Error::LeaseGone)));
        let full = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full, Fault::Final(Error::Unavailable(_))));
    }
}
