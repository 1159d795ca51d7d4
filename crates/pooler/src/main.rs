//! `pgherd-pooler`: the pooler's program. Flags, the log, signals and the pidfile; what pooling is lives in `pool`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use pool::config::Config;
use pool::listen::Listener;
use pool::pooler::Pooler;

fn main() -> Result<()> {
    let file = PathBuf::from(std::env::args_os().next_back().context("name an ini file")?);
    let loaded = Config::load(&file).map_err(|e| anyhow::anyhow!("{e}"))?;
    let settings = &loaded.config.settings;
    let mut listeners = Vec::new();
    for address in &settings.listen_addr {
        let address = if address == "*" { "0.0.0.0" } else { address };
        let listener = std::net::TcpListener::bind((address, settings.listen_port))?;
        listener.set_nonblocking(true)?;
        listeners.push(Listener::Tcp(listener));
    }
    Pooler::start(loaded.config, listeners)?.join();
    Ok(())
}
