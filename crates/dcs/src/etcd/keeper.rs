//! Renewal of leases, such that success proves a live quorum.

use std::sync::{Mutex, PoisonError};

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};

use super::fault::Fault;
use super::members::Link;
use super::{no_header, quorum_header};
use crate::{Error, LeaseId};

/// An open stream of renewals of one lease with at most one request outstanding. It is dropped with an attempt that
/// fails or takes too long, so that no late answer is taken for the answer to a later request.
pub(super) struct Keeper {
    lease: LeaseId,
    index: usize,
    requests: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Keeper {
    async fn open(link: &Link, lease: LeaseId) -> Result<Keeper, Fault> {
        let (requests, answers) = link.client.lease_client().keep_alive(lease).await?;
        Ok(Keeper { lease, index: link.index, requests, answers })
    }
}

/// Renews a lease once.
///
/// Why success means that the lease was renewed by the leader of a live quorum: the member asked puts its raft term into
/// the answer before it passes the request on to the leader of that term. It then answers a linearizable read in the
/// same term. Terms only grow, so the member was in this term all the time between, the request went to this term's
/// leader, and this leader still had its quorum afterwards.
pub(super) async fn renew(link: Link, lease: LeaseId, prefix: &str, kept: &Mutex<Option<Keeper>>) -> Result<(), Fault> {
    let reusable = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut keeper = match reusable.filter(|k| k.lease == lease && k.index == link.index) {
        Some(keeper) => keeper,
        None => Keeper::open(&link, lease).await?,
    };
    keeper.requests.keep_alive().await?;
    let ended = || Fault::Unclear("etcd closed the stream of renewals".to_owned());
    let mut answer = keeper.answers.message().await?.ok_or_else(ended)?;
    if answer.id() != lease {
        return Err(Fault::Unclear("etcd answered about another lease".to_owned()));
    }
    if answer.ttl() <= 0 {
        return Err(Fault::Final(Error::LeaseGone));
    }
    let renewed = answer.take_header().ok_or_else(no_header)?;
    let confirmed = quorum_header(&link, prefix).await?;
    let place = |h: &etcd_client::ResponseHeader| (h.cluster_id(), h.member_id(), h.raft_term());
    if place(&renewed) != place(&confirmed) {
        return Err(Fault::Unclear("etcd elected a leader during the renewal".to_owned()));
    }
    *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
    Ok(())
}
