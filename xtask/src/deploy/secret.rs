//! Passwords that an inventory refers to and doesn't hold.

use std::fmt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Where a password is: `env:NAME`, `file:PATH` or `command:COMMAND`, of which the first line of the output counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Reference {
    /// In an environment variable.
    Env(String),
    /// In a file.
    File(String),
    /// A shell command prints it.
    Command(String),
}

impl TryFrom<String> for Reference {
    type Error = String;

    fn try_from(text: String) -> Result<Reference, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Reference::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Reference::File(path.to_owned())),
            Some(("command", command)) if !command.is_empty() => Ok(Reference::Command(command.to_owned())),
            // The text may be a password: it isn't repeated.
            _ => Err("give env:NAME, file:PATH or command:COMMAND, not the password itself".to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Env(name) => write!(f, "env:{name}"),
            Reference::File(path) => write!(f, "file:{path}"),
            Reference::Command(command) => write!(f, "command:{command}"),
        }
    }
}

impl Reference {
    /// The password. `what` names it in errors.
    pub(crate) fn resolve(&self, what: &str) -> Result<String> {
        let text = match self {
            Reference::Env(name) => {
                std::env::var(name).with_context(|| format!("{what}: set the environment variable {name}"))?
            }
            Reference::File(path) => std::fs::read_to_string(path).with_context(|| format!("{what}: read {path}"))?,
            Reference::Command(command) => {
                let mut shell = Command::new("sh");
                let output = shell.args(["-c", command]).stderr(Stdio::inherit()).output();
                let output = output.with_context(|| format!("{what}: run {command}"))?;
                if !output.status.success() {
                    bail!("{what}: {command}: {}", output.status);
                }
                String::from_utf8(output.stdout).with_context(|| format!("{what}: {command} printed no UTF-8"))?
            }
        };
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            bail!("{what}: {self} is empty");
        }
        Ok(line.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_itself_is_refused_and_not_repeated() {
        let fault = Reference::try_from("hunter2".to_owned()).unwrap_err();
        assert!(!fault.contains("hunter2") && fault.contains("env:NAME"));
    }

    #[test]
    fn the_first_line_counts() {
        let secret = Reference::Command("printf 'one\\ntwo\\n'".to_owned());
        assert_eq!(secret.resolve("secrets.superuser").unwrap(), "one");
    }

    #[test]
    fn what_is_missing_is_named() {
        let secret = Reference::Env("PGHERD_NO_SUCH_VARIABLE".to_owned());
        let fault = format!("{:#}", secret.resolve("secrets.superuser").unwrap_err());
        assert!(fault.contains("secrets.superuser") && fault.contains("PGHERD_NO_SUCH_VARIABLE"), "{fault}");
    }
}
