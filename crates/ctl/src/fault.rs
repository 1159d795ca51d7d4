//! How a command can end badly, and the exit code that scripts see. What is said about it is put together where it
//! happens.

use std::io;

/// A command that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// Refused or failed; nothing more will happen.
    #[error("{0}")]
    Failed(String),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// An order was given, and how it ended is not known.
    #[error("{0}")]
    Unknown(String),
    /// The configuration file can't be used, or what it says doesn't fit the DCS.
    #[error("{0}")]
    Config(String),
    /// Whoever sits at the keyboard, or the end of the piped answers, ended it.
    #[error("Aborted!")]
    Aborted,
    /// What has to be said could not be written.
    #[error("can't write the output: {0}")]
    Output(#[from] io::Error),
}

/// What commands return.
pub(crate) type Result<T = ()> = std::result::Result<T, Fault>;

impl Fault {
    /// Refused or failed.
    pub(crate) fn failed(text: impl Into<String>) -> Fault {
        Fault::Failed(text.into())
    }

    /// The exit code, as `--help` lists them.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Fault::Failed(_) | Fault::Aborted | Fault::Output(_) => 1,
            Fault::Usage(_) => 2,
            Fault::Unknown(_) => 3,
            Fault::Config(_) => service::config::EXIT_CONFIG,
        }
    }

    /// The last line on stderr, if any: a reader of the output that went away needs none.
    pub(crate) fn last_words(&self) -> Option<String> {
        match self {
            Fault::Aborted => Some("Aborted!".to_owned()),
            Fault::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => None,
            other => Some(format!("Error: {other}")),
        }
    }
}

impl From<dcs::Error> for Fault {
    fn from(fault: dcs::Error) -> Fault {
        match fault {
            dcs::Error::Unknown(_) => Fault::Unknown(format!(
                "{fault}; it may or may not have been done: look with `pgherdctl list` or `show-config` before trying again"
            )),
            dcs::Error::Unavailable(_) => {
                Fault::Failed(format!("{fault}; check that it runs and that the configuration names its address"))
            }
            dcs::Error::Refused(_) => {
                Fault::Config(format!("{fault}; check user, password, certificates and addresses in the configuration"))
            }
            other => Fault::Failed(other.to_string()),
        }
    }
}
