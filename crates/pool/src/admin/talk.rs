//! A console client's conversation.

use std::sync::atomic::Ordering;

use super::perform;
use crate::console::{Command, Rights, Session, Step};
use crate::flow::{HEADER, header};
use crate::session::login::{Login, Refusal, name};
use crate::wire::build::backend;
use crate::wire::reply::Fields;

/// Longest message to the console.
const LONGEST: usize = 64 * 1024;

/// A console session's place in the count of them.
struct Counted<'a>(&'a std::sync::atomic::AtomicU32);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves a console client that has been authenticated, until it leaves.
pub(crate) async fn serve(login: &mut Login<'_>, rights: Rights) -> Result<(), Refusal> {
    let shared = login.seat.worker.shared.clone();
    shared.consoles.fetch_add(1, Ordering::SeqCst);
    let _counted = Counted(&shared.consoles);
    login.seat.presence.state.set(crate::client::State::Active);
    let mut out = Vec::new();
    backend::authentication_ok(&mut out);
    for (name, value) in crate::console::welcome::parameters(crate::VERSION) {
        backend::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
    }
    backend::ready_for_query(&mut out, b'I');
    login.send(&out).await?;
    let mut session = Session::new(rights, crate::BANNER);
    loop {
        let (kind, body) = message(login, LONGEST).await?;
        out.clear();
        let step = session.message(kind, &body, &mut out);
        log_error(login, &out);
        match step {
            Step::Next => {}
            Step::Close => {
                login.send(&out).await?;
                return Ok(());
            }
            Step::Perform(command) => {
                login.send(&out).await?;
                out.clear();
                if !matches!(command, Command::Show(_) | Command::Set { .. }) {
                    tracing::info!(target: "pooler", "{} command issued", issued(&command));
                }
                let answer = tokio::select! {
                    answer = perform(&shared, command) => answer,
                    refusal = login.told() => return Err(refusal),
                };
                session.complete(answer, &mut out);
                log_error(login, &out);
            }
        }
        login.send(&out).await?;
    }
}

/// An error that a console client is told is logged.
fn log_error(login: &Login<'_>, out: &[u8]) {
    let Some(body) = out.strip_prefix(b"E").and_then(|rest| rest.get(4..)) else { return };
    let text = String::from_utf8_lossy(Fields::of(body).message()).into_owned();
    tracing::error!(target: "pooler", "{text}");
    if login.seat.worker.config().settings.log_pooler_errors {
        tracing::warn!(target: "pooler", "{} pooler error: {text}", name(&login.seat.presence));
    }
}

/// A command in the words of the log.
fn issued(command: &Command) -> String {
    let name = match command {
        Command::Pause(name)
        | Command::Resume(name)
        | Command::Reconnect(name)
        | Command::Kill(name)
        | Command::WaitClose(name) => name.as_deref(),
        Command::Disable(name) | Command::Enable(name) => Some(name.as_str()),
        _ => None,
    };
    match name {
        Some(name) => format!("{} '{name}'", command.tag()),
        None => command.tag(),
    }
}

/// The next message of a client whose login isn't over, or that talks to the console.
pub(crate) async fn message(login: &mut Login<'_>, longest: usize) -> Result<(u8, Vec<u8>), Refusal> {
    loop {
        if let Some((kind, length)) = header(&login.input).map_err(|f| Refusal::told(f.to_string()))? {
            if length > longest {
                return Err(Refusal::told("packet too large"));
            }
            if let Some(body) = login.input.get(HEADER..HEADER + length) {
                let body = body.to_vec();
                login.input.drain(..HEADER + length);
                return Ok((kind, body));
            }
        }
        login.read().await?;
    }
}
