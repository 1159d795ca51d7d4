//! Orders: what is refused at once, and those that are carried out beside the decision loop (changes of the configuration,
//! requests for a change of leader). Restart and reinitialisation are the engine's.

use std::sync::Arc;
use std::time::Duration;

use dcs::{Condition, Write, layout};
use ha::cluster::Failover;
use ha::command::{Command, Outcome, Reply, RestartFilter};
use ha::local::{DataDir, Sql};
use ha::view::JobKind;
use ha::{Cluster, Status};
use serde_json::Value;
use service::config::dynamic::{check, patch};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::node::Node;
use crate::state::State;

/// The word for a kind of work in replies.
pub(crate) fn verb(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Wipe => "reinitialize",
        _ => "restart",
    }
}

fn no(outcome: Outcome, message: impl Into<String>) -> Reply {
    Reply::new(outcome, message)
}

/// Why a restart or reinitialisation is refused in the present state.
pub(crate) fn refuse(command: &Command, state: &State, node: &Node) -> Option<Reply> {
    match command {
        Command::Restart(filter) => refuse_restart(filter, state, node),
        Command::Reinitialize { force, .. } => refuse_reinitialize(*force, state, node),
        _ => None,
    }
}

fn refuse_restart(filter: &RestartFilter, state: &State, node: &Node) -> Option<Reply> {
    let leads = state.cluster.as_ref().is_some_and(|c| c.is_led_by(&node.me.name));
    let role = if leads { "primary" } else { "replica" };
    let wanted = filter.role.as_deref().map(|r| match r {
        "master" | "leader" => "primary",
        "standby" | "secondary" => "replica",
        other => other,
    });
    if wanted.is_some_and(|w| w != "any" && w != role) {
        return Some(no(Outcome::Failed, "restart conditions are not satisfied"));
    }
    let Sql::Up(answer) = &state.local.sql else {
        return match (&state.local.sql, state.job) {
            (_, Some(job)) => Some(no(Outcome::Failed, format!("{:?} is in progress", job.kind))),
            (_, None) => Some(no(Outcome::Failed, "PostgreSQL is not running: nothing to restart")),
        };
    };
    if filter.restart_pending && answer.pending_restart.is_empty() {
        return Some(no(Outcome::Failed, "restart conditions are not satisfied"));
    }
    match filter.postgres_version.as_deref().map(version_number) {
        Some(None) => Some(no(Outcome::Invalid, "PostgreSQL version should be in the first.major.minor format")),
        Some(Some(v)) if answer.server_version >= v => {
            Some(no(Outcome::Failed, "restart conditions are not satisfied"))
        }
        _ => None,
    }
}

/// `9.5.2` as 90502, `15.3` as 150003.
fn version_number(text: &str) -> Option<u32> {
    let parts: Vec<u32> = text.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [a, b, c] if a < 10 => Some(a * 10_000 + b * 100 + c),
        [a, b] if a >= 10 => Some(a * 10_000 + b),
        [a] if a >= 10 => Some(a * 10_000),
        _ => None,
    }
}

fn refuse_reinitialize(force: bool, state: &State, node: &Node) -> Option<Reply> {
    let leader = state.cluster.as_ref().and_then(|c| c.leader.as_ref());
    match leader {
        None => return Some(no(Outcome::Failed, "Cluster has no leader, can not reinitialize")),
        Some(l) if l.name == node.me.name => {
            return Some(no(Outcome::Failed, "I am the leader, can not reinitialize"));
        }
        Some(_) => {}
    }
    if state.local.data == DataDir::Empty && state.job.is_some() && !force {
        return Some(no(Outcome::Failed, "reinitialize already in progress"));
    }
    match state.job {
        Some(job) if !force => Some(no(Outcome::Failed, format!("{:?} is in progress; use force to end it", job.kind))),
        _ => None,
    }
}

/// What carrying out an order needs.
pub(crate) struct Run {
    pub(crate) node: Arc<Node>,
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) who: String,
}

