//! Tests of reading entries, after what pgbouncer 1.24 takes and refuses.

use super::*;
use crate::config::{Role, Secret, Target};

fn database(text: &str) -> (Database, Vec<String>) {
    let mut wrong = Vec::new();
    let database = Database::read("a", text, &mut wrong);
    (database, wrong.into_iter().map(|(text, advice)| format!("{text} {advice}").trim_end().to_owned()).collect())
}

fn good(text: &str) -> Database {
    let (database, wrong) = database(text);
    assert_eq!(wrong, Vec::<String>::new(), "{text}");
    database
}

#[test]
fn an_empty_entry_leaves_everything_to_the_defaults() {
    assert_eq!(good(""), Database { name: "a".into(), dbname: "a".into(), ..Database::default() });
    assert_eq!(Database::read("*", "", &mut Vec::new()).dbname, "");
}

#[test]
fn every_parameter_of_a_database_is_read() {
    let read = good(
        "dbname=d host=h1,/run port=1,2 user=u password='p w' auth_user=au auth_query='select 1' auth_dbname=ad \
         pool_size=1 min_pool_size=2 reserve_pool=3 connect_query='select 2' pool_mode=Statement query_wait_timeout=0.5 \
         load_balance_hosts=disable max_db_connections=4 max_db_client_connections=5 server_lifetime=6 \
         client_encoding=UTF8 datestyle=ISO timezone=UTC application_name=x",
    );
    let expected = Database {
        name: "a".into(),
        dbname: "d".into(),
        host: Some("h1,/run".into()),
        hosts: vec![Host::Tcp("h1".into()), Host::Unix("/run".into())],
        ports: vec![1, 2],
        target: None,
        user: Some("u".into()),
        password: Some(Secret::from("p w")),
        auth_user: Some("au".into()),
        auth_query: Some("select 1".into()),
        auth_dbname: Some("ad".into()),
        pool_size: Some(1),
        min_pool_size: Some(2),
        reserve_pool_size: Some(3),
        connect_query: Some("select 2".into()),
        pool_mode: Some(PoolMode::Statement),
        query_wait_timeout: Some(Duration::from_millis(500)),
        load_balance_hosts: false,
        max_db_connections: Some(4),
        max_db_client_connections: Some(5),
        server_lifetime: Some(Duration::from_secs(6)),
        client_encoding: Some("UTF8".into()),
        datestyle: Some("ISO".into()),
        timezone: Some("UTC".into()),
        application_name: Some("x".into()),
    };
    assert_eq!(read, expected);
}

#[test]
fn every_known_name_is_taken() {
    for key in DATABASE.iter().filter(|key| !crate::config::target::PARAMETERS.contains(key)) {
        let value = match *key {
            "pool_mode" => "session",
            "load_balance_hosts" => "round-robin",
            _ => "7",
        };
        good(&format!("{key}={value}"));
    }
    for key in USER {
        let mut wrong = Vec::new();
        let value = if *key == "pool_mode" { "session" } else { "7" };
        assert_ne!(
            User::read("u", &format!("{key}={value}"), &mut wrong),
            User { name: "u".into(), ..User::default() }
        );
        assert_eq!(wrong, []);
    }
}

#[test]
fn hosts_are_names_addresses_or_sockets() {
    let hosts = |text: &str| good(text).hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(hosts("host=::1"), ["::1"]);
    assert_eq!(hosts("host=[::1]"), ["::1"]);
    assert_eq!(hosts("host='h1, h2,,'"), ["h1", "h2"]);
    assert_eq!(good("host=@x").hosts, [Host::Unix("@x".into())]);
    assert_eq!(good("host='h1, h2'").host.as_deref(), Some("h1, h2"));
    assert_eq!(database("host=,").1, ["host has no name"]);
}

#[test]
fn values_that_leave_it_to_the_general_setting_are_none() {
    let read = good("pool_size=-1 min_pool_size=0 max_db_connections=0 max_db_client_connections=-1 server_lifetime=0");
    assert_eq!((read.pool_size, read.min_pool_size), (None, Some(0)));
    assert_eq!((read.max_db_connections, read.max_db_client_connections, read.server_lifetime), (None, None, None));
}

