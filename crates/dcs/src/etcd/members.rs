//! etcd's members: which one is asked, when to turn to the next, and what may be tried again. What is asked is not here.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, TlsOptions};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::{Certificate, Identity};

use super::Options;
use super::fault::Fault;
use crate::Error;

/// Pause before all members are tried once more.
const PAUSE: Duration = Duration::from_millis(100);
/// An attempt at one member takes this long at most, so that a silent one costs little.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(1);

/// What carrying a request out does, and so whether it may be sent again when it is unclear that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing that matters.
    None,
    /// The second time does nothing more.
    Repeatable,
    /// It must not be done twice.
    Once,
}

/// A connection to one member.
#[derive(Clone)]
pub(super) struct Link {
    /// Position of the member in the list.
    pub(super) index: usize,
    /// The client, of this member only.
    pub(super) client: Client,
}

struct Member {
    address: String,
    options: ConnectOptions,
    client: Mutex<Option<Client>>,
}

/// All members, and which one is in use.
pub(super) struct Members {
    list: Vec<Member>,
    user: Option<(String, String)>,
    /// Position of the member in use.
    preferred: watch::Sender<usize>,
    answered: Mutex<Option<Instant>>,
    timeout: Duration,
    attempt: Duration,
}

impl Members {
    /// Checks addresses, certificates and key; connects to nothing.
    pub(super) async fn new(options: &Options) -> Result<Members, Error> {
        let attempt = LONGEST_ATTEMPT.min(options.timeout / 3);
        let refused = |what: String| Error::Refused(what);
        if options.endpoints.is_empty() {
            return Err(refused("no address of etcd is given: set hosts in the etcd section".into()));
        }
        let mut list = Vec::new();
        for address in &options.endpoints {
            let connect = connect_options(options, address, attempt)?;
            let checked = Client::connect([address], Some(connect.clone())).await;
            checked.map_err(|e| refused(format!("address or certificates of etcd at {address} can't be used: {e}")))?;
            list.push(Member { address: address.clone(), options: connect, client: Mutex::default() });
        }
        let user = match (&options.user, &options.password) {
            (Some(user), password) if !user.is_empty() => Some((user.clone(), password.clone().unwrap_or_default())),
            _ => None,
        };
        Ok(Members {
            list,
            user,
            preferred: watch::Sender::new(0),
            answered: Mutex::default(),
            timeout: options.timeout,
            attempt,
        })
    }

    /// Limit of one attempt at one member.
    pub(super) fn attempt(&self) -> Duration {
        self.attempt
    }

    /// Whether the member in use has answered in this last while.
    pub(super) fn answered_within(&self, while_: Duration) -> bool {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.is_some_and(|at| at.elapsed() < while_)
    }

    /// Asks the member in use, then the others, until one answers or the time of one operation is over.
    pub(super) async fn run<T, F>(&self, effect: Effect, call: impl Fn(Link) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.run_within((self.timeout, PAUSE), effect, call).await
    }

    /// Tries each member once or more, for the verdict on how this client connects. A server that refuses a certificate
    /// under TLS 1.3 says so and closes the connection, with requests unread: often the word is lost to the reset, so it's
    /// asked again and again in this time.
    pub(super) async fn try_out<T, F>(&self, call: impl Fn(Link) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let members = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.run_within((self.attempt * members, PAUSE / 8), Effect::None, call).await
    }

