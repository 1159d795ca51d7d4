//! What is kept in order beside the decisions: server parameters, members' slots, the history key. Runs while nothing
//! else is done to PostgreSQL.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dcs::{Condition, Write, layout};
use ha::cluster::HistoryLine;
use ha::local::Sql;
use ha::{Cluster, Tick};
use instance::Configuration;
use serde_json::Value;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

use crate::engine::Engine;
use crate::event::Event;
use crate::perform::Context;

/// A server that has no checkpoint on its timeline yet is asked for one this often.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// The first version whose pg_rewind doesn't need one.
const REWINDS_BY_ITSELF: u32 = 160_000;

/// Slots are looked at this often even when no member has come or gone.
const SLOTS_EVERY: Duration = Duration::from_secs(10);

/// Which slots there shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slots {
    wanted: Vec<String>,
    /// Members that have been away for too long.
    gone: Vec<String>,
    primary: bool,
}

/// What upkeep has done so far.
#[derive(Default)]
pub(crate) struct Upkeep {
    running: bool,
    /// The configuration that was last applied, and on which server.
    applied: Option<(Configuration, String)>,
    /// Somebody wants PostgreSQL to read its files again, whether the agent has changed them or not: certificates and
    /// files that are included change without it.
    reload: bool,
    slots: Option<(Slots, Tick)>,
    /// When each other member was last there.
    seen: BTreeMap<String, Tick>,
    history: Option<u32>,
    failed_at: Option<Tick>,
    /// The checkpoint that was ordered last, and when.
    checkpoint: Option<(AbortHandle, Tick)>,
}

/// What one round of upkeep did.
#[derive(Debug)]
pub(crate) struct Kept {
    applied: Option<(Configuration, String)>,
    /// A reload that was wanted is still to be done.
    reload: bool,
    slots: Option<Slots>,
    history: Option<u32>,
    failed: bool,
}

/// What one round of upkeep shall do.
#[derive(Default)]
struct Round {
    apply: Option<(Configuration, String)>,
    reload: bool,
    slots: Option<Slots>,
    history: Option<u32>,
    /// The dynamic configuration, whose key is gone.
    config: Option<Value>,
}

impl Upkeep {
    pub(crate) fn ended(&mut self, kept: Kept, at: Tick) {
        self.running = false;
        self.failed_at = kept.failed.then_some(at);
        self.reload |= kept.reload;
        if kept.applied.is_some() {
            self.applied = kept.applied;
        }
        if let Some(slots) = kept.slots {
            self.seen.retain(|name, _| !slots.gone.contains(name));
            self.slots = Some((slots, at));
        }
        self.history = kept.history.or(self.history);
    }

    /// The members' slots: those of members that are there, or went away not long ago.
    fn slots(&mut self, cluster: &Cluster, me: &str, primary: bool, ttl: Duration, at: Tick) -> Slots {
        for name in cluster.members.keys().filter(|n| *n != me) {
            self.seen.insert(name.clone(), at);
        }
        let (wanted, gone): (Vec<_>, Vec<_>) = self.seen.iter().partition(|(_, seen)| at.since(**seen) <= ttl);
        let names = |v: Vec<(&String, &Tick)>| v.into_iter().map(|(n, _)| n.clone()).collect();
        Slots { wanted: names(wanted), gone: names(gone), primary }
    }

    /// The configuration file was read again: PostgreSQL is to do the same with its own.
    pub(crate) fn reload(&mut self) {
        self.reload = true;
    }
}

/// Starts a round when there is something to do.
pub(crate) fn tend(engine: &mut Engine, at: Tick) {
    keep_rewindable(engine, at);
    let round = due(engine, at);
    if round.apply.is_none() && round.slots.is_none() && round.history.is_none() && round.config.is_none() {
        return;
    }
    let context = engine.context();
    let (_, _, _, upkeep) = engine.parts();
    upkeep.running = true;
    engine.spawn(async move {
        let kept = run(&context, round).await;
        // The engine outlives its tasks; when it is gone, the process is ending.
        let _ = context.events.send(Event::Kept(kept)).await;
    });
}