impl Run {
    pub(crate) async fn carry_out(mut self, command: Command) -> Reply {
        match command {
            Command::PatchConfig { patch: changes, revision } => {
                self.configure(revision, |now| Some(patch(now?, &changes))).await
            }
            Command::PutConfig { config, revision } => self.configure(revision, |_| Some(config.clone())).await,
            Command::Switchover { leader, candidate } => {
                self.change_leader(Failover { leader, candidate, scheduled_at: None }, true).await
            }
            Command::Failover { candidate } => {
                self.change_leader(Failover { candidate: Some(candidate), ..Failover::default() }, false).await
            }
            Command::Restart(_) | Command::Reinitialize { .. } | Command::Reload => {
                no(Outcome::Invalid, "this order goes through the decision loop")
            }
        }
    }

    async fn read(&self) -> Result<Cluster, Reply> {
        let snapshot = self.node.dcs.read().await;
        snapshot.map(|s| layout::decode(&s)).map_err(|e| no(Outcome::Dcs, e.to_string()))
    }

    /// Replaces the dynamic configuration by compare-and-swap.
    async fn configure(&self, expected: Option<i64>, change: impl Fn(Option<&Value>) -> Option<Value>) -> Reply {
        let cluster = match self.read().await {
            Ok(c) => c,
            Err(reply) => return reply,
        };
        let revision = cluster.config.as_ref().map_or(0, |c| c.revision);
        let Some(new) = change(cluster.config.as_ref().map(|c| &c.value)) else {
            return no(Outcome::Failed, "there is no configuration yet: the cluster isn't initialized");
        };
        let checked = check(&new);
        let faults: Vec<String> = checked.faults.iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
        if !faults.is_empty() || !new.is_object() {
            let what = if new.is_object() { faults.join("; ") } else { "the configuration must be a mapping".into() };
            return no(Outcome::Unprocessable, what);
        }
        if expected.is_some_and(|e| e != revision) {
            return no(Outcome::Conflict, "the configuration was changed by someone else meanwhile: read it again");
        }
        if cluster.config.as_ref().is_some_and(|c| c.value == new) {
            return Reply { outcome: Outcome::Done, message: "Not changed".into(), body: Some(new) };
        }
        for p in checked.warnings {
            tracing::warn!("the configuration that {} stores: {}: {}", self.who, p.path, p.message);
        }
        self.put_config(revision, new).await
    }

    async fn put_config(&self, revision: i64, new: Value) -> Reply {
        let condition = match revision {
            0 => Condition::Absent(layout::CONFIG.into()),
            r => Condition::ModifiedAt(layout::CONFIG.into(), r),
        };
        let put = Write::Put { key: layout::CONFIG.into(), value: layout::config_value(&new), lease: 0 };
        match self.node.dcs.commit(&[condition], &[put]).await {
            Ok(Some(_)) => Reply { outcome: Outcome::Done, message: "Configuration changed".into(), body: Some(new) },
            Ok(None) => no(Outcome::Conflict, "the configuration was changed by someone else meanwhile: read it again"),
            Err(e) => no(Outcome::Dcs, e.to_string()),
        }
    }

    /// Writes the request for another leader and waits for what comes of it.
    async fn change_leader(&mut self, mut request: Failover, switchover: bool) -> Reply {
        let cluster = match self.read().await {
            Ok(c) => c,
            Err(reply) => return reply,
        };
        if let Err(reply) = fits(&cluster, &request, switchover) {
            return reply;
        }
        let old = cluster.leader.as_ref().map(|l| l.name.clone());
        if switchover {
            request.leader = request.leader.or_else(|| old.clone());
        }
        self.node.remember_refusal(None);
        let put = Write::Put { key: layout::FAILOVER.into(), value: layout::failover_value(Some(&request)), lease: 0 };
        let written = match self.node.dcs.commit(&[], &[put]).await {
            Ok(revision) => revision.unwrap_or(cluster.revision),
            Err(e) => return no(Outcome::Dcs, e.to_string()),
        };
        tracing::info!("{} requested: {request:?}", self.who);
        let ttl = self.status.borrow().settings.ttl;
        self.await_leader((&cluster, written), &request, ttl + Duration::from_secs(10), switchover).await
    }

