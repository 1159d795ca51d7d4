//! Connections to the successor of a leader that drains, made while clients are held: a replica's connections outlive its
//! promotion, so that clients needn't wait for logins once it leads. Whether it does is asked of each connection before a
//! client gets it. Nothing depends on them: one that fails is dropped, and made anew when it's needed.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{Pool, launch};
use crate::pool::route::Choice;
use crate::route::choice::{self, Prospect};
use crate::route::gate::Entry;
use crate::server::{Server, login};
use crate::shared::Slot;
use crate::worker::Worker;

/// Time between two questions whether the successor is writable yet.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Whoever waits for another connection's proof looks again after this time: that one may have failed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Longest time for a question.
const ANSWER: Duration = Duration::from_secs(3);

impl Pool {
    /// Begins connections to the leader's successor where one is known: as many as there are to the leader.
    pub(super) fn prepare(&self, worker: &Rc<Worker>) {
        let successor = self.successor();
        let member = successor.as_ref().map(|choice| choice.spot.member.clone());
        if *self.early.borrow() == member {
            return;
        }
        *self.early.borrow_mut() = member;
        let Some(choice) = successor else { return };
        let plan = self.plan().clone();
        // Those to the old leader keep their room as long as it may go on.
        let (size, database, user) = (plan.size * 2, plan.max_db_connections * 2, plan.max_user_connections * 2);
        let many = self.roll.borrow().len().min(plan.size as usize);
        for _ in 0..many {
            let Ok(mut slot) = Slot::take(&self.shared, size, database, user) else { return };
            slot.lead_to(&choice.spot.member);
            self.launching.set(self.launching.get() + 1);
            let (worker, pool, choice) = (worker.clone(), worker.pool_of(&self.shared), choice.clone());
            tokio::task::spawn_local(Box::pin(async move {
                let cluster = choice.cluster.clone();
                let server = attend(&worker, &pool, slot, choice).await;
                pool.launching.set(pool.launching.get() - 1);
                match server {
                    Some(server) => launch::welcome(&worker, &pool, server),
                    None => worker.shared.tell_all(move |worker| worker.seek(&cluster)),
                }
            }));
        }
    }
}

/// Connects, and returns the connection once its member leads. `None`: it doesn't come to that.
async fn attend(worker: &Rc<Worker>, pool: &Rc<Pool>, slot: Slot, mut choice: Choice) -> Option<Box<Server>> {
    let patience = launch::nonzero(pool.plan().server_connect_timeout);
    let connecting = tokio::time::timeout(patience, login::connect(worker, pool, slot, Some(&choice), &[]));
    let made = tokio::select! {
        biased;
        made = connecting => made.unwrap_or(Err(login::Error::TimedOut)),
        () = is_over(&choice) => return None,
    };
    let mut server = match made {
        Ok(server) => server,
        Err(e) => {
            tracing::debug!(target: "pooler", "cluster {}: no connection to {} ahead of its promotion: {e}", choice.cluster.name, choice.spot.member);
            return None;
        }
    };
    choice.spot.epoch = leads(&choice).await?;
    choice.writes = true;
    // Nobody else has seen it yet.
    Arc::get_mut(&mut server.facts)?.spot = Some(choice.spot.clone());
    let proof = prove(worker, &mut server, &choice);
    let proved = tokio::select! {
        proved = proof => proved.is_ok(),
        () = choice.is_gone() => false,
    };
    if proved { Some(server) } else { None }
}

/// Returns when the member won't lead.
async fn is_over(choice: &Choice) {
    let mut topologies = choice.cluster.topologies();
    while choice::prospect(&topologies.borrow_and_update(), &choice.spot.member) != Prospect::Over {
        if topologies.changed().await.is_err() {
            return;
        }
    }
}

/// Returns the epoch in which the member leads. `None`: it won't.
async fn leads(choice: &Choice) -> Option<i64> {
    let mut topologies = choice.cluster.topologies();
    loop {
        match choice::prospect(&topologies.borrow_and_update(), &choice.spot.member) {
            Prospect::Leads(epoch) => return Some(epoch),
            Prospect::Open => {}
            Prospect::Over => return None,
        }
        topologies.changed().await.ok()?;
    }
}

/// Waits until the member is writable. One connection asks for all; then each makes sure.
async fn prove(worker: &Rc<Worker>, server: &mut Server, choice: &Choice) -> Result<(), login::Error> {
    let (cluster, door) = (&choice.cluster, choice.door());
    loop {
        let opened = cluster.opened();
        let entry = cluster.enter(&door);
        if matches!(entry, Entry::Busy) {
            let _ = tokio::time::timeout(LOOK_AGAIN, opened).await;
            continue;
        }
        let asked = tokio::time::timeout(ANSWER, login::is_standby(worker, server)).await;
        if !asked.map_err(|_| login::Error::TimedOut)?? {
            if cluster.proved(&door) {
                super::reach::tell(worker, choice);
            }
            return Ok(());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
