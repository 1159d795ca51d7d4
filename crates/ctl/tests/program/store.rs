//! What works on the DCS alone, with every agent down.

use serde_json::json;

use crate::place::{Place, finish, read_until};

/// Nobody listens there.
const NOWHERE: &str = "127.0.77.9:1";

#[tokio::test]
async fn list_needs_no_agent() {
    let place = Place::with_members(NOWHERE).await;
    place.put(&[("status", r#"{"optime":67108864}"#)]).await;
    let run = place.run("list", "").await;
    let expected = "\
+ Cluster: otus (7575894273613416871) ---+-------------+-----+------------+-----+
| Member | Host | Role    | State   | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+------+---------+---------+----+-------------+-----+------------+-----+
| pg1    | pg1  | Leader  | running |  1 |             |     |            |     |
| pg2    | pg2  | Replica | running |  1 |     unknown |     |    unknown |     |
| pg3    | pg3  | Replica | running |  1 |     unknown |     |    unknown |     |
+--------+------+---------+---------+----+-------------+-----+------------+-----+
";
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (Some(0), expected, ""));
}

#[tokio::test]
async fn pause_and_resume_change_the_configuration_only() {
    let place = Place::with_members(NOWHERE).await;
    let before = place.config().await;
    let run = place.run("pause", "").await;
    assert_eq!((run.code, run.out.as_str()), (Some(0), "Success: cluster management is paused\n"));
    assert_eq!(place.config().await["pause"], json!(true));
    assert!(place.run("list", "").await.out.ends_with("+\n Maintenance mode: on\n"));
    let again = place.run("pause", "").await;
    assert_eq!((again.code, again.err.as_str()), (Some(1), "Error: Cluster is already paused\n"));
    // Nobody answers for the leader.
    let run = place.run("resume otus", "").await;
    assert!(run.code == Some(1) && run.err.contains("'resume --force'"), "{run:?}");
    assert_eq!(place.config().await["pause"], json!(true));
    let run = place.run("resume otus --force", "").await;
    assert_eq!(run.out, "Success: cluster management is resumed\n");
    assert_eq!(place.config().await, before);
    assert_eq!(place.run("resume", "").await.err, "Error: Cluster is not paused\n");
}

#[tokio::test]
async fn waiting_for_a_pause_tells_who_does_not_know() {
    let place = Place::with_members(NOWHERE).await;
    let run = place.run("pause --wait", "").await;
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("pg1, pg2, pg3 members didn't recognized pause state after 1 seconds"), "{run:?}");
    for member in ["members/pg1", "members/pg2", "members/pg3"] {
        place.put(&[(member, r#"{"pause":false}"#)]).await;
    }
    let run = place.run("resume --force --wait", "").await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.out.starts_with("'resume' request sent, waiting until it is recognized by all nodes\nSuccess"),
        "{run:?}"
    );
}

#[tokio::test]
async fn remove_wants_to_hear_three_answers() {
    let place = Place::with_members(NOWHERE).await;
    for (answers, words) in [
        ("", "Aborted!"),
        ("outs\n", "Error: Cluster names specified do not match"),
        ("otus\nyes\n", "Error: You did not exactly type \"Yes I am aware\""),
        ("otus\nYes I am aware\npg2\n", "Error: You did not specify the current leader of the cluster"),
    ] {
        let run = place.run("remove otus", answers).await;
        assert_eq!((run.code, run.err.trim()), (Some(1), words));
        assert!(place.value("leader").await.is_some());
    }
    let run = place.run("remove otus", "otus\nYes I am aware\npg1\n").await;
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    assert_eq!(place.run("list", "").await.out.lines().count(), 4, "an empty table");
    let run = place.run("remove otus", "otus\n").await;
    assert!(run.code == Some(1) && run.err.contains("the DCS has nothing about a cluster otus"), "{run:?}");
}

#[tokio::test]
async fn ctrl_c_at_a_question_aborts() {
    let place = Place::with_members(NOWHERE).await;
    let mut child = place.start("remove otus", None);
    read_until(&mut child, "name to remove: ");
    let killed = std::process::Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    let input = child.stdin.take();
    let (code, err) = tokio::task::spawn_blocking(move || {
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    })
    .await
    .unwrap();
    drop(input);
    assert_eq!((code, err.trim()), (Some(1), "Aborted!"));
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_reason_to_complain() {
    let place = Place::with_members(NOWHERE).await;
    let mut child = place.start("list -W", None);
    drop(child.stdout.take());
    let err = child.stderr.take();
    let run = tokio::task::spawn_blocking(move || {
        let code = child.wait().unwrap().code();
        (code, std::io::read_to_string(err.unwrap()).unwrap())
    });
    assert_eq!(run.await.unwrap(), (Some(1), String::new()));
}

#[tokio::test]
async fn faults_of_the_configuration_have_their_own_code() {
    let place = Place::with_members(NOWHERE).await;
    let file = place.folder.path().join("ctl.yml");
    std::fs::write(&file, "scope: otus\nembeded:\n  path: /x\n").unwrap();
    let run = finish(place.start("list", None), "").await;
    assert_eq!(run.code, Some(64));
    assert!(run.err.contains("no DCS is configured: add a section"), "{run:?}");
    std::fs::write(&file, "scope: otus\nembedded:\n  path: /nonexistent/dcs.sqlite\n").unwrap();
    let run = finish(place.start("list", None), "").await;
    assert!(run.code == Some(1) && run.err.contains("/nonexistent/dcs.sqlite"), "{run:?}");
    assert_eq!(place.run("lst", "").await.code, Some(2));
}