    async fn run_within<T, F>(
        &self,
        (limit, pause): (Duration, Duration),
        effect: Effect,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let begun = Instant::now();
        let mut failures = Failures::default();
        loop {
            let index = *self.preferred.borrow();
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(failures.conclusion(self, effect));
            }
            match self.ask(index, left.min(self.attempt), &call).await {
                Ok(answer) => {
                    *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                    return Ok(answer);
                }
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Unclear(message) | Fault::Untrusted(message)) if effect == Effect::Once => {
                    self.turn_from(index);
                    return Err(Error::Unknown(format!("{}: {message}", self.list[index].address)));
                }
                Err(fault) => {
                    tracing::debug!("etcd at {}: {}", self.list[index].address, fault.message());
                    self.forget(index);
                    failures.tokens += u32::from(matches!(fault, Fault::TokenInvalid(_)));
                    if failures.tokens > 2 || !matches!(fault, Fault::TokenInvalid(_)) {
                        self.turn_from(index);
                    }
                    failures.last.insert(index, fault);
                    failures.check(self)?;
                }
            }
            failures.attempts += 1;
            if failures.attempts % self.list.len() == 0 {
                tokio::time::sleep(pause.min(limit.saturating_sub(begun.elapsed()))).await;
            }
        }
    }

    async fn ask<T, F>(&self, index: usize, limit: Duration, call: impl Fn(Link) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let begun = Instant::now();
        let silence = || format!("no answer within {} ms", limit.as_millis());
        let link = timeout(limit, self.link(index)).await.map_err(|_| Fault::NotDone(silence()))??;
        let left = limit.saturating_sub(begun.elapsed());
        timeout(left, call(link)).await.unwrap_or_else(|_| Err(Fault::Unclear(silence())))
    }

    /// The connection to a member, authenticated if there is a user.
    async fn link(&self, index: usize) -> Result<Link, Fault> {
        let member = &self.list[index];
        let kept = member.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = kept {
            return Ok(Link { index, client });
        }
        let mut client = Client::connect([&member.address], Some(member.options.clone())).await?;
        if let Some(user) = &self.user {
            match client.update_user(Some(user.clone())).await {
                Err(etcd_client::Error::GRpcStatus(s)) if s.message().contains("authentication is not enabled") => {
                    tracing::warn!("a user name is configured, but etcd has no authentication enabled");
                }
                // Asking for a token does nothing that matters.
                Err(e) => {
                    return Err(match Fault::from(e) {
                        Fault::Unclear(m) => Fault::NotDone(m),
                        fault => fault,
                    });
                }
                Ok(()) => {}
            }
        }
        *member.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(Link { index, client })
    }

    /// Returns when this member is no longer the one in use.
    pub(super) async fn turned_from(&self, index: usize) {
        let mut preferred = self.preferred.subscribe();
        if preferred.wait_for(|p| *p != index).await.is_err() {
            std::future::pending().await
        }
    }

    /// Closes the connection once nobody uses it; the next request opens another.
    fn forget(&self, index: usize) {
        self.list[index].client.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Turns to the next member, unless another request has already.
    pub(super) fn turn_from(&self, index: usize) {
        self.forget(index);
        let turned = self.preferred.send_if_modified(|preferred| {
            let mine = *preferred == index;
            *preferred = if mine { (index + 1) % self.list.len() } else { *preferred };
            mine && self.list.len() > 1
        });
        if turned {
            *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// What went wrong during one operation.
#[derive(Default)]
struct Failures {
    attempts: usize,
    tokens: u32,
    last: BTreeMap<usize, Fault>,
}

impl Failures {
    /// Stops early when going on is pointless.
    fn check(&self, members: &Members) -> Result<(), Error> {
        let all_untrusted =
            self.last.len() == members.list.len() && self.last.values().all(|f| matches!(f, Fault::Untrusted(_)));
        let rejected = self.tokens > 2;
        if all_untrusted {
            let advice = "check cacert, cert and key of the etcd section, and the names in etcd's certificates";
            return Err(Error::Refused(format!("{}; {advice}", self.summary(members))));
        }
        if rejected { Err(Error::Refused(self.summary(members))) } else { Ok(()) }
    }

    fn conclusion(&self, members: &Members, effect: Effect) -> Error {
        let summary = self.summary(members);
        let unclear = self.last.values().any(|f| matches!(f, Fault::Unclear(_)));
        if unclear && effect != Effect::None { Error::Unknown(summary) } else { Error::Unavailable(summary) }
    }

    fn summary(&self, members: &Members) -> String {
        let each = |(index, fault): (&usize, &Fault)| {
            let (address, message) = (&members.list[*index].address, fault.message());
            format!("{address}: {message}{}", hint(address, &message))
        };
        let all: Vec<String> = self.last.iter().map(each).collect();
        if all.is_empty() { "no time left to ask".to_owned() } else { all.join("; ") }
    }
}

/// What a connection that is closed at its very beginning often means.
fn hint(address: &str, message: &str) -> &'static str {
    let closed = ["broken pipe", "connection reset", "connection closed"].iter().any(|c| message.contains(c));
    if address.starts_with("https://") && message.contains("tls handshake eof") {
        " (does etcd speak TLS there? If not, set protocol: http in the etcd section)"
    } else if address.starts_with("http://") && closed {
        " (does etcd want TLS there? If so, set protocol: https and cacert in the etcd section)"
    } else {
        ""
    }
}

fn connect_options(options: &Options, address: &str, attempt: Duration) -> Result<ConnectOptions, Error> {
    let connect = ConnectOptions::new()
        .with_require_leader(true)
        .with_auto_token_refresh(true)
        // Shorter than an attempt, so that a host that is away is told apart from one that does not answer.
        .with_connect_timeout(attempt.mul_f32(0.8));
    if address.starts_with("http://") {
        return Ok(connect);
    }
    if !address.starts_with("https://") {
        return Err(Error::Refused(format!("{address} is no address such as http://host:2379")));
    }
    let mut tls = TlsOptions::new();
    if let Some(ca) = &options.ca {
        tls = tls.ca_certificate(Certificate::from_pem(ca));
    } else {
        let what = "no authority to check etcd's certificate against: set cacert in the etcd section";
        return Err(Error::Refused(format!("{address}: {what}")));
    }
    match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => tls = tls.identity(Identity::from_pem(cert, key)),
        (None, None) => {}
        _ => return Err(Error::Refused("cert and key of the etcd section go together: one is missing".into())),
    }
    Ok(connect.with_tls(tls))
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn a_port_that_speaks_the_other_protocol_is_guessed() {
        assert!(hint("https://e:2379", "tls handshake eof: transport error").contains("protocol: http in"));
        let closed = "transport error: connection error: stream closed because of a broken pipe";
        assert!(hint("http://e:2379", closed).contains("protocol: https"));
        assert_eq!(hint("https://e:2379", closed), "");
        assert_eq!(hint("http://e:2379", "connection refused"), "");
    }
}
