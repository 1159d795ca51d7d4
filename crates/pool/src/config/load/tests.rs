//! Tests of loading whole configurations, after what pgbouncer 1.24 does with the same files.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{PoolMode, Secret, SslMode};

/// A directory with files of a test.
struct Site(tempfile::TempDir);

impl Site {
    fn new(ini: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        site.write("p.ini", ini);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file; `DIR` stands for the directory.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text.replace("DIR", &self.0.path().display().to_string())).unwrap();
    }

    fn load(&self) -> Result<Loaded, Faults> {
        Config::load(&self.path("p.ini"))
    }

    /// Faults or warnings without the directory's name.
    fn shown(&self, list: &[Fault]) -> Vec<String> {
        list.iter().map(|fault| fault.to_string().replace(&format!("{}/", self.0.path().display()), "")).collect()
    }
}

/// A configuration that is right, and its warnings.
fn good(ini: &str) -> (Config, Vec<String>) {
    let site = Site::new(ini);
    let loaded = site.load().unwrap_or_else(|faults| panic!("{ini}\n{faults}"));
    (loaded.config, site.shown(&loaded.warnings))
}

fn faults(ini: &str) -> Vec<String> {
    let site = Site::new(ini);
    site.shown(&site.load().unwrap_err().0)
}

#[test]
fn the_configuration_of_an_existing_site_loads_unchanged() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/fixtures/pgbouncer.ini");
    let loaded = Config::load(&path).unwrap();
    let config = loaded.config;
    assert_eq!(config.settings.listen_addr.as_slice(), ["*"]);
    assert_eq!(config.settings.listen_port, 6543);
    assert_eq!(config.settings.auth_type, AuthType::Md5);
    assert_eq!(config.settings.auth_file.as_deref(), Some(Path::new("/etc/pgbouncer/userlist.txt")));
    assert_eq!(config.settings.pidfile.as_deref(), Some(Path::new("/var/run/pgbouncer/pgbouncer.pid")));
    assert_eq!(config.settings.admin_users.as_slice(), ["postgres"]);
    assert_eq!(config.settings.stats_users.as_slice(), ["stats", "postgres"]);
    assert_eq!(config.settings.conffile, path);
    let database = config.database("otus").unwrap();
    assert_eq!(
        (database.name.as_str(), database.dbname.as_str(), database.ports.as_slice()),
        ("otus", "otus", &[5432][..])
    );
    assert_eq!(database.hosts, [Host::Tcp("127.0.0.1".to_owned())]);
    // Whether the machine of the test has that user list is not the matter here.
    assert!(
        loaded.warnings.iter().all(|warning| warning.text.contains("auth file") || warning.text.contains("auth_file"))
    );
}

#[test]
fn an_empty_main_section_gives_the_defaults() {
    let (config, warnings) = good("[pgbouncer]\n");
    let settings = Settings { conffile: config.settings.conffile.clone(), ..Settings::default() };
    assert_eq!(config, Config { settings, ..Config::default() });
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn sections_are_read() {
    let (config, _) = good(
        "[databases]\na = host=h dbname=b\n\"x y\" =\n* = host=f dbname=g\n\
         [users]\nu = pool_mode=statement\n[pgbouncer]\npool_mode = transaction\nquery_timeout = 0.5\n",
    );
    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
    assert_eq!(config.settings.query_timeout, Duration::from_millis(500));
    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["a", "x y"]);
    assert_eq!(config.databases["x y"].hosts, [Host::Unix("/tmp".into())]);
    assert_eq!(config.users["u"].pool_mode, Some(PoolMode::Statement));
    let made = config.database("new").unwrap();
    assert_eq!((made.name.as_str(), made.dbname.as_str()), ("new", "g"));
    assert_eq!(config.database("a").unwrap().dbname, "b");
}

#[test]
fn the_last_of_equals_wins() {
    let (config, _) = good(
        "[databases]\na=host=x pool_size=3\na=port=7\n[pgbouncer]\nverbose=1\nverbose=2\n[users]\nu=pool_size=1\nu=\n",
    );
    assert_eq!(config.settings.verbose, 2);
    assert_eq!((config.databases["a"].pool_size, config.databases["a"].host.as_deref()), (None, None));
    assert_eq!(config.users["u"].pool_size, None);
}

