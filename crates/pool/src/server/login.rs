//! Making a server connection: finding the host, connecting, logging in, the connect query.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::{TcpStream, UnixStream};

use super::exchange::{self, message, note_parameter};
use super::refusal::refusal;
use super::{Address, Facts, Marks, Output, Peer, Server, authenticate};
use crate::config::Host;
use crate::flow::{Replies, cstr, honesty};
use crate::plan::Plan;
use crate::pool::Pool;
use crate::pool::route::Choice;
use crate::shared::Slot;
use crate::shared::pool::{Parameter, Welcome};
use crate::stream::{Stream, Tuning, connect_tls};
use crate::tls::SslMode;
use crate::wire::build::frontend as build;
use crate::worker::Worker;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The host can't be found or reached.
    #[error("connect failed: {0}")]
    Connect(io::Error),
    /// It took longer than `server_connect_timeout`.
    #[error("connect timeout")]
    TimedOut,
    /// The server refused the login, in its words.
    #[error("{0}")]
    Refused(String),
    /// It did, because it starts, stops or has crashed.
    #[error("{0}")]
    Unready(String),
    /// It did, because it has no room for anybody now.
    #[error("{0}")]
    Full(String),
    /// It has to be writable, and is in recovery.
    #[error("in recovery, not writable")]
    NotWritable,
    /// The conversation broke.
    #[error("{0}")]
    Exchange(#[from] exchange::Error),
    /// The password or the way to use it isn't there.
    #[error("{0}")]
    Secret(String),
}

/// A startup parameter beside the usual ones.
pub(crate) type Extra<'a> = (&'a [u8], &'a [u8]);

/// What the server told while the login went on.
struct Told {
    pid: u32,
    key: Box<[u8]>,
    parameters: Vec<Parameter>,
    vars: crate::vars::Vars,
}

