//! Tests of the configuration: layers, faults, spelling, secrets and what follows from the dynamic configuration.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;

const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pg1.yml");

fn seed() -> String {
    fs::read_to_string(SEED).unwrap()
}

struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pg1.yml");
    fs::write(&path, text).unwrap();
    File { _dir: dir, path }
}

fn source(path: &Path, environment: &[(&str, &str)]) -> Source {
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Source { path: Some(path.to_owned()), environment, ..Source::default() }
}

fn read(text: &str) -> Result<Loaded, Faults> {
    load(&source(&file(text).path, &[]), Role::Agent)
}

fn faults(text: &str) -> Vec<Fault> {
    read(text).unwrap_err().0
}

fn warnings(text: &str) -> Vec<String> {
    read(text).unwrap().warnings.iter().map(|w| format!("{}: {}", w.path, w.message)).collect()
}

/// The seed with one text exchanged for another.
fn seed_with(old: &str, new: &str) -> String {
    let seed = seed();
    assert!(seed.contains(old), "the seed has no {old:?}");
    seed.replace(old, new)
}

fn line(fault: &Fault) -> usize {
    match fault.place {
        Some(Place::File { line, .. }) => line,
        _ => 0,
    }
}

#[test]
fn seed_file_is_read_without_a_warning() {
    let loaded = load(&source(Path::new(SEED), &[]), Role::Agent).unwrap();
    assert_eq!(loaded.warnings, []);
    let c = loaded.config;
    assert_eq!((c.scope.as_str(), c.name.as_str(), c.namespace.as_str()), ("otus", "pg1", "/service"));
    assert_eq!(c.restapi.listen.to_string(), "0.0.0.0:8008");
    assert_eq!(c.restapi.api_url(), "http://192.168.11.101:8008/patroni");
    let Dcs::Etcd(etcd) = &c.dcs else { panic!("not etcd") };
    assert_eq!(etcd.endpoints, ["http://localhost:2379"]);
    assert_eq!(c.bootstrap.initdb, ["--encoding=UTF8", "--data-checksums"]);
    assert_eq!(c.bootstrap.pg_hba[1], "host all all 0.0.0.0/0 md5");
    assert_eq!(c.bootstrap.dcs["retry_timeout"], 10);
    assert_eq!(c.postgresql.data_dir, Path::new("/var/lib/pgsql/otus/pg1/data"));
    assert_eq!(c.postgresql.authentication.replication.password.as_ref().unwrap().expose(), "replicator");
    assert_eq!(c.postgresql.authentication.superuser.username, "postgres");
    assert_eq!(c.postgresql.pg_ctl_timeout.as_secs(), 60);
}

#[test]
fn all_faults_are_reported_at_once_with_their_lines() {
    let text = seed()
        .replace("ttl: 30", "ttl: 20")
        .replace("listen: 0.0.0.0:8008", "listen: 0.0.0.0:99999")
        .replace("  data_dir: /var", "  data_dri: /var")
        .replace("username: replicator", "user_name: replicator")
        .replace("name: pg1\n", "");
    let faults = faults(&text);
    let found: Vec<(&str, usize)> = faults.iter().map(|f| (f.path.as_str(), line(f))).collect();
    for expected in [
        ("name", 0),
        ("restapi.listen", 4),
        ("bootstrap.dcs.ttl", 13),
        ("postgresql.data_dri", 34),
        ("postgresql.authentication.replication.user_name", 38),
        ("postgresql.data_dir", 31),
    ] {
        assert!(found.contains(&expected), "{expected:?} is not among {found:?}");
    }
    let shown = Faults(faults.clone()).to_string();
    assert!(shown.contains("data_dri: unknown setting: did you mean \"data_dir\"?"), "{shown}");
    assert!(shown.contains(".yml:13:5: bootstrap.dcs.ttl: loop_wait 10"), "{shown}");
    assert_eq!(shown.lines().count(), found.len());
}

