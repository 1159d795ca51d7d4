//! Scenario files: text in, decisions out. Each file in `scenarios/` sets up a view line by line; every `decide` line is
//! followed by the decision, indented. `UPDATE_SCENARIOS=1 cargo nextest run -p ha` writes the decisions anew; changes
//! are reviewed as diffs.

#![allow(clippy::unwrap_used, reason = "a scenario that can't be read fails its test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ha::cluster::{Failover, HistoryLine, Leader, Member, Optime, Revisioned, SyncState};
use ha::local::{Answer, ControlData, DataDir, Process, Sql};
use ha::poolers::{Drain, Pooler};
use ha::status::Standby;
use ha::view::{Failed, Guard, Job, JobKind, Lease, Peer, Round};
use ha::{Cluster, Decision, Lsn, Memory, Settings, Term, Tick, View, decide};
use serde_json::{Map, Value};

#[derive(Default)]
struct Scenario {
    now: Tick,
    view: View,
    cluster: Option<Cluster>,
    settings: Map<String, Value>,
    memory: Memory,
}

fn tick(text: &str) -> Tick {
    Tick::from_millis((text.parse::<f64>().unwrap() * 1000.0).round() as u64)
}

fn lsn(text: &str) -> Lsn {
    Lsn(text.parse().unwrap())
}

fn term(text: &str) -> Term {
    Term { dcs_id: 1, revision: text.parse().unwrap() }
}

fn kind(text: &str) -> JobKind {
    use JobKind::*;
    let all = [
        Bootstrap,
        Clone,
        StartPrimary,
        StartReplica,
        Stop,
        Promote,
        Rejoin,
        Follow,
        Checkpoint,
        SetSync,
        Restart,
        Wipe,
    ];
    all.into_iter().find(|k| format!("{k:?}") == text).unwrap()
}

fn address(name: &str) -> (String, u16) {
    (name.to_owned(), 5432)
}

