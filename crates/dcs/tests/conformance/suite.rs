//! What every store promises, told by its clients alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dcs::{Condition, Dcs, Error, Snapshot, Write};
use tokio::time::timeout;

use crate::Store;

/// Nothing here takes this long unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(20);
const SCOPE: &str = "/service/otus/";

pub(crate) fn put(key: &str, value: &str) -> Write {
    leased(key, value, 0)
}

pub(crate) fn leased(key: &str, value: &str, lease: i64) -> Write {
    Write::Put { key: key.into(), value: value.into(), lease }
}

pub(crate) fn value<'a>(snapshot: &'a Snapshot, key: &str) -> Option<&'a str> {
    snapshot.entries.get(key).map(|e| std::str::from_utf8(&e.value).unwrap())
}

/// Reads and waits for changes until the reading is as wanted.
pub(crate) async fn until(client: &dyn Dcs, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let found = async {
        loop {
            let snapshot = client.read().await.unwrap();
            if wanted(&snapshot) {
                return snapshot;
            }
            client.changed(snapshot.revision).await.unwrap();
        }
    };
    timeout(LONG, found).await.unwrap_or_else(|_| panic!("never saw {what}"))
}

pub(crate) async fn a_commit_is_read_by_every_client(store: &dyn Store) {
    let (a, b) = (store.client(SCOPE).await, store.client(SCOPE).await);
    let empty = b.read().await.unwrap();
    assert!(empty.entries.is_empty());
    let lease = a.grant(store.ttl() * 20).await.unwrap();
    let at = a.commit(&[], &[leased("leader", "pg1", lease), put("members/pg1", "{}")]).await.unwrap().unwrap();
    assert!(at > empty.revision);
    for client in [&a, &b] {
        let seen = client.read().await.unwrap();
        assert_eq!((seen.dcs_id, seen.revision), (empty.dcs_id, at));
        assert_eq!(seen.entries.keys().collect::<Vec<_>>(), ["leader", "members/pg1"]);
        let leader = &seen.entries["leader"];
        assert_eq!((leader.value.as_slice(), leader.created, leader.modified), (b"pg1".as_slice(), at, at));
        assert_eq!((leader.lease, seen.entries["members/pg1"].lease), (lease, 0));
    }
    assert_ne!(empty.dcs_id, 0);
}

pub(crate) async fn conditions_decide(store: &dyn Store) {
    use Condition::{Absent, CreatedAt, ModifiedAt, ValueIs};
    let client = store.client(SCOPE).await;
    let created = client.commit(&[Absent("k".into())], &[put("k", "1")]).await.unwrap().unwrap();
    let modified = client.commit(&[ValueIs("k".into(), b"1".to_vec())], &[put("k", "2")]).await.unwrap().unwrap();
    for wrong in [
        Absent("k".into()),
        ValueIs("k".into(), b"1".to_vec()),
        ValueIs("none".into(), b"".to_vec()),
        ModifiedAt("k".into(), created),
        ModifiedAt("none".into(), 0),
        CreatedAt("k".into(), modified),
        CreatedAt("none".into(), 0),
    ] {
        let answer = client.commit(std::slice::from_ref(&wrong), &[put("k", "wrong")]).await.unwrap();
        assert_eq!(answer, None, "{wrong:?}");
    }
    let right = [
        ModifiedAt("k".into(), modified),
        CreatedAt("k".into(), created),
        ValueIs("k".into(), b"2".to_vec()),
        Absent("none".into()),
    ];
    assert_eq!(client.read().await.unwrap().revision, modified);
    let at = client.commit(&right, &[put("k", "3")]).await.unwrap().unwrap();
    let entry = client.read().await.unwrap().entries["k"].clone();
    assert_eq!((entry.value, entry.created, entry.modified), (b"3".to_vec(), created, at));
    // Without writes it is a question.
    assert_eq!(client.commit(&[ModifiedAt("k".into(), at)], &[]).await.unwrap(), Some(at));
    assert_eq!(client.commit(&[ModifiedAt("k".into(), modified)], &[]).await.unwrap(), None);
}

