//! Tests of the tables, most of them against what a real pgbouncer sends.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;

use super::*;

/// A row's values as psql shows them without alignment.
fn shown(table: &Table) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::Text(text) => text.to_string(),
        Value::Int4(number) => number.to_string(),
        Value::Int8(number) => number.to_string(),
        Value::Numeric(number) => number.to_string(),
        Value::Bytes(bytes) => format!("{bytes:?}"),
    };
    table.rows.iter().map(|row| row.iter().map(text).collect::<Vec<_>>().join("|")).collect()
}

fn assert_fits(table: &Table, show: Show) {
    use crate::console::table::Type;
    assert_eq!(table.columns, show.columns(), "{show:?}");
    for row in &table.rows {
        assert_eq!(row.len(), table.columns.len(), "{show:?}");
        for (value, column) in row.iter().zip(table.columns) {
            let fits = match value {
                Value::Null => true,
                Value::Text(_) => column.kind == Type::Text,
                Value::Int4(_) => column.kind == Type::Int4,
                Value::Int8(_) => column.kind == Type::Int8,
                Value::Numeric(_) => column.kind == Type::Numeric,
                Value::Bytes(_) => column.kind == Type::Bytea,
            };
            assert!(fits, "{show:?}: {value:?} in {column:?}");
        }
    }
}

#[test]
fn columns_and_types_are_pgbouncers() {
    let peer: BTreeMap<&str, &str> = include_str!("pgbouncer.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    let theirs: Vec<Show> = Show::ALL.into_iter().filter(|show| *show != Show::Clusters).collect();
    assert_eq!(peer.len(), theirs.len());
    for show in theirs {
        let columns: Vec<String> = show.columns().iter().map(|c| format!("{}:{}", c.name, c.kind.oid())).collect();
        assert_eq!(columns.join(" "), peer[show.name()], "{show:?}");
    }
}

fn client() -> SocketRow {
    SocketRow {
        side: Side::Client(ClientState::Waiting),
        user: Some("bob".to_owned()),
        database: Some("app".to_owned()),
        replication: Replication::None,
        addr: Endpoint::Tcp("127.0.0.1:40924".parse().unwrap()),
        local_addr: Endpoint::Tcp("[::1]:6543".parse().unwrap()),
        connect_time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_578_731_424),
        request_time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_578_731_425_999),
        wait: Duration::from_micros(1_301_211),
        close_needed: false,
        ptr: 0x557d_005c_0b10,
        link: None,
        remote_pid: 0,
        tls: "TLSv1.3/TLS_AES_256_GCM_SHA384".to_owned(),
        application_name: "psql".to_owned(),
        prepared_statements: 3,
        id: 8,
        buffers: Buffers { recv_pos: 18, pkt_avail: 17, ..Buffers::default() },
    }
}

#[test]
fn a_client_is_shown_as_by_pgbouncer() {
    let table = SocketRow::listing([client()], &TimeZone::UTC);
    assert_fits(&table, Show::Clients);
    let expected = "C|bob|app|none|waiting|127.0.0.1|40924|::1|6543|2020-01-11 08:30:24 UTC|2020-01-11 08:30:25 UTC\
                    |1|301211|0|0x557d005c0b10||0|TLSv1.3/TLS_AES_256_GCM_SHA384|psql|3|8";
    assert_eq!(shown(&table), [expected]);
}

#[test]
fn a_server_of_an_unknown_user_over_a_unix_socket_is_shown_as_by_pgbouncer() {
    let row = SocketRow {
        side: Side::Server(ServerState::New),
        user: None,
        database: None,
        replication: Replication::Logical,
        addr: Endpoint::Unix(5432),
        local_addr: Endpoint::Unix(5432),
        wait: Duration::ZERO,
        close_needed: true,
        link: Some(0xab),
        remote_pid: 4711,
        tls: String::new(),
        ..client()
    };
    let zone = TimeZone::posix("MSK-3").unwrap();
    let table = SocketRow::table([row], &zone);
    assert_fits(&table, Show::Sockets);
    let expected = "S|(nouser)|(nodb)|logical|sv_login|unix|5432|unix|5432|2020-01-11 11:30:24 MSK|2020-01-11 11:30:25 MSK\
                    |0|0|1|0x557d005c0b10|0xab|4711||psql|3|8|18|0|0|0|0|17|0";
    assert_eq!(shown(&table), [expected]);
}

