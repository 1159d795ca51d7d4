//! The program: its flags, files, signals and ways to end.

use anyhow::{Context, Result, ensure};
use harness::pooler::raw::Batch;
use harness::pooler::{Peer, Setup, World};
use rustix::process::Signal;

use super::{refusal, stays_pending};

/// Exit code for what a person has to put right.
fn bad_configuration(world: &World) -> i32 {
    if world.peer == Peer::Pgherd { 64 } else { 1 }
}

/// Whether new clients are refused a connection.
async fn listens(world: &World) -> bool {
    world.raw().await.is_ok()
}

#[test]
fn interrupt_waits_for_the_servers_in_use() -> Result<()> {
    ends_once_transactions_end(|world| world.signal(Signal::INT))
}

#[test]
fn shutdown_wait_for_servers_does_the_same() -> Result<()> {
    let setup = Setup::transaction(2).pgbouncer_at_least(1, 23);
    setup.run(async |world| {
        let mut one = world.session().await?;
        one.firsts("BEGIN").await?;
        world.console("SHUTDOWN WAIT_FOR_SERVERS").await?;
        ensure!(one.value("SELECT 1").await? == "1");
        ensure!(world.is_up());
        one.firsts("COMMIT").await?;
        ensure!(world.exit_code().await? == 0);
        Ok(())
    })
}

fn ends_once_transactions_end(order: impl Fn(&World) -> Result<()>) -> Result<()> {
    Setup::transaction(2).run(async |world| {
        let (mut one, mut idle) = (world.session().await?, world.session().await?);
        idle.value("SELECT 1").await?;
        one.firsts("BEGIN").await?;
        order(world)?;
        ensure!(one.value("SELECT 1").await? == "1", "a transaction was cut");
        ensure!(world.is_up());
        one.firsts("COMMIT").await?;
        ensure!(world.exit_code().await? == 0);
        idle.until_closed().await?;
        Ok(())
    })
}

