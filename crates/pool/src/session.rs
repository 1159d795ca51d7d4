//! A client's session: its requests go to a server that it borrows from the pool, for a statement, a transaction or the
//! whole session. One task drives the client and its server; this is the way of every query.

mod ask;
mod authenticate;
mod borrow;
mod finish;
mod halt;
pub(crate) mod login;
mod loss;
mod options;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use crate::client::{Client, Cut, Order, Presence, State};
use crate::config::{PoolMode, Role};
use crate::flow::honesty;
use crate::flow::requests::{Renaming, Target};
use crate::flow::verdict::Judge;
use crate::flow::{Event, Fault};
use crate::pool::{Pool, Waiter};
use crate::server::Server;
use crate::server::exchange::error_field;
use crate::wire::build::backend::{self, Report};
use crate::worker::{Scratch, Worker};

pub(crate) use finish::run;

/// A client at work.
pub(crate) struct Session {
    worker: Rc<Worker>,
    pool: Rc<Pool>,
    presence: Rc<Presence>,
    client: Client,
    server: Option<Box<Server>>,
    waiter: Option<Rc<Waiter>>,
    /// The server is being given the client's parameters.
    setting: bool,
    /// The server is this client's alone (replication).
    dedicated: bool,
    /// Nothing begins on the server that it holds, because the member drains.
    parked: bool,
    /// What may become of an open block, where the database is at a cluster's leader.
    judge: Option<Box<Judge>>,
    /// The server's last word was that it ends.
    said_fatal: bool,
    _place: crate::shared::limits::Place,
}

/// Bytes of a session.
pub(crate) const SIZE: usize = size_of::<Session>();

/// Why a session ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The client said goodbye.
    Terminated,
    /// The client's connection closed or failed.
    Gone(Option<io::Error>),
    /// The server's connection closed or failed.
    ServerGone,
    /// The client broke the protocol.
    ClientFault(Fault),
    /// The server broke the protocol, or refused the client's parameters.
    ServerFault(Fault),
    /// Told from outside, with the message.
    Told(Arc<str>),
    /// Refused a server, with the message.
    Refused(Arc<str>),
    /// A transaction block in statement mode.
    Transaction,
    /// The client doesn't want to be told of commits that aren't confirmed, and has to be.
    Silence,
    /// The server was taken away.
    Cut(Cut),
}

/// What a step led to.
enum Step {
    /// Something moved: look again.
    Again,
    /// Nothing to do before a socket or somebody else says so.
    Wait,
}

