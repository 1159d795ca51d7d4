//! Server parameters that follow the client from server to server, and those of the startup packet.

use anyhow::{Result, ensure};
use harness::pooler::raw::Raw;
use harness::pooler::{Setup, World, password};

use super::refusal;

/// A session of alice in `app` with more startup parameters.
async fn session_with(world: &World, more: &[(&str, &str)]) -> Result<Raw> {
    let mut raw = world.raw().await?;
    let pairs = [&[("user", "alice"), ("database", "app")], more].concat();
    raw.log_in(&pairs, &password("alice")).await?;
    Ok(raw)
}

/// Parameters that every pooler of this kind tracks, with a value and how the server shows it.
const TRACKED: &[(&str, &str, &str)] = &[
    ("client_encoding", "LATIN1", "LATIN1"),
    ("DateStyle", "German", "German, DMY"),
    ("TimeZone", "Asia/Tokyo", "Asia/Tokyo"),
    ("standard_conforming_strings", "off", "off"),
    ("application_name", "mine", "mine"),
];

#[test]
fn tracked_parameters_of_the_startup_follow_the_client() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        for (name, value, shown) in TRACKED {
            let mut own = session_with(world, &[(name, value)]).await?;
            let mut other = world.session().await?;
            let before = other.value(&format!("SHOW {name}")).await?;
            ensure!(&before != shown, "{name} of another client");
            ensure!(own.value(&format!("SHOW {name}")).await? == *shown, "{name}");
            ensure!(other.value(&format!("SHOW {name}")).await? == before, "{name} after another client");
        }
        Ok(())
    })
}

#[test]
fn tracked_parameters_that_a_client_sets_follow_it() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        for (name, value, shown) in TRACKED {
            let (mut own, mut other) = (world.session().await?, world.session().await?);
            let before = other.value(&format!("SHOW {name}")).await?;
            own.firsts(&format!("SET {name} = '{value}'")).await?;
            ensure!(own.parameters.get(*name).is_some_and(|v| v == shown), "{name} was not told: {:?}", own.parameters);
            ensure!(other.value(&format!("SHOW {name}")).await? == before, "{name} leaked");
            ensure!(own.value(&format!("SHOW {name}")).await? == *shown, "{name} was lost");
        }
        Ok(())
    })
}

#[test]
fn further_parameters_are_tracked_if_told_to() -> Result<()> {
    let setup = Setup::transaction(1).set("track_extra_parameters", "IntervalStyle").pgbouncer_at_least(1, 20);
    setup.run(async |world| {
        let (mut own, mut other) = (world.session().await?, world.session().await?);
        own.firsts("SET IntervalStyle = 'iso_8601'").await?;
        ensure!(other.value("SHOW IntervalStyle").await? == "postgres");
        ensure!(own.value("SHOW IntervalStyle").await? == "iso_8601");
        Ok(())
    })
}

#[test]
fn a_client_is_told_the_servers_parameters() -> Result<()> {
    Setup::new().run(async |world| {
        let session = world.session().await?;
        let version = world.postgres.value("SHOW server_version").await?;
        for (name, value) in [("server_version", &*version), ("integer_datetimes", "on"), ("server_encoding", "UTF8")] {
            ensure!(session.parameters.get(name).is_some_and(|v| v == value), "{name}: {:?}", session.parameters);
        }
        Ok(())
    })
}

#[test]
fn unknown_startup_parameters_are_refused_by_name() -> Result<()> {
    Setup::new().run(async |world| {
        world.allow("unsupported startup parameter: search_path");
        let error = refusal(session_with(world, &[("search_path", "mine")]).await)?;
        ensure!(error == "FATAL: unsupported startup parameter: search_path", "{error}");
        Ok(())
    })
}

#[test]
fn ignored_startup_parameters_are_ignored() -> Result<()> {
    let setup = Setup::new().set("ignore_startup_parameters", "extra_float_digits, search_path, options");
    setup.run(async |world| {
        let more = [("extra_float_digits", "3"), ("search_path", "mine"), ("options", "-c work_mem=1MB")];
        let mut session = session_with(world, &more).await?;
        ensure!(session.value("SHOW search_path").await? != "mine");
        ensure!(session.value("SHOW work_mem").await? == "4MB");
        Ok(())
    })
}

#[test]
fn options_may_hold_tracked_parameters() -> Result<()> {
    Setup::new().pgbouncer_at_least(1, 20).run(async |world| {
        let mut session = session_with(world, &[("options", "-c datestyle=German -c timezone=Asia/Tokyo")]).await?;
        ensure!(session.value("SHOW datestyle").await? == "German, DMY");
        ensure!(session.value("SHOW timezone").await? == "Asia/Tokyo");
        world.allow("unsupported");
        let error = refusal(session_with(world, &[("options", "-c work_mem=1MB")]).await)?;
        ensure!(error == "FATAL: unsupported startup parameter in options: work_mem", "{error}");
        Ok(())
    })
}

#[test]
fn a_database_gives_its_servers_parameters() -> Result<()> {
    let setup = Setup::new().database("app", "client_encoding=LATIN1 datestyle=German timezone=Asia/Tokyo");
    setup.run(async |world| {
        let mut session = world.session().await?;
        ensure!(session.value("SHOW client_encoding").await? == "LATIN1");
        ensure!(session.value("SHOW datestyle").await? == "German, DMY");
        ensure!(session.value("SHOW timezone").await? == "Asia/Tokyo");
        Ok(())
    })
}

#[test]
fn application_names_tell_the_clients_address_if_wanted() -> Result<()> {
    Setup::transaction(1).set("application_name_add_host", 1).run(async |world| {
        let mut session = session_with(world, &[("application_name", "mine")]).await?;
        let name = session.value("SHOW application_name").await?;
        ensure!(name.starts_with("mine - 127.0.0.1:"), "{name}");
        Ok(())
    })
}
