//! Who leads, in the members' own words: asked while the DCS can't be.

use std::sync::Arc;
use std::time::Duration;

use ha::Cluster;
use http::StatusCode;
use service::config::Config;
use service::{fetch, tls};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Members that don't answer within this time are counted out.
const DEADLINE: Duration = Duration::from_secs(1);

/// Asks members.
pub(super) struct Asker {
    tls: Option<TlsConnector>,
}

impl Asker {
    /// Checks members' certificates as the admin client does with this configuration.
    pub(super) fn new(config: &Config) -> Asker {
        let files = tls::ClientFiles::of(&config.ctl, &config.restapi);
        // Without usable files members that speak TLS can't be asked; those that don't, can.
        let client = tls::client(&files).inspect_err(|e| tracing::warn!(target: "pooler", "cluster_config: {e}"));
        Asker { tls: client.ok().map(|c| TlsConnector::from(Arc::new(c))) }
    }

    /// The member that says of itself, and alone, that it is the leader (GET /primary gives 200).
    pub(super) async fn leader(&self, cluster: &Cluster) -> Option<String> {
        let mut questions = JoinSet::new();
        for member in cluster.members.values() {
            let (name, tls) = (member.name.clone(), self.tls.clone());
            let url = member.api_url.replace("/patroni", "/primary");
            questions.spawn(async move {
                let answer = timeout(DEADLINE, fetch::get(&url, tls)).await;
                matches!(answer, Ok(Ok((StatusCode::OK, _)))).then_some(name)
            });
        }
        let answers = questions.join_all().await;
        let mut leaders = answers.into_iter().flatten();
        match (leaders.next(), leaders.next()) {
            (Some(leader), None) => Some(leader),
            _ => None,
        }
    }
}
