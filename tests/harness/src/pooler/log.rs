//! The pooler's log: severities of its lines, and those that no test expects.

/// Severity of a line in pgbouncer's format, `2020-01-11 08:30:24.178 UTC [17] LOG text`; `None` for other lines.
pub fn level(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("] ")?;
    let (stamp, pid) = before.rsplit_once(" [")?;
    let dated = stamp.as_bytes().first()?.is_ascii_digit() && pid.bytes().all(|c| c.is_ascii_digit());
    dated.then(|| after.split(' ').next().unwrap_or_default())
}

/// The WARNING, ERROR and FATAL lines that hold none of the expected texts.
pub fn unexpected(log: &str, expected: &[String]) -> Vec<String> {
    let bad = |line: &&str| {
        matches!(level(line), Some("WARNING" | "ERROR" | "FATAL" | "CRIT")) || line.contains("panicked at")
    };
    log.lines().filter(bad).filter(|l| !expected.iter().any(|e| l.contains(e.as_str()))).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2020-01-11 08:30:24.178 UTC [17] LOG C-0x1: app/alice@1.2.3.4:5 login attempt: db=app\n\
        2020-01-11 08:30:24.178 UTC [17] WARNING C-0x1: app/alice@1.2.3.4:5 pooler error: no such user\n\
        2020-01-11 08:30:24.178 UTC [17] ERROR oops\n";

    #[test]
    fn only_unexpected_lines_are_found() {
        assert_eq!(unexpected(LOG, &[]).len(), 2);
        assert_eq!(unexpected(LOG, &["no such user".to_owned()]), ["2020-01-11 08:30:24.178 UTC [17] ERROR oops"]);
        assert_eq!(level("2020-01-11 08:30:24.178 UTC [17] LOG stats: 1 xacts/s"), Some("LOG"));
        assert_eq!(level("libevent [warn] nothing"), None);
    }
}
