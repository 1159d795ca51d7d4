//! What is wrong in a configuration file, and where.

use std::fmt;
use std::io;
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
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Fault {
    /// Something about a line.
    #[must_use]
    pub fn at(file: &Path, line: usize, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: Some(line), text: text.into(), hint: String::new() }
    }

    /// With advice.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// Something that happened with a file.
    #[must_use]
    pub(super) fn io(file: &Path, what: &str, error: &io::Error) -> Self {
        Self::of(file, format!("{what} {}: {}", file.display(), reason(error)))
    }

    /// A file that is part of the ini, or all of it, can't be read.
    pub(super) fn unloadable(file: &Path, error: &io::Error) -> Self {
        Self::of(file, format!("could not load file \"{}\": {}", file.display(), reason(error)))
    }

    /// Something about a file.
    #[must_use]
    pub fn of(file: &Path, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, text: text.into(), hint: String::new() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        let file = self.file.display().to_string();
        match self.line {
            Some(line) => write!(f, " ({file}:{line})")?,
            None if self.text.contains(&file) => {}
            None => write!(f, " ({file})")?,
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, ": {}", self.hint) }
    }
}

/// Everything that is wrong, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Faults(pub Vec<Fault>);

/// What the system says, without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
