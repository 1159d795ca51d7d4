//! What the admin console shows.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use harness::pooler::{Peer, Row, Setup, World};

use super::idle_servers;

/// The columns of pgbouncer 1.25; 1.24 has fewer, in the same order.
const COLUMNS: &[(&str, &str)] = &[
    (
        "POOLS",
        "database,user,cl_active,cl_waiting,cl_active_cancel_req,cl_waiting_cancel_req,sv_active,sv_active_cancel,sv_being_canceled,sv_idle,sv_used,sv_tested,sv_login,maxwait,maxwait_us,pool_mode,load_balance_hosts",
    ),
    (
        "STATS",
        "database,total_server_assignment_count,total_xact_count,total_query_count,total_received,total_sent,total_xact_time,total_query_time,total_wait_time,total_client_parse_count,total_server_parse_count,total_bind_count,total_client_login_count,avg_server_assignment_count,avg_xact_count,avg_query_count,avg_recv,avg_sent,avg_xact_time,avg_query_time,avg_wait_time,avg_client_parse_count,avg_server_parse_count,avg_bind_count,avg_client_login_count",
    ),
    (
        "STATS_TOTALS",
        "database,server_assignment_count,xact_count,query_count,bytes_received,bytes_sent,xact_time,query_time,wait_time,client_parse_count,server_parse_count,bind_count,client_login_count",
    ),
    (
        "STATS_AVERAGES",
        "database,server_assignment_count,xact_count,query_count,bytes_received,bytes_sent,xact_time,query_time,wait_time,avg_client_parse_count,avg_server_parse_count,avg_bind_count,avg_client_login_count",
    ),
    ("TOTALS", "name,value"),
    (
        "CLIENTS",
        "type,user,database,replication,state,addr,port,local_addr,local_port,connect_time,request_time,wait,wait_us,close_needed,ptr,link,remote_pid,tls,application_name,prepared_statements,id",
    ),
    (
        "SERVERS",
        "type,user,database,replication,state,addr,port,local_addr,local_port,connect_time,request_time,wait,wait_us,close_needed,ptr,link,remote_pid,tls,application_name,prepared_statements,id",
    ),
    (
        "SOCKETS",
        "type,user,database,replication,state,addr,port,local_addr,local_port,connect_time,request_time,wait,wait_us,close_needed,ptr,link,remote_pid,tls,application_name,prepared_statements,id,recv_pos,pkt_pos,pkt_remain,send_pos,send_remain,pkt_avail,send_avail",
    ),
    (
        "DATABASES",
        "name,host,port,database,force_user,pool_size,min_pool_size,reserve_pool_size,server_lifetime,pool_mode,load_balance_hosts,max_connections,current_connections,max_client_connections,current_client_connections,paused,disabled",
    ),
    ("LISTS", "list,items"),
    (
        "USERS",
        "name,pool_size,reserve_pool_size,pool_mode,max_user_connections,current_connections,max_user_client_connections,current_client_connections",
    ),
    ("CONFIG", "key,value,default,changeable"),
    ("MEM", "name,size,used,free,memtotal"),
    ("VERSION", "version"),
    ("STATE", "key,value"),
    (
        "FDS",
        "fd,task,user,database,addr,port,cancel,link,client_encoding,std_strings,datestyle,timezone,password,scram_client_key,scram_server_key",
    ),
];

/// Columns are checked on psql's header, which is there without rows too.
async fn header(world: &World, what: &str) -> Result<String> {
    let target = "user=postgres dbname=pgbouncer";
    let out = world.psql(target, &["-P", "tuples_only=off", "-F", ",", "-c", &format!("SHOW {what}")]).await?.ok()?;
    Ok(out.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn columns_are_those_that_scripts_read() -> Result<()> {
    Setup::new().pgbouncer_at_least(1, 24).run(async |world| {
        let _session = world.session().await?;
        for (what, expected) in COLUMNS {
            let found = header(world, what).await?;
            let good = match world.peer {
                Peer::Pgbouncer(1, ..25) => is_part_of(&found, expected),
                _ => found == *expected,
            };
            ensure!(good, "SHOW {what}:\n{found}\nexpected:\n{expected}");
        }
        Ok(())
    })
}

fn is_part_of(found: &str, all: &str) -> bool {
    let mut rest = all.split(',');
    found.split(',').all(|name| rest.any(|n| n == name))
}

#[test]
fn a_pool_is_shown_with_what_its_clients_and_servers_do() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        one.firsts("BEGIN").await?;
        two.batch(harness::pooler::raw::Batch::new().query("SELECT 2")).await?;
        super::waiting_clients(world, 1).await?;
        let pool = world.pool("alice", "app").await?;
        for (column, value) in [
            ("cl_active", "1"),
            ("sv_active", "1"),
            ("sv_idle", "0"),
            ("sv_used", "0"),
            ("sv_tested", "0"),
            ("sv_login", "0"),
            ("pool_mode", "transaction"),
        ] {
            ensure!(&pool[column] == value, "{column}: {pool:?}");
        }
        one.firsts("COMMIT").await?;
        two.until_ready().await?;
        idle_servers(world, 1).await?;
        let pool = world.pool("alice", "app").await?;
        ensure!(pool.number("cl_active") == 2 && pool.number("cl_waiting") == 0, "{pool:?}");
        Ok(())
    })
}

/// The totals of a database, once those of the last transactions have been added.
async fn totals(world: &World, database: &str) -> Result<Row> {
    let rows = world.console("SHOW STATS_TOTALS").await?;
    rows.into_iter().find(|r| &r["database"] == database).context("no totals")
}