#[test]
fn a_second_main_section_begins_from_the_defaults() {
    let (config, warnings) = good("[pgbouncer]\nverbose=1\n[users]\n[pgbouncer]\nmax_client_conn=7\n");
    assert_eq!((config.settings.verbose, config.settings.max_client_conn), (0, 7));
    assert_eq!(
        warnings,
        ["section [pgbouncer] begins again (p.ini:4): the settings that it had before are back at their defaults"]
    );
}

#[test]
fn every_fault_is_told_at_once_and_in_order() {
    let ini = "x=1\n[pgbouncer]\npool_mod = session\npool_mode = foo\nfoo\nserver_round_robin = yes\n[database]\na=b\n\
               [databases]\na = hots=h password=secret\n[users]\nu = foo=1\n[peers]\n0 = host=h\n";
    let expected = [
        "value without section: x (p.ini:1)",
        "unknown parameter: pgbouncer/pool_mod (p.ini:3): did you mean \"pool_mode\"?",
        "invalid value \"foo\" for parameter pool_mode in configuration (p.ini:4): it takes one of session, transaction, statement",
        "syntax error in configuration (p.ini:5): \"=\" is missing",
        "invalid value \"yes\" for parameter server_round_robin in configuration (p.ini:6): it takes 0 or 1",
        "invalid section \"database\" in configuration (p.ini:7): did you mean \"databases\"?",
        "database a: unrecognized connection parameter: hots in configuration (p.ini:10): did you mean \"host\"?",
        "user u: unrecognized user parameter: foo in configuration (p.ini:12)",
        "peer 0: ids of peers must be a number larger than 0 and at most 16383 in configuration (p.ini:14)",
    ];
    assert_eq!(faults(ini), expected);
}

#[test]
fn a_file_without_a_main_section_is_no_configuration() {
    assert_eq!(faults(""), ["main section missing from config file (p.ini)"]);
    assert_eq!(faults("[databases]\na=\n"), ["main section missing from config file (p.ini)"]);
    let missing = Config::load(Path::new("/nonexistent/p.ini")).unwrap_err();
    assert_eq!(missing.0.len(), 1);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (line, fault) in [
        ("syslog=1", "syslog is not supported (p.ini:2): log to a file or to standard error"),
        ("peer_id=3", "peer_id is not supported (p.ini:2): one process uses all cores"),
        ("auth_type=PAM", "auth_type pam is not supported (p.ini:2)"),
        ("auth_type=ldap", "auth_type ldap is not supported (p.ini:2)"),
        ("auth_type=cert", "auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL (p.ini:2)"),
        ("auth_dbname=pgbouncer", "cannot use the reserved \"pgbouncer\" database as an auth_dbname (p.ini:2)"),
    ] {
        assert_eq!(faults(&format!("[pgbouncer]\n{line}\n")), [fault]);
    }
    assert_eq!(faults("[pgbouncer]\nmetrics_listen=9127\n").len(), 1);
    good("[pgbouncer]\nsyslog=0\npeer_id=0\nmetrics_listen=\nauth_type=cert\nclient_tls_sslmode=verify-full\n");
}

#[test]
fn what_has_no_effect_is_warned_of_by_name() {
    for (line, name) in [
        ("auth_ldap_options=x", "auth_ldap_options"),
        ("client_tls_dheparams=legacy", "client_tls_dheparams"),
        ("dns_zone_check_period=1", "dns_zone_check_period"),
        ("resolv_conf=/etc/r", "resolv_conf"),
        ("pkt_buf=8192", "pkt_buf"),
        ("sbuf_loopcnt=1", "sbuf_loopcnt"),
        ("unix_socket_mode=777", "unix_socket_mode 777 is 1411 in octal"),
    ] {
        let (_, warnings) = good(&format!("[pgbouncer]\n{line}\n"));
        assert_eq!(warnings.len(), 1, "{line}");
        assert!(warnings[0].starts_with(name) && warnings[0].contains("(p.ini:2)"), "{warnings:?}");
    }
    let (config, warnings) = good("[pgbouncer]\n[peers]\n1=host=a\n2=host=b\n");
    assert_eq!((config.peers.len(), warnings.len()), (2, 1));
    let (_, warnings) = good("[pgbouncer]\nunix_socket_dir=\n[databases]\na=\nb=host=c\n");
    assert_eq!(
        warnings,
        ["database a: unix socket dir not configured (p.ini): it has no host; its server is taken to be in /tmp"]
    );
}

