//! Rows of SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::routing::split;
use crate::console::table::{Column, Table, Value, int4, text};

/// A client's or server's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketRow {
    /// Which side it is of, and its state.
    pub side: Side,
    /// User that logged in, or logs in to the server; none as long as that isn't known.
    pub user: Option<String>,
    /// Name of the database; none as long as that isn't known.
    pub database: Option<String>,
    /// Whether it is a replication connection.
    pub replication: Replication,
    /// Address of the other side.
    pub addr: Endpoint,
    /// Address here.
    pub local_addr: Endpoint,
    /// When it was made.
    pub connect_time: SystemTime,
    /// When the last request came.
    pub request_time: SystemTime,
    /// How long a client's query has been waiting for a server.
    pub wait: Duration,
    /// A server connection that is closed once released (RECONNECT, RELOAD).
    pub close_needed: bool,
    /// What tells connections apart while they exist.
    pub ptr: u64,
    /// The [`ptr`](Self::ptr) of the other half, while there is one.
    pub link: Option<u64>,
    /// Process on the other side: from a Unix socket, or the server's backend. 0 when not known.
    pub remote_pid: u32,
    /// `TLSv1.3/TLS_AES_256_GCM_SHA384` and the like; empty without TLS.
    pub tls: String,
    /// The parameter application_name.
    pub application_name: String,
    /// Prepared statements it has.
    pub prepared_statements: u32,
    /// Number that KILL_CLIENT takes. The column is an int4, so numbers should start again before 2^31.
    pub id: u32,
    /// What SHOW SOCKETS has beyond SHOW CLIENTS.
    pub buffers: Buffers,
}

/// State of a socket's buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buffers {
    /// Bytes that were read into the buffer.
    pub recv_pos: u32,
    /// Bytes of them that were looked at.
    pub pkt_pos: u32,
    /// Bytes of the current message that haven't come yet.
    pub pkt_remain: u32,
    /// Bytes of the buffer that were sent on.
    pub send_pos: u32,
    /// Bytes of the current message that are still to be sent.
    pub send_remain: u32,
    /// Bytes to be looked at.
    pub pkt_avail: u32,
    /// Bytes to be sent.
    pub send_avail: u32,
}

/// A side of the pooler, and the state of a connection there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client's.
    Client(ClientState),
    /// A server's.
    Server(ServerState),
}

/// State of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// Logging in. Not in SHOW CLIENTS.
    Login,
    /// Linked to a server, or wanting none.
    Active,
    /// Waiting for a server.
    Waiting,
    /// A cancel request that was forwarded. Not in SHOW SOCKETS.
    ActiveCancelReq,
    /// A cancel request that waits for a connection. Not in SHOW SOCKETS.
    WaitingCancelReq,
}

/// State of a server's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Linked to a client.
    Active,
    /// Free.
    Idle,
    /// Free, but to be checked before use.
    Used,
    /// Being reset or checked.
    Tested,
    /// Logging in.
    New,
    /// Forwarding a cancel request. Not in SHOW SOCKETS.
    ActiveCancel,
    /// Waiting until cancel requests for it are done. Not in SHOW SOCKETS.
    BeingCanceled,
}

/// Kind of a replication connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// It is none.
    None,
    /// `replication=database`.
    Logical,
    /// `replication=true`.
    Physical,
}

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Of TCP.
    Tcp(SocketAddr),
    /// Of a Unix socket, with the port that is part of its name.
    Unix(u16),
}

impl Side {
    fn kind(self) -> &'static str {
        match self {
            Self::Client(_) => "C",
            Self::Server(_) => "S",
        }
    }

    /// As SHOW CLIENTS and SHOW SERVERS call the state.
    fn listed(self, linked: bool) -> &'static str {
        match self {
            Self::Client(ClientState::Active) | Self::Server(ServerState::Active) if !linked => "idle",
            Self::Client(ClientState::Login) => "login",
            Self::Client(ClientState::Active) | Self::Server(ServerState::Active) => "active",
            Self::Client(ClientState::Waiting) => "waiting",
            Self::Client(ClientState::ActiveCancelReq) => "active_cancel_req",
            Self::Client(ClientState::WaitingCancelReq) => "waiting_cancel_req",
            Self::Server(ServerState::Idle) => "idle",
            Self::Server(ServerState::Used) => "used",
            Self::Server(ServerState::Tested) => "tested",
            Self::Server(ServerState::New) => "new",
            Self::Server(ServerState::ActiveCancel) => "active_cancel",
            Self::Server(ServerState::BeingCanceled) => "being_canceled",
        }
    }

    /// As SHOW SOCKETS calls the state.
    fn prefixed(self) -> &'static str {
        match self {
            Self::Client(ClientState::Login) => "cl_login",
            Self::Client(ClientState::Active) => "cl_active",
            Self::Client(ClientState::Waiting) => "cl_waiting",
            Self::Client(ClientState::ActiveCancelReq) => "cl_active_cancel_req",
            Self::Client(ClientState::WaitingCancelReq) => "cl_waiting_cancel_req",
            Self::Server(ServerState::Active) => "sv_active",
            Self::Server(ServerState::Idle) => "sv_idle",
            Self::Server(ServerState::Used) => "sv_used",
            Self::Server(ServerState::Tested) => "sv_tested",
            Self::Server(ServerState::New) => "sv_login",
            Self::Server(ServerState::ActiveCancel) => "sv_active_cancel",
            Self::Server(ServerState::BeingCanceled) => "sv_being_canceled",
        }
    }
}