#[test]
fn terminate_waits_for_the_clients() -> Result<()> {
    for by_signal in [true, false] {
        Setup::transaction(2).pgbouncer_at_least(1, 23).run(async |world| {
            let (mut one, mut two) = (world.session().await?, world.session().await?);
            one.value("SELECT 1").await?;
            if by_signal {
                world.signal(Signal::TERM)?;
            } else {
                world.console("SHUTDOWN WAIT_FOR_CLIENTS").await?;
            }
            world.until("it listens no more", async || Ok((!listens(world).await).then_some(()))).await?;
            ensure!(two.value("SELECT 2").await? == "2", "a client is not served any more");
            one.batch(Batch::new().terminate()).await?;
            ensure!(two.value("SELECT 2").await? == "2");
            two.batch(Batch::new().terminate()).await?;
            ensure!(world.exit_code().await? == 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn quit_and_shutdown_end_it_at_once() -> Result<()> {
    for by_signal in [true, false] {
        Setup::transaction(2).pgbouncer_at_least(1, 24).run(async |world| {
            let mut one = world.session().await?;
            one.firsts("BEGIN").await?;
            if by_signal {
                world.signal(Signal::QUIT)?;
            } else {
                // The console's connection ends with the rest.
                let _ = world.console("SHUTDOWN").await;
            }
            ensure!(world.exit_code().await? == 0);
            one.until_closed().await?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_second_order_to_end_doesn_t_wait() -> Result<()> {
    Setup::transaction(2).pgbouncer_at_least(1, 23).run(async |world| {
        let mut one = world.session().await?;
        one.firsts("BEGIN").await?;
        world.signal(Signal::INT)?;
        world.logged("got SIGINT").await?;
        ensure!(one.value("SELECT 1").await? == "1");
        world.signal(Signal::INT)?;
        world.exit_code().await?;
        Ok(())
    })
}

#[test]
fn usr1_pauses_and_usr2_resumes() -> Result<()> {
    Setup::transaction(2).pgbouncer_at_least(1, 24).run(async |world| {
        let mut one = world.session().await?;
        one.value("SELECT 1").await?;
        world.signal(Signal::USR1)?;
        world
            .until(
                "it is paused",
                async || Ok((&world.console("SHOW STATE").await?[1]["value"] == "yes").then_some(())),
            )
            .await?;
        one.batch(Batch::new().query("SELECT 1")).await?;
        ensure!(stays_pending(one.message()).await);
        world.signal(Signal::USR2)?;
        one.until_ready().await?;
        Ok(())
    })
}

#[test]
fn hangup_reads_the_files_again() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        world.change(|s| s.set("default_pool_size", 5))?;
        world.signal(Signal::HUP)?;
        world
            .until("the setting is in force", async || {
                let config = world.console("SHOW CONFIG").await?;
                let row = config.iter().find(|r| &r["key"] == "default_pool_size").context("not shown")?;
                Ok((&row["value"] == "5").then_some(()))
            })
            .await
    })
}

#[test]
fn the_pid_file_is_there_while_it_runs() -> Result<()> {
    Setup::new().run(async |world| {
        let file = world.directory().join("pooler/pooler.pid");
        ensure!(std::fs::read_to_string(&file)?.trim() == world.pid()?.to_string());
        world.signal(Signal::INT)?;
        ensure!(world.exit_code().await? == 0);
        ensure!(!file.exists(), "the pid file is left");
        Ok(())
    })
}

#[test]
fn a_second_pooler_leaves_the_first_ones_socket_and_pid_file_alone() -> Result<()> {
    Setup::new().pgbouncer_at_least(1, 24).run(async |world| {
        let status = world.spawn_pooler(&[])?.exit().await?;
        ensure!(status.code() == Some(1), "{status}");
        world.logged("unix socket is in use, cannot continue").await?;
        world.change(|s| s.set("unix_socket_dir", "").set("listen_port", 6544))?;
        let status = world.spawn_pooler(&[])?.exit().await?;
        ensure!(status.code() == Some(1), "{status}");
        world.logged("pooler.pid' exists, another instance running?").await?;
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        Ok(())
    })
}

#[test]
fn a_daemon_goes_on_by_itself_and_logs_to_its_file() -> Result<()> {
    Setup::new().without_pooler().run(async |world| {
        let status = world.spawn_pooler(&["-d"])?.exit().await?;
        ensure!(status.code() == Some(0), "{status}");
        world.until("it listens", async || world.session().await.map(Some)).await?;
        world.logged("process up").await?;
        let pid = std::fs::read_to_string(world.directory().join("pooler/pooler.pid"))?;
        let daemon = harness::process::Identity::of(pid.trim().parse()?).context("find the daemon")?;
        ensure!(daemon.pid != world.pid().unwrap_or(0));
        let parent = harness::process::Stat::read(daemon.pid).context("find the daemon")?.parent;
        ensure!(parent != i32::try_from(std::process::id())?, "it is still a child");
        ensure!(daemon.signal(Signal::INT) && daemon.wait_gone(std::time::Duration::from_secs(10)));
        Ok(())
    })
}

#[test]
fn quiet_prints_nothing_and_verbose_logs_more() -> Result<()> {
    Setup::new().without_pooler().run(async |world| {
        world.start_pooler(&["-q"]).await?;
        world.session().await?.value("SELECT 1").await?;
        ensure!(world.output().is_empty(), "{}", world.output());
        ensure!(!world.log().contains("] DEBUG "));
        world.signal(Signal::INT)?;
        world.exit_code().await?;
        world.start_pooler(&["-v"]).await?;
        world.logged("] DEBUG ").await
    })
}

#[test]
fn version_and_help_need_no_file() -> Result<()> {
    Setup::new().without_pooler().run(async |world| {
        for (flag, text) in [("-V", "."), ("--version", "."), ("-h", "Usage"), ("--help", "--reboot")] {
            let status = world.spawn_with(&[flag])?.exit().await?;
            ensure!(status.code() == Some(0), "{flag}: {status}");
            ensure!(world.output().contains(text), "{flag}: {}", world.output());
        }
        Ok(())
    })
}

#[test]
fn without_a_usable_file_it_ends_and_says_why() -> Result<()> {
    Setup::new().without_pooler().run(async |world| {
        for (ini, text) in [
            ("[pgbouncer]\nlisten_port = nonsense\n", "invalid value \"nonsense\" for parameter listen_port"),
            ("[pgbouncer]\nnonsense = 1\n", "unknown parameter: pgbouncer/nonsense"),
            ("[pgbouncer]\npool_mode = sometimes\n", "invalid value \"sometimes\" for parameter pool_mode"),
            ("[pgbouncer]\nauth_type = nonsense\n", "invalid value \"nonsense\" for parameter auth_type"),
            ("[nonsense]\na = 1\n", "invalid section \"nonsense\""),
            ("[databases]\napp = nonsense=1\n", "unrecognized connection parameter: nonsense"),
            ("[databases]\napp = host=\n", "syntax error in connection string"),
            ("[pgbouncer]\nlisten_port\n", "syntax error in configuration"),
            ("%include {dir}/nowhere.ini\n", "nowhere.ini\": No such file or directory"),
        ] {
            let before = world.output().len();
            world.change(|s| s.ini(ini))?;
            let status = world.spawn_pooler(&[])?.exit().await?;
            let output = world.output();
            let output = output.get(before..).unwrap_or_default();
            output.lines().for_each(|line| world.allow(line));
            ensure!(output.contains(text), "{ini:?}: {output}");
            ensure!(status.code() == Some(bad_configuration(world)), "{ini:?}: {status}");
        }
        Ok(())
    })
}

#[test]
fn a_file_that_is_not_there_or_not_named_ends_it() -> Result<()> {
    Setup::new().without_pooler().run(async |world| {
        for (arguments, text) in [
            (&[][..], "no configuration file specified"),
            (&["/nowhere.ini"], "/nowhere.ini\": No such file or directory"),
            (&["--nonsense"], "--nonsense"),
        ] {
            let status = world.spawn_with(arguments)?.exit().await?;
            for line in world.output().lines() {
                world.allow(line);
            }
            ensure!(status.code() == Some(bad_configuration(world)), "{arguments:?}: {status}");
            ensure!(world.output().contains(text), "{arguments:?}: {}", world.output());
        }
        Ok(())
    })
}

#[test]
fn included_files_are_part_of_the_ini() -> Result<()> {
    let main = "[databases]\n%include {dir}/databases.ini\n[pgbouncer]\n%include {dir}/rest.ini\n";
    let rest = "listen_addr = {pooler}\nlisten_port = 6543\nauth_file = {dir}/userlist.txt\nunix_socket_dir =\n\
        logfile = {dir}/pooler/pooler.log\npool_mode = transaction\nadmin_users = postgres\n";
    let user = if harness::programs::is_root() { "user = postgres\n" } else { "" };
    let setup = Setup::new().ini(main).file("rest.ini", format!("{rest}{user}"));
    setup.file("databases.ini", "app = host={pg}\n").run(async |world| {
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        ensure!(&world.pool("alice", "app").await?["pool_mode"] == "transaction");
        Ok(())
    })
}

#[test]
fn an_address_in_use_ends_it() -> Result<()> {
    Setup::new().without_pooler().pgbouncer_at_least(1, 24).run(async |world| {
        let _listener = std::net::TcpListener::bind(world.tcp())?;
        let status = world.spawn_pooler(&[])?.exit().await?;
        world.allow("failed to listen on any address in listen_addr list");
        ensure!(status.code() == Some(1), "{status}");
        world.logged("Address already in use").await
    })
}

#[test]
fn it_listens_on_every_address_that_is_named() -> Result<()> {
    Setup::new().set("listen_addr", "{pooler}, {pg}").run(async |world| {
        for address in [world.address, world.postgres.address] {
            let mut config = world.config("alice", "app");
            config.hostaddr(address.into());
            let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            client.simple_query("SELECT 1").await?;
        }
        Ok(())
    })
}

#[test]
fn without_an_address_only_the_socket_is_there() -> Result<()> {
    Setup::new().unset("listen_addr").set("unix_socket_mode", "0700").run(async |world| {
        ensure!(!listens(world).await);
        let mut raw = world.raw_unix().await?;
        raw.log_in(&[("user", "alice"), ("database", "app")], &harness::pooler::password("alice")).await?;
        ensure!(raw.value("SELECT 1").await? == "1");
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(world.socket_dir().join(".s.PGSQL.6543"))?.permissions().mode();
        ensure!(mode & 0o777 == 0o700, "{mode:o}");
        Ok(())
    })
}

#[test]
fn as_root_it_wants_another_user() -> Result<()> {
    if !harness::programs::is_root() {
        eprintln!("skipped: only root can be refused");
        return Ok(());
    }
    Setup::new().without_pooler().unset("user").run(async |world| {
        let status = world.spawn_pooler(&[])?.exit().await?;
        world.allow("should not run as root");
        ensure!(status.code() == Some(1), "{status}");
        ensure!(world.output().contains("should not run as root"), "{}", world.output());
        // pgbouncer leaves a log of root's own, which the other user can't write.
        let _ = std::fs::remove_file(world.socket_dir().join("pooler.log"));
        world.start_pooler(&["-u", "postgres"]).await?;
        ensure!(world.session().await?.value("SELECT 1").await? == "1");
        refusal(world.session_as("nobody", "app").await)?;
        world.allow("password authentication failed");
        Ok(())
    })
}
