//! `cargo xtask down`: ends every process of the cluster that `up` started, gently where that works.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use harness::process::{self, Identity};
use harness::programs::Programs;
use harness::reaper;
use rustix::process::Signal;

use crate::checkout;
use crate::place::{Place, Shape};
use crate::poolers::Pooler;

/// How long an agent may take to stop PostgreSQL.
const AGENTS: Duration = Duration::from_secs(60);

/// How long a guard without an agent may take to notice that there is nothing to guard.
const GUARDS: Duration = Duration::from_secs(3);

pub(crate) fn run(wipe: bool) -> Result<()> {
    let Some(place) = Place::find()? else {
        say!("there is no cluster in target/cluster");
        return Ok(());
    };
    let shape = place.shape()?.unwrap_or(Shape { nodes: 9, etcd: true });
    let dist = checkout::root()?.join("dist");
    // Only paths are needed of the programs: nothing is started.
    let (agent, ctl) = (dist.join("pgherd-agent"), dist.join("pgherdctl"));
    let programs = Programs { agent, ctl, directory: dist.clone(), postgres: dist };
    let (nodes, etcd) = place.nodes(shape, &programs);

    let running = nodes.iter().filter_map(|n| Some((n.name.clone(), Pooler::of(n, &place).process()?)));
    end("the pooler of", running.collect(), Signal::QUIT, Duration::from_secs(10))?;
    end("agent", nodes.iter().filter_map(|n| Some((n.name.clone(), n.agent()?))).collect(), Signal::TERM, AGENTS)?;
    // In maintenance mode an agent leaves PostgreSQL running.
    end(
        "PostgreSQL",
        nodes.iter().filter_map(|n| Some((n.name.clone(), n.postmaster()?))).collect(),
        Signal::INT,
        AGENTS,
    )?;
    end("etcd", members(etcd.as_ref()), Signal::TERM, Duration::from_secs(10))?;

    let deadline = Instant::now() + GUARDS;
    while !reaper::of_directory(&place.directory).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    for left in reaper::of_directory(&place.directory) {
        say!("killing what is left: {}", process::describe(left.pid));
    }
    reaper::kill_all(&place.directory);
    if wipe {
        place.wipe()?;
        say!("deleted {}", place.name.display());
    }
    say!("the cluster is down");
    Ok(())
}

fn members(etcd: Option<&harness::etcd::Etcd>) -> Vec<(String, Identity)> {
    etcd.iter().flat_map(|e| &e.members).filter_map(|m| Some((m.name.clone(), m.process()?))).collect()
}

/// Signals all at once, waits for all, and kills those that don't go.
fn end(what: &str, processes: Vec<(String, Identity)>, signal: Signal, patience: Duration) -> Result<()> {
    for (name, identity) in &processes {
        say!("stopping {what} {name} (process {})", identity.pid);
        if !identity.signal(signal) && identity.is_alive() {
            bail!("process {} of {name} belongs to another user: run 'cargo xtask down' as that user", identity.pid);
        }
        // One that was stopped by hand couldn't obey.
        identity.signal(Signal::CONT);
    }
    let deadline = Instant::now() + patience;
    for (name, identity) in processes {
        if !identity.wait_gone(deadline.saturating_duration_since(Instant::now())) {
            say!("{what} {name} did not stop within {} s: killing it", patience.as_secs());
            identity.signal(Signal::KILL);
            identity.wait_gone(Duration::from_secs(10));
        }
    }
    Ok(())
}
