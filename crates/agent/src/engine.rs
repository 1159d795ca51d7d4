//! The agent's loop: take events, decide, have the actions done, tell the world. What is decided is in `ha`; how actions
//! are done is in `perform`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use ha::action::Lane;
use ha::command::{Command, Outcome, Reply};
use ha::view::{Guard, Job, JobKind};
use ha::{Action, Memory, Reason, Status, Tick, decide};
use instance::now;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info, warn};

use crate::event::{Answer, Event, Leased, Reading};
use crate::node::Node;
use crate::state::State;
use crate::{orders, perform, publish, upkeep};

/// How often a guard that holds a deadline, or is lost, is asked whether it lives.
const GUARD_PING: Duration = Duration::from_secs(1);
/// How long an order waits for its turn.
const ORDER_LIMIT: Duration = Duration::from_secs(60);
/// The loop doesn't turn faster than this by itself.
const LEAST_SLEEP: Duration = Duration::from_millis(5);
/// Nor slower. Longer than from one look at PostgreSQL to the next, so that each second has one waking-up, not two.
const LONGEST_SLEEP: Duration = Duration::from_millis(1500);
/// A reason that stays the same is logged again after this time.
const REPEAT_LOG: Duration = Duration::from_secs(60);

pub(crate) struct Engine {
    pub(crate) node: Arc<Node>,
    pub(crate) state: State,
    memory: Memory,
    events: mpsc::Receiver<Event>,
    pub(crate) sender: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
    lanes: HashSet<Lane>,
    job: Option<AbortHandle>,
    wake_at: Tick,
    status: watch::Sender<Arc<Status>>,
    published: publish::Published,
    upkeep: upkeep::Upkeep,
    waiting: HashMap<JobKind, (Tick, Vec<Answer>)>,
    pinged_at: Tick,
    ttl_changed_at: Tick,
    logged: (&'static str, bool, Tick),
    /// The trouble that was logged last, and when.
    troubled: Option<(String, Tick)>,
    /// The failure of a write that was logged last, and when.
    unwritten: Option<(String, Tick)>,
}

impl Engine {
    pub(crate) fn new(
        node: Arc<Node>,
        state: State,
        (sender, events): (mpsc::Sender<Event>, mpsc::Receiver<Event>),
        status: watch::Sender<Arc<Status>>,
    ) -> Engine {
        Engine {
            node,
            state,
            memory: Memory::default(),
            events,
            sender,
            tasks: JoinSet::new(),
            lanes: HashSet::new(),
            job: None,
            wake_at: Tick::default(),
            status,
            published: publish::Published::default(),
            upkeep: upkeep::Upkeep::default(),
            waiting: HashMap::new(),
            pinged_at: Tick::default(),
            ttl_changed_at: Tick::default(),
            logged: ("", false, Tick::default()),
            troubled: None,
            unwritten: None,
        }
    }

    /// Runs until the agent has been told to stop and has. Returns the lease to be ended.
    pub(crate) async fn run(mut self) -> Result<Option<i64>> {
        loop {
            let sleep = self.wake_at.since(now()).clamp(LEAST_SLEEP, LONGEST_SLEEP);
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => fail_on_panic(ended)?,
                event = self.events.recv() => match event {
                    Some(event) => self.take(event),
                    None => bail!("the engine has lost its events"),
                },
                () = tokio::time::sleep(sleep) => {}
            }
            while let Ok(event) = self.events.try_recv() {
                self.take(event);
            }
            if self.state.local_at.is_some() && self.step() {
                return Ok(self.state.held().map(|h| h.lease.id));
            }
        }
    }

    /// One decision. True when the agent is to end.
    fn step(&mut self) -> bool {
        let at = now();
        self.note_trouble(at);
        let view = self.state.view(&self.node.me());
        let decision = decide(&view, &self.memory, at);
        self.memory = decision.memory;
        self.wake_at = decision.wake_at;
        self.log(&decision.reason, at);
        if let Reason::SwitchoverRefused { why } = &decision.reason {
            self.node.remember_refusal(Some(why.clone()));
        }
        let mut exit = false;
        for action in decision.actions {
            exit |= action == Action::Exit;
            self.dispatch(action, at);
        }
        self.watch_guard(at);
        self.expire_orders(at);
        self.follow_ttl(at);
        publish::status(self, &decision.reason, at);
        publish::member(self, at);
        upkeep::tend(self, at);
        exit
    }

