//! Tests of the table of settings against what pgbouncer 1.24.1 shows.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// `SHOW CONFIG` of pgbouncer 1.24.1: key, default, changeable.
const PGBOUNCER: &str = include_str!("../fixtures/show_config.txt");

/// Settings that pgbouncer 1.24.1 doesn't have.
const NEWER: &[&str] = &[
    "auth_ldap_options",
    "client_tls13_ciphers",
    "cluster_config",
    "login_notify_message",
    "metrics_listen",
    "pool_idle_timeout",
    "query_wait_notify",
    "scram_iterations",
    "server_tls13_ciphers",
    "sync_commit_cancelled",
    "transaction_timeout",
    "workers",
];

fn shown(settings: &Settings, name: &str) -> Option<String> {
    show(settings).find(|(setting, _)| setting.name == name).unwrap().1
}

#[test]
fn names_order_and_changeability_are_pgbouncer_s() {
    let changeable = |setting: &Setting| if setting.change == Change::Live { "yes" } else { "no" };
    let ours: Vec<(&str, &str)> =
        TABLE.iter().filter(|s| !NEWER.contains(&s.name)).map(|s| (s.name, changeable(s))).collect();
    let theirs: Vec<(&str, &str)> =
        PGBOUNCER.lines().map(|line| (line.split('|').next().unwrap(), line.rsplit('|').next().unwrap())).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn defaults_are_pgbouncer_s() {
    for line in PGBOUNCER.lines() {
        let (name, rest) = line.split_once('|').unwrap();
        let (default, _) = rest.rsplit_once('|').unwrap();
        // The only one that 1.25 has changed.
        let default = if name == "server_check_query" { "<empty>" } else { default };
        assert_eq!(find(name).unwrap().default.unwrap_or("<NULL>"), default, "{name}");
    }
}

#[test]
fn what_is_shown_of_the_defaults_is_what_makes_them() {
    let defaults = Settings::default();
    for (setting, value) in show(&defaults) {
        match (setting.name, setting.default) {
            // pgbouncer shows this number in another notation than its default, and no default of those.
            ("unix_socket_mode", _) => assert_eq!(value.as_deref(), Some("511")),
            ("verbose", _) => assert_eq!(value.as_deref(), Some("0")),
            ("conffile", _) => continue,
            (name, default) => assert_eq!(value.as_deref(), default, "{name}"),
        }
        let mut settings = Settings::default();
        setting.put(&mut settings, setting.default.unwrap_or("0")).unwrap();
        if setting.default.is_some() {
            assert_eq!(settings, defaults, "{}", setting.name);
        }
    }
}

#[test]
fn set_changes_what_may_change_and_refuses_the_rest() {
    let mut settings = Settings::default();
    set(&mut settings, "query_timeout", "0.5").unwrap();
    assert_eq!(settings.query_timeout, Duration::from_millis(500));
    assert_eq!(shown(&settings, "query_timeout").as_deref(), Some("0.5"));
    let before = settings.clone();
    let refused =
        |settings: &mut Settings, name: &str, value: &str| set(settings, name, value).unwrap_err().to_string();
    assert_eq!(refused(&mut settings, "foo", "1"), "unknown parameter: pgbouncer/foo");
    assert_eq!(refused(&mut settings, "POOL_MODE", "session"), "unknown parameter: pgbouncer/POOL_MODE");
    assert_eq!(refused(&mut settings, "listen_port", "1"), "parameter listen_port cannot be changed without a restart");
    assert_eq!(
        refused(&mut settings, "pool_mode", "x"),
        "invalid value \"x\" for parameter pool_mode: it takes one of session, transaction, statement"
    );
    assert_eq!(settings, before);
}

#[test]
fn what_is_not_set_is_shown_as_pgbouncer_shows_it() {
    let mut settings = Settings::default();
    assert_eq!(shown(&settings, "auth_file"), None);
    assert_eq!(shown(&settings, "auth_hba_file").as_deref(), Some(""));
    find("unix_socket_dir").unwrap().put(&mut settings, "").unwrap();
    assert_eq!(settings.unix_socket_dir, None);
    assert_eq!(shown(&settings, "unix_socket_dir").as_deref(), Some(""));
    set(&mut settings, "auth_user", "").unwrap();
    assert_eq!(settings.auth_user, None);
}

#[test]
fn lists_keep_the_words_of_the_file() {
    let mut settings = Settings::default();
    set(&mut settings, "stats_users", "a, b c ,,\"d\"").unwrap();
    assert_eq!(settings.stats_users.as_slice(), ["a", "b", "c", "\"d\""]);
    assert_eq!(shown(&settings, "stats_users").as_deref(), Some("a, b c ,,\"d\""));
    settings.stats_users.push("e".to_owned());
    assert_eq!(shown(&settings, "stats_users").as_deref(), Some("a,b,c,\"d\",e"));
    settings.stats_users = ["x", "y"].map(str::to_owned).into();
    assert_eq!(shown(&settings, "stats_users").as_deref(), Some("x,y"));
}

#[test]
fn the_name_of_the_service_has_two_names() {
    assert_eq!(find("service_name").unwrap().name, "job_name");
}

#[test]
fn changes_are_the_settings_that_differ_and_can_be_copied() {
    let (old, mut new) = (Settings::default(), Settings::default());
    for (name, value) in [("verbose", "2"), ("admin_users", "a"), ("auth_user", "u")] {
        set(&mut new, name, value).unwrap();
    }
    let changed: Vec<&Setting> = changes(&old, &new).collect();
    assert_eq!(changed.iter().map(|s| s.name).collect::<Vec<_>>(), ["admin_users", "auth_user", "verbose"]);
    for setting in changed {
        setting.copy(&old, &mut new);
    }
    assert_eq!(new, old);
}

proptest! {
    #[test]
    fn what_is_shown_can_be_set_again(at in 0..TABLE.len(), value in "[a-z0-9.,: -]{0,12}") {
        let setting = &TABLE[at];
        let (mut first, mut second) = (Settings::default(), Settings::default());
        prop_assume!(setting.put(&mut first, &value).is_ok());
        let shown = setting.get(&first);
        setting.put(&mut second, shown.as_deref().unwrap_or("")).unwrap();
        prop_assert_eq!(setting.get(&second), shown);
    }
}