/// Makes a connection that is ready for clients.
pub(crate) async fn connect(
    worker: &Rc<Worker>,
    pool: &Rc<Pool>,
    slot: Slot,
    choice: Option<&Choice>,
    extra: &[Extra<'_>],
) -> Result<Box<Server>, Error> {
    let plan = pool.plan().clone();
    let (mut stream, address) = match choice {
        Some(choice) => reach_member(worker, choice).await?,
        None => reach(worker, &plan).await?,
    };
    let mut input = Vec::new();
    let told = log_in(worker, pool, (&plan, extra), &mut stream, &mut input).await?;
    let local = stream.local_addr().ok().flatten();
    let facts = Facts {
        id: worker.shared.id(),
        address,
        pid: told.pid,
        key: told.key,
        connected: SystemTime::now(),
        since: Instant::now(),
        local,
        tls: stream.tls_description().unwrap_or_default().into(),
        spot: choice.map(|choice| choice.spot.clone()),
    };
    let welcome = Welcome { parameters: told.parameters, vars: told.vars.clone() };
    let mut server = Box::new(Server {
        stream,
        input,
        output: Output::default(),
        replies: Replies::default(),
        vars: told.vars,
        facts: Arc::new(facts),
        marks: Rc::new(Marks::default()),
        released: Instant::now(),
        slot,
    });
    if choice.is_some_and(|choice| choice.writes) {
        prove_writable(worker, &mut server, &welcome, extra.is_empty()).await?;
    }
    // What a replica tells would be wrong of the leader that it's to be.
    if !choice.is_some_and(|choice| choice.early) {
        pool.shared.set_welcome(Arc::new(welcome));
    }
    if let Some(query) = &plan.connect_query {
        exchange::query(&mut server, query.as_bytes(), &worker.shared.tracked).await?;
    }
    if plan.sync_errors && extra.is_empty() {
        hear_warnings(worker, &mut server).await?;
    }
    Ok(server)
}

/// Longest time to reach a cluster's member: a host that is gone doesn't say so.
const REACH: Duration = Duration::from_secs(1);

/// Connects to a cluster's member.
async fn reach_member(worker: &Worker, choice: &Choice) -> Result<(Stream, Address), Error> {
    let reached = tokio::time::timeout(REACH, reach_host(worker, &choice.host, choice.port)).await;
    let (stream, peer) = reached.map_err(|_| Error::TimedOut)?.map_err(Error::Connect)?;
    let host: Arc<str> = choice.host.to_string().into();
    let stream = encrypt(worker, stream, &host).await?;
    let tls = stream.is_tls();
    Ok((stream, Address { host, port: choice.port, peer, tls }))
}

/// A leader that its key has only just made one may still be a replica. PostgreSQL 14 and newer say so at login
/// (documentation, "Asynchronous Operations", in_hot_standby); others are asked, where they take queries.
async fn prove_writable(worker: &Worker, server: &mut Server, welcome: &Welcome, asks: bool) -> Result<(), Error> {
    let told = welcome.parameters.iter().rfind(|(name, _)| &**name == b"in_hot_standby");
    let is_standby = match told {
        Some((_, value)) => &**value != b"off",
        None if asks => self::is_standby(worker, server).await?,
        None => false,
    };
    if is_standby { Err(Error::NotWritable) } else { Ok(()) }
}

/// Asks a server whether it's a standby.
pub(crate) async fn is_standby(worker: &Worker, server: &mut Server) -> Result<bool, Error> {
    let rows = exchange::query(server, b"SELECT pg_catalog.pg_is_in_recovery()", &worker.shared.tracked).await?;
    Ok(!matches!(&rows[..], [row] if matches!(&row[..], [Some(value)] if value == b"f")))
}

/// A server whose role or database suppresses warnings would never tell of a commit that wasn't confirmed.
async fn hear_warnings(worker: &Worker, server: &mut Server) -> Result<(), Error> {
    let sql = format!("SHOW {}", honesty::PARAMETER);
    let rows = exchange::query(server, sql.as_bytes(), &worker.shared.tracked).await?;
    let value = rows.first().and_then(|row| row.first()).and_then(Option::as_deref).unwrap_or_default();
    if honesty::suppresses(value) {
        let value = String::from_utf8_lossy(value);
        return Err(Error::Refused(format!(
            "client_min_messages is {value} for this user or database: sync_commit_cancelled = error has to hear warnings"
        )));
    }
    Ok(())
}

/// Connects to the first host that answers.
async fn reach(worker: &Worker, plan: &Plan) -> Result<(Stream, Address), Error> {
    let mut failure = io::Error::other("no host is configured");
    let first = if plan.balance_hosts { worker.shared.id() as usize % plan.hosts.len().max(1) } else { 0 };
    let hosts = plan.hosts.iter().cycle().skip(first).take(plan.hosts.len());
    for (host, port) in hosts {
        match reach_host(worker, host, *port).await {
            Ok((stream, peer)) => {
                let host: Arc<str> = host.to_string().into();
                let stream = encrypt(worker, stream, &host).await?;
                let tls = stream.is_tls();
                return Ok((stream, Address { host, port: *port, peer, tls }));
            }
            Err(e) => failure = e,
        }
    }
    Err(Error::Connect(failure))
}

/// Begins TLS where the settings want it and the server can.
pub(crate) async fn encrypt(worker: &Worker, mut stream: Stream, host: &str) -> Result<Stream, Error> {
    let connector = worker.shared.tls.connects.current();
    let wanted = !matches!(stream, Stream::Unix(_)) && connector.sslmode != SslMode::Disable;
    let Some(config) = connector.config.clone().filter(|_| wanted) else { return Ok(stream) };
    let mut request = Vec::new();
    build::ssl_request(&mut request);
    Output::default().drain(&mut stream, &request).await.map_err(exchange::Error::Io)?;
    // One byte and no more: what follows belongs to the handshake.
    let mut answer = [0];
    let read = std::future::poll_fn(|cx| stream.poll_read(cx, &mut answer)).await.map_err(Error::Connect)?;
    match (read, &answer) {
        (1, b"S") => {
            let name = connector.server_name(host).map_err(|e| Error::Secret(e.to_string()))?;
            connect_tls(stream, config, name, &[]).await.map_err(Error::Connect)
        }
        (1, b"N") if !connector.sslmode.is_demanded() => Ok(stream),
        (1, b"N") => Err(Error::Secret("server refused SSL".to_owned())),
        _ => Err(exchange::Error::Broken.into()),
    }
}

async fn reach_host(worker: &Worker, host: &Host, port: u16) -> io::Result<(Stream, Peer)> {
    match host {
        Host::Unix(directory) => {
            let path: Arc<str> = format!("{}/.s.PGSQL.{port}", directory.display()).into();
            let peer = Peer::Unix(path);
            Ok((open(worker, &peer).await?, peer))
        }
        Host::Tcp(name) => {
            let mut failure = io::Error::other(format!("{name} has no address"));
            for address in tokio::net::lookup_host((name.as_str(), port)).await? {
                let peer = Peer::Ip(address);
                match open(worker, &peer).await {
                    Ok(stream) => return Ok((stream, peer)),
                    Err(e) => failure = e,
                }
            }
            Err(failure)
        }
    }
}

/// Connects to an address.
pub(crate) async fn open(worker: &Worker, peer: &Peer) -> io::Result<Stream> {
    match peer {
        Peer::Unix(path) => {
            if let Some(name) = path.strip_prefix('@') {
                use std::os::linux::net::SocketAddrExt;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
                stream.set_nonblocking(true)?;
                return UnixStream::from_std(stream).map(Stream::Unix);
            }
            UnixStream::connect(&**path).await.map(Stream::Unix)
        }
        Peer::Ip(address) => {
            let stream = TcpStream::connect(address).await?;
            Tuning::of(&worker.config().settings).apply(&stream)?;
            Ok(Stream::Tcp(stream))
        }
    }
}

async fn log_in(
    worker: &Rc<Worker>,
    pool: &Pool,
    (plan, extra): (&Plan, &[Extra<'_>]),
    stream: &mut Stream,
    input: &mut Vec<u8>,
) -> Result<Told, Error> {
    let mut parameters: Vec<(&[u8], &[u8])> =
        vec![(b"user", plan.user.as_bytes()), (b"database", plan.dbname.as_bytes())];
    parameters.extend(plan.parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    parameters.extend(extra.iter().copied());
    let mut output = Output::default();
    let mut packet = Vec::new();
    build::startup(&mut packet, 0, parameters);
    output.drain(stream, &packet).await.map_err(exchange::Error::Io)?;
    let mut told = Told { pid: 0, key: Box::default(), parameters: Vec::new(), vars: worker.shared.tracked.none() };
    let mut proof = authenticate::Proof::new(&worker.shared, pool, plan)?;
    loop {
        let (kind, body) = message(stream, input).await?;
        match kind {
            b'R' => {
                if let Some(answer) = proof.answer(&body)? {
                    output.drain(stream, &answer).await.map_err(exchange::Error::Io)?;
                }
            }
            b'S' => {
                note_parameter(&body, &worker.shared.tracked, &mut told.vars);
                if let Some((name, rest)) = cstr(&body)
                    && let Some((value, _)) = cstr(rest)
                {
                    told.parameters.push((name.into(), value.into()));
                }
            }
            b'K' => {
                let (pid, key) = body.split_first_chunk::<4>().ok_or(exchange::Error::Broken)?;
                told.pid = u32::from_be_bytes(*pid);
                told.key = key.into();
            }
            b'E' => return Err(refusal(&body)),
            b'N' => {}
            b'Z' => return Ok(told),
            _ => return Err(exchange::Error::Broken.into()),
        }
    }
}
