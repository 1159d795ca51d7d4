//! `pgherd-pooler`: the pooler's program. It reads the command line, starts the parts and waits for the end; what pooling
//! is lives in `pool`.

mod changes;
mod daemon;
mod flags;
mod follow;
mod log;
mod metrics;
mod online;
mod pidfile;
mod privileges;
mod serve;
mod signals;
mod start;
mod upgrade;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::flags::Flags;
use crate::log::{Log, Severity};
use crate::start::Failure;

/// The command line or the configuration is wrong. It doesn't get better by another try.
const EXIT_CONFIG: u8 = 64;

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(e) => {
            // A closed pipe is the reader's choice.
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::SUCCESS };
        }
    };
    if flags.version {
        let _ = writeln!(std::io::stdout(), "{}\ntls: rustls (ring)\nsystemd: yes", pool::BANNER);
        return ExitCode::SUCCESS;
    }
    let Some(file) = &flags.file else {
        eprintln!("pgherd-pooler: no configuration file specified\nTry \"pgherd-pooler --help\" for more information.");
        return ExitCode::from(EXIT_CONFIG);
    };
    if flags.validate_config {
        return start::validate(file);
    }
    if flags.daemon && !flags.background {
        return daemon::start().unwrap_or_else(|e| {
            eprintln!("pgherd-pooler: can't go into the background: {e}");
            ExitCode::FAILURE
        });
    }
    let log = Log::start(flags.verbose);
    let result = start::run(&flags, file, &log);
    if let Err(failure) = &result {
        log.line(Severity::Fatal, failure.text());
        if flags.quiet {
            eprintln!("pgherd-pooler: {}", failure.text());
        }
    }
    log.flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(_)) => ExitCode::from(EXIT_CONFIG),
        Err(Failure::Other(_)) => ExitCode::FAILURE,
    }
}