impl Scenario {
    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, rest) = words.split_first().unwrap();
        match (*verb, rest) {
            ("at", [t]) => self.now = tick(t),
            ("me", [name]) => self.view.me.name = (*name).to_owned(),
            ("nofailover", []) => self.view.me.nofailover = true,
            ("set", [key, value]) => self.set(key, value),
            ("restarted", []) => self.memory = Memory::default(),
            ("lease", ["none"]) => self.view.lease = None,
            ("lease", [id, "until", t]) => {
                self.view.lease = Some(Lease { id: id.parse().unwrap(), deadline: tick(t) });
            }
            ("guard", rest) => self.view.guard = guard(rest),
            ("job", ["none"]) => self.view.job = None,
            ("job", [k, "since", t]) => self.view.job = Some(Job { kind: kind(k), since: tick(t) }),
            ("failed", ["none"]) => self.view.failed = None,
            ("failed", [k, "at", t, "times", n]) => {
                let (kind, at, times) = (kind(k), tick(t), n.parse().unwrap());
                self.view.failed = Some(Failed { kind, at, times, why: "it broke".into() });
            }
            ("want", [what]) => match *what {
                "leave" => self.view.wants.leave = true,
                "restart" => self.view.wants.restart = true,
                "reinitialize" => self.view.wants.reinitialize = true,
                other => panic!("want {other}"),
            },
            ("unreadable", []) => self.view.dcs.unreadable = true,
            ("readable", []) => self.view.dcs.unreadable = false,
            ("distrusted", _) => self.view.dcs.distrusted = Some(rest.join(" ")),
            ("data" | "server" | "standby" | "standbys" | "refusing", _) => self.local(verb, rest),
            ("peers", ["at", t, answers @ ..]) => {
                let answers: BTreeMap<_, _> = answers.iter().map(|a| peer(a)).collect();
                self.view.peers = Some(Round { asked_at: tick(t), answers });
            }
            _ => self.key(verb, rest),
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        match key.split_once('.') {
            Some((section, key)) => {
                let section = self.settings.entry(section).or_insert_with(|| Value::Object(Map::new()));
                section.as_object_mut().unwrap().insert(key.to_owned(), value);
            }
            None => {
                self.settings.insert(key.to_owned(), value);
            }
        }
        let (settings, problems) = Settings::from_json(&Value::Object(self.settings.clone()));
        assert!(problems.is_empty(), "{problems:?}");
        self.view.settings = settings;
    }

    /// A key of the DCS.
    fn key(&mut self, verb: &str, rest: &[&str]) {
        let c = self.cluster.get_or_insert_with(Cluster::default);
        match (verb, rest) {
            ("cluster", ["unknown"]) => self.cluster = None,
            ("leader", ["none"]) => c.leader = None,
            ("leader", [name, "term", t, "lease", id]) => {
                let lease = id.parse().unwrap();
                c.leader = Some(Leader { name: (*name).to_owned(), term: term(t), lease });
            }
            ("initialize", ["none"]) => (c.initialize, c.initialize_lease) = (None, 0),
            ("initialize", ["claimed", id]) => {
                (c.initialize, c.initialize_lease) = (Some(String::new()), id.parse().unwrap());
            }
            ("initialize", [id]) => (c.initialize, c.initialize_lease) = (Some((*id).to_owned()), 0),
            ("member", [name, role, state, timeline]) => {
                let member = Member {
                    name: (*name).to_owned(),
                    conn_url: format!("postgres://{name}:5432/postgres"),
                    role: (*role).to_owned(),
                    state: (*state).to_owned(),
                    timeline: timeline.parse().ok(),
                    ..Member::default()
                };
                c.members.insert(member.name.clone(), member);
            }
            ("pooler", [id]) => drop(c.poolers.insert((*id).to_owned(), Pooler::default())),
            ("pooler", [id, "drained", member, r]) => {
                let drained = BTreeMap::from([((*member).to_owned(), r.parse().unwrap())]);
                c.poolers.insert((*id).to_owned(), Pooler { drained, ..Pooler::default() });
            }
            ("drain", [member, "none"]) => drop(c.drains.remove(*member)),
            ("drain", [member, r]) => {
                let revision = r.parse().unwrap();
                c.drains.insert((*member).to_owned(), Revisioned { revision, value: Drain::default() });
            }
            ("drain", [member, r, "for", heir]) => {
                let value = Drain { to: Some((*heir).to_owned()), ..Drain::default() };
                c.drains.insert((*member).to_owned(), Revisioned { revision: r.parse().unwrap(), value });
            }
            ("sync", ["none"]) => c.sync = None,
            ("sync", [leader, "revision", r, standbys @ ..]) => {
                let standbys = standbys.iter().map(|s| (*s).to_owned()).collect();
                let value = SyncState { leader: (*leader).to_owned(), standbys, quorum: 0 };
                c.sync = Some(Revisioned { revision: r.parse().unwrap(), value });
            }
            ("failover", ["none"]) => c.failover = None,
            ("failover", [from, "to", to, "revision", r]) => {
                let name = |n: &str| (n != "-").then(|| n.to_owned());
                let value = Failover { leader: name(from), candidate: name(to), scheduled_at: None };
                c.failover = Some(Revisioned { revision: r.parse().unwrap(), value });
            }
            ("history", [timeline, end]) => c.history.push(HistoryLine {
                timeline: timeline.parse().unwrap(),
                lsn: lsn(end),
                reason: String::new(),
                timestamp: String::new(),
                new_leader: String::new(),
            }),
            ("optime", [position]) => c.status = Some(Optime { optime: lsn(position), ..Optime::default() }),
            _ => panic!("what does {verb} {rest:?} mean?"),
        }
    }

    /// What a look at the local server shows; it is taken as of now.
    fn local(&mut self, verb: &str, rest: &[&str]) {
        let now = self.now;
        let l = &mut self.view.local;
        l.taken_at = now;
        let running = |standby| Process::Running { pid: 1, standby, since: Tick::default() };
        match (verb, rest) {
            ("data", ["empty"]) => l.data = DataDir::Empty,
            ("data", ["damaged", ..]) => l.data = DataDir::Damaged(rest[1..].join(" ")),
            ("data", [system, role, end, timeline, position]) => {
                l.data = DataDir::Valid(ControlData {
                    system_identifier: (*system).to_owned(),
                    clean: *end == "clean",
                    in_recovery: *role == "replica",
                    timeline: timeline.parse().unwrap(),
                    checkpoint: lsn(position),
                    ..ControlData::default()
                });
            }
            ("server", ["stopped"]) => (l.process, l.sql) = (Process::Stopped, Sql::Down),
            ("server", ["orphans"]) => (l.process, l.sql) = (Process::Orphans, Sql::Down),
            ("server", ["starting", role]) => (l.process, l.sql) = (running(*role == "replica"), Sql::NotReady),
            ("server", ["silent", "since", t]) => l.sql = Sql::Silent(tick(t)),
            ("server", ["primary", timeline, position, names @ ..]) => {
                l.process = running(false);
                l.sql = Sql::Up(Box::new(Answer {
                    timeline: timeline.parse().unwrap(),
                    system_identifier: "sys1".into(),
                    written: lsn(position),
                    flushed: lsn(position),
                    redo: lsn(position),
                    synchronous_standby_names: names.join(" "),
                    replication: ["n2", "n3"].map(|name| standby(name, "async", position)).into(),
                    ..Answer::default()
                }));
            }
            // Nobody streams but those who are named then.
            ("standbys", ["none"]) => {
                let Sql::Up(answer) = &mut l.sql else { panic!("no server to have standbys") };
                answer.replication.clear();
            }
            ("server", ["replica", timeline, position, rest @ ..]) => {
                l.process = running(true);
                let word = |w: &&&str| **w != "streaming" && **w != "*" && !w.starts_with("waits:");
                let upstream = rest.iter().find(word).map(|w| address(w));
                let streaming = rest.contains(&"streaming");
                l.sql = Sql::Up(Box::new(Answer {
                    in_recovery: true,
                    timeline: timeline.parse().unwrap(),
                    system_identifier: "sys1".into(),
                    received: lsn(position),
                    waits_at: rest.iter().find_map(|w| w.strip_prefix("waits:")).map(lsn),
                    receiver: streaming.then(|| "streaming".to_owned()),
                    receiver_from: upstream.clone().filter(|_| streaming),
                    upstream,
                    synchronous_standby_names: if rest.contains(&"*") { "*".into() } else { String::new() },
                    ..Answer::default()
                }));
            }
            ("standby", [name, sync_state, flushed]) => {
                let Sql::Up(answer) = &mut l.sql else { panic!("no server to have standbys") };
                answer.replication.retain(|s| s.sync_state != "async" && s.application_name != *name);
                answer.replication.push(standby(name, sync_state, flushed));
            }
            ("refusing", ["since", t]) => l.refusing_since = Some(tick(t)),
            _ => panic!("what does {verb} {rest:?} mean?"),
        }
    }

    fn decide(&mut self) -> String {
        self.view.dcs.cluster = self.cluster.clone().map(Arc::new);
        let Decision { actions, reason, memory, wake_at } = decide(&self.view, &self.memory, self.now);
        self.memory = memory;
        let mut text = format!("  because {reason}\n");
        for action in actions {
            text.push_str(&format!("  does {}\n", format!("{action:?}").replace("dcs_id: 1, ", "")));
        }
        let wake = wake_at.since(self.now);
        let past = if wake_at < self.now { " (past)" } else { "" };
        assert!(wake < Duration::from_secs(3600), "wakes much too late");
        text.push_str(&format!("  again in {:.3} s{past}\n", wake.as_secs_f64()));
        text
    }
}

