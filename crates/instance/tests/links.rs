//! Data directories that are reached through links.

mod cluster;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use cluster::{Node, Place, give, seed_initdb};
use ha::local::{DataDir, Process, Sql};
use instance::{Error, Instance, Start, Stop, fence};

/// A member whose data directory is this path.
fn at(place: &Place, data: &Path) -> Node {
    let mut node = place.node("pg1");
    node.options.data_dir = data.to_owned();
    node.data = data.to_owned();
    node.instance = Instance::new(node.options.clone()).expect("a usable setup");
    node
}

#[tokio::test]
async fn a_linked_data_directory_is_used_fenced_and_emptied() {
    let place = Place::new();
    let root = place.node("root").data.parent().unwrap().to_owned();
    let (link, target) = (root.join("link"), root.join("disk"));
    symlink(&target, &link).unwrap();
    let node = at(&place, &link);
    assert_eq!(node.instance.probe().await.data, DataDir::Empty);
    let early = fence::Instance::at(&link);
    node.instance.initialize(&seed_initdb(), &node.conf).await.unwrap();
    assert!(link.is_symlink() && target.join("PG_VERSION").exists());
    node.start(Start::Primary).await;
    assert!(node.instance.remove_data("test").await.is_err(), "it is found through the link");
    assert!(early.processes().contains(&node.pid()), "also by who looked when there was nothing yet");
    let second = Instance::new(node.options.clone()).unwrap();
    assert!(matches!(second.probe().await.sql, Sql::Up(_)));
    let instance = node.instance.clone();
    let outcome = tokio::task::spawn_blocking(move || instance.fence(Duration::from_secs(10))).await.unwrap();
    assert!(outcome.killed > 1 && outcome.left.is_empty(), "{outcome:?}");
    node.instance.remove_data("test").await.unwrap();
    assert!(link.is_symlink() && std::fs::read_dir(&target).unwrap().next().is_none());
    assert_eq!(node.instance.probe().await.data, DataDir::Empty);
}

#[tokio::test]
async fn a_link_above_the_data_directory_may_change_while_nothing_runs() {
    let place = Place::new();
    let root = place.node("root").data.parent().unwrap().to_owned();
    for disk in ["disk1", "disk2"] {
        std::fs::create_dir(root.join(disk)).unwrap();
        give(&root.join(disk));
    }
    let link = root.join("link");
    symlink("disk1", &link).unwrap();
    let node = at(&place, &link.join("data"));
    std::fs::remove_file(&link).unwrap();
    symlink("disk2", &link).unwrap();
    node.instance.initialize(&seed_initdb(), &node.conf).await.unwrap();
    assert!(root.join("disk2/data/PG_VERSION").exists());
    node.start(Start::Primary).await;
    let running = node.processes();
    assert!(running.contains(&node.pid()));
    assert!(matches!(node.instance.remove_data("test").await, Err(Error::Alive { .. })));
    // Under a running server too: it stays known where it is.
    std::fs::remove_file(&link).unwrap();
    symlink("disk1", &link).unwrap();
    assert!(matches!(node.instance.probe().await.process, Process::Running { .. }));
    assert!(matches!(node.instance.remove_data("test").await, Err(Error::Alive { .. })));
    std::fs::remove_file(&link).unwrap();
    symlink("disk2", &link).unwrap();
    node.instance.stop(Stop::default()).await.unwrap();
    node.instance.remove_data("test").await.unwrap();
    assert!(!root.join("disk2/data").exists());
}

#[tokio::test]
async fn a_data_directory_with_what_file_systems_leave_is_empty() {
    let place = Place::new();
    let node = place.node("pg1");
    for dir in ["lost+found", ".pgherd-new/base"] {
        std::fs::create_dir_all(node.data.join(dir)).unwrap();
    }
    assert_eq!(node.instance.probe().await.data, DataDir::Empty);
    node.instance.initialize(&seed_initdb(), &node.conf).await.unwrap();
    node.start(Start::Primary).await;
    assert!(node.data.join("lost+found").exists() && !node.data.join(".pgherd-new").exists());
}