#[test]
fn a_name_far_from_all_known_ones_is_a_warning_only() {
    let w = warnings(&seed_with("scope: otus\n", "scope: otus\nsite_contact: dba\n"));
    assert_eq!(w, ["site_contact: unknown setting, ignored"]);
}

#[test]
fn a_near_name_beside_the_right_one_is_a_warning_only() {
    let w = warnings(&seed_with("scope: otus\n", "scope: otus\nscopes: x\n"));
    assert_eq!(w, ["scopes: unknown setting, ignored: did you mean \"scope\"?"]);
}

#[test]
fn an_abbreviation_is_told_the_full_name() {
    let w = warnings(&seed_with("      username: postgres", "      user: postgres"));
    assert_eq!(w, ["postgresql.authentication.superuser.user: unknown setting, ignored: did you mean \"username\"?"]);
}

#[test]
fn a_setting_at_the_wrong_place_is_told_its_own() {
    let w = warnings(&seed_with("scope: otus\n", "scope: otus\nloop_wait: 5\n"));
    assert_eq!(w, ["loop_wait: unknown setting, ignored: it belongs at \"bootstrap.dcs.loop_wait\""]);
}

#[test]
fn misspelt_dynamic_setting_is_a_fault() {
    let f = faults(&seed_with("    ttl: 30", "    tll: 30"));
    assert_eq!((f[0].path.as_str(), line(&f[0])), ("bootstrap.dcs.tll", 14));
    assert!(f[0].message.contains("\"ttl\""));
}

#[test]
fn settings_of_patroni_without_support_are_named_each() {
    let w = warnings(&seed_with(
        "postgresql:\n  listen",
        "postgresql:\n  before_stop: /bin/true\n  callbacks: {on_start: /x}\n  listen",
    ));
    assert_eq!(w.len(), 2, "{w:?}");
    assert!(w.iter().all(|w| w.contains("not supported by pgherd yet")));
}

#[test]
fn free_sections_and_private_names_take_any_key() {
    let extra =
        "tags: {nofailvoer: true, x: 1}\nlog: {loggers: {dcs.etcd: DEBUG}}\n.anchors: {a: 1}\nx-mine: 2\nscope: otus\n";
    assert_eq!(warnings(&seed_with("scope: otus\n", extra)), Vec::<String>::new());
}

#[test]
fn duplicated_keys_are_reported_beside_other_faults() {
    let f = faults(&seed_with("  bin_dir: /usr/pgsql-12/bin\n", "  bin_dir: /a\n  bin_dir: /b\n  pgpas: /c\n"));
    let shown = Faults(f).to_string();
    assert!(shown.contains(":37:3: postgresql.bin_dir: the key stands here twice"), "{shown}");
    assert!(shown.contains("pgpas"), "{shown}");
}

#[test]
fn broken_yaml_gives_one_message_with_line_and_column() {
    let f = faults("scope: otus\nrestapi:\n\tlisten: 0.0.0.0:8008\n");
    assert_eq!(f.len(), 1);
    assert!(matches!(f[0].place, Some(Place::File { line: 3, column: 1, .. })), "{f:?}");
    assert!(f[0].message.contains("tabs"), "{}", f[0].message);
}

#[test]
fn missing_and_empty_files_say_so() {
    let missing = load(&source(Path::new("/nonexistent/pg1.yml"), &[]), Role::Agent).unwrap_err();
    assert!(missing.to_string().contains("No such file"), "{missing}");
    let f = faults("");
    assert!(f.iter().any(|f| f.path == "scope"), "{f:?}");
    let f = faults("- just\n- a list\n");
    assert!(f[0].message.contains("mapping"), "{f:?}");
}