pub(crate) async fn a_keys_lease_is_a_condition(store: &dyn Store) {
    let client = store.client(SCOPE).await;
    let (old, new) = (client.grant(LONG).await.unwrap(), client.grant(LONG).await.unwrap());
    client.commit(&[], &[leased("k", "1", old), put("free", "1")]).await.unwrap();
    let on = |key: &str, lease| Condition::OnLease(key.into(), lease);
    for wrong in [on("k", new), on("k", 0), on("free", old), on("none", 0)] {
        assert_eq!(client.commit(&[wrong], &[put("k", "wrong")]).await.unwrap(), None);
    }
    assert!(client.commit(&[on("k", old), on("free", 0)], &[leased("k", "1", new)]).await.unwrap().is_some());
    assert_eq!(client.read().await.unwrap().entries["k"].lease, new);
    assert_eq!(client.commit(&[on("k", old)], &[leased("k", "1", old)]).await.unwrap(), None);
}

pub(crate) async fn a_transaction_is_all_or_nothing(store: &dyn Store) {
    let (writer, reader) = (store.client(SCOPE).await, store.client(SCOPE).await);
    writer.commit(&[], &[put("a", "0"), put("b", "0"), put("c", "x")]).await.unwrap();
    let before = writer.read().await.unwrap();
    let refused = [Condition::ValueIs("a".into(), b"0".to_vec()), Condition::Absent("b".into())];
    assert_eq!(writer.commit(&refused, &[put("a", "9"), Write::Delete("c".into())]).await.unwrap(), None);
    assert_eq!(reader.read().await.unwrap(), before);
    let writing = async {
        for n in 1..=30 {
            let n = n.to_string();
            writer.commit(&[], &[put("a", &n), put("b", &n)]).await.unwrap();
        }
    };
    let reading = async {
        loop {
            let seen = reader.read().await.unwrap();
            assert_eq!(value(&seen, "a"), value(&seen, "b"));
            assert_eq!(seen.entries["a"].modified, seen.entries["b"].modified);
            if value(&seen, "a") == Some("30") {
                break;
            }
        }
    };
    timeout(LONG, async { tokio::join!(writing, reading) }).await.unwrap();
}

pub(crate) async fn no_key_is_written_twice(store: &dyn Store) {
    let client = store.client(SCOPE).await;
    let twice = client.commit(&[], &[put("k", "1"), Write::Delete("k".into())]).await;
    assert!(matches!(twice, Err(Error::Protocol(_))), "{twice:?}");
    assert!(client.read().await.unwrap().entries.is_empty());
}

pub(crate) async fn an_ended_lease_deletes_its_keys_and_wakes_watchers(store: &dyn Store) {
    let (holder, watcher) = (store.client(SCOPE).await, store.client(SCOPE).await);
    let begun = Instant::now();
    let lease = holder.grant(store.ttl()).await.unwrap();
    let at = holder
        .commit(&[], &[leased("leader", "pg1", lease), leased("members/pg1", "{}", lease), put("config", "{}")])
        .await
        .unwrap()
        .unwrap();
    timeout(LONG, watcher.changed(at)).await.unwrap().unwrap();
    assert!(begun.elapsed() >= store.ttl(), "the lease ended early: {:?}", begun.elapsed());
    assert!(begun.elapsed() < store.ttl() * 2 + Duration::from_secs(3), "{:?}", begun.elapsed());
    let seen = until(&*watcher, "the lock's end", |s| !s.entries.contains_key("leader")).await;
    assert_eq!(seen.entries.keys().collect::<Vec<_>>(), ["config"]);
    assert!(seen.revision > at);
}

pub(crate) async fn keep_alive_extends(store: &dyn Store) {
    let client = store.client(SCOPE).await;
    let lease = client.grant(store.ttl()).await.unwrap();
    let begun = Instant::now();
    let at = client.commit(&[], &[leased("leader", "pg1", lease)]).await.unwrap().unwrap();
    let mut often = tokio::time::interval(store.ttl() / 4);
    while begun.elapsed() < store.ttl() * 2 {
        often.tick().await;
        client.keep_alive(lease).await.unwrap();
    }
    let seen = client.read().await.unwrap();
    assert_eq!((value(&seen, "leader"), seen.revision), (Some("pg1"), at));
    let renewed = Instant::now();
    until(&*client, "the lock's end", |s| !s.entries.contains_key("leader")).await;
    assert!(renewed.elapsed() >= store.ttl() / 2, "the last renewal counted for nothing");
}