#[test]
fn the_files_that_it_names_are_read() {
    let site = Site::new(
        "[pgbouncer]\nauth_type=hba\nauth_file=DIR/users\nauth_hba_file=DIR/hba\nauth_ident_file=DIR/ident\n",
    );
    site.write("users", "\"a\" \"secret\"\nbroken\n");
    site.write("ident", "m root postgres\nm\n");
    site.write("hba", "local all all peer map=m\nhost all all samenet md5\n");
    let Loaded { config, warnings } = site.load().unwrap();
    assert_eq!(config.credentials.get("a"), Some(&Secret::from("secret")));
    assert_eq!(config.credentials.get("b"), None);
    assert!(config.idents.allows("m", "root", "postgres"));
    let attempt = crate::config::Attempt { address: None, tls: false, database: "d", user: "u", replication: false };
    assert!(config.hba.unwrap().matches(&attempt).is_some());
    let places: Vec<String> = warnings.iter().map(|w| format!("{}:{}", w.file.display(), w.line.unwrap())).collect();
    let expected = ["users:2", "ident:2", "hba:2"].map(|name| site.path(name).display().to_string());
    assert_eq!(places, expected);
}

#[test]
fn rules_are_read_only_where_they_are_used() {
    let (config, warnings) = good("[pgbouncer]\nauth_type=trust\nauth_hba_file=/nonexistent/hba\n");
    assert_eq!((config.hba, warnings.len()), (None, 0));
    let (config, warnings) = good("[pgbouncer]\nauth_type=hba\n");
    assert_eq!((config.hba, warnings.len()), (Some(Hba::default()), 1));
    let site = Site::new("[pgbouncer]\nauth_type=hba\nauth_hba_file=DIR/hba\n");
    site.write("hba", "host all all all ldap\n");
    assert_eq!(
        site.shown(&site.load().unwrap_err().0),
        ["could not parse hba config line (hba:1): unsupported method: ldap"]
    );
}

#[test]
fn a_reload_changes_what_may_change_and_warns_of_the_rest() {
    let site = Site::new("[pgbouncer]\nlisten_port=1\nunix_socket_dir=/a\npool_mode=session\n[databases]\nd=\n");
    let config = site.load().unwrap().config;
    site.write("p.ini", "[pgbouncer]\nlisten_port=2\npool_mode=statement\nworkers=0\n[databases]\ne=\n");
    let Loaded { config: new, warnings } = config.reload().unwrap();
    assert_eq!((new.settings.listen_port, new.settings.pool_mode), (1, PoolMode::Statement));
    assert_eq!(new.databases.keys().collect::<Vec<_>>(), ["e"]);
    assert_eq!(new.databases["e"].hosts, [Host::Unix("/a".into())]);
    let expected = [
        "parameter listen_port cannot be changed without a restart (p.ini:2)",
        "parameter unix_socket_dir cannot be changed without a restart (p.ini)",
    ];
    assert_eq!(site.shown(&warnings), expected);
    let changed: Vec<&str> = settings::changes(&config.settings, &new.settings).map(|s| s.name).collect();
    assert_eq!(changed, ["pool_mode"]);
}

#[test]
fn a_reload_takes_back_what_was_set_and_follows_conffile() {
    let site = Site::new("[pgbouncer]\n");
    let mut config = site.load().unwrap().config;
    settings::set(&mut config.settings, "max_client_conn", "7").unwrap();
    assert_eq!(config.reload().unwrap().config.settings.max_client_conn, 100);
    site.write("q.ini", "[pgbouncer]\nmax_client_conn=8\n");
    settings::set(&mut config.settings, "conffile", site.path("q.ini").to_str().unwrap()).unwrap();
    let new = config.reload().unwrap().config.settings;
    assert_eq!((new.max_client_conn, new.conffile), (8, site.path("q.ini")));
    site.write("q.ini", "[pgbouncer]\nfoo=1\n");
    assert_eq!(config.reload().unwrap_err().0.len(), 1);
}

