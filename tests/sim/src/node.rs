//! One machine: its clock, agent, guard, server and disk, as plain data.

use std::collections::BTreeMap;

use ha::action::Lane;
use ha::view::{JobKind, View};
use ha::{Action, Memory, Term, Tick};

use crate::postgres::{Disk, Server};
use crate::store::{Op, Us};

/// A machine's CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Nanoseconds it showed at the beginning.
    pub(crate) offset: u64,
    /// How much too fast it is, in millionths.
    pub(crate) ppm: i64,
}

impl Clock {
    pub(crate) fn tick(&self, now: Us) -> Tick {
        let nanos = i128::from(now) * 1000;
        Tick(self.offset + (nanos + nanos * i128::from(self.ppm) / 1_000_000) as u64)
    }

    /// The first true moment at which the clock shows at least `tick`.
    pub(crate) fn when(&self, tick: Tick) -> Us {
        if tick == Tick::NEVER {
            return Us::MAX / 2;
        }
        let nanos = i128::from(tick.0.saturating_sub(self.offset));
        (nanos * 1_000_000 / (1_000_000 + i128::from(self.ppm)) / 1000) as Us + 1
    }
}

/// What an agent is doing with its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Down,
    /// Started, and finding out whether it already leads.
    Adopting,
    Up,
}

/// A request on its way.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) sent: Tick,
    /// The lane that it keeps busy.
    pub(crate) lane: Option<Lane>,
}

/// Work on PostgreSQL under way.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) kind: JobKind,
    pub(crate) action: Action,
    /// Tells steps of this work from those of earlier work.
    pub(crate) number: u64,
    /// It is done when the server is up in the wanted role.
    pub(crate) waits_for_server: bool,
}

/// An agent process.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) life: Life,
    /// Grows with every process.
    pub(crate) epoch: u32,
    pub(crate) stopped_until: Us,
    pub(crate) view: View,
    pub(crate) memory: Memory,
    pub(crate) requests: BTreeMap<u64, Request>,
    pub(crate) next_number: u64,
    pub(crate) busy: [bool; 7],
    pub(crate) work: Option<Work>,
    pub(crate) wake_generation: u64,
    pub(crate) probe_number: u64,
    pub(crate) reading: bool,
    pub(crate) read_again: bool,
    pub(crate) read_at: Us,
    pub(crate) round: Option<Asking>,
    pub(crate) publishing: bool,
    pub(crate) silent_since: Option<Tick>,
    pub(crate) adopting_since: Us,
    pub(crate) last_reason: &'static str,
}

/// A round of questions under way.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) number: u64,
    pub(crate) missing: usize,
    pub(crate) round: ha::view::Round,
}

impl Agent {
    pub(crate) fn new(epoch: u32) -> Agent {
        Agent {
            life: Life::Down,
            epoch,
            stopped_until: 0,
            view: View::default(),
            memory: Memory::default(),
            requests: BTreeMap::new(),
            next_number: 0,
            busy: [false; 7],
            work: None,
            wake_generation: 0,
            probe_number: 0,
            reading: false,
            read_again: false,
            read_at: 0,
            round: None,
            publishing: false,
            silent_since: None,
            adopting_since: 0,
            last_reason: "",
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(crate) fn lane(&mut self, lane: Lane) -> &mut bool {
        &mut self.busy[lane as usize]
    }
}

/// State of a guard process (the `instance` crate's table of states).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    Idle,
    Armed { term: Term, deadline: Tick },
    Fenced { term: Term, settled: bool },
}

/// A guard process.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) epoch: u32,
    pub(crate) alive: bool,
    pub(crate) frozen_until: Us,
    pub(crate) watch: Watch,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) nofailover: bool,
    pub(crate) clock: Clock,
    /// The whole machine stands still until then.
    pub(crate) paused_until: Us,
    pub(crate) host_up: bool,
    pub(crate) agent: Agent,
    pub(crate) guard: Guard,
    pub(crate) server: Server,
    pub(crate) disk: Disk,
    /// Requests from this node to the store, and answers back, are lost until then.
    pub(crate) store_cut: [Us; 2],
    /// Answers of the store take long until then.
    pub(crate) store_slow: Us,
    /// When agent or guard were last hurt: they save each other, so one at a time.
    pub(crate) agent_hurt: Us,
    pub(crate) guard_hurt: Us,
}