/// Has a checkpoint, on a replica a restart point, written on a timeline that is new to the server: before PostgreSQL 16
/// pg_rewind takes either side's timeline from its last one, and can't repair a replica that has followed a timeline
/// without one. PostgreSQL's own comes only after minutes.
fn keep_rewindable(engine: &mut Engine, at: Tick) {
    let (state, _, _, upkeep) = engine.parts();
    let Sql::Up(answer) = &state.local.sql else { return };
    let wanted = state.settings.use_pg_rewind
        && answer.server_version < REWINDS_BY_ITSELF
        && (1..answer.timeline).contains(&answer.checkpoint_timeline)
        && state.job.is_none();
    let ordered = |(task, began): &(AbortHandle, Tick)| !task.is_finished() || at.since(*began) < CHECKPOINT_EVERY;
    if !wanted || upkeep.checkpoint.as_ref().is_some_and(ordered) {
        return;
    }
    let timeline = answer.timeline;
    let context = engine.context();
    let task = engine.spawn(async move {
        match context.node.instance.checkpoint().await {
            Ok(()) => debug!("checkpoint for the new timeline {timeline}"),
            Err(e) => complain(&context, "no checkpoint for the new timeline", &e),
        }
    });
    let (_, _, _, upkeep) = engine.parts();
    upkeep.checkpoint = Some((task, at));
}

fn due(engine: &mut Engine, at: Tick) -> Round {
    let name = engine.node.me.name.clone();
    let configuration = engine.state.configuration.clone();
    let (state, _, _, upkeep) = engine.parts();
    let (Sql::Up(answer), Some(cluster)) = (&state.local.sql, &state.cluster) else { return Round::default() };
    let resting = upkeep.failed_at.is_some_and(|t| at.since(t) < Duration::from_secs(5));
    if upkeep.running || resting || state.job.is_some() || cluster.initialize.as_deref().is_none_or(str::is_empty) {
        return Round::default();
    }
    let current = (configuration, answer.postmaster_start_time.clone());
    let apply = (upkeep.reload || upkeep.applied.as_ref() != Some(&current)).then_some(current);
    let reload = std::mem::take(&mut upkeep.reload);
    let primary = !answer.in_recovery;
    let slots = upkeep.slots(cluster, &name, primary, state.settings.member_slots_ttl, at);
    let fresh = upkeep.slots.as_ref().is_some_and(|(done, t)| *done == slots && at.since(*t) < SLOTS_EVERY);
    let idle = slots.wanted.is_empty() && slots.gone.is_empty();
    let slots = (state.settings.use_slots && !fresh && !idle).then_some(slots);
    let known = cluster.history.iter().any(|l| l.timeline + 1 == answer.timeline);
    let history = (primary && answer.timeline > 1 && !known && upkeep.history != Some(answer.timeline))
        .then_some(answer.timeline);
    let leads = cluster.is_led_by(&name);
    let config = state.stored.clone().filter(|_| leads && cluster.config.is_none());
    Round { apply, reload, slots, history: history.filter(|_| leads), config }
}

async fn run(context: &Context, round: Round) -> Kept {
    let mut kept = Kept { applied: None, reload: false, slots: None, history: None, failed: false };
    if let Some((configuration, server)) = round.apply {
        match apply(context, &configuration, round.reload).await {
            Ok(()) => kept.applied = Some((configuration, server)),
            Err(e) => {
                complain(context, "the server parameters could not be applied", &e);
                (kept.reload, kept.failed) = (round.reload, true);
            }
        }
    }
    if let Some(slots) = round.slots {
        match context.node.instance.sync_slots(&slots.wanted, slots.primary, &slots.gone).await {
            Ok(()) => kept.slots = Some(slots),
            Err(e) => {
                complain(context, "the members' replication slots could not be kept in order", &e);
                kept.failed = true;
            }
        }
    }
    if let Some(timeline) = round.history {
        match write_history(context, timeline).await {
            Ok(()) => kept.history = Some(timeline),
            Err(e) => {
                warn!("the history key could not be written: {e:#}");
                kept.failed = true;
            }
        }
    }
    if let Some(config) = round.config {
        match write_config(context, &config).await {
            Ok(true) => warn!("the config key was deleted: it is written again as it was"),
            // It is there, and will be seen.
            Ok(false) => {}
            Err(e) => {
                warn!("the config key was deleted and could not be written again: {e}");
                kept.failed = true;
            }
        }
    }
    kept
}

