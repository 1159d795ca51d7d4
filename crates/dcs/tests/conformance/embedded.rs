//! What only the embedded store has: other processes, the boot id, the file itself.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dcs::{Dcs, Embedded, Error};
use tokio::time::timeout;

use crate::suite::{LONG, leased, put, until, value};

const SCOPE: &str = "/service/otus/";
const FILE: &str = "DCS_TEST_FILE";
const TTL: Duration = Duration::from_secs(1);

/// Another process, killed when dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This test program again, as a member that takes the leader key and keeps it.
fn holder(file: &std::path::Path) -> Holder {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "embedded::holds_the_leader_key", "--ignored", "--nocapture"]);
    Holder(command.env(FILE, file).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
}

#[tokio::test]
#[ignore = "run by other tests, as another process"]
async fn holds_the_leader_key() {
    // Ends with the test that started it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let file = std::env::var_os(FILE).expect("the file's path in the environment");
    let client = Embedded::open(file.as_ref(), SCOPE).unwrap();
    let lease = client.grant(TTL).await.unwrap();
    client.commit(&[], &[leased("leader", "other", lease)]).await.unwrap();
    let mut often = tokio::time::interval(TTL / 5);
    loop {
        often.tick().await;
        client.keep_alive(lease).await.unwrap();
        let seen = client.read().await.unwrap();
        if value(&seen, "question").is_some() && value(&seen, "answer").is_none() {
            client.commit(&[], &[put("answer", "yes")]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn other_processes_share_the_store_and_their_death_ends_their_leases() {
    let dir = tempfile::tempdir().unwrap();
    let client = Embedded::open(&dir.path().join("dcs"), SCOPE).unwrap();
    let mut other = holder(&dir.path().join("dcs"));
    until(&client, "the other process's key", |s| value(s, "leader") == Some("other")).await;
    client.commit(&[], &[put("question", "?")]).await.unwrap();
    let answered = until(&client, "the other process's answer", |s| value(s, "answer") == Some("yes")).await;
    assert_eq!(value(&answered, "leader"), Some("other"));
    // Its lease is renewed all the time: nothing changes.
    let early = timeout(TTL * 2, client.changed(answered.revision)).await;
    assert!(early.is_err(), "{early:?}");
    other.0.kill().unwrap();
    let killed = Instant::now();
    until(&client, "the lease's end", |s| !s.entries.contains_key("leader")).await;
    assert!(killed.elapsed() < TTL + Duration::from_secs(1), "{:?}", killed.elapsed());
}

/// This test program again, as a passer-by that reads, writes and leaves.
#[tokio::test]
#[ignore = "run by other tests, as another process"]
async fn comes_and_goes() {
    let file = std::env::var_os(FILE).expect("the file's path in the environment");
    let client = Embedded::open(file.as_ref(), SCOPE).unwrap();
    let seen = client.read().await.unwrap();
    let count: i32 = value(&seen, "count").unwrap().parse().unwrap();
    client.commit(&[], &[put("count", &(count + 1).to_string())]).await.unwrap();
}

#[tokio::test]
async fn passers_by_leave_the_store_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dcs");
    let client = Embedded::open(&file, SCOPE).unwrap();
    for round in 0..3 {
        client.commit(&[], &[put("count", &(round * 10).to_string())]).await.unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "embedded::comes_and_goes", "--ignored"]).env(FILE, &file).stdout(Stdio::null());
        assert!(command.status().unwrap().success());
        let seen = client.read().await.unwrap();
        assert_eq!(value(&seen, "count"), Some((round * 10 + 1).to_string().as_str()));
    }
}

#[tokio::test]
async fn another_boot_ends_every_lease() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dcs");
    let before = Embedded::open_as_booted(&file, SCOPE, "first").unwrap();
    let lease = before.grant(Duration::from_secs(3600)).await.unwrap();
    before.commit(&[], &[leased("leader", "pg1", lease), put("config", "{}")]).await.unwrap();
    let seen = before.read().await.unwrap();
    drop(before);
    let after = Embedded::open_as_booted(&file, SCOPE, "second").unwrap();
    let now = after.read().await.unwrap();
    assert_eq!(now.entries.keys().collect::<Vec<_>>(), ["config"]);
    assert!(now.dcs_id == seen.dcs_id && now.revision > seen.revision);
    assert!(matches!(after.keep_alive(lease).await, Err(Error::LeaseGone)));
}

#[tokio::test]
async fn files_are_the_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let client = Embedded::open(&dir.path().join("dcs"), SCOPE).unwrap();
    client.commit(&[], &[put("config", "{}")]).await.unwrap();
    let mut names = Vec::new();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["dcs", "dcs-changed", "dcs-shm", "dcs-wal"]);
}

#[tokio::test]
async fn replaced_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dcs");
    let old = Embedded::open(&file, SCOPE).unwrap();
    old.commit(&[], &[put("leader", "pg1")]).await.unwrap();
    for name in ["dcs", "dcs-wal", "dcs-shm"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert!(matches!(old.read().await, Err(Error::Unavailable(m)) if m.contains("deleted or replaced")));
    let new = Embedded::open(&file, SCOPE).unwrap();
    assert!(new.read().await.unwrap().entries.is_empty());
    assert!(matches!(old.commit(&[], &[put("leader", "pg1")]).await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_held_lock_is_unavailable_and_readers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dcs");
    let client = Embedded::open(&file, SCOPE).unwrap();
    client.commit(&[], &[put("leader", "pg1")]).await.unwrap();
    let hog = rusqlite::Connection::open(&file).unwrap();
    hog.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(client.commit(&[], &[put("leader", "pg2")]).await, Err(Error::Unavailable(_))));
    assert_eq!(value(&client.read().await.unwrap(), "leader"), Some("pg1"));
    hog.execute_batch("ROLLBACK").unwrap();
    client.commit(&[], &[put("leader", "pg2")]).await.unwrap();
}

#[tokio::test]
async fn what_is_no_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    let text = "shopping list\n".repeat(100);
    std::fs::write(&file, &text).unwrap();
    assert!(matches!(Embedded::open(&file, SCOPE), Err(Error::Protocol(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let foreign = dir.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let bytes = std::fs::read(&foreign).unwrap();
    assert!(matches!(Embedded::open(&foreign, SCOPE), Err(Error::Refused(_))));
    assert_eq!(std::fs::read(&foreign).unwrap(), bytes);
    let missing = dir.path().join("no/such/dir/dcs");
    let refused = Embedded::open(&missing, SCOPE);
    assert!(matches!(&refused, Err(Error::Refused(m)) if m.contains("no/such/dir/dcs")), "{refused:?}");
}

#[tokio::test]
async fn an_unsignalled_change_is_noticed_soon() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dcs");
    let client = Embedded::open(&file, SCOPE).unwrap();
    let at = client.commit(&[], &[put("leader", "pg1")]).await.unwrap().unwrap();
    // As a writer leaves it that was killed right after its commit.
    let killed = rusqlite::Connection::open(&file).unwrap();
    let change = "BEGIN IMMEDIATE; UPDATE store SET revision = revision + 1; \
        UPDATE entry SET modified = (SELECT revision FROM store), value = X'706732'; COMMIT";
    let wait = async { timeout(LONG, client.changed(at)).await.unwrap().unwrap() };
    let write = async { killed.execute_batch(change).unwrap() };
    tokio::join!(wait, write);
    assert_eq!(value(&client.read().await.unwrap(), "leader"), Some("pg2"));
}