pub(crate) async fn a_gone_lease_is_told(store: &dyn Store) {
    let client = store.client(SCOPE).await;
    let lease = client.grant(store.ttl() * 20).await.unwrap();
    client.keep_alive(lease).await.unwrap();
    client.revoke(lease).await.unwrap();
    for gone in [lease, 424_242] {
        let answer = client.keep_alive(gone).await;
        assert!(matches!(answer, Err(Error::LeaseGone)), "{answer:?}");
        let answer = client.commit(&[], &[put("config", "{}"), leased("leader", "pg1", gone)]).await;
        assert!(matches!(answer, Err(Error::LeaseGone)), "{answer:?}");
        // Conditions come first.
        let answer = client.commit(&[Condition::CreatedAt("x".into(), 5)], &[leased("leader", "pg1", gone)]).await;
        assert!(matches!(answer, Ok(None)), "{answer:?}");
    }
    assert!(client.read().await.unwrap().entries.is_empty());
}

pub(crate) async fn revoke_deletes_keys(store: &dyn Store) {
    let (holder, watcher) = (store.client(SCOPE).await, store.client(SCOPE).await);
    let lease = holder.grant(store.ttl() * 20).await.unwrap();
    let at = holder.commit(&[], &[leased("leader", "pg1", lease), put("config", "{}")]).await.unwrap().unwrap();
    let (woken, revoked) = tokio::join!(timeout(LONG, watcher.changed(at)), holder.revoke(lease));
    woken.unwrap().unwrap();
    revoked.unwrap();
    let seen = watcher.read().await.unwrap();
    assert_eq!(seen.entries.keys().collect::<Vec<_>>(), ["config"]);
    assert!(seen.revision > at);
    holder.revoke(lease).await.unwrap();
    // A key that was moved off the lease stays.
    let lease = holder.grant(store.ttl() * 20).await.unwrap();
    holder.commit(&[], &[leased("leader", "pg1", lease)]).await.unwrap();
    holder.commit(&[], &[put("leader", "pg1")]).await.unwrap();
    holder.revoke(lease).await.unwrap();
    assert_eq!(value(&watcher.read().await.unwrap(), "leader"), Some("pg1"));
}

pub(crate) async fn revisions_grow_and_creation_is_told(store: &dyn Store) {
    let client = store.client(SCOPE).await;
    let first = client.commit(&[], &[put("leader", "pg1")]).await.unwrap().unwrap();
    let second = client.commit(&[], &[put("leader", "pg1")]).await.unwrap().unwrap();
    let entry = client.read().await.unwrap().entries["leader"].clone();
    assert_eq!((entry.created, entry.modified), (first, second));
    let deleted = client.commit(&[], &[Write::Delete("leader".into())]).await.unwrap().unwrap();
    // Deleting nothing changes nothing.
    let nothing = client.commit(&[], &[Write::Delete("leader".into())]).await.unwrap().unwrap();
    let third = client.commit(&[Condition::Absent("leader".into())], &[put("leader", "pg1")]).await.unwrap().unwrap();
    assert!(first < second && second < deleted && deleted == nothing && deleted < third);
    assert_eq!(client.read().await.unwrap().entries["leader"].created, third);
}

pub(crate) async fn watch_returns_at_once_for_the_past(store: &dyn Store) {
    let (writer, watcher) = (store.client(SCOPE).await, store.client(SCOPE).await);
    let before = watcher.read().await.unwrap().revision;
    let first = writer.commit(&[], &[put("k", "1")]).await.unwrap().unwrap();
    let deleted = writer.commit(&[], &[Write::Delete("k".into())]).await.unwrap().unwrap();
    for revision in [before, first, before] {
        timeout(LONG, watcher.changed(revision)).await.unwrap().unwrap();
    }
    let nothing = timeout(Duration::from_millis(200), watcher.changed(deleted)).await;
    assert!(nothing.is_err(), "woken by nothing: {nothing:?}");
    // Going back behind the kept watch is allowed.
    timeout(LONG, watcher.changed(before)).await.unwrap().unwrap();
}

pub(crate) async fn watch_waits_for_changes_of_its_prefix(store: &dyn Store) {
    let (mine, other) = (store.client(SCOPE).await, store.client("/service/other/").await);
    let at = mine.commit(&[], &[put("k", "1")]).await.unwrap().unwrap();
    other.commit(&[], &[put("k", "1")]).await.unwrap();
    let waiting = mine.changed(at);
    tokio::pin!(waiting);
    let early = timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "woken by another cluster: {early:?}");
    let write = [put("k", "2")];
    let (woken, committed) = tokio::join!(timeout(LONG, waiting), mine.commit(&[], &write));
    woken.unwrap().unwrap();
    committed.unwrap();
}

