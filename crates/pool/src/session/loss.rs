//! What a client of a cluster's leader is told when its server is lost or taken away: whether its transaction is known to
//! have come to nothing. An application may then try again, and otherwise has to look first.

use super::{End, Session};
use crate::client::Cut;
use crate::config::Role;

/// connection_failure: the transaction has come to nothing.
const ROLLED_BACK: &str = "08006";

/// transaction_resolution_unknown.
const UNKNOWN: &str = "08007";

/// admin_shutdown.
const SHUTDOWN: &str = "57P01";

/// What a server is told to end by says so, too.
const ENDED: &str = "terminating connection due to administrator command";

impl Session {
    /// SQLSTATE and message for the loss of a server; `None` where other rules hold. Empty: the server has said it itself.
    pub(super) fn loss(&self, end: &End) -> Option<Option<(&'static str, String)>> {
        let cut = match end {
            End::ServerGone => None,
            End::Cut(cut) => Some(*cut),
            _ => return None,
        };
        let server = self.server.as_ref()?;
        if cut.is_none() && self.pool.role() != Some(Role::Leader) {
            return None;
        }
        if cut.is_none() && self.said_fatal {
            return Some(None);
        }
        let in_flight = !server.replies.is_settled() || self.client.requests.is_inside() || !server.output.is_empty();
        let in_block = server.replies.status != b'I';
        let crashed = "server conn crashed?";
        Some(Some(match (in_flight, in_block, cut) {
            (true, ..) if !self.judge.as_ref().is_some_and(|judge| judge.is_harmless()) => {
                let what = if cut.is_some() { ENDED } else { crashed };
                (UNKNOWN, format!("{what} The outcome of the transaction is unknown"))
            }
            (_, _, Some(Cut::Drained)) | (false, false, Some(Cut::Deposed)) => (SHUTDOWN, ENDED.to_owned()),
            (_, _, Some(Cut::Deposed)) => (
                ROLLED_BACK,
                "connection cut: the cluster has another leader. The transaction was rolled back".to_owned(),
            ),
            (false, false, None) => (ROLLED_BACK, crashed.to_owned()),
            (_, _, None) => (ROLLED_BACK, format!("{crashed} The transaction was rolled back")),
        }))
    }
}
