//! A client's login: encryption, what it asks for, who it is, and what it's told before its first query.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::borrow::borrow_told;
use super::{Session, authenticate};
use crate::admin::talk;
use crate::client::{Client, Origin, Presence};
use crate::config::{AuthType, Database, PoolMode};
use crate::console::rows::Replication;
use crate::console::{self, Rights};
use crate::flow::{ClientStatements, Requests};
use crate::plan::{Plan, Timeouts};
use crate::pool::Pool;
use crate::server::{self, Output, Server};
use crate::shared::Slot;
use crate::shared::limits::{Place, add_below};
use crate::stream::{Start, Stream, accept_tls};
use crate::vars::Vars;
use crate::wire::build::backend::{self as build, Report};
use crate::wire::startup::{self, Packet};
use crate::worker::Seat;

/// SQLSTATE of most refusals.
const PROTOCOL: &str = "08P01";

/// feature_not_supported: what a client asks for isn't to be had here.
pub(crate) const BARRED: &str = "0A000";

/// Why warnings have to stay on.
pub(crate) const SILENCE: &str =
    "client_min_messages above warning is not allowed: sync_commit_cancelled = error has to hear warnings";

/// Bits of a cancel key's process number that name the client's place on its thread.
pub(crate) const SLOT_BITS: u32 = 25;

/// Why a client isn't let in.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It's told so.
    Told {
        /// SQLSTATE.
        code: &'static str,
        /// Message.
        text: String,
    },
    /// Nobody is left to be told, or there's nothing to say.
    Silent(String),
}

impl Refusal {
    pub(crate) fn told(text: impl Into<String>) -> Refusal {
        Refusal::Told { code: PROTOCOL, text: text.into() }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        Refusal::Silent(format!("client unexpected eof: {error}"))
    }
}

impl From<crate::wire::Fault> for Refusal {
    fn from(fault: crate::wire::Fault) -> Refusal {
        if fault.is_silent() { Refusal::Silent(fault.to_string()) } else { Refusal::told(fault.to_string()) }
    }
}

/// A login under way.
pub(crate) struct Login<'a> {
    pub(crate) seat: &'a Seat,
    pub(crate) stream: Stream,
    pub(crate) input: Vec<u8>,
    pub(crate) output: Output,
}

/// What a client asks for.
pub(crate) struct Wish {
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) minor: u16,
    pub(crate) negotiate: Option<Vec<Vec<u8>>>,
    pub(crate) replication: Option<Vec<u8>>,
    pub(crate) parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Wish {
    /// Whether the client wants to replicate.
    pub(crate) fn replicates(&self) -> bool {
        self.replication.is_some()
    }

    /// Of which kind.
    fn kind(&self) -> Replication {
        match self.replication.as_deref() {
            None => Replication::None,
            Some(b"database") => Replication::Logical,
            Some(_) => Replication::Physical,
        }
    }
}

/// The parameter `replication`, unless it says no.
fn replication<'a>(parameters: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<Vec<u8>> {
    let value = parameters.filter(|(name, _)| *name == b"replication").last()?.1;
    let no = [&b"0"[..], b"f", b"false", b"n", b"no", b"off"];
    (!no.iter().any(|word| value.eq_ignore_ascii_case(word))).then(|| value.to_vec())
}

/// Logs a client in. `None` when it wasn't let in, or wanted no session.
pub(crate) async fn run(seat: &Seat, stream: Stream) -> Option<Session> {
    let mut login = Login { seat, stream, input: Vec::new(), output: Output::default() };
    let refusal = match login.perform().await {
        Ok(Some(admitted)) => {
            let Login { stream, input, output, .. } = login;
            let client = Client {
                stream,
                input,
                output,
                requests: Requests::default(),
                vars: admitted.vars,
                statements: admitted.renames.then(Box::<ClientStatements>::default),
            };
            return Some(Session::new(seat, (admitted.pool, admitted.place), client, admitted.server));
        }
        Ok(None) => return None,
        Err(refusal) => refusal,
    };
    login.refuse(refusal).await;
    None
}

/// A client that was let in.
struct Admitted {
    pool: Rc<Pool>,
    vars: Vars,
    renames: bool,
    /// A server of the client's own, for replication.
    server: Option<Box<Server>>,
    place: Place,
}

