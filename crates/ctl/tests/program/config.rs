//! `show-config` and `edit-config`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::json;

use crate::place::{Place, Run};

async fn place() -> Place {
    Place::with_members("127.0.77.9:1").await
}

/// The file that the last line says the text is kept in.
fn kept(run: &Run) -> PathBuf {
    let words = run.err.split("Your text is kept in ").nth(1);
    PathBuf::from(words.unwrap_or_else(|| panic!("{run:?}")).split(": mend it").next().unwrap())
}

#[tokio::test]
async fn the_configuration_is_shown_as_yaml() {
    let run = place().await.run("show-config", "").await;
    assert_eq!(run.out, "loop_wait: 1\npostgresql:\n  use_slots: true\nretry_timeout: 10\nttl: 30\n\n");
}

#[tokio::test]
async fn changes_are_shown_and_made_when_confirmed() {
    let place = place().await;
    let before = place.config().await;
    let line = "edit-config -s ttl=40 -p shared_buffers=256MB -p pg_stat_statements.max=100";
    let diff = "--- \n+++ \n@@ -1,5 +1,8 @@\n loop_wait: 1\n postgresql:\n+  parameters:\n+    \
                pg_stat_statements.max: 100\n+    shared_buffers: 256MB\n   use_slots: true\n retry_timeout: 10\n\
                -ttl: 30\n+ttl: 40\n\nApply these changes? [y/N]: ";
    let run = place.run(line, "n\n").await;
    assert_eq!((run.code, run.out), (Some(0), format!("{diff}Not changed\n")));
    assert_eq!(place.config().await, before);
    let run = place.run(line, "y\n").await;
    assert_eq!((run.code, run.out), (Some(0), format!("{diff}Configuration changed\n")));
    let parameters = json!({"pg_stat_statements.max": 100, "shared_buffers": "256MB"});
    assert_eq!(place.config().await["postgresql"]["parameters"], parameters);
    assert_eq!(place.run(line, "").await.out, "Not changed\n");
    let run = place.run("edit-config -s ttl=50", "").await;
    assert!(run.code == Some(1) && run.err.ends_with("Aborted!\n"), "{run:?}");
    assert_eq!(place.run("edit-config -q --force -s ttl=50", "").await.out, "Configuration changed\n");
}

#[tokio::test]
async fn files_and_standard_input_are_merged_or_replace_all() {
    let place = place().await;
    let run = place.run("edit-config --apply -", "ttl: 60\n").await;
    assert!(run.code == Some(1) && run.err.contains("Use --force option to apply changes"), "{run:?}");
    let run = place.run("edit-config --force --apply -", "ttl: 60\npostgresql: {use_slots: null}\n").await;
    assert_eq!(run.code, Some(0), "{run:?}");
    let file = place.folder.path().join("new.yaml");
    let config = place.config().await;
    assert_eq!((&config["ttl"], &config["loop_wait"]), (&json!(60), &json!(1)));
    std::fs::write(&file, "ttl: 35\nmaximum_lag_on_failover: 1MB\n").unwrap();
    let run = place.run(&format!("edit-config --force --replace {}", file.display()), "").await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(place.config().await, json!({"ttl": 35, "maximum_lag_on_failover": "1MB"}));
}

#[tokio::test]
async fn an_editor_may_be_used() {
    let place = place().await;
    let script = "test \"$(stat -c %a \"$1\")\" = 600\nsed -i 's/^ttl: 30/ttl: 45/' \"$1\"";
    let editor = place.editor(script);
    let run = place.run_with_editor("edit-config", "y\n", &editor).await;
    assert!(run.out.ends_with("-ttl: 30\n+ttl: 45\n\nApply these changes? [y/N]: Configuration changed\n"), "{run:?}");
    assert_eq!(place.config().await["ttl"], 45);
    let run = place.run_with_editor("edit-config", "", &place.editor("true")).await;
    assert_eq!((run.code, run.out.as_str()), (Some(0), "Not changed\n"));
    let run = place.run_with_editor("edit-config", "", &place.editor("exit 7")).await;
    assert!(run.code == Some(1) && run.err.contains("exit status: 7: nothing was changed"), "{run:?}");
    let left: Vec<_> = std::fs::read_dir(place.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().contains("config-")), "temporary files go: {left:?}");
}

#[tokio::test]
async fn a_change_by_someone_else_is_not_overwritten() {
    let place = place().await;
    let script = "$CTL edit-config -q --force -s maximum_lag_on_failover=5\nsed -i 's/^ttl: 30/ttl: 45/' \"$1\"";
    let editor = place.editor(script);
    let run = place.run_with_editor("edit-config", "y\n", &editor).await;
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("Config not changed, someone else changed it meanwhile: edit again"), "{run:?}");
    let config = place.config().await;
    assert_eq!((&config["ttl"], &config["maximum_lag_on_failover"]), (&json!(30), &json!(5)));
    let file = kept(&run);
    assert!(std::fs::read_to_string(&file).unwrap().contains("ttl: 45"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_and_kept() {
    let place = place().await;
    let before = place.config().await;
    for (script, words) in [
        ("echo 'ttl: [' >> \"$1\"", "not usable YAML"),
        ("echo 'ttl: 31' >> \"$1\"", "not usable YAML"),
        ("sed -i 's/ttl: 30/ttl: 12/' \"$1\"", "must not exceed ttl 12"),
        ("sed -i 's/ttl: 30/tll: 30/' \"$1\"", "tll: unknown setting: did you mean \"ttl\"?"),
        ("echo 'wal_keep: 1' >> \"$1\"", "wal_keep: unknown setting"),
        ("echo soon > \"$1\"", "must be a mapping"),
    ] {
        let run = place.run_with_editor("edit-config", "y\n", &place.editor(script)).await;
        assert_eq!(run.code, Some(1), "{script}: {run:?}");
        assert!(run.err.contains("Config not changed") && run.err.contains(words), "{script}: {run:?}");
        assert!(kept(&run).is_file(), "{run:?}");
        assert_eq!(place.config().await, before, "{script}");
    }
}

#[tokio::test]
async fn names_that_nobody_knows_can_be_forced_but_not_bad_values() {
    let place = place().await;
    let run = place.run("edit-config --force -s wal_keep=1", "").await;
    assert_eq!(run.code, Some(0));
    assert!(run.err.contains("Warning: wal_keep: unknown setting"), "{run:?}");
    assert_eq!(place.run("edit-config --force -s ttl=2", "").await.code, Some(1));
    // The odd name is there now and stands in nobody's way.
    assert_eq!(place.run("edit-config -s ttl=31", "y\n").await.code, Some(0));
}