    /// Waits until another member leads and accepts writes, or the request was taken back.
    async fn await_leader(
        &mut self,
        (before, written): (&Cluster, i64),
        request: &Failover,
        patience: Duration,
        switchover: bool,
    ) -> Reply {
        let word = if switchover { "Switchover" } else { "Failover" };
        let old = before.term();
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status.borrow_and_update().clone();
            if let Some(cluster) = status.cluster.as_ref().filter(|c| c.revision >= written) {
                if let Some(new) = cluster.leader.as_ref().filter(|l| Some(l.term) != old)
                    && cluster.members.get(&new.name).is_some_and(|m| matches!(m.role.as_str(), "primary" | "master"))
                {
                    let moved = before.leader.as_ref().is_none_or(|l| l.name != new.name);
                    return match (&request.candidate, moved) {
                        (Some(c), true) if *c != new.name => {
                            let message = format!("{} over to {:?} instead of {c:?}", past(switchover), new.name);
                            no(Outcome::Done, message)
                        }
                        (_, true) => no(
                            Outcome::Done,
                            format!("Successfully {} over to {:?}", past(switchover).to_lowercase(), new.name),
                        ),
                        (_, false) => no(Outcome::Failed, format!("{word} failed")),
                    };
                }
                let withdrawn = cluster.failover.is_none() && cluster.term() == old && cluster.leader.is_some();
                if withdrawn {
                    // The leader refuses; when that isn't this node, it alone knows why.
                    let leader = cluster.leader.as_ref().map_or("the leader", |l| &l.name);
                    let why = self.node.remember_refusal(None);
                    let why = why.unwrap_or_else(|| format!("{leader} has refused it, and its log says why"));
                    return no(Outcome::Failed, format!("{word} failed: {why}"));
                }
            }
            if timeout_at(deadline, self.status.changed()).await.is_err() {
                return no(Outcome::Failed, format!("{word} status unknown"));
            }
        }
    }
}

fn past(switchover: bool) -> &'static str {
    if switchover { "Switched" } else { "Failed" }
}

/// Whether the cluster is in a state for this request; the leader looks more closely.
fn fits(cluster: &Cluster, request: &Failover, switchover: bool) -> Result<(), Reply> {
    let refuse = |why: String| Err(no(Outcome::Precondition, why));
    let word = if switchover { "Switchover" } else { "Failover" };
    if cluster.config.as_ref().is_some_and(|c| c.value.get("pause") == Some(&Value::Bool(true)))
        && request.candidate.is_none()
    {
        return refuse(format!("{word} is possible only to a specific candidate in a paused state"));
    }
    let leader = cluster.leader.as_ref().map(|l| l.name.as_str());
    let other = cluster.failover.as_ref().filter(|f| f.value.scheduled_at.is_none());
    if let (Some(other), Some(term)) = (other, cluster.term())
        && other.revision > term.revision
    {
        let to = other.value.candidate.as_deref().map(|c| format!(" to {c}")).unwrap_or_default();
        return refuse(format!("another change of the leader{to} is being carried out"));
    }
    match (leader, &request.leader) {
        (None, _) if switchover => return refuse("switchover is not possible: cluster has no leader".into()),
        (Some(now), Some(said)) if now != said => return refuse("leader name does not match".into()),
        _ => {}
    }
    let sync = cluster.sync.as_ref().map(|s| &s.value);
    let able = |name: &str| {
        cluster.members.get(name).is_some_and(|m| !m.tag("nofailover")) && sync.is_none_or(|s| s.covers(name))
    };
    match request.candidate.as_deref() {
        Some(name) if Some(name) == leader => refuse("candidate is the current leader".into()),
        Some(name) if !cluster.members.contains_key(name) => refuse("candidate does not exist".into()),
        Some(name) if cluster.members[name].tag("nofailover") => {
            refuse(format!("candidate {name} is tagged nofailover"))
        }
        Some(name) if !able(name) => {
            let why = if cluster.members[name].tag("nosync") { " (tagged nosync)" } else { "" };
            refuse(format!("candidate {name} isn't a synchronous standby{why}"))
        }
        Some(_) => Ok(()),
        None if cluster.members.keys().any(|n| Some(n.as_str()) != leader && able(n)) => Ok(()),
        None => refuse(format!("{} is not possible: no good candidates have been found", word.to_lowercase())),
    }
}