impl Login<'_> {
    async fn perform(&mut self) -> Result<Option<Admitted>, Refusal> {
        let Some(wish) = self.wish().await? else { return Ok(None) };
        let worker = &self.seat.worker;
        let worker = worker.clone();
        let (shared, config) = (&worker.shared, worker.config());
        let settings = &config.settings;
        self.check_encryption()?;
        if settings.log_connections {
            let tls = self.stream.tls_description().unwrap_or_else(|| "no".to_owned());
            let text = format!("login attempt: db={} user={} tls={tls}", wish.database, wish.user);
            log(&self.seat.presence, &text);
        }
        if wish.database == console::DATABASE {
            return self.console(&wish).await;
        }
        // A shutdown that waits for clients waits for those that have come this far too.
        if shared.shutdown.load(Ordering::Relaxed) > 1 {
            return Err(Refusal::Told { code: "57P01", text: "the pooler is shutting down".to_owned() });
        }
        if shared.client_count() > settings.max_client_conn {
            return Err(Refusal::told("no more connections allowed (max_client_conn)"));
        }
        let Some(entry) = config.database(&wish.database) else {
            return Err(Refusal::told(format!("no such database: {}", wish.database)));
        };
        let vars = self.vars(&wish, &settings.ignore_startup_parameters)?;
        *self.seat.presence.application.borrow_mut() = shared.tracked.get(&vars, "application_name").map(Into::into);
        let credential = authenticate::authenticate(self, &wish, Some(&entry)).await?;
        let (pool, place) = self.admit(&wish, &entry)?;
        self.seat.presence.replication.set(wish.kind());
        if !pool.plan().forced_user && credential.known.is_some() {
            pool.shared.set_credential(credential);
        }
        let mut admitted = Admitted {
            renames: pool.plan().max_prepared_statements > 0 && pool.mode() != PoolMode::Session && !wish.replicates(),
            pool: pool.clone(),
            vars,
            server: None,
            place,
        };
        if let Some(replication) = &wish.replication {
            admitted.server = Some(self.dedicated(&pool, replication).await?);
        }
        self.welcome(&wish, &mut admitted).await?;
        Ok(Some(admitted))
    }

    /// Reads packets until the client says what it wants. `None` when that was no session.
    async fn wish(&mut self) -> Result<Option<Wish>, Refusal> {
        loop {
            let (used, wish) = match startup::parse(&self.input)? {
                None => {
                    self.read().await?;
                    continue;
                }
                Some((Packet::SslRequest, used)) => {
                    self.input.drain(..used);
                    if !self.input.is_empty() {
                        return Err(crate::wire::Fault::DataAfterSslRequest.into());
                    }
                    self.encrypt(Start::Requested).await?;
                    continue;
                }
                Some((Packet::DirectTls, _)) => {
                    self.encrypt(Start::Direct).await?;
                    continue;
                }
                Some((Packet::GssEncRequest, used)) => (used, None),
                Some((Packet::Cancel(cancel), _)) => {
                    crate::cancel::forward(&self.seat.worker.shared, cancel.pid, cancel.key).await;
                    return Ok(None);
                }
                Some((Packet::Startup(startup), used)) => {
                    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let negotiate = startup.needs_negotiation();
                    let wish = Wish {
                        user: name(startup.user()?),
                        database: name(startup.database()?),
                        minor: startup.agreed_minor(),
                        negotiate: negotiate.then(|| startup.extensions().map(<[u8]>::to_vec).collect()),
                        replication: replication(startup.parameters()),
                        parameters: startup.parameters().map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
                    };
                    (used, Some(wish))
                }
            };
            self.input.drain(..used);
            if let Some(wish) = wish {
                let key = (wish.database.as_str().into(), wish.user.as_str().into());
                *self.seat.presence.names.borrow_mut() = Some(key);
                if let Some(extensions) = &wish.negotiate {
                    let mut out = Vec::new();
                    build::negotiate_protocol_version(&mut out, wish.minor, extensions.iter().map(Vec::as_slice));
                    self.send(&out).await?;
                }
                return Ok(Some(wish));
            }
            self.send(b"N").await?;
        }
    }

    /// Takes a place among the database's and the user's clients.
    fn admit(&self, wish: &Wish, entry: &Database) -> Result<(Rc<Pool>, Place), Refusal> {
        let worker = &self.seat.worker;
        let (shared, config) = (&worker.shared, worker.config());
        let (database, user) = (shared.database(&wish.database), shared.user(&wish.user));
        // Servers see the user of the database's entry, whoever the client is.
        let owner = entry.user.as_deref().map_or_else(|| user.clone(), |name| shared.user(name));
        if database.disabled.load(Ordering::Relaxed) {
            return Err(Refusal::told(format!("database \"{}\" is disabled", wish.database)));
        }
        let most = entry.max_db_client_connections.unwrap_or(config.settings.max_db_client_connections);
        if !add_below(&database.clients, most) {
            return Err(Refusal::told("client connections exceeded (max_db_client_connections)"));
        }
        let own = config.users.get(&wish.user).and_then(|u| u.max_user_client_connections);
        if !add_below(&user.clients, own.unwrap_or(config.settings.max_user_client_connections)) {
            database.clients.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::told("client connections exceeded (max_user_client_connections)"));
        }
        let pool = worker.pool_of(&shared.pool(&database, &owner, || Plan::of(&config, entry, &owner.name)));
        pool.shared.clients.fetch_add(1, Ordering::Relaxed);
        let presence = &self.seat.presence;
        let timeouts = Timeouts::of(&config, entry, &wish.user);
        worker.sweeps.expect(&timeouts);
        presence.timeouts.set(Some(timeouts));
        *presence.pool.borrow_mut() = Some((database.name.clone(), owner.name.clone()));
        let place = Place { pool: pool.shared.clone(), user };
        Ok((pool, place))
    }

    /// Tells the client what a server would: parameters, its cancel key, and that it may begin.
    async fn welcome(&mut self, wish: &Wish, admitted: &mut Admitted) -> Result<(), Refusal> {
        let pool = admitted.pool.clone();
        let welcome = match pool.shared.welcome() {
            Some(welcome) => welcome,
            None => {
                let server = borrow_told(self, &pool).await?;
                pool.give(&self.seat.worker, server);
                pool.shared.welcome().ok_or_else(|| Refusal::told("server login failed"))?
            }
        };
        let tracked = &self.seat.worker.shared.tracked;
        admitted.vars.fill(&welcome.vars);
        let mut out = Vec::new();
        build::authentication_ok(&mut out);
        for (name, value) in &welcome.parameters {
            let text = String::from_utf8_lossy(name);
            let value = tracked.get(&admitted.vars, &text).unwrap_or(value);
            build::parameter_status(&mut out, name, value);
        }
        let pid = (self.seat.worker.index as u32) << SLOT_BITS | self.seat.slot as u32;
        let key = crate::cancel::new_key(wish.minor);
        build::backend_key_data(&mut out, pid, &key);
        *self.seat.presence.key.borrow_mut() = key;
        let config = self.seat.worker.config();
        let message = &config.settings.login_notify_message;
        if !message.is_empty() {
            build::notice_response(&mut out, &Report::notice("00000", message));
        }
        build::ready_for_query(&mut out, b'I');
        self.send(&out).await?;
        Ok(())
    }

    /// Serves a client of the console.
    async fn console(&mut self, wish: &Wish) -> Result<Option<Admitted>, Refusal> {
        let config = self.seat.worker.config();
        let settings = &config.settings;
        let own = wish.user == console::DATABASE && self.is_own_user();
        if !own {
            authenticate::authenticate(self, wish, None).await?;
        }
        let rights = if own || settings.auth_type == AuthType::Any {
            Rights::Admin
        } else {
            let rights = Rights::of(&wish.user, &settings.admin_users, &settings.stats_users);
            rights.ok_or_else(|| Refusal::told(console::command::NOT_ALLOWED))?
        };
        talk::serve(self, rights).await?;
        Ok(None)
    }

    /// Whether the process at the other end of a Unix socket belongs to the user that the pooler runs as.
    fn is_own_user(&self) -> bool {
        let credentials = self.stream.peer_credentials().ok().flatten();
        credentials.is_some_and(|c| c.user == nix::unistd::geteuid().as_raw())
    }

    /// Answers a request for TLS, and begins it where it's configured.
    async fn encrypt(&mut self, start: Start) -> Result<(), Refusal> {
        let acceptor = self.seat.worker.shared.tls.accepts.current();
        let unix = matches!(self.seat.presence.origin, Origin::Unix(_));
        let Some(config) = acceptor.config.clone().filter(|_| !unix && !self.stream.is_tls()) else {
            return match start {
                Start::Requested => self.send(b"N").await,
                Start::Direct => Err(Refusal::Silent("TLS is not enabled".to_owned())),
            };
        };
        let early = std::mem::take(&mut self.input);
        // The handshake owns the connection; until it's done something has to stand in.
        let stand_in = Stream::Unix(tokio::net::UnixStream::pair()?.0);
        let plain = std::mem::replace(&mut self.stream, stand_in);
        self.stream = match start {
            Start::Requested if early.is_empty() => {
                let mut plain = plain;
                self.output.drain(&mut plain, b"S").await?;
                accept_tls(plain, config, start, &early).await?
            }
            _ => accept_tls(plain, config, start, &early).await?,
        };
        *self.seat.presence.tls.borrow_mut() = self.stream.tls_description().unwrap_or_default().into();
        Ok(())
    }

    /// A client has to use TLS where the settings demand it.
    fn check_encryption(&self) -> Result<(), Refusal> {
        let unix = matches!(self.seat.presence.origin, Origin::Unix(_));
        if self.seat.worker.shared.tls.accepts.current().sslmode.is_demanded() && !unix && !self.stream.is_tls() {
            return Err(Refusal::told("SSL required"));
        }
        Ok(())
    }

    /// Connects a server for one client alone.
    async fn dedicated(&mut self, pool: &Rc<Pool>, replication: &[u8]) -> Result<Box<Server>, Refusal> {
        let plan = pool.plan().clone();
        let slot = Slot::take(&pool.shared, plan.size, plan.max_db_connections, plan.max_user_connections);
        let slot = slot.map_err(|_| Refusal::told("no more connections allowed for replication (pool_size)"))?;
        let worker = self.seat.worker.clone();
        let patience = crate::pool::launch::nonzero(plan.server_connect_timeout);
        let extra: [(&[u8], &[u8]); 1] = [(b"replication", replication)];
        let choice = pool.only().map_err(Refusal::told)?;
        let connecting = server::login::connect(&worker, pool, slot, choice.as_ref(), &extra);
        match tokio::time::timeout(patience, connecting).await {
            Ok(Ok(server)) => {
                pool.enrol(&server);
                server.marks.state.set(server::State::Active);
                server.marks.client.set(Some(self.seat.presence.id));
                server.marks.dedicated.set(true);
                Ok(server)
            }
            Ok(Err(e)) => Err(Refusal::told(e.to_string())),
            Err(_) => Err(Refusal::told("connect timeout")),
        }
    }

    /// Waits for an order from outside.
    pub(crate) async fn told(&self) -> Refusal {
        std::future::poll_fn(|cx| {
            *self.seat.presence.waker.borrow_mut() = Some(cx.waker().clone());
            match self.seat.presence.order.take() {
                Some(crate::client::Order::Close(text)) => std::task::Poll::Ready(Refusal::told(&*text)),
                Some(crate::client::Order::Notice(_) | crate::client::Order::Cut(_)) | None => std::task::Poll::Pending,
            }
        })
        .await
    }

    /// Reads more from the client.
    pub(crate) async fn read(&mut self) -> Result<(), Refusal> {
        let mut buffer = [0; 1024];
        let read = {
            let stream = &mut self.stream;
            let presence = &self.seat.presence;
            std::future::poll_fn(|cx| {
                *presence.waker.borrow_mut() = Some(cx.waker().clone());
                match presence.order.take() {
                    Some(crate::client::Order::Close(text)) => {
                        return std::task::Poll::Ready(Err(Refusal::told(&*text)));
                    }
                    Some(crate::client::Order::Notice(_) | crate::client::Order::Cut(_)) | None => {}
                }
                stream.poll_read(cx, &mut buffer).map_err(Refusal::from)
            })
            .await?
        };
        if read == 0 {
            return Err(Refusal::Silent("client unexpected eof".to_owned()));
        }
        self.input.extend_from_slice(&buffer[..read]);
        Ok(())
    }

    /// Sends something to the client.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        Ok(self.output.drain(&mut self.stream, bytes).await?)
    }

    async fn refuse(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Told { code, text } => {
                let (presence, config) = (&self.seat.presence, self.seat.worker.config());
                if config.settings.log_disconnections {
                    let age = presence.since.elapsed().as_secs();
                    log(presence, &format!("closing because: {text} (age={age}s)"));
                }
                if config.settings.log_pooler_errors {
                    tracing::warn!(target: "pooler", "{} pooler error: {text}", name(presence));
                }
                let mut out = Vec::new();
                build::error_response(&mut out, &Report::fatal(code, &text));
                let _ = tokio::time::timeout(std::time::Duration::from_secs(2), self.send(&out)).await;
            }
            Refusal::Silent(text) => {
                if self.seat.worker.config().settings.log_disconnections {
                    let age = self.seat.presence.since.elapsed().as_secs();
                    log(&self.seat.presence, &format!("closing because: {text} (age={age}s)"));
                }
            }
        }
    }
}

/// A client in the words of the log.
pub(crate) fn name(presence: &Presence) -> String {
    let names = presence.names.borrow();
    let (database, user) = names.as_ref().map_or(("(nodb)", "(nouser)"), |(d, u)| (d, u));
    match presence.origin {
        Origin::Tcp(address, _) => format!("C-{:#x}: {database}/{user}@{address}", presence.id),
        Origin::Unix(pid) => format!("C-{:#x}: {database}/{user}@unix({}):", presence.id, pid.unwrap_or(0)),
    }
}

/// A line about a client in the log.
pub(crate) fn log(presence: &Presence, text: &str) {
    tracing::info!(target: "pooler", "{} {text}", name(presence));
}
