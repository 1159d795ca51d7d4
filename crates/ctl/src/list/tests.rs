//! The table of members against what patronictl 4.1 prints for the same keys (`testdata`, a cluster a file).

use std::collections::BTreeMap;

use dcs::{Entry, Snapshot, layout};

use super::*;

/// The parts of a file by their headings (`## pretty`).
fn parts(file: &str) -> BTreeMap<&str, &str> {
    let parts = file.strip_prefix("## ").unwrap().split("\n## ");
    parts.map(|part| part.split_once('\n').unwrap_or((part, ""))).collect()
}

fn cluster(keys: &str) -> Cluster {
    let entry = |value: &str| Entry { value: value.into(), created: 1, modified: 1, lease: 0 };
    let lines = keys.lines().map(|line| line.split_once(' ').unwrap_or((line, "")));
    let entries = lines.map(|(key, value)| (key.to_owned(), entry(value))).collect();
    layout::decode(&Snapshot { dcs_id: 1, revision: 1, entries })
}

fn check(name: &str, file: &str) {
    let parts = parts(file);
    let cluster = cluster(parts["keys"]);
    let shown = |format, extended| show(&cluster, name, format, extended).trim_end_matches('\n').to_owned();
    let expected = |part: &str| parts[part].trim_end_matches('\n');
    assert_eq!(shown(Format::Pretty, false), expected("pretty"));
    assert_eq!(shown(Format::Pretty, true), expected("extended"));
    assert_eq!(shown(Format::Tsv, false), expected("tsv"));
    assert_eq!(shown(Format::Json, false), expected("json"));
    // Texts of several lines are written in another style.
    assert_eq!(yaml::parse(&shown(Format::Yaml, false)), yaml::parse(expected("yaml")));
    if !expected("yaml").contains("\n\n") {
        assert_eq!(shown(Format::Yaml, false), expected("yaml"));
    }
}

#[test]
fn a_plain_cluster() {
    check("otus", include_str!("testdata/otus.txt"));
}

#[test]
fn a_cluster_on_one_host_with_all_there_can_be_to_say() {
    check("multi", include_str!("testdata/multi.txt"));
}

#[test]
fn members_of_an_old_version_and_tags() {
    check("tagged", include_str!("testdata/tagged.txt"));
}

#[test]
fn a_cluster_that_does_not_exist() {
    check("nobody", include_str!("testdata/nobody.txt"));
}

#[test]
fn output_ends_with_one_line_end() {
    let cluster = cluster("initialize 1\nmembers/pg1 {}\n");
    for format in [Format::Pretty, Format::Tsv, Format::Json] {
        let text = show(&cluster, "otus", format, false);
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{text:?}");
    }
}