#[test]
fn environment_wins_over_the_file_and_pgherd_over_patroni() {
    let vars = [
        ("PATRONI_NAME", "pg7"),
        ("PATRONI_POSTGRESQL_DATA_DIR", "/data/patroni"),
        ("PGHERD_POSTGRESQL_DATA_DIR", "/data/pgherd"),
        ("PATRONI_RESTAPI_USERNAME", "admin"),
        ("PATRONI_RESTAPI_PASSWORD", "12345"),
        ("PATRONI_SUPERUSER_PASSWORD", "077"),
        ("PATRONI_REPLICATION_SSLMODE", "require"),
        ("PATRONI_ETCD_HOSTS", "a:1, b:2"),
        ("PATRONI_LOG_LEVEL", "debug"),
        ("PATRONI_POSTGRESQL_PG_CTL_TIMEOUT", "120"),
    ];
    let Loaded { config, warnings } = load(&source(Path::new(SEED), &vars), Role::Agent).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.name, "pg7");
    assert_eq!(config.postgresql.data_dir, Path::new("/data/pgherd"));
    let basic = config.restapi.authentication.unwrap();
    assert_eq!((basic.username.as_str(), basic.password.expose()), ("admin", "12345"));
    assert_eq!(config.postgresql.authentication.superuser.password.unwrap().expose(), "077");
    assert_eq!(config.postgresql.authentication.replication.options["sslmode"], "require");
    assert_eq!(config.postgresql.authentication.replication.username, "replicator");
    assert_eq!(
        config.dcs,
        Dcs::Etcd(Etcd { endpoints: vec!["http://a:1".into(), "http://b:2".into()], ..Etcd::default() })
    );
    assert_eq!(config.log.level, Level::Debug);
    assert_eq!(config.postgresql.pg_ctl_timeout.as_secs(), 120);
}

#[test]
fn faults_from_the_environment_name_the_variable() {
    let vars = [("PATRONI_RESTAPI_LISTEN", "nowhere:x"), ("PATRONI_POSTGRESQL_LISEN", "1")];
    let shown = load(&source(Path::new(SEED), &vars), Role::Agent).unwrap_err().to_string();
    assert!(shown.contains("environment variable PATRONI_RESTAPI_LISTEN: restapi.listen"), "{shown}");
    let w = load(&source(Path::new(SEED), &vars[1..]), Role::Agent).unwrap().warnings;
    assert!(w[0].to_string().contains("did you mean PATRONI_POSTGRESQL_LISTEN"), "{w:?}");
}

#[test]
fn whole_configuration_may_come_from_the_environment() {
    let mut source = source(Path::new(SEED), &[]);
    source.path = None;
    source.environment = vec![("PATRONI_CONFIGURATION".into(), seed())];
    assert_eq!(load(&source, Role::Agent).unwrap().config.scope, "otus");
}

#[test]
fn flags_win_over_everything() {
    let mut source = source(Path::new(SEED), &[("PGHERD_LOG_LEVEL", "ERROR")]);
    source.flags = json!({"log": {"level": "WARNING"}});
    assert_eq!(load(&source, Role::Agent).unwrap().config.log.level, Level::Warning);
    source.flags = json!({"log": {"level": "LOUD"}});
    let shown = load(&source, Role::Agent).unwrap_err().to_string();
    assert!(shown.starts_with("command line: log.level: \"LOUD\""), "{shown}");
}

#[test]
fn directory_of_files_is_merged_in_order_of_names() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("10.yml"), seed()).unwrap();
    fs::write(dir.path().join("20.yml"), "name: pg2\npostgresql: {listen: '*:5433'}\n").unwrap();
    fs::write(dir.path().join("30.yaml.bak"), "name: pg3\n").unwrap();
    let config = load(&source(dir.path(), &[]), Role::Agent).unwrap().config;
    assert_eq!(config.name, "pg2");
    assert_eq!(config.postgresql.listen.to_string(), "*:5433");
    assert_eq!(config.postgresql.data_dir, Path::new("/var/lib/pgsql/otus/pg1/data"));
}

#[test]
fn exactly_one_dcs_is_wanted() {
    let none = faults(&seed_with("etcd:\n  hosts: localhost:2379\n  protocol: http\n", ""));
    assert!(none[0].message.contains("no DCS"), "{none:?}");
    let two = faults(&seed_with("scope: otus\n", "scope: otus\nembedded: {path: /x}\n"));
    assert!(two[0].message.contains("keep one"), "{two:?}");
    let srv = faults(&seed_with("hosts: localhost:2379", "srv: example.org"));
    assert!(srv[0].message.contains("srv is not supported yet"), "{srv:?}");
}

