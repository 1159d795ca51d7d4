//! Whole clusters in virtual time: the real `ha::decide` on every node, against a model DCS, model PostgreSQL servers,
//! model guards and a model network that all go wrong. A seed gives one world and replays exactly. What must stay true
//! is in `oracle`; what goes wrong is in `faults`.

mod agent;
mod faults;
mod mutation;
mod node;
mod oracle;
mod perform;
mod postgres;
mod random;
mod report;
mod runs;
mod server;
mod store;
mod stream;
mod world;

use std::fmt;

pub use mutation::Mutation;
pub use report::Report;
pub use runs::main;

use node::{Agent, Clock, Guard, Node};
use postgres::{Disk, Server};
use random::Random;
use world::{Event, MS, SECOND, World};

/// No run takes longer in virtual time.
const LONGEST: store::Us = 900 * SECOND;

/// How to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A bug to put in.
    pub mutation: Option<Mutation>,
    /// Print every event.
    pub trace: bool,
}

/// A broken invariant.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// What was broken.
    pub what: String,
    /// The last events before.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

impl std::error::Error for Failure {}

/// Runs the world of one seed until it is whole again after its faults.
pub fn run(seed: u64, options: Options) -> Result<Report, Box<Failure>> {
    let mut world = build(seed, options.mutation);
    if options.trace {
        world.trace_on(true);
    }
    let Err(what) = simulate(&mut world) else { return Ok(finish(world)) };
    if !options.trace {
        world = build(seed, options.mutation);
        world.trace_on(false);
        let again = simulate(&mut world);
        assert_eq!(again.as_ref().err(), Some(&what), "seed {seed} doesn't replay");
        world.describe();
    }
    Err(Box::new(Failure { seed, what, trace: world.trace.into() }))
}

fn build(seed: u64, mutation: Option<Mutation>) -> World {
    let mut random = Random::new(seed);
    let settings = faults::draw_settings(&mut random);
    let plan = faults::Plan::draw(&mut random);
    let count = [3, 3, 3, 3, 2, 5][random.index(6)];
    let mut world = World::new(random, settings.clone(), plan, mutation);
    let tagged = world.random.permille(100);
    for i in 0..count {
        let clock = Clock { offset: world.random.between(1, 1 << 50), ppm: world.random.between(0, 1000) as i64 - 500 };
        let mut agent = Agent::new(0);
        agent.view.settings = settings.clone();
        world.nodes.push(Node {
            name: format!("n{}", i + 1),
            nofailover: tagged && i == 0 && count > 2,
            clock,
            paused_until: 0,
            host_up: true,
            agent,
            guard: Guard::new(),
            server: Server::new(),
            disk: Disk::default(),
            store_cut: [0; 2],
            store_slow: 0,
            agent_hurt: 0,
            guard_hurt: 0,
        });
        let start = world.random.between(0, 500 * MS);
        world.at(start, Event::Undo(faults::Fault::AgentDown(i)));
        world.at(start, Event::Write(i));
    }
    world.at(world.plan.first_fault(), Event::NextFault);
    world
}

fn simulate(world: &mut World) -> Result<(), String> {
    while world.step() {
        if let Some(what) = world.broken.take() {
            return Err(what);
        }
        if world.plan.done {
            return Ok(());
        }
        if world.now > LONGEST {
            return Err("the run doesn't end".to_owned());
        }
    }
    Err("nothing is left to happen".to_owned())
}

fn finish(mut world: World) -> Report {
    world.report.runs = 1;
    world.report.acquisitions = world.store.acquisitions;
    world.report.acknowledged = world.oracle.acknowledged;
    world.report.acknowledged_sync = world.oracle.acknowledged_sync;
    world.report
}
