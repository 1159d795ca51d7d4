//! The command line. The flags are pgbouncer's.

use std::path::PathBuf;

use clap::{ArgAction, Parser};

/// Pools connections to PostgreSQL.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "pgherd-pooler",
    disable_version_flag = true,
    after_help = "Signals: HUP reads the configuration again, TERM stops when all clients have left, INT when all \
    servers are released, QUIT at once; USR1 pauses, USR2 resumes.\n\
    Exit codes: 0 stopped, 1 failed, 64 bad command line or configuration."
)]
pub(crate) struct Flags {
    /// Run in the background.
    #[arg(short, long)]
    pub(crate) daemon: bool,
    /// Don't log to stderr.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Online restart: take the place of the pooler that runs with this configuration, and refuse no client meanwhile.
    #[arg(short = 'R', long)]
    pub(crate) reboot: bool,
    /// System user to become.
    #[arg(short, long, value_name = "USERNAME")]
    pub(crate) user: Option<String>,
    /// Log more; twice: more still.
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Show the version and exit.
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
    /// Say whether the configuration can be used, and exit.
    #[arg(long)]
    pub(crate) validate_config: bool,
    /// This is the background process; standard input is where it reports.
    #[arg(long, hide = true)]
    pub(crate) background: bool,
    /// The configuration: pgbouncer's ini.
    #[arg(value_name = "CONFIG_FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_in_their_short_and_long_forms() {
        let flags = Flags::try_parse_from(["pgherd-pooler", "-dqR", "-vv", "-u", "postgres", "x.ini"]).unwrap();
        assert!(flags.daemon && flags.quiet && flags.reboot && !flags.version && !flags.background);
        assert_eq!((flags.verbose, flags.user.as_deref()), (2, Some("postgres")));
        assert_eq!(flags.file, Some(PathBuf::from("x.ini")));
        let flags = ["pgherd-pooler", "--daemon", "--reboot", "--quiet", "--verbose", "--user=x", "x.ini"];
        let flags = Flags::try_parse_from(flags).unwrap();
        assert!(flags.daemon && flags.quiet && flags.reboot && flags.verbose == 1);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(Flags::try_parse_from(["pgherd-pooler", "a.ini", "b.ini"]).is_err());
        assert!(Flags::try_parse_from(["pgherd-pooler", "-x", "a.ini"]).is_err());
        assert!(Flags::try_parse_from(["pgherd-pooler", "--version"]).unwrap().version);
    }
}