#[test]
fn addresses_of_etcd_are_understood_in_every_spelling() {
    let endpoints = |section: &str| {
        let text = seed_with("  hosts: localhost:2379\n  protocol: http\n", section);
        match read(&text).unwrap().config.dcs {
            Dcs::Etcd(etcd) => etcd.endpoints,
            Dcs::Embedded(_) => panic!("not etcd"),
        }
    };
    assert_eq!(endpoints("  host: a\n"), ["http://a:2379"]);
    assert_eq!(endpoints("  hosts: [a:1, 'b:2']\n  protocol: https\n"), ["https://a:1", "https://b:2"]);
    assert_eq!(endpoints("  hosts: \"'a:1', '[::1]:2'\"\n"), ["http://a:1", "http://[::1]:2"]);
    assert_eq!(endpoints("  url: https://etcd.example:4001/\n"), ["https://etcd.example:4001"]);
}

#[test]
fn addresses_nobody_can_connect_to_are_refused() {
    let f = faults(&seed_with("  connect_address: 192.168.11.101:5432\n", ""));
    assert_eq!((f.len(), f[0].path.as_str()), (1, "postgresql.connect_address"));
    let f = faults(&seed_with("  connect_address: 192.168.11.101:8008", "  connect_address: 0.0.0.0:8008"));
    assert!(f[0].message.contains("connect to"), "{f:?}");
}

#[test]
fn admin_client_needs_only_the_dcs_and_may_be_given_another() {
    let file = file("etcd3: {hosts: 'a:1', username: u, password: p}\nctl: {insecure: true}\n");
    let mut source = source(&file.path, &[]);
    let config = load(&source, Role::Ctl).unwrap().config;
    assert!(config.ctl.insecure && config.scope.is_empty());
    source.dcs_url = Some("etcd3://b:2,c:3".to_owned());
    let Dcs::Etcd(etcd) = load(&source, Role::Ctl).unwrap().config.dcs else { panic!("not etcd") };
    assert_eq!(etcd.endpoints, ["http://b:2", "http://c:3"]);
    assert_eq!(etcd.username.as_deref(), Some("u"));
    source.dcs_url = Some("embedded:/tmp/x".to_owned());
    let config = load(&source, Role::Ctl).unwrap().config;
    assert_eq!(config.dcs, Dcs::Embedded(Embedded { path: "/tmp/x".into() }));
    source.dcs_url = Some("consul://x".to_owned());
    assert!(load(&source, Role::Ctl).unwrap_err().to_string().contains("consul"));
}

#[test]
fn admin_client_works_with_a_file_whose_agent_part_is_faulty() {
    let file = file(&seed_with("  data_dir: /var", "  data_dri: /var"));
    let loaded = load(&source(&file.path, &[]), Role::Ctl).unwrap();
    assert_eq!(loaded.warnings.iter().filter(|w| w.path == "postgresql.data_dri").count(), 1);
}

#[test]
fn secrets_are_shown_nowhere() {
    let text = seed_with("scope: otus\n", "scope: otus\nctl: {keyfile_password: hunter2}\n")
        .replace("protocol: http", "url: http://root:hunter2@e:2379\n  username: root\n  password: hunter2")
        .replace("password: otus", "password: hunter2")
        .replace("password: replicator", "password: hunter2");
    let config = read(&text).unwrap().config;
    let shown = print_config(&config);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("password: '********'") && shown.contains("http://root:********@e:2379"), "{shown}");
    assert!(!format!("{config:?}").contains("hunter2"), "Debug of the merged layers must mask too");
    let other =
        read(&text.replace("password: hunter2", "password: other").replace("name: pg1", "name: pg2")).unwrap().config;
    let changed = changes(&config, &other).join("\n");
    assert!(changed.contains("name: pg1 -> pg2") && changed.contains("superuser.password: ******** -> ********"));
    assert!(!changed.contains("hunter2") && !changed.contains("other"), "{changed}");
    let url = read(&text.replace("root:hunter2@e", "root:swordfish@e")).unwrap().config;
    assert_eq!(changes(&config, &url), ["etcd.url: http://root:********@e:2379 -> http://root:********@e:2379"]);
}