fn standby(name: &str, sync_state: &str, flushed: &str) -> Standby {
    Standby {
        application_name: name.to_owned(),
        state: "streaming".into(),
        sync_state: sync_state.to_owned(),
        flush_lsn: Some(lsn(flushed)),
        ..Standby::default()
    }
}

fn guard(words: &[&str]) -> Guard {
    match words {
        ["idle"] => Guard::Idle,
        ["armed", t, "until", deadline] => Guard::Armed { term: term(t), deadline: tick(deadline) },
        ["fenced", t] => Guard::Fenced { term: term(t) },
        ["lost", t] => Guard::Lost(tick(t)),
        _ => panic!("guard {words:?}"),
    }
}

/// `n2=replica:1:500`, `n3=primary:2:700` or `n3=nofailover:1:500`.
fn peer(text: &str) -> (String, Peer) {
    let (name, rest) = text.split_once('=').unwrap();
    let parts: Vec<&str> = rest.split(':').collect();
    let peer = Peer {
        running: parts[0] != "stopped",
        primary: parts[0] == "primary",
        nofailover: parts[0] == "nofailover",
        timeline: parts[1].parse().unwrap(),
        position: lsn(parts[2]),
    };
    (name.to_owned(), peer)
}

fn play(text: &str) -> String {
    let mut scenario = Scenario::default();
    let mut out = String::new();
    for line in text.lines().filter(|l| !l.starts_with("  ")) {
        out.push_str(line);
        out.push('\n');
        match line {
            "decide" => out.push_str(&scenario.decide()),
            _ if line.is_empty() || line.starts_with('#') => {}
            _ => scenario.line(line),
        }
    }
    out
}

#[test]
fn decisions_are_as_written_down() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut wrong = Vec::new();
    let mut files = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let result = play(&text);
        files += 1;
        if update {
            std::fs::write(&path, result).unwrap();
        } else if result != text {
            let line = text.lines().zip(result.lines()).find(|(a, b)| a != b);
            wrong.push(format!("{}: {line:?}", path.display()));
        }
    }
    assert!(files > 10, "the scenario files are missing");
    assert!(wrong.is_empty(), "decisions differ; UPDATE_SCENARIOS=1 writes them anew:\n{}", wrong.join("\n"));
}
