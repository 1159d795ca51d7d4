//! What changed between two texts, as a unified diff.

use similar::{ChangeTag, TextDiff};

/// Lines shown around a change.
const CONTEXT: usize = 3;

/// A unified diff with empty names in its header, each line with its end; empty when nothing changed.
pub(crate) fn unified(before: &str, after: &str, colourful: bool) -> String {
    let (before, after) = (ended(before), ended(after));
    let diff = TextDiff::from_lines(&before, &after);
    let paint = |text: &str, colour: &str| match colourful {
        true => format!("\x1b[{colour}m{text}\x1b[0m\n"),
        false => format!("{text}\n"),
    };
    let mut text = String::new();
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        if text.is_empty() {
            text = paint("--- ", "1") + &paint("+++ ", "1");
        }
        text.push_str(&paint(&hunk.header().to_string(), "36"));
        for change in hunk.iter_changes() {
            let line = change.value().trim_end_matches('\n');
            match change.tag() {
                ChangeTag::Equal => text.push_str(&format!(" {line}\n")),
                ChangeTag::Delete => text.push_str(&paint(&format!("-{line}"), "31")),
                ChangeTag::Insert => text.push_str(&paint(&format!("+{line}"), "32")),
            }
        }
    }
    text
}

/// Line ends at the very end make no difference.
fn ended(text: &str) -> String {
    format!("{}\n", text.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "loop_wait: 10\nmaximum_lag_on_failover: 1048576\npostgresql:\n  parameters:\n    \
                          wal_keep_segments: 100\n  use_pg_rewind: true\n  use_slots: true\nretry_timeout: 10\nttl: 30\n";

    #[test]
    fn a_changed_configuration_is_shown_with_its_surroundings() {
        let after =
            BEFORE.replace("    wal_keep", "    temp_buffers: 16MB\n    wal_keep").replace("ttl: 30", "ttl: 40");
        let expected = "--- \n+++ \n@@ -2,8 +2,9 @@\n maximum_lag_on_failover: 1048576\n postgresql:\n   parameters:\n\
                        +    temp_buffers: 16MB\n     wal_keep_segments: 100\n   use_pg_rewind: true\n   use_slots: true\n \
                        retry_timeout: 10\n-ttl: 30\n+ttl: 40\n";
        assert_eq!(unified(BEFORE, after.trim_end(), false), expected);
    }

    #[test]
    fn colours_are_for_terminals() {
        let coloured = unified("a\n", "b\n", true);
        assert!(coloured.contains("\x1b[31m-a\x1b[0m\n\x1b[32m+b\x1b[0m\n"), "{coloured:?}");
        assert!(!unified("a\n", "b\n", false).contains('\x1b'));
    }

    #[test]
    fn no_change_shows_nothing() {
        assert_eq!(unified("a\n", "a", true), "");
    }
}