#[test]
fn options_pgherd_sets_itself_are_refused() {
    let f = faults(&seed_with("  - data-checksums", "  - data-checksums\n  - pgdata: /x"));
    assert_eq!((f[0].path.as_str(), line(&f[0])), ("bootstrap.initdb.2", 27));
    let f = faults(&seed_with(
        "bin_dir:",
        "basebackup: [{max-rate: 100M}, checkpoint: fast, verbose, {host: x}]\n  bin_dir:",
    ));
    assert_eq!(f[0].path, "postgresql.basebackup.3");
}

#[test]
fn access_rules_and_headers_come_from_the_file_checked() {
    let api = "  authentication: {username: u, password: 1}\n  allowlist: [10.0.0.0/8, 127.0.0.1]\n  \
               allowlist_include_members: yes\n  http_extra_headers: {X-Frame-Options: DENY}\n  connect_address: 192";
    let api = read(&seed_with("  connect_address: 192.168.11.101:8008", &format!("{api}.168.11.101:8008")))
        .unwrap()
        .config
        .restapi;
    let access = api.access();
    assert_eq!(access.credentials.unwrap().password, "1");
    assert_eq!(access.allowlist.len(), 2);
    assert!(access.allow_members && !access.client_certificate);
    assert_eq!(api.extra_headers()["x-frame-options"], "DENY");
    let bad = "  allowlist: [dba.example.org]\n  http_extra_headers: {\"a b\": c}\n  verify_client: required\n";
    let f = Faults(faults(&seed_with("restapi:\n", &format!("restapi:\n{bad}"))));
    assert_eq!(f.0.len(), 4, "{f}");
    let shown = f.to_string();
    for word in ["dba.example.org", "\"a b: c\"", "restapi.certfile", "restapi.cafile"] {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
}

#[test]
fn role_attributes_cannot_carry_sql() {
    let user = "bootstrap:\n  users: {admin: {password: x, options: [createdb, \"login; drop table t\"]}}\n";
    let f = faults(&seed_with("bootstrap:\n", user));
    assert_eq!(f.len(), 1);
    assert!(f[0].message.contains("not a role attribute"), "{f:?}");
}

#[test]
fn anchors_and_merge_keys_work() {
    let text = seed_with("scope: otus\n", "x-api: &api {http_extra_headers: {X-A: b}}\nscope: otus\n")
        .replace("restapi:\n", "restapi:\n  <<: *api\n");
    let loaded = read(&text).unwrap();
    assert_eq!(loaded.config.restapi.http_extra_headers["X-A"], "b");
    assert_eq!(loaded.warnings, []);
}

mod dynamic_configuration {
    use super::*;
    use crate::config::dynamic::{check, effective, patch};

    #[test]
    fn patch_merges_replaces_and_deletes() {
        let base = json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": 2}, "use_slots": true}});
        let change = json!({"ttl": null, "loop_wait": 5, "postgresql": {"parameters": {"a": null, "c": [1]}}});
        let merged = patch(&base, &change);
        assert_eq!(
            merged,
            json!({"loop_wait": 5, "postgresql": {"parameters": {"b": 2, "c": [1]}, "use_slots": true}})
        );
        assert_eq!(patch(&json!({"a": 1}), &json!({"a": {"b": {"c": null, "d": 1}}})), json!({"a": {"b": {"d": 1}}}));
        assert_eq!(patch(&json!({"a": {"b": 1}}), &json!({"a": 3})), json!({"a": 3}));
    }

    #[test]
    fn check_reports_values_names_and_parameters() {
        let checked = check(&json!({
            "ttl": 30, "loop_wiat": 10, "whatever": 1, "failsafe_mode": true,
            "postgresql": {"parameters": {"max_connections": 3, "max_wal_sender": 5, "bad name": 1, "port": 1, "work_mem": {"a": 1}}, "pg_hba": {"a": 1}}
        }));
        let faults: Vec<&str> = checked.faults.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            faults,
            [
                "loop_wiat",
                "postgresql.parameters.max_wal_sender",
                "postgresql.parameters.bad name",
                "postgresql.parameters.work_mem",
                "postgresql.parameters.max_connections",
                "postgresql.pg_hba",
            ]
        );
        let warnings: Vec<&str> = checked.warnings.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(warnings, ["whatever", "failsafe_mode", "postgresql.parameters.port"]);
        assert_eq!(check(&json!([1])).faults.len(), 1);
    }

    #[test]
    fn parameters_follow_patronis_precedence() {
        let local = "  parameters: {work_mem: 8MB, max_connections: 500, fsync: off, jit: false, port: 1}\n  bin_dir:";
        let loaded = read(&seed_with("  bin_dir:", local)).unwrap();
        let w: Vec<&str> = loaded.warnings.iter().map(|w| w.path.as_str()).collect();
        assert_eq!(w, ["postgresql.parameters.max_connections", "postgresql.parameters.port"]);
        let dynamic = json!({"postgresql": {
            "use_pg_rewind": true,
            "parameters": {"work_mem": "4MB", "max_connections": 200, "wal_keep_segments": 100, "random_page_cost": 1.1, "wal_level": "minimal"},
            "pg_hba": ["local all all trust"],
        }});
        let e = effective(&loaded.config, &dynamic);
        let p = |name: &str| e.parameters.get(name).map(String::as_str);
        assert_eq!(p("work_mem"), Some("8MB"));
        assert_eq!(p("max_connections"), Some("200"));
        assert_eq!(p("wal_keep_segments"), Some("100"));
        assert_eq!(p("random_page_cost"), Some("1.1"));
        assert_eq!(p("jit"), Some("off"));
        assert_eq!(p("wal_level"), Some("replica"));
        assert_eq!(
            (p("listen_addresses"), p("port"), p("cluster_name")),
            (Some("0.0.0.0"), Some("5432"), Some("otus"))
        );
        assert_eq!(e.pg_hba.as_deref(), Some(&["local all all trust".to_owned()][..]));
        assert!(e.settings.use_pg_rewind);
        assert_eq!(e.problems.len(), 1, "{:?}", e.problems);
    }

    #[test]
    fn file_wins_over_the_dcs_but_for_use_slots() {
        let local = "  use_pg_rewind: off\n  use_slots: false\n  pg_hba: [local all all peer]\n  bin_dir:";
        let config = read(&seed_with("  bin_dir:", local)).unwrap().config;
        let dynamic = json!({"postgresql": {"use_pg_rewind": true, "use_slots": true, "pg_hba": ["x"]}});
        let e = effective(&config, &dynamic);
        assert!(!e.settings.use_pg_rewind && e.settings.use_slots);
        assert_eq!(e.pg_hba.as_deref(), Some(&["local all all peer".to_owned()][..]));
        assert_eq!(e.parameters["wal_keep_segments"], "8");
    }
}

#[test]
fn admin_client_hears_of_a_misspelt_section_it_needs() {
    let text = "scope: otus\nembeded: {path: /tmp/dcs}\n";
    let faults = load(&source(&file(text).path, &[]), Role::Ctl).unwrap_err();
    assert!(faults.to_string().contains("did you mean \"embedded\""), "{faults}");
}

#[test]
fn admin_client_takes_the_members_credentials_unless_it_has_its_own() {
    let basic = |user: &str| format!("authentication: {{username: {user}, password: p}}");
    let user = |text: &str| {
        let loaded = load(&source(&file(text).path, &[]), Role::Ctl).unwrap();
        loaded.config.ctl.authentication.unwrap().username
    };
    let text = format!("embedded: {{path: /tmp/dcs}}\nrestapi: {{{}}}\n", basic("members"));
    assert_eq!(user(&text), "members");
    assert_eq!(user(&format!("{text}ctl: {{{}}}\n", basic("own"))), "own");
}