impl Endpoint {
    fn port(self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(port) => port,
        }
    }
}

/// The address without the port.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.ip().fmt(f),
            Self::Unix(_) => f.write_str("unix"),
        }
    }
}

impl From<Replication> for Value {
    fn from(replication: Replication) -> Self {
        match replication {
            Replication::None => "none",
            Replication::Logical => "logical",
            Replication::Physical => "physical",
        }
        .into()
    }
}

pub(super) const COLUMNS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int4("port"),
    text("local_addr"),
    int4("local_port"),
    text("connect_time"),
    text("request_time"),
    int4("wait"),
    int4("wait_us"),
    int4("close_needed"),
    text("ptr"),
    text("link"),
    int4("remote_pid"),
    text("tls"),
    text("application_name"),
    int4("prepared_statements"),
    int4("id"),
    int4("recv_pos"),
    int4("pkt_pos"),
    int4("pkt_remain"),
    int4("send_pos"),
    int4("send_remain"),
    int4("pkt_avail"),
    int4("send_avail"),
];

/// SHOW CLIENTS and SHOW SERVERS leave the last seven, the buffers, out.
pub(super) const LISTED: &[Column] = COLUMNS.split_at(COLUMNS.len() - 7).0;

impl SocketRow {
    /// The table of SHOW CLIENTS or SHOW SERVERS, with times in this zone.
    #[must_use]
    pub fn listing(rows: impl IntoIterator<Item = Self>, zone: &TimeZone) -> Table {
        let values = |row: Self| {
            let state = row.side.listed(row.link.is_some());
            row.values(state, zone)
        };
        Table { columns: LISTED, rows: rows.into_iter().map(values).collect() }
    }

    /// The table of SHOW SOCKETS or SHOW ACTIVE_SOCKETS, with times in this zone.
    #[must_use]
    pub fn table(rows: impl IntoIterator<Item = Self>, zone: &TimeZone) -> Table {
        let values = |row: Self| {
            let (state, buffers) = (row.side.prefixed(), row.buffers);
            let mut values = row.values(state, zone);
            values.extend(buffers.values());
            values
        };
        Table { columns: COLUMNS, rows: rows.into_iter().map(values).collect() }
    }

    fn values(self, state: &'static str, zone: &TimeZone) -> Vec<Value> {
        let [seconds, microseconds] = split(self.wait);
        let pointer = |ptr| format!("{ptr:#x}");
        let mut values = Vec::with_capacity(COLUMNS.len());
        values.extend([
            self.side.kind().into(),
            self.user.map_or("(nouser)".into(), Value::from),
            self.database.map_or("(nodb)".into(), Value::from),
            self.replication.into(),
            state.into(),
            self.addr.to_string().into(),
            self.addr.port().into(),
            self.local_addr.to_string().into(),
            self.local_addr.port().into(),
            time(self.connect_time, zone),
            time(self.request_time, zone),
            seconds,
            microseconds,
            self.close_needed.into(),
            pointer(self.ptr).into(),
            self.link.map(pointer).unwrap_or_default().into(),
            self.remote_pid.into(),
            self.tls.into(),
            self.application_name.into(),
            self.prepared_statements.into(),
            self.id.into(),
        ]);
        values
    }
}

impl Buffers {
    fn values(self) -> [Value; 7] {
        [
            self.recv_pos.into(),
            self.pkt_pos.into(),
            self.pkt_remain.into(),
            self.send_pos.into(),
            self.send_remain.into(),
            self.pkt_avail.into(),
            self.send_avail.into(),
        ]
    }
}

/// `2020-01-11 08:30:24 UTC`; NULL for a time that the calendar doesn't have.
fn time(time: SystemTime, zone: &TimeZone) -> Value {
    let stamp = Timestamp::try_from(time).ok();
    stamp.map(|stamp| stamp.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()).into()
}
