//! What is wrong in a configuration file, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong, or only doubtful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// Line in the file, from 1; `None` where it's about the file as a whole, or about something that is missing.
    pub line: Option<usize>,
    /// What is wrong.
    pub text: String,
}

impl Fault {
    /// Something about a line.
    #[must_use]
    pub fn at(file: &Path, line: usize, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: Some(line), text: text.into() }
    }

    /// Something about a file.
    #[must_use]
    pub fn of(file: &Path, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, text: text.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.text, self.file.display())?;
        match self.line {
            Some(line) => write!(f, ":{line})"),
            None => f.write_str(")"),
        }
    }
}

/// Everything that is wrong, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Faults(pub Vec<Fault>);
