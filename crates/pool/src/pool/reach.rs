//! Connecting to a cluster's member. A failure is nobody's but the pooler's: clients wait, attempts go on, one at a time
//! until one succeeds, and an attempt that the cluster's topology has left behind is dropped.

use std::rc::Rc;
use std::time::Duration;

use super::route::Choice;
use super::{Pool, launch};
use crate::route::gate::Turn;
use crate::server::{Server, exchange, login};
use crate::shared::Slot;
use crate::worker::Worker;

/// Longest time for a whole login, where `server_connect_timeout` isn't shorter: a member that is stopped accepts
/// connections and then says nothing.
const LOGIN: Duration = Duration::from_secs(3);

/// Connects in a task of its own.
pub(super) fn connect(worker: &Rc<Worker>, pool: &Pool, mut slot: Slot, choice: Choice, turn: Option<Turn>) {
    let alone = u32::from(turn.is_some());
    pool.launching.set(pool.launching.get() + 1);
    pool.trying.set(pool.trying.get() + alone);
    slot.lead_to(&choice.spot.member);
    let (worker, pool) = (worker.clone(), worker.pool_of(&pool.shared));
    tokio::task::spawn_local(Box::pin(async move {
        let made = tokio::select! {
            biased;
            made = attempt(&worker, &pool, slot, &choice) => Some(made),
            () = choice.is_gone() => None,
        };
        pool.launching.set(pool.launching.get() - 1);
        pool.trying.set(pool.trying.get() - alone);
        match made {
            None => {}
            Some(Ok(server)) => return arrived(&worker, &pool, server, &choice, turn),
            Some(Err(error)) if is_passing(&error) => set_back(&choice, turn, &error).await,
            // That is for a person to mend, and for clients to be told.
            Some(Err(error)) => launch::failed(&worker, &pool, &error),
        }
        let cluster = choice.cluster;
        worker.shared.tell_all(move |worker| worker.seek(&cluster));
    }));
}

async fn attempt(
    worker: &Rc<Worker>,
    pool: &Rc<Pool>,
    slot: Slot,
    choice: &Choice,
) -> Result<Box<Server>, login::Error> {
    let patience = launch::nonzero(pool.plan().server_connect_timeout).min(LOGIN);
    let connecting = login::connect(worker, pool, slot, Some(choice), &[]);
    tokio::time::timeout(patience, connecting).await.unwrap_or(Err(login::Error::TimedOut))
}

/// A connection is there, and its member serves.
fn arrived(worker: &Rc<Worker>, pool: &Rc<Pool>, server: Box<Server>, choice: &Choice, turn: Option<Turn>) {
    let opens = choice.cluster.proved(&choice.door());
    drop(turn);
    launch::welcome(worker, pool, server);
    if opens {
        tell(worker, choice);
    }
}

/// Tells everybody that a member serves.
pub(super) fn tell(worker: &Worker, choice: &Choice) {
    let as_what = if choice.writes { "the leader" } else { "a reader" };
    let (cluster, spot) = (choice.cluster.clone(), &choice.spot);
    tracing::info!(target: "pooler", "cluster {}: {} serves as {as_what} (epoch {})", cluster.name, spot.member, spot.epoch);
    worker.shared.tell_all(move |worker| worker.seek(&cluster));
}

/// Whether it may be otherwise in a moment, without anybody's doing.
fn is_passing(error: &login::Error) -> bool {
    match error {
        login::Error::Connect(_) | login::Error::TimedOut | login::Error::NotWritable => true,
        login::Error::Unready(_) | login::Error::Full(_) => true,
        login::Error::Exchange(error) => !matches!(error, exchange::Error::Refused(_)),
        login::Error::Refused(_) | login::Error::Secret(_) => false,
    }
}

/// Waits until it's time for another attempt. Only one task per member does so; the others leave it to that one.
async fn set_back(choice: &Choice, turn: Option<Turn>, error: &login::Error) {
    let (cluster, door) = (&choice.cluster, choice.door());
    let setback = cluster.failed(&door, matches!(error, login::Error::NotWritable));
    let member = &choice.spot.member;
    if let Some(lasts) = setback.worrying {
        let seconds = lasts.as_secs();
        tracing::warn!(target: "pooler", "cluster {}: no connection to {member} for {seconds} s: {error}", cluster.name);
    } else if setback.is_first {
        tracing::info!(target: "pooler", "cluster {}: no connection to {member}, trying again: {error}", cluster.name);
    }
    let turn = match turn {
        Some(turn) => turn,
        None => match cluster.enter(&door) {
            crate::route::gate::Entry::First(turn) => turn,
            _ => return,
        },
    };
    tokio::select! {
        () = tokio::time::sleep(setback.wait) => {}
        () = choice.is_gone() => {}
    }
    drop(turn);
}