impl Session {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let worker = self.worker.clone();
        let mut scratch = worker.scratch.borrow_mut();
        loop {
            match self.presence.order.take() {
                Some(Order::Close(text)) => return Poll::Ready(End::Told(text)),
                Some(Order::Notice(text)) => {
                    if let Err(end) = self.notify(cx, &text) {
                        return Poll::Ready(end);
                    }
                }
                Some(Order::Cut(cut)) => {
                    if let Err(end) = self.obey(cut, cx, &mut scratch) {
                        return Poll::Ready(end);
                    }
                }
                None => {}
            }
            match self.step(cx, &mut scratch) {
                Ok(Step::Again) => {}
                Ok(Step::Wait) => return Poll::Pending,
                // Nothing of the client's has reached it.
                Err(End::ServerGone) if self.setting && self.pool.role().is_some() => {
                    if let Err(end) = self.exchange_server(cx, &mut scratch) {
                        return Poll::Ready(end);
                    }
                }
                Err(end) => return Poll::Ready(end),
            }
        }
    }

    fn step(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<Step, End> {
        if self.waiter.is_some() {
            return self.wait(cx, scratch);
        }
        let output_blocked = self.flush_client(cx)?;
        if self.worker.suspended.get() {
            return Ok(Step::Wait);
        }
        if self.server.is_some()
            && let Step::Again = self.serve_replies(cx, scratch, output_blocked)?
        {
            return Ok(Step::Again);
        }
        if self.setting || output_blocked || self.server.as_ref().is_some_and(|s| !s.output.is_empty()) {
            return Ok(Step::Wait);
        }
        if self.is_halted() {
            return self.park(cx, scratch);
        }
        if self.parked {
            self.unpark(cx, scratch)?;
            return Ok(Step::Again);
        }
        self.serve_requests(cx, scratch)
    }

    /// Tells the client something that changes nothing.
    fn notify(&mut self, cx: &mut Context<'_>, text: &str) -> Result<(), End> {
        let mut notice = Vec::new();
        backend::notice_response(&mut notice, &Report::notice("00000", text));
        match self.client.output.send(&mut self.client.stream, cx, &notice) {
            Poll::Ready(Err(e)) => Err(End::Gone(Some(e))),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Sends what waits for the client. Whether anything still does.
    #[inline]
    fn flush_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.client.output.is_empty() {
            return Ok(false);
        }
        match self.client.output.flush(&mut self.client.stream, cx) {
            Poll::Ready(Ok(())) => Ok(false),
            Poll::Ready(Err(e)) => Err(End::Gone(Some(e))),
            Poll::Pending => Ok(true),
        }
    }

    /// Looks whether a server was handed over.
    fn wait(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<Step, End> {
        let Some(granted) = self.waiter.as_ref().and_then(|w| w.granted(cx)) else {
            return Ok(Step::Wait);
        };
        self.waiter = None;
        self.waited();
        let server = granted.map_err(End::Refused)?;
        if server.marks.outdated.get() && self.pool.role().is_some() {
            // The cluster has changed since it was granted.
            self.server = Some(server);
            self.exchange_server(cx, scratch)?;
            return Ok(Step::Again);
        }
        self.attach(server, cx)?;
        if !self.setting {
            self.retry(cx, scratch)?;
        }
        Ok(Step::Again)
    }

    /// Ends a wait, in the books.
    fn waited(&mut self) {
        self.presence.state.set(State::Active);
        self.presence.notified.set(false);
        if let Some(since) = self.presence.waits.take() {
            self.pool.stats.waited(since.elapsed());
            if self.pool.role() == Some(Role::Leader)
                && let Some(cluster) = self.pool.cluster()
            {
                cluster.waited(since);
            }
        }
    }

    /// Links a server, giving it the client's parameters where it has others.
    fn attach(&mut self, mut server: Box<Server>, cx: &mut Context<'_>) -> Result<(), End> {
        self.pool.stats.assigned();
        *self.presence.server.borrow_mut() = Some(server.facts.clone());
        server.marks.client.set(Some(self.presence.id));
        server.marks.cut.set(false);
        server.marks.requested.set(self.presence.requested.get());
        server.replies.strict = self.pool.plan().sync_errors;
        if !server.vars.suits(&self.client.vars) {
            let sql = self.worker.shared.tracked.difference(&server.vars, &self.client.vars);
            server.replies.own += 1;
            self.setting = true;
            let mut query = Vec::with_capacity(sql.len() + 8);
            crate::wire::build::frontend::query(&mut query, &sql);
            if let Poll::Ready(Err(_)) = server.output.send(&mut server.stream, cx, &query) {
                self.server = Some(server);
                return Err(End::ServerGone);
            }
        }
        self.server = Some(server);
        Ok(())
    }

    /// Offers what the client sent before there was a server.
    fn retry(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        if self.client.input.is_empty() {
            return Ok(());
        }
        let input = std::mem::take(&mut self.client.input);
        let used = self.requests(&input, cx, scratch)?;
        self.client.input = unused(input, used);
        Ok(())
    }

    /// Moves replies to the client.
    fn serve_replies(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, blocked: bool) -> Result<Step, End> {
        let Some(server) = &mut self.server else { return Ok(Step::Wait) };
        if !server.output.is_empty() {
            match server.output.flush(&mut server.stream, cx) {
                Poll::Ready(Err(_)) => return Err(End::ServerGone),
                Poll::Ready(Ok(())) if !self.setting => self.let_go()?,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        let Some(server) = self.server.as_mut().filter(|_| !blocked) else { return Ok(Step::Wait) };
        let n = match server.stream.poll_read(cx, &mut scratch.read) {
            Poll::Pending => return Ok(Step::Wait),
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(_) => return Err(End::ServerGone),
        };
        if server.input.is_empty() {
            let read = std::mem::take(&mut scratch.read);
            let result = self.replies(&read[..n], cx, scratch);
            if let (Ok(used), Some(server)) = (&result, &mut self.server)
                && *used < n
            {
                server.input = read[*used..n].to_vec();
            }
            scratch.read = read;
            result?;
        } else {
            let mut input = std::mem::take(&mut server.input);
            input.extend_from_slice(&scratch.read[..n]);
            let used = self.replies(&input, cx, scratch)?;
            if let Some(server) = &mut self.server {
                server.input = unused(input, used);
            }
        }
        self.replied(cx, scratch)?;
        Ok(Step::Again)
    }

    /// Takes a chunk of replies and sends what is for the client. Returns how much was used up.
    fn replies(&mut self, data: &[u8], cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<usize, End> {
        let Some(server) = &mut self.server else { return Ok(0) };
        let (tracked, stats) = (&self.worker.shared.tracked, &self.pool.stats);
        let (presence, vars, server_vars) = (&self.presence, &mut self.client.vars, &mut server.vars);
        let own = server.replies.own > 0;
        let (routed, said_fatal) = (self.judge.is_some(), &mut self.said_fatal);
        scratch.to_client.clear();
        let mut heed = |event: Event<'_>| match event {
            Event::Parameter(name, value) => {
                if tracked.set(server_vars, name, value) && !own {
                    tracked.set(vars, name, value);
                    if name.eq_ignore_ascii_case(b"application_name") {
                        *presence.application.borrow_mut() = Some(value.into());
                    }
                }
            }
            Event::Ready(status) => stats.answered(presence, status),
            Event::Error(body) => {
                // Its severity where nobody translates it (PostgreSQL documentation, "Error and Notice Message Fields").
                if routed && error_field(body, b'V').is_some_and(|severity| severity != "ERROR") {
                    *said_fatal = true;
                }
            }
        };
        let statements = self.client.statements.as_deref_mut();
        let seen =
            server.replies.take(data, statements, &mut scratch.to_client, &mut heed).map_err(End::ServerFault)?;
        stats.sent(data.len());
        let bytes = if seen.rewritten { &scratch.to_client[..] } else { &data[..seen.used] };
        if !bytes.is_empty()
            && let Poll::Ready(Err(e)) = self.client.output.send(&mut self.client.stream, cx, bytes)
        {
            return Err(End::Gone(Some(e)));
        }
        Ok(seen.used)
    }

    /// After replies: the client's turn begins when the server has its parameters, and the server may be free.
    fn replied(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<(), End> {
        if !self.setting {
            return self.let_go();
        }
        if self.server.as_ref().is_some_and(|s| s.replies.own == 0) {
            self.setting = false;
            self.retry(cx, scratch)?;
        }
        Ok(())
    }

    /// Gives the server back where the pool's mode says so.
    #[inline]
    fn let_go(&mut self) -> Result<(), End> {
        let Some(server) = &self.server else { return Ok(()) };
        if !server.replies.is_settled() || self.client.requests.is_inside() || !server.output.is_empty() {
            return Ok(());
        }
        match self.pool.mode() {
            _ if self.dedicated => return Ok(()),
            PoolMode::Session => return Ok(()),
            PoolMode::Transaction if server.replies.status != b'I' => return Ok(()),
            PoolMode::Statement if server.replies.status != b'I' => return Err(End::Transaction),
            PoolMode::Transaction | PoolMode::Statement => {}
        }
        if let Some(server) = self.server.take() {
            self.presence.server.take();
            server.marks.statements.set(server.replies.statements.len() as u32);
            self.pool.give(&self.worker, server);
        }
        Ok(())
    }

    /// Moves requests to the server.
    fn serve_requests(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<Step, End> {
        let n = match self.client.stream.poll_read(cx, &mut scratch.read) {
            Poll::Pending => return Ok(Step::Wait),
            Poll::Ready(Ok(0)) => return Err(End::Gone(None)),
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(e)) => return Err(End::Gone(Some(e))),
        };
        self.pool.stats.received(n);
        if self.client.input.is_empty() {
            let read = std::mem::take(&mut scratch.read);
            let result = self.requests(&read[..n], cx, scratch);
            if let Ok(used) = result
                && used < n
            {
                self.client.input = read[used..n].to_vec();
            }
            scratch.read = read;
            result?;
        } else {
            let mut input = std::mem::take(&mut self.client.input);
            input.extend_from_slice(&scratch.read[..n]);
            let used = self.requests(&input, cx, scratch)?;
            self.client.input = unused(input, used);
        }
        Ok(Step::Again)
    }

    /// Takes a chunk of requests, borrowing a server for them where the client has none. Returns how much was used up.
    fn requests(&mut self, data: &[u8], cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<usize, End> {
        if self.server.is_none() {
            match crate::flow::header(data).map_err(End::ClientFault)? {
                // Not even a header: no reason to borrow a server.
                None if !self.client.requests.is_inside() => return Ok(0),
                Some((b'X', _)) if !self.client.requests.is_inside() => return Err(End::Terminated),
                _ => {}
            }
            self.borrow(cx)?;
        }
        if self.waiter.is_some() || self.setting {
            return Ok(0);
        }
        self.forward(data, cx, scratch)
    }

    /// Takes an idle server, or begins to wait for one.
    fn borrow(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.presence.requested.set(Some(Instant::now()));
        if let Some(server) = self.pool.take(&self.worker) {
            return self.attach(server, cx);
        }
        let waiter = self.pool.wait(&self.worker, cx).map_err(End::Refused)?;
        self.presence.state.set(State::Waiting);
        self.presence.waits.set(self.presence.requested.get());
        self.waiter = Some(waiter);
        Ok(())
    }

    /// Sends requests to the server. Returns how much was used up.
    fn forward(&mut self, data: &[u8], cx: &mut Context<'_>, scratch: &mut Scratch) -> Result<usize, End> {
        let Some(server) = &mut self.server else { return Ok(0) };
        scratch.to_server.clear();
        scratch.to_client.clear();
        let (most, longest) = {
            let plan = self.pool.plan();
            (plan.max_prepared_statements, plan.max_packet_size)
        };
        if server.replies.strict && honesty::asks_for_silence(data, &self.client.requests) {
            return Err(End::Silence);
        }
        let renaming = self.client.statements.as_deref_mut().map(|client| Renaming {
            registry: &self.worker.registry,
            client,
            most,
            parses: &self.pool.stats.parses,
        });
        let replies = &mut server.replies;
        if let Some(judge) = &mut self.judge
            && judge.begin(replies.is_settled() && !self.client.requests.is_inside(), replies.status)
        {
            judge.hear(data, &self.client.requests, renaming.as_ref().map(|r| &*r.client));
        }
        let mut target = Target {
            owed: &mut replies.owed,
            copy_in: &mut replies.copy_in,
            statements: &mut replies.statements,
            status: replies.status,
        };
        let out = (&mut scratch.to_server, &mut scratch.to_client);
        let taken = self.client.requests.take(data, &mut target, renaming, longest, out).map_err(End::ClientFault)?;
        if let Some(statements) = &self.client.statements {
            self.presence.statements.set(statements.len() as u32);
        }
        self.pool.stats.asked(&self.presence, &taken, !server.replies.is_settled());
        let bytes = if taken.rewritten { &scratch.to_server[..] } else { &data[..taken.used] };
        if !bytes.is_empty()
            && let Poll::Ready(Err(_)) = server.output.send(&mut server.stream, cx, bytes)
        {
            return Err(End::ServerGone);
        }
        if !scratch.to_client.is_empty()
            && let Poll::Ready(Err(e)) = self.client.output.send(&mut self.client.stream, cx, &scratch.to_client)
        {
            return Err(End::Gone(Some(e)));
        }
        if taken.terminate {
            return Err(End::Terminated);
        }
        // Requests that the pooler answered alone leave nothing owed.
        self.let_go()?;
        Ok(taken.used)
    }

    /// Waits until the session ends.
    async fn work(&mut self) -> End {
        std::future::poll_fn(|cx| {
            let end = ready!(self.poll(cx));
            Poll::Ready(end)
        })
        .await
    }
}

/// What is left of an input, without giving up its memory where nothing of it could be used.
fn unused(mut input: Vec<u8>, used: usize) -> Vec<u8> {
    match used {
        0 => input,
        n if n == input.len() => Vec::new(),
        n => {
            input.drain(..n);
            input
        }
    }
}