/// That a server has gone, or is going, is told by those who watch it.
fn complain(context: &Context, what: &str, error: &instance::Error) {
    if context.node.instance.pid().is_none() || error.is_shutdown() {
        debug!("{what}: {error}");
    } else {
        warn!("{what}: {error}");
    }
}

/// Writes the server's files and reloads it, if they have changed or it's `wanted`; what changed is logged in Patroni's
/// words.
async fn apply(context: &Context, configuration: &Configuration, wanted: bool) -> Result<(), instance::Error> {
    let applied = context.node.instance.apply(configuration).await?;
    for c in &applied.changed {
        let restart = if c.restart { " (restart required)" } else { "" };
        info!("Changed {} from {} to {}{restart}", c.name, c.old, c.new.as_deref().unwrap_or("its default"));
    }
    if applied.needs_reload() {
        info!("PostgreSQL configuration items changed, reloading configuration.");
    } else if wanted {
        info!("Reloading PostgreSQL configuration.");
    } else {
        return Ok(());
    }
    context.node.instance.reload().await
}

/// Writes the `config` key again unless it is there.
async fn write_config(context: &Context, config: &Value) -> Result<bool, dcs::Error> {
    let Some(cluster) = &context.cluster else { return Ok(false) };
    let mine = Condition::CreatedAt(layout::LEADER.into(), cluster.term().unwrap_or_default().revision);
    let put = Write::Put { key: layout::CONFIG.into(), value: layout::config_value(config), lease: 0 };
    let written = context.node.dcs.commit(&[mine, Condition::Absent(layout::CONFIG.into())], &[put]).await?;
    Ok(written.is_some())
}

/// Adds the promotion that began this timeline to the `history` key.
async fn write_history(context: &Context, timeline: u32) -> anyhow::Result<()> {
    let Some(cluster) = &context.cluster else { return Ok(()) };
    let rows = read_history(&context.node.config().postgresql.data_dir, timeline).await?;
    let mut lines = merge(cluster, &rows, &context.node.me.name);
    let keep = context.settings.max_timelines_history as usize;
    if keep > 0 && lines.len() > keep {
        lines.drain(..lines.len() - keep);
    }
    let term = cluster.term().unwrap_or_default();
    let unchanged = match cluster.history_revision {
        0 => Condition::Absent(layout::HISTORY.into()),
        r => Condition::ModifiedAt(layout::HISTORY.into(), r),
    };
    let mine = Condition::CreatedAt(layout::LEADER.into(), term.revision);
    let put = Write::Put { key: layout::HISTORY.into(), value: layout::history_value(&lines), lease: 0 };
    match context.node.dcs.commit(&[mine, unchanged], &[put]).await? {
        Some(_) => Ok(()),
        None => anyhow::bail!("it has changed meanwhile"),
    }
}

/// The server's history file of a timeline, `pg_wal/0000000N.history`: ended timeline, where, why.
async fn read_history(data_dir: &Path, timeline: u32) -> anyhow::Result<Vec<(u32, ha::Lsn, String)>> {
    let text = tokio::fs::read_to_string(data_dir.join(format!("pg_wal/{timeline:08X}.history"))).await?;
    let row = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        Some((fields.next()?.trim().parse().ok()?, fields.next()?.parse().ok()?, fields.next()?.to_owned()))
    };
    Ok(text.lines().filter_map(row).collect())
}

/// PostgreSQL's history rows (timeline, end, reason), with what the key already says about when and by whom.
fn merge(cluster: &Cluster, rows: &[(u32, ha::Lsn, String)], me: &str) -> Vec<HistoryLine> {
    let newest = rows.iter().map(|r| r.0).max();
    let stamp = || jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string();
    rows.iter()
        .map(|(timeline, lsn, reason)| {
            let known = cluster.history.iter().find(|l| l.timeline == *timeline && l.lsn == *lsn);
            known.cloned().unwrap_or_else(|| {
                let last = Some(*timeline) == newest;
                HistoryLine {
                    timeline: *timeline,
                    lsn: *lsn,
                    reason: reason.clone(),
                    timestamp: if last { stamp() } else { String::new() },
                    new_leader: if last { me.to_owned() } else { String::new() },
                }
            })
        })
        .collect()
}