    fn log(&mut self, reason: &Reason, at: Tick) {
        let (label, alarming, when) = self.logged;
        let alarms = reason.is_alarming() || self.leaderless_for(at).is_some();
        let same = reason.label() == label && alarms == alarming && at.since(when) < REPEAT_LOG;
        // That work goes on was said when it began, and that it failed when it did.
        if same || matches!(reason, Reason::Busy { .. } | Reason::Backoff { .. }) {
            debug!("{reason}");
            return;
        }
        self.logged = (reason.label(), alarms, at);
        if alarms { warn!("{reason}") } else { info!("{reason}") }
    }

    /// For how long the cluster has had no leader, when that is longer than any election takes and nobody wants it so. One
    /// that is being made has none yet.
    pub(crate) fn leaderless_for(&self, at: Tick) -> Option<Duration> {
        let settings = &self.state.settings;
        self.state.cluster.as_ref()?.initialize.as_ref().filter(|identifier| !identifier.is_empty())?;
        let lasted = at.since(self.memory.leaderless_since?);
        (!settings.pause && lasted >= (settings.ttl * 2).max(Duration::from_secs(10))).then_some(lasted)
    }

    /// What PostgreSQL or its storage suffers from is logged when it begins, when it changes and when it is over.
    fn note_trouble(&mut self, at: Tick) {
        let trouble = self.node.instance.trouble();
        match (&trouble, &self.troubled) {
            (Some(what), told) if told.as_ref().is_none_or(|(t, when)| t != what || at.since(*when) >= REPEAT_LOG) => {
                warn!("{what}");
                self.troubled = Some((what.clone(), at));
            }
            (None, Some((what, _))) => {
                info!("over: {what}");
                self.troubled = None;
            }
            _ => {}
        }
        self.state.trouble = trouble;
    }

    /// Logs that a write failed; the same failure again only from time to time.
    fn complain(&mut self, what: String, at: Tick) {
        if self.unwritten.as_ref().is_some_and(|(told, when)| *told == what && at.since(*when) < REPEAT_LOG) {
            debug!("{what}");
            return;
        }
        warn!("{what}");
        self.unwritten = Some((what, at));
    }

    /// Has an action done, unless its lane is busy: then the decision is made again when it is free.
    fn dispatch(&mut self, action: Action, at: Tick) {
        let lane = action.lane();
        if lane == Lane::Exit || self.lanes.contains(&lane) {
            return;
        }
        if lane == Lane::Postgres && self.lanes.contains(&Lane::Fence) {
            return;
        }
        debug!(?action, "doing");
        self.lanes.insert(lane);
        if action == Action::Fence {
            let job = self.drop_job();
            self.state.fencing = true;
            self.tasks.spawn(perform::fence(self.context(), job));
            return;
        }
        let handle = self.tasks.spawn(perform::perform(self.context(), action.clone(), at));
        if let Some(kind) = action.job() {
            self.state.job = Some(Job { kind, since: at });
            self.job = Some(handle);
        }
    }

    /// Ends the job under way: its task is dropped, which kills the programs it runs.
    fn drop_job(&mut self) -> Option<AbortHandle> {
        let handle = self.job.take()?;
        handle.abort();
        // Blocking code of the task goes on until its next step that can't be taken back.
        self.node.instance.revoke_work();
        self.lanes.remove(&Lane::Postgres);
        if let Some(job) = self.state.job.take() {
            self.answer(job.kind, &Reply::new(Outcome::Failed, format!("{:?} was interrupted", job.kind)));
        }
        Some(handle)
    }

