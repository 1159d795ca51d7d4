//! A client's login: encryption, what it asks for, who it is, and what it's told before its first query.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::Session;
use crate::client::{Client, Origin, Presence};
use crate::config::Database;
use crate::flow::{ClientStatements, Requests};
use crate::plan::Plan;
use crate::pool::Pool;
use crate::server::Output;
use crate::shared::limits::add_below;
use crate::stream::Stream;
use crate::vars::Vars;
use crate::wire::build::backend::{self as build, Report};
use crate::wire::startup::{self, Packet};
use crate::worker::Seat;

/// SQLSTATE of most refusals.
const PROTOCOL: &str = "08P01";

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
    pub(crate) parameters: Vec<(Vec<u8>, Vec<u8>)>,
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
            return Some(Session::new(seat, admitted.pool, client));
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
}

impl Login<'_> {
    async fn perform(&mut self) -> Result<Option<Admitted>, Refusal> {
        let Some(wish) = self.wish().await? else { return Ok(None) };
        let worker = &self.seat.worker;
        let (shared, config) = (&worker.shared, worker.config());
        let settings = &config.settings;
        if shared.client_count() > settings.max_client_conn {
            return Err(Refusal::told("no more connections allowed (max_client_conn)"));
        }
        let Some(entry) = config.database(&wish.database) else {
            return Err(Refusal::Told { code: "3D000", text: format!("no such database: {}", wish.database) });
        };
        let vars = self.vars(&wish, &settings.ignore_startup_parameters)?;
        *self.seat.presence.application.borrow_mut() = shared.tracked.get(&vars, "application_name").map(Into::into);
        let pool = self.admit(&wish, &entry)?;
        let mut admitted = Admitted { renames: pool.plan().max_prepared_statements > 0 && pool.mode() != crate::config::PoolMode::Session, pool, vars };
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
                Some((Packet::SslRequest | Packet::GssEncRequest, used)) => (used, None),
                Some((Packet::DirectTls, _)) => return Err(Refusal::told("TLS is not enabled")),
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
                        parameters: startup.parameters().map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
                    };
                    (used, Some(wish))
                }
            };
            self.input.drain(..used);
            if let Some(wish) = wish {
                let key = (wish.database.as_str().into(), wish.user.as_str().into());
                *self.seat.presence.names.borrow_mut() = Some(key);
                return Ok(Some(wish));
            }
            self.send(b"N").await?;
        }
    }

    /// The tracked parameters that the client starts with.
    fn vars(&self, wish: &Wish, ignored: &[String]) -> Result<Vars, Refusal> {
        let tracked = &self.seat.worker.shared.tracked;
        let mut vars = tracked.none();
        for (name, value) in &wish.parameters {
            if matches!(&name[..], b"user" | b"database") || startup::is_extension(name) {
                continue;
            }
            if tracked.set(&mut vars, name, value) {
                continue;
            }
            let text = String::from_utf8_lossy(name);
            if !ignored.iter().any(|i| i.eq_ignore_ascii_case(&text)) {
                return Err(Refusal::told(format!("unsupported startup parameter: {text}")));
            }
        }
        Ok(vars)
    }

    /// Takes a place among the database's and the user's clients.
    fn admit(&self, wish: &Wish, entry: &Database) -> Result<Rc<Pool>, Refusal> {
        let worker = &self.seat.worker;
        let (shared, config) = (&worker.shared, worker.config());
        let (database, user) = (shared.database(&wish.database), shared.user(&wish.user));
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
        let pool = worker.pool_of(&shared.pool(&database, &user, || Plan::of(&config, entry, &wish.user)));
        pool.shared.clients.fetch_add(1, Ordering::Relaxed);
        Ok(pool)
    }

    /// Tells the client what a server would: parameters, its cancel key, and that it may begin.
    async fn welcome(&mut self, wish: &Wish, admitted: &mut Admitted) -> Result<(), Refusal> {
        let pool = admitted.pool.clone();
        let welcome = match pool.shared.welcome() {
            Some(welcome) => welcome,
            None => {
                self.first_server(&pool).await?;
                pool.shared.welcome().ok_or_else(|| Refusal::told("server login failed"))?
            }
        };
        let tracked = &self.seat.worker.shared.tracked;
        admitted.vars.fill(&welcome.vars);
        let mut out = Vec::new();
        if let Some(extensions) = &wish.negotiate {
            build::negotiate_protocol_version(&mut out, wish.minor, extensions.iter().map(Vec::as_slice));
        }
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
        build::ready_for_query(&mut out, b'I');
        self.send(&out).await?;
        Ok(())
    }

    /// Waits for a server of a pool that has had none yet.
    async fn first_server(&mut self, pool: &Rc<Pool>) -> Result<(), Refusal> {
        let worker = self.seat.worker.clone();
        let waiting = std::future::poll_fn(|cx| std::task::Poll::Ready(pool.wait(&worker, cx))).await;
        let waiter = waiting.map_err(|text| Refusal::told(&*text))?;
        let mut patience = Patience { pool, worker: &worker, waiter: Some(waiter) };
        let Some(waiter) = patience.waiter.clone() else { return Ok(()) };
        let granted = tokio::select! {
            granted = waiter.wait() => granted,
            refusal = self.told() => return Err(refusal),
        };
        patience.waiter = None;
        let server = granted.map_err(|text| Refusal::told(&*text))?;
        pool.give(&worker, server);
        Ok(())
    }

    /// Waits for an order from outside.
    async fn told(&self) -> Refusal {
        std::future::poll_fn(|cx| {
            *self.seat.presence.waker.borrow_mut() = Some(cx.waker().clone());
            match self.seat.presence.order.take() {
                Some(crate::client::Order::Close(text)) => std::task::Poll::Ready(Refusal::told(&*text)),
                Some(crate::client::Order::Drop) => std::task::Poll::Ready(Refusal::Silent("dropped".into())),
                None => std::task::Poll::Pending,
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
                    Some(crate::client::Order::Close(text)) => return std::task::Poll::Ready(Err(Refusal::told(&*text))),
                    Some(_) => return std::task::Poll::Ready(Err(Refusal::Silent("dropped".into()))),
                    None => {}
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
                log(&self.seat.presence, &format!("closing because: {text}"));
                tracing::warn!(target: "pooler", "{}: pooler error: {text}", name(&self.seat.presence));
                let mut out = Vec::new();
                build::error_response(&mut out, &Report::fatal(code, &text));
                let _ = tokio::time::timeout(std::time::Duration::from_secs(2), self.send(&out)).await;
            }
            Refusal::Silent(text) => log(&self.seat.presence, &format!("closing because: {text}")),
        }
    }
}

/// A wait that gives its place up when it's dropped.
struct Patience<'a> {
    pool: &'a Rc<Pool>,
    worker: &'a Rc<crate::worker::Worker>,
    waiter: Option<Rc<crate::pool::Waiter>>,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            self.pool.give_up(self.worker, &waiter);
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
