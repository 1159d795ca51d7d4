//! The admin console's commands: what they do to clients and servers, and their texts.

use anyhow::{Result, ensure};
use harness::pooler::raw::{Batch, Raw, error, tags};
use harness::pooler::{Peer, Setup, World};

use super::{idle_servers, refusal, stays_pending};

/// A session with the console.
async fn admin(world: &World) -> Result<Raw> {
    world.session_as("postgres", "pgbouncer").await
}

#[test]
fn rights_are_those_of_the_settings() -> Result<()> {
    Setup::new().run(async |world| {
        world.allow("not allowed");
        world.allow("admin access needed");
        for (user, command, text) in [
            ("postgres", "SHOW POOLS", None),
            ("postgres", "RELOAD", None),
            ("stats", "SHOW POOLS", None),
            ("stats", "SHOW FDS", Some("ERROR: admin access needed")),
            ("stats", "RELOAD", Some("ERROR: admin access needed")),
            ("stats", "PAUSE", Some("ERROR: admin access needed")),
            ("stats", "SET verbose=1", Some("ERROR: admin access needed")),
            ("stats", "SHUTDOWN", Some("ERROR: admin access needed")),
        ] {
            let mut session = world.session_as(user, "pgbouncer").await?;
            let answers = session.query(command).await?;
            ensure!(error(&answers).as_deref() == text, "{user} {command}: {answers:?}");
        }
        let error = refusal(world.session_as("alice", "pgbouncer").await)?;
        ensure!(error == "FATAL: not allowed", "{error}");
        Ok(())
    })
}

#[test]
fn commands_are_acknowledged_by_name() -> Result<()> {
    Setup::new().run(async |world| {
        let mut admin = admin(world).await?;
        for (command, tag) in [
            ("show version", "SHOW"),
            ("select version", "SHOW"),
            ("RELOAD;", "RELOAD"),
            ("PAUSE", "PAUSE"),
            ("RESUME", "RESUME"),
            ("reconnect", "RECONNECT"),
            ("WAIT_CLOSE", "WAIT_CLOSE"),
            ("SET verbose=0", "SET verbose=0"),
            ("SET stats_period = '30'", "SET stats_period=30"),
        ] {
            let answers = admin.query(command).await?;
            let last = answers.iter().find(|m| m.tag == b'C').map(harness::pooler::raw::Message::command);
            ensure!(last.as_deref() == Some(tag), "{command}: {answers:?}");
        }
        Ok(())
    })
}

#[test]
fn mistakes_are_answered_in_the_known_words() -> Result<()> {
    Setup::new().database("app", "").run(async |world| {
        let mut admin = admin(world).await?;
        for (command, text) in [
            ("NONSENSE", "invalid command 'NONSENSE', use SHOW HELP;"),
            ("SHOW NONSENSE", "invalid command 'SHOW NONSENSE', use SHOW HELP;"),
            ("SHUTDOWN NONSENSE", "invalid command 'SHUTDOWN NONSENSE', use SHOW HELP;"),
            ("PAUSE nowhere", "no such database: nowhere"),
            ("RESUME nowhere", "no such database: nowhere"),
            ("KILL nowhere", "no such database: nowhere"),
            ("DISABLE nowhere", "no such database: nowhere"),
            ("ENABLE nowhere", "no such database: nowhere"),
            ("RECONNECT nowhere", "no such database: nowhere"),
            ("WAIT_CLOSE nowhere", "no such database: nowhere"),
            ("DISABLE", "a database is required"),
            ("RESUME", "pooler is not paused/suspended"),
            ("SET nonsense=1", "SET failed"),
        ] {
            let answers = admin.query(command).await?;
            ensure!(error(&answers) == Some(format!("ERROR: {text}")), "{command}: {answers:?}");
            world.logged(text).await?;
        }
        world.logged("unknown parameter: pgbouncer/nonsense").await
    })
}

#[test]
fn a_client_to_kill_must_be_there() -> Result<()> {
    Setup::new().pgbouncer_at_least(1, 24).run(async |world| {
        let mut admin = admin(world).await?;
        world.allow("client");
        for (command, text) in [
            ("KILL_CLIENT 123456", "ERROR: client not found"),
            ("KILL_CLIENT x", "ERROR: invalid client pointer supplied"),
        ] {
            let answers = admin.query(command).await?;
            ensure!(error(&answers).as_deref() == Some(text), "{command}: {answers:?}");
        }
        Ok(())
    })
}

#[test]
fn help_comes_as_a_notice() -> Result<()> {
    Setup::new().run(async |world| {
        let answers = admin(world).await?.query("SHOW HELP").await?;
        ensure!(tags(&answers) == "NCZ", "{}", tags(&answers));
        ensure!(answers[0].field(b'D').is_some_and(|d| d.contains("SHOW HELP|CONFIG|DATABASES|POOLS")));
        Ok(())
    })
}

