//! Asking the other members for their state: GET on each one's `api_url`, all at once, with a short deadline. The answer
//! is Patroni's `/patroni` JSON, so members of both kinds are understood.

use std::time::Duration;

use ha::cluster::tag_is_set;
use ha::view::{Peer, Round};
use ha::{Lsn, Member};
use http::Uri;
use instance::now;
use serde_json::{Map, Value};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tracing::debug;

use crate::perform::Context;

/// Members that don't answer within this time are counted out: a dead host costs no connect time-out.
const DEADLINE: Duration = Duration::from_millis(700);

/// Asks all other members.
pub(crate) async fn ask(context: &Context) -> Round {
    let asked_at = now();
    let mut questions = JoinSet::new();
    let members = context.cluster.as_ref().map(|c| c.members.clone()).unwrap_or_default();
    for member in members.into_values().filter(|m| m.name != context.node.me.name) {
        let tls = context.node.client_tls();
        questions.spawn(async move {
            let answer = tokio::time::timeout(DEADLINE, get(&member.api_url, tls)).await;
            (member, answer)
        });
    }
    let mut round = Round { asked_at, ..Round::default() };
    while let Some(joined) = questions.join_next().await {
        match joined {
            Ok((member, Ok(Ok(json)))) => {
                round.answers.insert(member.name.clone(), peer(&member, &json));
            }
            Ok((member, Ok(Err(e)))) => debug!("{}: {e:#}", member.name),
            Ok((member, Err(_))) => debug!("{} doesn't answer in time", member.name),
            Err(e) => debug!("asking a member failed: {e}"),
        }
    }
    round
}

/// Asks one member whether it is a running primary at this moment.
pub(crate) async fn is_primary(context: &Context, name: &str) -> Result<(), String> {
    let member = context.cluster.as_ref().and_then(|c| c.members.get(name)).cloned();
    let member = member.ok_or_else(|| format!("member {name} is gone"))?;
    match tokio::time::timeout(3 * DEADLINE, get(&member.api_url, context.node.client_tls())).await {
        Ok(Ok(json)) if peer(&member, &json).primary => Ok(()),
        Ok(Ok(_)) => Err(format!("{name} isn't a running primary now")),
        Ok(Err(e)) => Err(format!("{name} can't be asked whether it is the primary: {e:#}")),
        Err(_) => Err(format!("{name} doesn't answer whether it is the primary")),
    }
}

/// Whether anyone accepts connections at the address of a URL.
pub(crate) async fn reach(url: &str) -> anyhow::Result<()> {
    let uri: Uri = url.parse()?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(8008))).await?;
    Ok(())
}

async fn get(url: &str, tls: Option<tokio_rustls::TlsConnector>) -> anyhow::Result<Value> {
    let (_, body) = service::fetch::get(url, tls).await.map_err(|e| anyhow::anyhow!("{e}"))?;
    Ok(serde_json::from_slice(&body)?)
}

/// Reads a `/patroni` answer.
fn peer(member: &Member, json: &Value) -> Peer {
    let word = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default();
    let xlog = |key: &str| json.get("xlog").and_then(|x| x.get(key)).and_then(Value::as_u64).map(Lsn);
    let tags = json.get("tags").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
    let position = [xlog("location"), xlog("received_location"), xlog("replayed_location")].into_iter().flatten().max();
    Peer {
        running: word("state") == "running",
        primary: matches!(word("role"), "primary" | "master") && word("state") == "running",
        position: position.unwrap_or_default(),
        timeline: json.get("timeline").and_then(Value::as_u64).and_then(|t| t.try_into().ok()).unwrap_or(0),
        nofailover: tag_is_set(&tags, "nofailover") || member.tag("nofailover"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replicas_answer_is_read() {
        let answer = json!({"state": "running", "role": "replica", "timeline": 3, "tags": {"nofailover": true},
            "xlog": {"received_location": 50331648, "replayed_location": 50331600, "paused": false}});
        let p = peer(&Member::default(), &answer);
        assert!(p.running && !p.primary && p.nofailover);
        assert_eq!((p.position, p.timeline), (Lsn(50331648), 3));
    }

    #[test]
    fn a_stopped_primary_is_neither_running_nor_primary() {
        let p = peer(&Member::default(), &json!({"state": "stopped", "role": "primary"}));
        assert!(!p.running && !p.primary);
    }
}
