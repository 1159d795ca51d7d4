//! What is wrong with a configuration, said so that a person can mend it. How faults are found is not here.

use std::fmt;
use std::path::PathBuf;

/// Exit code of a program whose configuration can't be used (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: i32 = 64;

/// Where a setting stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file, at a line and column counted from 1; line 0 when only the file is known.
    File {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1; 0 when not known.
        column: usize,
    },
    /// In an environment variable.
    Environment(String),
    /// On the command line.
    Flag,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { file, line: 0, .. } => write!(f, "{}", file.display()),
            Place::File { file, line, column: 0 } => write!(f, "{}:{line}", file.display()),
            Place::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Place::Environment(name) => write!(f, "environment variable {name}"),
            Place::Flag => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong, or that deserves a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the setting, such as `postgresql.data_dir`; empty when the fault is the whole file's.
    pub path: String,
    /// Where it stands, when that is known.
    pub place: Option<Place>,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Every fault of a configuration, one a line. A program that gets this exits with [`EXIT_CONFIG`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Faults(
    /// The faults, never empty.
    pub Vec<Fault>,
);

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
}