#[test]
fn an_active_client_without_a_server_is_idle_in_the_list_only() {
    let state = |table: &Table| shown(table)[0].split('|').nth(4).unwrap().to_owned();
    let row = SocketRow { side: Side::Client(ClientState::Active), ..client() };
    assert_eq!(state(&SocketRow::listing([row.clone()], &TimeZone::UTC)), "idle");
    assert_eq!(state(&SocketRow::table([row.clone()], &TimeZone::UTC)), "cl_active");
    let linked = SocketRow { link: Some(1), ..row };
    assert_eq!(state(&SocketRow::listing([linked], &TimeZone::UTC)), "active");
}

#[test]
fn a_pool_splits_its_wait() {
    let row = PoolRow {
        database: "app".to_owned(),
        user: "bob".to_owned(),
        cl_active: 1,
        cl_waiting: 2,
        cl_active_cancel_req: 3,
        cl_waiting_cancel_req: 4,
        sv_active: 5,
        sv_active_cancel: 6,
        sv_being_canceled: 7,
        sv_idle: 8,
        sv_used: 9,
        sv_tested: 10,
        sv_login: 11,
        maxwait: Duration::from_micros(12_000_013),
        pool_mode: "transaction",
        load_balance_hosts: None,
    };
    let table = Table::of([row]);
    assert_fits(&table, Show::Pools);
    assert_eq!(shown(&table), ["app|bob|1|2|3|4|5|6|7|8|9|10|11|12|13|transaction|-"]);
}

#[test]
fn a_database_shows_its_settings_in_force() {
    let row = DatabaseRow {
        name: "other".to_owned(),
        host: Some("a,b".to_owned()),
        port: 5432,
        database: "postgres".to_owned(),
        force_user: None,
        pool_size: 7,
        min_pool_size: 1,
        reserve_pool_size: 2,
        server_lifetime: Duration::from_secs(3600),
        pool_mode: Some("session"),
        load_balance_hosts: Some("round-robin"),
        max_connections: 3,
        current_connections: 4,
        max_client_connections: 5,
        current_client_connections: 6,
        paused: true,
        disabled: false,
    };
    let table = Table::of([row]);
    assert_fits(&table, Show::Databases);
    assert_eq!(shown(&table), ["other|a,b|5432|postgres|-|7|1|2|3600|session|round-robin|3|4|5|6|1|0"]);
}

#[test]
fn a_users_own_sizes_are_aligned_texts() {
    let row = UserRow {
        name: "bob".to_owned(),
        pool_size: Some(12),
        reserve_pool_size: None,
        pool_mode: None,
        max_user_connections: 9,
        current_connections: 1,
        max_user_client_connections: 50,
        current_client_connections: 2,
    };
    let table = Table::of([row]);
    assert_fits(&table, Show::Users);
    assert_eq!(shown(&table), ["bob|       12||-|9|1|50|2"]);
}

#[test]
fn the_small_tables_fit_their_columns() {
    let config = ConfigRow { key: "verbose", value: Some("0".to_owned()), default: None, changeable: true };
    let mem = MemRow { name: "client_cache", size: 704, used: 1, free: 49, memtotal: 35200 };
    let peer = PeerRow { peer_id: 3, host: None, port: 6432, pool_size: 20 };
    let peer_pool =
        PeerPoolRow { peer_id: 3, cl_active_cancel_req: 1, cl_waiting_cancel_req: 2, sv_active_cancel: 3, sv_login: 4 };
    let addrs = ["203.0.113.80".parse().unwrap(), "2001:db8::1".parse().unwrap()].to_vec();
    let host = DnsHostRow { hostname: "db".to_owned(), ttl: Duration::from_millis(12_900), addrs };
    let zone = DnsZoneRow { zonename: "example.org".to_owned(), serial: u32::MAX, count: 1 };
    let tables = [
        (Show::Config, Table::of([config]), "verbose|0|-|yes"),
        (Show::Mem, Table::of([mem]), "client_cache|704|1|49|35200"),
        (Show::Peers, Table::of([peer]), "3|-|6432|20"),
        (Show::PeerPools, Table::of([peer_pool]), "3|1|2|3|4"),
        (Show::DnsHosts, Table::of([host]), "db|12|203.0.113.80:0,[2001:db8::1]:0"),
        (Show::DnsZones, Table::of([zone]), "example.org|4294967295|1"),
    ];
    for (show, table, expected) in tables {
        assert_fits(&table, show);
        assert_eq!(shown(&table), [expected]);
    }
}