    pub(crate) fn context(&self) -> perform::Context {
        perform::Context {
            node: self.node.clone(),
            events: self.sender.clone(),
            cluster: self.state.cluster.clone(),
            settings: self.state.settings.clone(),
            lease: self.state.held(),
            guard: self.state.guard,
            configuration: self.state.configuration.clone(),
        }
    }

    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.tasks.spawn(task)
    }

    pub(crate) fn status(&self) -> &watch::Sender<Arc<Status>> {
        &self.status
    }

    pub(crate) fn parts(&mut self) -> (&State, &Memory, &mut publish::Published, &mut upkeep::Upkeep) {
        (&self.state, &self.memory, &mut self.published, &mut self.upkeep)
    }

    fn take(&mut self, event: Event) {
        if let Some(lane) = event.frees() {
            self.lanes.remove(&lane);
        }
        let at = now();
        match event {
            Event::Read(reading) => self.read(reading, at),
            Event::Probed(local) => self.state.probed(*local),
            Event::Look => self.node.looker.notify_one(),
            Event::Leased(leased) => {
                if matches!(leased, Leased::Gone) {
                    self.published.lost_lease(at);
                    self.reread();
                }
                self.state.leased(leased);
            }
            Event::Written(action, result, reading) => {
                match &result {
                    Ok(Some(_)) => debug!(?action, "written"),
                    Ok(None) => info!("someone else changed the DCS first, or it was done already: {action:?}"),
                    Err(dcs::Error::LeaseGone) => {
                        // The next write would fail alike: without a pause, if nothing told that a new lease is needed.
                        warn!("{action:?}: the lease has ended");
                        self.published.lost_lease(at);
                        self.state.leased(Leased::Gone);
                    }
                    Err(e) => self.complain(format!("{action:?}: {e}"), at),
                }
                self.read(reading, at);
            }
            Event::Guard(result) => self.state.guarded(result, at),
            Event::GuardLost => {
                if matches!(self.state.guard, Guard::Armed { .. }) {
                    warn!("the guard process has ended");
                    self.state.guard_lost(at);
                }
            }
            Event::Answered(round) => {
                self.state.peers = Some(round);
                // Whoever is compared with the others wants to be known as of now.
                self.node.looker.notify_one();
            }
            Event::Worked { kind, since, result, local } => {
                self.state.probed(*local);
                // A job that was ended for a fence may have reported just before.
                if self.state.job.is_some_and(|j| j.since == since) {
                    self.worked(kind, result);
                }
            }
            Event::Fenced(left, local) => {
                if left > 0 {
                    warn!("{left} processes of PostgreSQL can't be ended yet");
                }
                self.state.probed(*local);
                self.state.fencing = false;
                // That look may have begun before the kill was ordered; nothing goes on before a later one.
                self.node.looker.notify_one();
            }
            Event::Published(result) => {
                let cluster = self.state.cluster.clone();
                self.published.ended(result, cluster.as_deref(), at);
            }
            Event::Kept(kept) => self.upkeep.ended(kept, at),
            Event::Order(order, answer) => self.order(order, answer),
            Event::Reload => self.reload(),
            Event::Stop => {
                info!("told to stop");
                self.state.wants.leave = true;
            }
        }
    }

    /// Has the DCS read at once.
    fn reread(&mut self) {
        let context = self.context();
        self.spawn(async move {
            let reading = perform::read(&context).await;
            // The engine outlives its tasks; when it is gone, the process is ending.
            let _ = context.events.send(Event::Read(reading)).await;
        });
    }

    fn read(&mut self, reading: Reading, at: Tick) {
        let led = |state: &State| state.cluster.as_ref().is_some_and(|c| c.leader.is_some());
        let was_led = led(&self.state);
        let changed = self.state.read(reading, at);
        if was_led && !led(&self.state) {
            // Whether this node may lead depends on its receiver as of now.
            self.node.looker.notify_one();
        }
        if changed {
            self.node.mark_pause(self.state.settings.pause);
            self.node.set_watchdog(self.state.settings.ttl);
        }
    }

    fn worked(&mut self, kind: JobKind, result: Result<(), String>) {
        self.job = None;
        self.lanes.remove(&Lane::Postgres);
        let reply = match &result {
            Ok(()) if kind == JobKind::Wipe => Reply::new(Outcome::Done, "reinitialize started"),
            Ok(()) => Reply::new(Outcome::Done, "restarted successfully"),
            Err(why) => Reply::new(Outcome::Failed, format!("{} failed: {why}", orders::verb(kind))),
        };
        self.state.worked(kind, result, now());
        self.answer(kind, &reply);
    }

    fn answer(&mut self, kind: JobKind, reply: &Reply) {
        match kind {
            JobKind::Restart => self.state.wants.restart = false,
            JobKind::Wipe => self.state.wants.reinitialize = false,
            _ => return,
        }
        for answer in self.waiting.remove(&kind).map(|(_, answers)| answers).unwrap_or_default() {
            // Who asked may have gone away: then nobody is to be told.
            let _ = answer.send(reply.clone());
        }
    }

    /// Takes an order: restart and reinitialisation go through the decision, the rest is done beside it.
    fn order(&mut self, order: ha::command::Order, answer: Answer) {
        info!("{} from {} orders: {:?}", order.who, order.from, order.command);
        let refusal = orders::refuse(&order.command, &self.state, &self.node);
        if let Some(reply) = refusal {
            info!("refused: {}", reply.message);
            let _ = answer.send(reply);
            return;
        }
        let kind = match order.command {
            Command::Restart(_) => {
                self.state.wants.restart = true;
                JobKind::Restart
            }
            Command::Reinitialize { force, .. } => {
                if force {
                    drop(self.drop_job());
                }
                self.state.wants.reinitialize = true;
                JobKind::Wipe
            }
            Command::Reload => {
                self.reload();
                let _ = answer.send(Reply::new(Outcome::Accepted, "reload scheduled"));
                return;
            }
            command => {
                let run = orders::Run { node: self.node.clone(), status: self.status.subscribe(), who: order.who };
                self.tasks.spawn(async move {
                    let _ = answer.send(run.carry_out(command).await);
                });
                return;
            }
        };
        self.waiting.entry(kind).or_insert_with(|| (now(), Vec::new())).1.push(answer);
    }

    fn reload(&mut self) {
        match self.node.reload() {
            Ok(()) => {
                self.state.reconfigure(self.node.config());
                self.upkeep.reload();
            }
            Err(e) => warn!("the configuration is not reloaded, the old one stays in force: {e:#}"),
        }
    }

    /// An order that isn't begun in time is taken back: whoever gave it must not be surprised by it later.
    fn expire_orders(&mut self, at: Tick) {
        let doing = self.state.job.map(|j| j.kind);
        let late = |(kind, (since, _)): (&JobKind, &(Tick, Vec<Answer>))| {
            (Some(*kind) != doing && at.since(*since) > ORDER_LIMIT).then_some(*kind)
        };
        let late: Vec<JobKind> = self.waiting.iter().filter_map(late).collect();
        for kind in late {
            let message = format!("{} could not be begun: {}", orders::verb(kind), self.status.borrow().reason);
            self.answer(kind, &Reply::new(Outcome::Failed, message));
        }
    }

    /// A changed ttl means another lease, at once.
    fn follow_ttl(&mut self, at: Tick) {
        let changed = self.state.held().is_some_and(|h| h.ttl != self.state.settings.ttl);
        if changed && at.since(self.ttl_changed_at) > Duration::from_secs(1) {
            self.ttl_changed_at = at;
            self.dispatch(Action::Renew, at);
        }
    }

    /// Asks an armed guard whether it lives, and one that was lost whether it's back: it may have fenced meanwhile, and
    /// kills whatever is started until it's told that this is known.
    fn watch_guard(&mut self, at: Tick) {
        let watched = matches!(self.state.guard, Guard::Armed { .. } | Guard::Lost(_));
        let ping = watched && at.since(self.pinged_at) >= GUARD_PING;
        if self.lanes.contains(&Lane::Guard) || !ping {
            return;
        }
        self.pinged_at = at;
        self.lanes.insert(Lane::Guard);
        self.tasks.spawn(perform::ask_guard(self.context()));
    }
}

fn fail_on_panic(ended: Result<(), tokio::task::JoinError>) -> Result<()> {
    match ended {
        Err(e) if e.is_panic() => bail!("a task of the agent has failed: {e}"),
        _ => Ok(()),
    }
}
