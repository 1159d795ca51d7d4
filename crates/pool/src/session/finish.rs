//! A session from its first byte to its last: login, work, and what becomes of the server and of the client at the end.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use super::{End, Session, login};
use crate::client::{Cut, State};
use crate::config::{PoolMode, Role};
use crate::flow::verdict::Judge;
use crate::pool::launch;
use crate::shared::limits::Place;
use crate::stream::Stream;
use crate::wire::build::backend::{self as build, Report};
use crate::worker::Seat;

/// How long a client may take to accept its last message.
const FAREWELL: Duration = Duration::from_secs(2);

/// A client's whole session.
pub(crate) async fn run(seat: Seat, stream: Stream) {
    let presence = seat.presence.clone();
    poll_fn(|cx| {
        *presence.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    let Some(mut session) = Box::pin(login::run(&seat, stream)).await else { return };
    let end = session.work().await;
    Box::pin(session.finish(end)).await;
}

impl Session {
    /// For a client that has logged in.
    pub(super) fn new(
        seat: &Seat,
        (pool, place): (Rc<crate::pool::Pool>, Place),
        client: crate::client::Client,
        server: Option<Box<crate::server::Server>>,
    ) -> Session {
        let presence = seat.presence.clone();
        presence.state.set(State::Active);
        presence.idle.set(Some(std::time::Instant::now()));
        pool.stats.logged_in();
        let dedicated = server.is_some();
        if let Some(server) = &server {
            *presence.server.borrow_mut() = Some(server.facts.clone());
        }
        let judge = (pool.role() == Some(Role::Leader)).then(Box::<Judge>::default);
        Session {
            worker: seat.worker.clone(),
            pool,
            presence,
            client,
            server,
            waiter: None,
            setting: false,
            dedicated,
            parked: false,
            judge,
            said_fatal: false,
            _place: place,
        }
    }

    async fn finish(mut self, end: End) {
        if let Some(waiter) = self.waiter.take() {
            self.pool.give_up(&self.worker, &waiter);
        }
        let loss = self.loss(&end);
        self.note_cut(&end);
        self.part(&end);
        let code = "08P01";
        let text = match &end {
            End::ServerGone | End::Cut(_) if let Some(loss) = loss => loss,
            End::Cut(_) => None,
            End::Silence => Some((login::BARRED, login::SILENCE.to_owned())),
            End::Terminated | End::Gone(_) => None,
            End::ServerGone => Some((code, "server conn crashed?".to_owned())),
            End::ClientFault(fault) | End::ServerFault(fault) => Some((code, fault.to_string())),
            End::Told(text) | End::Refused(text) => Some((code, text.to_string())),
            End::Transaction => Some((code, "transaction blocks not allowed in statement pooling mode".to_owned())),
        };
        let settings = self.worker.config();
        if settings.settings.log_disconnections {
            login::log(
                &self.presence,
                &format!("closing because: {} (age={}s)", why(&end), self.presence.since.elapsed().as_secs()),
            );
        }
        if let Some((code, text)) = text {
            if settings.settings.log_pooler_errors {
                tracing::warn!(target: "pooler", "{} pooler error: {text}", login::name(&self.presence));
            }
            let mut bytes = Vec::new();
            build::error_response(&mut bytes, &Report::fatal(code, &text));
            let sent = self.client.output.drain(&mut self.client.stream, &bytes);
            // Whoever doesn't read it has to do without.
            let _ = tokio::time::timeout(FAREWELL, sent).await;
        }
        if self.client.stream.is_tls() {
            // Without a word of farewell the other side would suspect that the end was cut off.
            let stream = &mut self.client.stream;
            let _ = poll_fn(|cx| Poll::Ready(stream.poll_shutdown(cx))).await;
        }
    }

    /// Counts a transaction that was cut.
    fn note_cut(&self, end: &End) {
        let ran = self.server.as_ref().is_some_and(|server| !server.replies.is_free());
        if let (End::Cut(_), true, Some(cluster)) = (end, ran, self.pool.cluster()) {
            cluster.cuts.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Parts from the server: it goes back where it is clean, and is closed where it isn't.
    fn part(&mut self, end: &End) {
        let Some(server) = self.server.take() else { return };
        self.presence.server.take();
        if let End::Cut(_) = end {
            server.marks.client.set(None);
            self.pool.close(server, "cluster has changed");
            return self.pool.refill(&self.worker);
        }
        let clean = server.replies.is_free() && server.output.is_empty() && !self.client.requests.is_inside();
        if !clean || self.dedicated {
            server.marks.client.set(None);
            self.pool.close(server, "unclean server");
            return self.pool.refill(&self.worker);
        }
        let resets = self.pool.mode() == PoolMode::Session && !self.pool.plan().server_reset_query.is_empty();
        if resets {
            server.marks.client.set(None);
            launch::reset(&self.worker, &self.pool, server);
        } else {
            self.pool.give(&self.worker, server);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            self.pool.give_up(&self.worker, &waiter);
        }
        if let Some(server) = self.server.take() {
            self.pool.close(server, "unclean server");
        }
    }
}

/// The end in the words of the log.
fn why(end: &End) -> String {
    match end {
        End::Terminated => "client close request".to_owned(),
        End::Gone(None) => "client unexpected eof".to_owned(),
        End::Gone(Some(e)) => format!("client unexpected eof: {e}"),
        End::ServerGone => "server conn crashed?".to_owned(),
        End::ClientFault(fault) | End::ServerFault(fault) => fault.to_string(),
        End::Told(text) | End::Refused(text) => text.to_string(),
        End::Transaction => "transaction blocks not allowed in statement pooling mode".to_owned(),
        End::Silence => login::SILENCE.to_owned(),
        End::Cut(Cut::Deposed) => "the cluster has another leader".to_owned(),
        End::Cut(Cut::Drained) => "the cluster's member drains".to_owned(),
    }
}