#[test]
fn set_reads_the_files_that_it_is_about() {
    let site = Site::new("[pgbouncer]\npkt_buf=8192\n");
    let mut config = site.load().unwrap().config;
    site.write("users", "\"a\" \"1\"\nbroken\n");
    site.write("hba", "local all all peer map=m\n");
    site.write("ident", "m root all\n");
    let path = |name: &str| site.path(name).display().to_string();
    assert_eq!(config.set("auth_file", &path("users")).unwrap().len(), 1);
    assert!(config.credentials.get("a").is_some());
    assert_eq!(config.set("auth_ident_file", &path("ident")), Ok(vec![]));
    assert_eq!(config.set("auth_hba_file", &path("hba")), Ok(vec![]));
    assert_eq!(config.hba, None);
    assert_eq!(config.set("auth_type", "hba"), Ok(vec![]));
    assert_ne!(config.hba, Some(Hba::default()));
    assert_eq!(config.set("auth_type", "trust"), Ok(vec![]));
    assert_eq!(config.hba, None);
    assert_eq!(config.set("auth_file", ""), Ok(vec![]));
    assert!(config.credentials.is_empty());
}

#[test]
fn set_refuses_what_a_file_could_not_say_either() {
    let site = Site::new("[pgbouncer]\n");
    site.write("hba", "host all all all ldap\n");
    let mut config = site.load().unwrap().config;
    config.set("auth_hba_file", site.path("hba").to_str().unwrap()).unwrap();
    let before = config.clone();
    for (name, value, text) in [
        ("auth_type", "pam", "auth_type pam is not supported"),
        ("auth_type", "cert", "auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL"),
        ("auth_type", "hba", "could not parse hba config line"),
        ("syslog", "1", "syslog is not supported"),
        ("pool_mode", "x", "invalid value \"x\" for parameter pool_mode"),
        ("listen_port", "1", "parameter listen_port cannot be changed without a restart"),
        ("foo", "1", "unknown parameter: pgbouncer/foo"),
    ] {
        let refusal = config.set(name, value).unwrap_err().to_string();
        assert!(refusal.starts_with(text), "{refusal}");
    }
    assert_eq!(config, before);
    assert_eq!(config.set("dns_zone_check_period", "1").unwrap().len(), 1);
    assert_eq!(config.set("verbose", "1"), Ok(vec![]));
}

#[test]
fn modes_of_tls_are_read() {
    let (config, _) = good("[pgbouncer]\nserver_tls_sslmode=verify-ca\nclient_tls_sslmode=Require\n");
    assert_eq!(
        (config.settings.server_tls_sslmode, config.settings.client_tls_sslmode),
        (SslMode::VerifyCa, SslMode::Require)
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(lines in prop::collection::vec("(\\[[a-z]{0,9}\\]|[a-z_*]{0,12} ?=? ?[=a-z0-9' ,.\\PC]{0,20})", 0..8)) {
        // Nothing else is read.
        prop_assume!(!lines.iter().any(|line| line.contains('%') || line.contains('/')));
        let _ = Site::new(&lines.join("\n")).load();
    }

    #[test]
    fn whole_configurations_are_read_back(
        size in any::<u16>(), micros in 0u64..1000, name in "[a-z][ \"a-z]{0,8}", dbname in "[ '=a-z]{1,8}",
    ) {
        let quote = |text: &str, quote: &str| format!("{quote}{}{quote}", text.replace(quote, &quote.repeat(2)));
        let ini = format!(
            "[pgbouncer]\ndefault_pool_size={size}\nquery_timeout={}\n[databases]\n{} = dbname={}\n",
            micros as f64 / 1e6, quote(&name, "\""), quote(&dbname, "'"),
        );
        let (config, _) = good(&ini);
        prop_assert_eq!(config.settings.default_pool_size, u32::from(size));
        prop_assert_eq!(config.settings.query_timeout, Duration::from_micros(micros));
        prop_assert_eq!(&config.databases[&name].dbname, &dbname);
    }
}

#[test]
fn databases_at_clusters_need_to_know_where_those_are_written_down() {
    let entries =
        "[databases]\n* = cluster=otus\nro = cluster=otus role=replica\nx = cluster=two role=any\ny = host=h\n";
    assert_eq!(
        faults(&format!("[pgbouncer]\n{entries}")),
        ["otus", "two"].map(|name| format!(
            "databases are at cluster {name}, and cluster_config is not set (p.ini): it takes the configuration file of \
             an agent of that cluster"
        ))
    );
    let (config, warnings) = good(&format!("[pgbouncer]\ncluster_config=/x.yml\n{entries}"));
    assert_eq!(warnings, Vec::<String>::new());
    let clusters: Vec<_> = config.clusters().into_iter().map(|(name, roles)| (name, roles.leader)).collect();
    assert_eq!(clusters, [("otus".to_owned(), true), ("two".to_owned(), false)]);
    assert_eq!(config.database("any").unwrap().hosts, []);
}
