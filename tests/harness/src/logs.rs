//! The programs' log files: their last lines for a failure message, and the check that no ERROR or WARNING was written
//! that a test doesn't expect.

use std::fs;
use std::path::Path;

/// The last `count` lines of a file, with its name above them.
pub fn tail(path: &Path, count: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|e| format!("(can't be read: {e})"));
    let lines: Vec<&str> = text.lines().collect();
    format!("--- {}\n{}\n", path.display(), lines[lines.len().saturating_sub(count)..].join("\n"))
}

/// Severity of a line in the agent's format, `2020-01-11 08:30:24,178 INFO: ...`; `None` for other lines.
pub fn level(line: &str) -> Option<&str> {
    let (stamp, rest) = (line.get(..23)?, line.get(23..)?);
    let shape = stamp.bytes().zip(b"dddd-dd-dd dd:dd:dd,ddd").all(|(c, s)| match s {
        b'd' => c.is_ascii_digit(),
        other => c == *other,
    });
    let (level, _) = rest.strip_prefix(' ')?.split_once(": ")?;
    shape.then_some(level)
}

/// The ERROR, WARNING and CRITICAL lines that hold none of the expected texts.
pub fn unexpected(log: &str, expected: &[&str]) -> Vec<String> {
    log.lines()
        .filter(|line| matches!(level(line), Some("ERROR" | "WARNING" | "CRITICAL")) || line.contains("panicked at"))
        .filter(|line| !expected.iter().any(|e| line.contains(e)))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2020-01-11 08:30:24,178 INFO: ERROR: not one\n\
        2020-01-11 08:30:24,179 WARNING: disk slow\n\
        2020-01-11 08:30:24.179 UTC [17] ERROR:  relation \"x\" does not exist\n\
        2020-01-11 08:30:24,180 ERROR: can't read the DCS\n";

    #[test]
    fn only_unexpected_lines_of_the_agent_are_found() {
        assert_eq!(unexpected(LOG, &[]).len(), 2);
        assert_eq!(unexpected(LOG, &["disk slow"]), ["2020-01-11 08:30:24,180 ERROR: can't read the DCS"]);
        assert!(unexpected(LOG, &["disk slow", "the DCS"]).is_empty());
    }
}