#[test]
fn statistics_count_what_went_through() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut session = world.session().await?;
        for n in 0..10 {
            session.value(&format!("SELECT {n}, repeat('x', 1000)")).await?;
        }
        session.firsts("BEGIN").await?;
        session.value("SELECT pg_sleep(0.1)").await?;
        session.firsts("COMMIT").await?;
        let row = totals(world, "app").await?;
        ensure!(row.number("xact_count") == 11, "{row:?}");
        ensure!(row.number("query_count") == 13, "{row:?}");
        ensure!(row.number("bytes_sent") > 10_000 && row.number("bytes_received") > 300, "{row:?}");
        ensure!(row.number("xact_time") >= 100_000 && row.number("query_time") >= 100_000, "{row:?}");
        Ok(())
    })
}

#[test]
fn statements_are_counted() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        let client = world.client().await?;
        let statement = client.prepare("SELECT 1").await?;
        for _ in 0..5 {
            client.query(&statement, &[]).await?;
        }
        let row = totals(world, "app").await?;
        ensure!(row.number("client_parse_count") == 1 && row.number("server_parse_count") == 1, "{row:?}");
        ensure!(row.number("bind_count") == 5, "{row:?}");
        Ok(())
    })
}

#[test]
fn clients_and_servers_are_shown_with_their_addresses() -> Result<()> {
    Setup::new().run(async |world| {
        let mut session = world.session().await?;
        let backend = session.backend().await?;
        let find = |rows: Vec<Row>| rows.into_iter().find(|r| &r["user"] == "alice").context("not shown");
        let client = find(world.console("SHOW CLIENTS").await?)?;
        let server = find(world.console("SHOW SERVERS").await?)?;
        for (row, pairs) in [
            (&client, [("type", "C"), ("state", "active"), ("addr", "127.0.0.1"), ("local_port", "6543")]),
            (&server, [("type", "S"), ("state", "active"), ("port", "5432"), ("remote_pid", &*backend)]),
        ] {
            for (name, value) in pairs {
                ensure!(&row[name] == value, "{name}: {row:?}");
            }
        }
        ensure!(server["addr"] == *world.postgres.address.to_string(), "{server:?}");
        ensure!(client["link"] == server["ptr"] && server["link"] == client["ptr"], "{client:?} {server:?}");
        Ok(())
    })
}

#[test]
fn settings_are_shown_as_they_are() -> Result<()> {
    Setup::transaction(7).run(async |world| {
        let config = world.console("SHOW CONFIG").await?;
        let values: BTreeMap<&str, &str> = config.iter().map(|r| (&r["key"], &r["value"])).collect();
        for (key, value) in [
            ("default_pool_size", "7"),
            ("pool_mode", "transaction"),
            ("listen_port", "6543"),
            ("server_idle_timeout", "600"),
            ("max_client_conn", "100"),
            ("auth_type", "md5"),
            ("server_reset_query", "DISCARD ALL"),
            ("admin_users", "postgres"),
        ] {
            ensure!(values.get(key) == Some(&value), "{key}: {:?}", values.get(key));
        }
        Ok(())
    })
}

#[test]
fn databases_and_users_are_shown_with_their_options() -> Result<()> {
    let setup = Setup::new().database("app", "pool_size=3 min_pool_size=1 reserve_pool_size=2 max_db_connections=9");
    setup.user("alice", "pool_mode=statement max_user_connections=4").pgbouncer_at_least(1, 24).run(async |world| {
        let databases = world.console("SHOW DATABASES").await?;
        let app = databases.iter().find(|r| &r["name"] == "app").context("app is not shown")?;
        for (column, value) in [
            ("port", "5432"),
            ("database", "app"),
            ("force_user", ""),
            ("pool_size", "3"),
            ("min_pool_size", "1"),
            ("reserve_pool_size", "2"),
            ("max_connections", "9"),
            ("paused", "0"),
            ("disabled", "0"),
        ] {
            ensure!(&app[column] == value, "{column}: {app:?}");
        }
        let console = databases.iter().find(|r| &r["name"] == "pgbouncer").context("the console is not shown")?;
        ensure!(&console["force_user"] == "pgbouncer" && &console["pool_mode"] == "statement", "{console:?}");
        let users = world.console("SHOW USERS").await?;
        let alice = users.iter().find(|r| &r["name"] == "alice").context("alice is not shown")?;
        ensure!(&alice["pool_mode"] == "statement" && &alice["max_user_connections"] == "4", "{alice:?}");
        Ok(())
    })
}

#[test]
fn lists_count_what_there_is() -> Result<()> {
    Setup::new().database("app", "").run(async |world| {
        let mut session = world.session().await?;
        session.value("SELECT 1").await?;
        let rows = world.console("SHOW LISTS").await?;
        let lists: BTreeMap<&str, &str> = rows.iter().map(|r| (&r["list"], &r["items"])).collect();
        ensure!(lists.get("databases") == Some(&"2") && lists.get("used_servers") == Some(&"1"), "{lists:?}");
        let names: Vec<&&str> = lists.keys().collect();
        for name in ["users", "pools", "free_clients", "used_clients", "login_clients", "free_servers", "dns_names"] {
            ensure!(names.contains(&&name), "{name}: {lists:?}");
        }
        Ok(())
    })
}

#[test]
fn the_version_is_the_programs() -> Result<()> {
    Setup::new().run(async |world| {
        let shown = world.console("SHOW VERSION").await?[0]["version"].to_owned();
        let mut asked = world.spawn_with(&["-V"])?;
        asked.exit().await?;
        let printed = world.output();
        ensure!(printed.lines().any(|l| l == shown), "{shown} is not in {printed}");
        Ok(())
    })
}