/// pgbouncer's console refuses the extended protocol, which some drivers can't do without.
#[test]
fn the_console_speaks_the_extended_protocol() -> Result<()> {
    Setup::new().run(async |world| {
        let mut admin = admin(world).await?;
        if world.peer == Peer::Pgherd {
            let batch = Batch::new().parse("", "SHOW VERSION").describe("").bind("", "", &[]).execute("").sync();
            ensure!(tags(&admin.roundtrip(batch).await?) == "1tT2DCZ");
        } else {
            world.allow("extended query protocol not supported");
            world.allow("bad packet");
            admin.batch(Batch::new().unnamed("SHOW VERSION").sync()).await?;
            let text = admin.last_words().await?;
            ensure!(text == "ERROR: extended query protocol not supported by admin console", "{text}");
        }
        Ok(())
    })
}

#[test]
fn a_pause_waits_for_transactions_and_holds_what_comes_after() -> Result<()> {
    Setup::transaction(2).pgbouncer_at_least(1, 24).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        one.firsts("BEGIN").await?;
        let mut admin = admin(world).await?;
        admin.batch(Batch::new().query("PAUSE")).await?;
        ensure!(stays_pending(admin.message()).await, "a pause didn't wait for a transaction");
        two.batch(Batch::new().query("SELECT 2")).await?;
        ensure!(stays_pending(two.message()).await, "a query began during a pause");
        ensure!(one.value("SELECT 1").await? == "1");
        one.firsts("COMMIT").await?;
        admin.until_ready().await?;
        ensure!(world.postgres.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'alice'").await? == "0");
        one.batch(Batch::new().query("SELECT 1")).await?;
        ensure!(stays_pending(one.message()).await, "a query began in a pause");
        world.session().await?;
        ensure!(&world.console("SHOW STATE").await?[1]["value"] == "yes");
        admin.firsts("RESUME").await?;
        one.until_ready().await?;
        two.until_ready().await?;
        Ok(())
    })
}

#[test]
fn a_pause_in_session_mode_waits_for_the_sessions() -> Result<()> {
    Setup::new().run(async |world| {
        let mut one = world.session().await?;
        one.value("SELECT 1").await?;
        let mut admin = admin(world).await?;
        admin.batch(Batch::new().query("PAUSE")).await?;
        ensure!(stays_pending(admin.message()).await);
        ensure!(one.value("SELECT 1").await? == "1");
        one.batch(Batch::new().terminate()).await?;
        admin.until_ready().await?;
        Ok(())
    })
}

#[test]
fn a_pause_of_one_database_leaves_the_others_alone() -> Result<()> {
    Setup::transaction(2).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session_as("alice", "second").await?);
        one.value("SELECT 1").await?;
        world.console("PAUSE app").await?;
        one.batch(Batch::new().query("SELECT 1")).await?;
        ensure!(stays_pending(one.message()).await);
        ensure!(two.value("SELECT 2").await? == "2");
        let databases = world.console("SHOW DATABASES").await?;
        let paused: Vec<&str> = databases.iter().filter(|d| &d["paused"] == "1").map(|d| &d["name"]).collect();
        ensure!(paused == ["app"]);
        world.console("RESUME app").await?;
        one.until_ready().await?;
        Ok(())
    })
}

#[test]
fn kill_drops_the_clients_of_a_database_and_pauses_it() -> Result<()> {
    Setup::transaction(2).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session_as("alice", "second").await?);
        one.firsts("BEGIN").await?;
        world.allow("database removed");
        world.console("KILL app").await?;
        let text = one.last_words().await?;
        ensure!(text == "FATAL: database removed", "{text}");
        ensure!(two.value("SELECT 2").await? == "2");
        let next = async || world.session().await?.value("SELECT 1").await;
        ensure!(stays_pending(next()).await, "a database that was killed serves");
        world.console("RESUME app").await?;
        next().await.map(drop)
    })
}

#[test]
fn kill_client_drops_one_client() -> Result<()> {
    Setup::transaction(2).pgbouncer_at_least(1, 24).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        one.firsts("SET application_name = 'victim'").await?;
        two.value("SELECT 2").await?;
        let clients = world.console("SHOW CLIENTS").await?;
        let victim = clients.iter().find(|c| &c["application_name"] == "victim").map(|c| c["id"].to_owned());
        world.allow("admin forced disconnect");
        world.console(&format!("KILL_CLIENT {}", victim.unwrap_or_default())).await?;
        let text = one.last_words().await?;
        ensure!(text == "FATAL: admin forced disconnect", "{text}");
        ensure!(two.value("SELECT 2").await? == "2");
        Ok(())
    })
}

#[test]
fn a_disabled_database_takes_no_new_clients() -> Result<()> {
    Setup::transaction(2).database("app", "").run(async |world| {
        let mut one = world.session().await?;
        world.console("DISABLE app").await?;
        world.allow("is disabled");
        let error = refusal(world.session().await)?;
        ensure!(error == "FATAL: database \"app\" is disabled", "{error}");
        ensure!(one.value("SELECT 1").await? == "1");
        world.console("ENABLE app").await?;
        world.session().await?.value("SELECT 1").await?;
        Ok(())
    })
}

