//! The guard as a program, for this crate's tests: a test binary's main thread isn't the test's own, and the guard must
//! hold back the signals of all its threads.

use std::process::ExitCode;

fn main() -> ExitCode {
    match instance::guard::Args::parse(std::env::args_os().skip(1)) {
        Ok(mut args) => {
            if let Ok(version) = std::env::var("GUARD_TEST_VERSION") {
                args.version = version;
            }
            instance::guard::run(&args)
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(64)
        }
    }
}
