//! The signals a program is steered by. What it does on them is not here.

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: leave in order. The text is the signal's name.
    Stop(&'static str),
    /// SIGHUP: read the configuration again.
    Reload,
}

/// Catches SIGTERM, SIGINT and SIGHUP from the moment it is made.
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    /// Installs the handlers. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses a handler.
    pub fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hangup: unix::signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. Cancelling the wait loses none.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Signal::Stop("SIGINT"),
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal as Number, raise};

    #[tokio::test]
    async fn signals_are_told_apart() {
        let mut signals = Signals::new().unwrap();
        raise(Number::SIGHUP).unwrap();
        assert_eq!(signals.next().await, Signal::Reload);
        raise(Number::SIGINT).unwrap();
        assert_eq!(signals.next().await, Signal::Stop("SIGINT"));
        raise(Number::SIGTERM).unwrap();
        assert_eq!(signals.next().await, Signal::Stop("SIGTERM"));
    }
}