fn fd() -> FdRow {
    FdRow {
        fd: 9,
        task: "client",
        user: Some("bob".to_owned()),
        database: Some("app".to_owned()),
        addr: "127.0.0.1".to_owned(),
        port: 40924,
        cancel: u64::MAX,
        link: 0,
        client_encoding: Some("UTF8".to_owned()),
        std_strings: Some("on".to_owned()),
        datestyle: Some("ISO, MDY".to_owned()),
        timezone: Some("Etc/UTC".to_owned()),
        password: Some("md5secret".to_owned()),
        scram_client_key: Some(vec![1, 2]),
        scram_server_key: None,
    }
}

#[test]
fn an_fd_row_shows_secrets_to_the_console_and_to_nobody_else() {
    let table = Table::of([fd()]);
    assert_fits(&table, Show::Fds);
    let expected = "9|client|bob|app|127.0.0.1|40924|-1|0|UTF8|on|ISO, MDY|Etc/UTC|md5secret|[1, 2]|-";
    assert_eq!(shown(&table), [expected]);
    let debugged = format!("{:?}", fd());
    assert!(debugged.contains("bob") && !debugged.contains("md5secret") && !debugged.contains("18446744073709551615"));
}

#[test]
fn lists_and_state_are_a_row_a_thing() {
    let lists = ListCounts { databases: 4, dns_pending: 14, ..ListCounts::default() }.table();
    assert_fits(&lists, Show::Lists);
    let expected = [
        "databases|4",
        "users|0",
        "peers|0",
        "pools|0",
        "peer_pools|0",
        "free_clients|0",
        "used_clients|0",
        "login_clients|0",
        "free_servers|0",
        "used_servers|0",
        "dns_names|0",
        "dns_zones|0",
        "dns_queries|0",
        "dns_pending|14",
    ];
    assert_eq!(shown(&lists), expected);
    let state = State::Paused.table();
    assert_fits(&state, Show::State);
    assert_eq!(shown(&state), ["active|no", "paused|yes", "suspended|no"]);
}

#[test]
fn statistics_fit_their_columns_in_order() {
    let counters = |first: u64| Counters {
        server_assignment_count: first,
        xact_count: first + 1,
        query_count: first + 2,
        bytes_received: first + 3,
        bytes_sent: first + 4,
        xact_time: Duration::from_micros(first + 5),
        query_time: Duration::from_micros(first + 6),
        wait_time: Duration::from_micros(first + 7),
        client_parse_count: first + 8,
        server_parse_count: first + 9,
        bind_count: first + 10,
        client_login_count: first + 11,
    };
    let (total, average) = (counters(100), counters(200));
    let row = StatsRow { database: "app".to_owned(), total, average };
    let sums = "100|101|102|103|104|105|106|107|108|109|110|111";
    let averages = "200|201|202|203|204|205|206|207|208|209|210|211";
    let tables = [
        (Show::Stats, StatsRow::table([row.clone()]), format!("app|{sums}|{averages}")),
        (Show::StatsTotals, StatsRow::totals([row.clone()]), format!("app|{sums}")),
        (Show::StatsAverages, StatsRow::averages([row]), format!("app|{averages}")),
    ];
    for (show, table, expected) in tables {
        assert_fits(&table, show);
        assert_eq!(shown(&table), [expected]);
    }
    let table = Counters::table(&total, &average);
    assert_fits(&table, Show::Totals);
    let rows = shown(&table);
    assert_eq!(rows.len(), 24);
    assert_eq!(rows[3], "total_client_bytes|103");
    assert_eq!(rows[4], "total_server_bytes|104");
    assert_eq!(rows[8], "total_ps_client_parse_count|108");
    assert_eq!(rows[12], "avg_server_assignment_count|200");
    assert_eq!(rows[23], "avg_client_login_count|211");
}

#[test]
fn a_cluster_is_shown_with_its_leader_or_without() {
    let row = ClusterRow {
        cluster: "otus".to_owned(),
        leader: None,
        state: "no leader",
        epoch: 7,
        members: 3,
        replicas: 2,
        clients_held: 4,
        holds: 1,
        hold_time: Duration::from_millis(230),
        cuts: 0,
    };
    let table = Table::of([row]);
    assert_fits(&table, Show::Clusters);
    assert_eq!(shown(&table), ["otus|-|no leader|7|3|2|4|1|230000|0"]);
}