#[test]
fn reconnect_replaces_servers_when_they_are_released() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut one = world.session().await?;
        let first = one.backend().await?;
        one.firsts("BEGIN").await?;
        world.console("RECONNECT app").await?;
        ensure!(one.backend().await? == first, "a server in a transaction was replaced");
        let mut admin = admin(world).await?;
        admin.batch(Batch::new().query("WAIT_CLOSE app")).await?;
        ensure!(stays_pending(admin.message()).await, "a server that must be closed is still there");
        one.firsts("COMMIT").await?;
        admin.until_ready().await?;
        ensure!(one.backend().await? != first, "the server was not replaced");
        Ok(())
    })
}

#[test]
fn a_reload_applies_what_was_changed() -> Result<()> {
    Setup::transaction(1).database("app", "").run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        one.firsts("BEGIN").await?;
        two.batch(Batch::new().query("BEGIN")).await?;
        ensure!(stays_pending(two.message()).await);
        world.allow("no such database");
        refusal(world.session_as("alice", "second").await)?;
        world.change(|s| s.set("default_pool_size", 2).database("second", ""))?;
        world.console("RELOAD").await?;
        two.until_ready().await?;
        world.session_as("alice", "second").await?.value("SELECT 1").await?;
        Ok(())
    })
}

#[test]
fn a_database_whose_place_changed_gets_new_servers() -> Result<()> {
    Setup::transaction(1).database("app", "").run(async |world| {
        let mut one = world.session().await?;
        ensure!(one.value("SELECT current_database()").await? == "app");
        world.change(|s| s.database("app", "dbname=second"))?;
        world.console("RELOAD").await?;
        ensure!(one.value("SELECT current_database()").await? == "second");
        Ok(())
    })
}

#[test]
fn a_database_that_was_taken_out_drops_its_clients() -> Result<()> {
    Setup::transaction(1).database("app", "").database("second", "").run(async |world| {
        let mut one = world.session().await?;
        one.value("SELECT 1").await?;
        world.change(|s| s.without_database("app"))?;
        world.allow("database removed");
        world.allow("dropping database 'app'");
        world.allow("no such database");
        world.console("RELOAD").await?;
        let text = one.last_words().await?;
        ensure!(text == "FATAL: database removed", "{text}");
        let error = refusal(world.session().await)?;
        ensure!(error == "FATAL: no such database: app", "{error}");
        Ok(())
    })
}

/// pgbouncer takes defaults for settings that it can't read.
#[test]
fn a_reload_of_a_faulty_file_goes_on_with_what_was() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut one = world.session().await?;
        world.change(|s| s.set("pool_mode", "nonsense"))?;
        world.allow("RELOAD failed");
        world.allow("config file loading failed");
        // pgbouncer 1.24 tells it only to the log.
        if let Err(e) = world.console("RELOAD").await {
            ensure!(e.to_string() == "RELOAD failed, see logs for additional details", "{e:#}");
        }
        world.logged("invalid value \"nonsense\" for parameter pool_mode in configuration").await?;
        ensure!(one.value("SELECT 1").await? == "1");
        let mode = world.pool("alice", "app").await?["pool_mode"].to_owned();
        ensure!(world.peer != Peer::Pgherd || mode == "transaction", "the mode is {mode}");
        Ok(())
    })
}

#[test]
fn set_changes_a_setting_until_the_next_reload() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        one.firsts("BEGIN").await?;
        world.console("SET default_pool_size = 2").await?;
        ensure!(two.value("SELECT 2").await? == "2");
        let config = world.console("SHOW CONFIG").await?;
        let row = config.iter().find(|r| &r["key"] == "default_pool_size");
        ensure!(row.is_some_and(|r| &r["value"] == "2" && &r["default"] == "20" && &r["changeable"] == "yes"));
        Ok(())
    })
}

#[test]
fn suspend_stops_everybody_until_resumed() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut one = world.session().await?;
        one.value("SELECT 1").await?;
        let mut admin = admin(world).await?;
        admin.firsts("SUSPEND").await?;
        one.batch(Batch::new().query("SELECT 1")).await?;
        ensure!(stays_pending(one.message()).await);
        admin.firsts("RESUME").await?;
        one.until_ready().await?;
        Ok(())
    })
}

#[test]
fn idle_servers_are_told_apart_from_those_not_used_for_long() -> Result<()> {
    Setup::transaction(1).set("server_check_delay", 1).run(async |world| {
        let mut one = world.session().await?;
        let backend = one.backend().await?;
        idle_servers(world, 1).await?;
        super::pool_shows(world, "servers not used for long", |p| p.number("sv_used") == 1).await?;
        ensure!(one.backend().await? == backend, "a server that answers the check is not used");
        Ok(())
    })
}