pub(crate) async fn watch_survives_being_dropped(store: &dyn Store) {
    let (writer, watcher) = (store.client(SCOPE).await, store.client(SCOPE).await);
    let mut at = writer.commit(&[], &[put("k", "0")]).await.unwrap().unwrap();
    for n in 1..20_u64 {
        let given_up = timeout(Duration::from_millis(n % 4), watcher.changed(at)).await;
        assert!(given_up.is_err());
        let next = writer.commit(&[], &[put("k", &n.to_string())]).await.unwrap().unwrap();
        timeout(LONG, watcher.changed(at)).await.unwrap().unwrap();
        at = next;
    }
}

pub(crate) async fn several_watches_of_one_client_wake(store: &dyn Store) {
    let client = store.client(SCOPE).await;
    let at = client.commit(&[], &[put("k", "0")]).await.unwrap().unwrap();
    let watches = futures::future::join_all((0..4).map(|_| client.changed(at)));
    let write = [put("k", "1")];
    let (woken, committed) = tokio::join!(timeout(LONG, watches), client.commit(&[], &write));
    committed.unwrap();
    for one in woken.unwrap() {
        one.unwrap();
    }
}

/// Increments a counter by compare-and-swap.
async fn increment(client: &dyn Dcs) {
    loop {
        let seen = client.read().await.unwrap();
        let count: u32 = value(&seen, "count").map_or(0, |v| v.parse().unwrap());
        let condition = match seen.entries.get("count") {
            Some(entry) => Condition::ModifiedAt("count".into(), entry.modified),
            None => Condition::Absent("count".into()),
        };
        if client.commit(&[condition], &[put("count", &(count + 1).to_string())]).await.unwrap().is_some() {
            return;
        }
    }
}

pub(crate) async fn no_change_is_missed(store: &dyn Store) {
    const WRITERS: usize = 3;
    const EACH: usize = 15;
    let total = (WRITERS * EACH).to_string();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (watcher, writer, total) = (store.client(SCOPE).await, store.client(SCOPE).await, total.clone());
        tasks.spawn(async move {
            until(&*watcher, "the last change", |s| value(s, "count") == Some(&total)).await;
        });
        tasks.spawn(async move {
            for _ in 0..EACH {
                increment(&*writer).await;
            }
        });
    }
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    };
    timeout(LONG * 2, all).await.unwrap();
}

pub(crate) async fn one_of_many_wins(store: &dyn Store) {
    let (a, b) = (store.client(SCOPE).await, store.client(SCOPE).await);
    for round in 0..3 {
        let key = format!("leader{round}");
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..20 {
            let client: Arc<dyn Dcs> = Arc::clone(if n % 2 == 0 { &a } else { &b });
            let (condition, write) = (Condition::Absent(key.clone()), put(&key, &n.to_string()));
            tasks.spawn(async move { (n, client.commit(&[condition], &[write]).await.unwrap()) });
        }
        let winners: Vec<i32> =
            tasks.join_all().await.into_iter().filter(|(_, at)| at.is_some()).map(|(n, _)| n).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(value(&a.read().await.unwrap(), &key), Some(winners[0].to_string().as_str()));
    }
}

pub(crate) async fn prefixes_are_apart(store: &dyn Store) {
    let one = store.client("/service/a/").await;
    let similar = store.client("/service/ab/").await;
    let at = one.commit(&[], &[put("leader", "one")]).await.unwrap().unwrap();
    let later = similar.commit(&[Condition::Absent("leader".into())], &[put("leader", "two")]).await.unwrap();
    assert!(later.unwrap() > at);
    let (seen, other) = (one.read().await.unwrap(), similar.read().await.unwrap());
    assert_eq!((value(&seen, "leader"), seen.entries.len()), (Some("one"), 1));
    assert_eq!((value(&other, "leader"), other.entries.len()), (Some("two"), 1));
    one.commit(&[], &[Write::Delete("leader".into())]).await.unwrap();
    assert_eq!(value(&similar.read().await.unwrap(), "leader"), Some("two"));
}