#[test]
fn everything_wrong_in_an_entry_is_told_without_its_password() {
    let (_, wrong) =
        database("hots=h pool_size=x port=0 pool_mode=foo password=secret server_lifetime=-1 auth_dbname=pgbouncer");
    let expected = [
        "unrecognized connection parameter: hots did you mean \"host\"?",
        "invalid value \"x\" for parameter pool_size",
        "invalid port: 0",
        "invalid pool mode: foo",
        "invalid value \"-1\" for parameter server_lifetime",
        "cannot use the reserved \"pgbouncer\" database as an auth_dbname",
    ];
    assert_eq!(wrong, expected);
    assert_eq!(
        database("password=secret dbname='x").1,
        ["syntax error in connection string the quotes of dbname don't end"]
    );
    assert_eq!(database("host=a port=1,2").1, ["there have to be as many ports as hosts, or one"]);
    assert_eq!(database("port=65536").1, ["invalid port: 65536"]);
    assert_eq!(database("pool_size=-2").1, ["invalid value \"-2\" for parameter pool_size"]);
}

#[test]
fn the_console_s_name_is_reserved() {
    let mut wrong = Vec::new();
    Database::read("pgbouncer", "", &mut wrong);
    assert_eq!(wrong, [("database name \"pgbouncer\" is reserved".to_owned(), String::new())]);
}

#[test]
fn a_password_is_not_in_debugging_output() {
    assert!(!format!("{:?}", good("password=sesame")).contains("sesame"));
}

#[test]
fn users_have_their_own_parameters() {
    let mut wrong = Vec::new();
    let user = User::read("u", "pool_mode=session max_user_connections=3 query_timeout=0.5 foo=1", &mut wrong);
    assert_eq!((user.pool_mode, user.max_user_connections), (Some(PoolMode::Session), Some(3)));
    assert_eq!(user.query_timeout, Some(Duration::from_millis(500)));
    assert_eq!(wrong, [("unrecognized user parameter: foo".to_owned(), String::new())]);
}

#[test]
fn peers_need_a_number_and_a_host() {
    let read = |id: &str, text: &str| {
        let mut wrong = Vec::new();
        (Peer::read(id, text, &mut wrong), wrong.len())
    };
    let peer = Peer { id: 2, host: Host::Unix("/tmp".into()), port: 7, pool_size: Some(3) };
    assert_eq!(read("2", "host=/tmp port=7 pool_size=3"), (Some(peer), 0));
    assert_eq!(read("0", "host=q"), (None, 1));
    assert_eq!(read("x", "host=q"), (None, 1));
    assert_eq!(read("1", "port=5"), (None, 1));
    assert_eq!(read("1", "host=q foo=5").1, 1);
}

#[test]
fn a_cluster_s_role_stands_in_for_hosts() {
    let target = |text: &str| good(text).target.unwrap();
    let leader = Target {
        cluster: "otus".into(),
        role: Role::Leader,
        prefer_local: false,
        max_lag: 16 << 20,
        falls_back: false,
    };
    assert_eq!(target("cluster=otus"), leader);
    assert_eq!(target("cluster=otus role=Leader"), leader);
    assert_eq!(target("cluster=otus role=any"), Target { role: Role::Any, ..leader.clone() });
    let replica = Target { role: Role::Replica, falls_back: true, ..leader };
    assert_eq!(target("role=replica cluster=otus"), replica);
    let chosen = Target { prefer_local: true, max_lag: 3 << 10, falls_back: false, ..replica };
    assert_eq!(target("cluster=otus role=replica prefer=local max_lag=3kB fallback=none"), chosen);
}

#[test]
fn nonsense_about_clusters_is_told() {
    let cases = [
        ("cluster=o host=h", "host and cluster exclude each other"),
        ("cluster=o port=1", "port and cluster exclude each other: a cluster's members name their own"),
        ("cluster=o role=leadr", "invalid value \"leadr\" for parameter role did you mean \"leader\"?"),
        ("cluster=o role=primary", "invalid value \"primary\" for parameter role it takes one of leader, replica, any"),
        (
            "cluster=o role=replica max_lag=x",
            "invalid value \"x\" for parameter max_lag it takes bytes, or a size such as 16MB",
        ),
        ("cluster=o max_lag=1", "max_lag has no meaning with role=leader"),
        ("cluster=o prefer=local", "prefer has no meaning with role=leader"),
        ("cluster=o role=any fallback=none", "fallback has a meaning with role=replica only"),
        ("host=h role=leader", "role has no meaning without cluster"),
        ("clustr=o", "unrecognized connection parameter: clustr did you mean \"cluster\"?"),
    ];
    for (text, expected) in cases {
        assert_eq!(database(text).1, [expected], "{text}");
    }
}
