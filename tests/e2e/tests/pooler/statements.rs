//! Prepared statements of the protocol in transaction mode, where each transaction may be on another server.

use anyhow::{Result, ensure};
use harness::pooler::raw::{Batch, Raw, error, firsts, tags};
use harness::pooler::{Peer, Setup, World};

use super::stays_pending;

/// Two servers, each of which can be had by holding the other.
fn two_servers() -> Setup {
    Setup::transaction(2).set("max_prepared_statements", 100).pgbouncer_at_least(1, 21)
}

/// A session in a transaction on a server, so that others use the other one.
async fn holder(world: &World) -> Result<(Raw, String)> {
    let mut session = world.session().await?;
    session.firsts("BEGIN").await?;
    let backend = session.backend().await?;
    Ok((session, backend))
}

fn run(statement: &str, parameters: &[&str]) -> Batch {
    Batch::new().bind("", statement, parameters).execute("").sync()
}

async fn prepared(session: &mut Raw) -> Result<usize> {
    Ok(session.firsts("SELECT name FROM pg_prepared_statements").await?.len())
}

#[test]
fn a_statement_prepared_on_one_server_runs_on_another() -> Result<()> {
    two_servers().run(async |world| {
        let mut session = world.session().await?;
        let answers = session.roundtrip(Batch::new().parse("mine", "SELECT pg_backend_pid()").sync()).await?;
        ensure!(tags(&answers) == "1Z");
        for _ in 0..2 {
            let backend = firsts(&session.roundtrip(run("mine", &[])).await?).concat();
            // The other session gets the server that this one just used.
            let (_holder, held) = holder(world).await?;
            let other = firsts(&session.roundtrip(run("mine", &[])).await?).concat();
            ensure!(backend == held && other != held, "servers {backend}, {held}, {other}");
        }
        Ok(())
    })
}

#[test]
fn clients_may_give_the_same_name_to_different_statements() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        one.roundtrip(Batch::new().parse("mine", "SELECT 'one'").sync()).await?;
        two.roundtrip(Batch::new().parse("mine", "SELECT 'two'").sync()).await?;
        for _ in 0..2 {
            ensure!(firsts(&one.roundtrip(run("mine", &[])).await?) == ["one"]);
            ensure!(firsts(&two.roundtrip(run("mine", &[])).await?) == ["two"]);
        }
        Ok(())
    })
}

#[test]
fn the_same_statement_of_many_clients_is_prepared_once_a_server() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        let mut sessions = Vec::new();
        for n in 0..5 {
            let mut session = world.session().await?;
            let name = format!("name{n}");
            session.roundtrip(Batch::new().parse(&name, "SELECT $1::int + 1").sync()).await?;
            ensure!(firsts(&session.roundtrip(run(&name, &["41"])).await?) == ["42"]);
            sessions.push(session);
        }
        ensure!(prepared(&mut sessions[0]).await? == 1);
        Ok(())
    })
}

#[test]
fn a_statement_is_described_on_whatever_server() -> Result<()> {
    two_servers().run(async |world| {
        let mut session = world.session().await?;
        session.roundtrip(Batch::new().parse("mine", "SELECT $1::int, 'x'::text").sync()).await?;
        let (_holder, _) = holder(world).await?;
        let answers = session.roundtrip(Batch::new().describe("mine").sync()).await?;
        ensure!(tags(&answers) == "tTZ", "{}", tags(&answers));
        Ok(())
    })
}

#[test]
fn more_statements_than_a_server_may_keep_go_on_working() -> Result<()> {
    Setup::transaction(1).set("max_prepared_statements", 3).pgbouncer_at_least(1, 21).run(async |world| {
        let mut session = world.session().await?;
        for n in 0..10 {
            let sql = format!("SELECT {n}");
            session.roundtrip(Batch::new().parse(&format!("s{n}"), &sql).sync()).await?;
        }
        for n in (0..10).chain((0..10).rev()) {
            ensure!(firsts(&session.roundtrip(run(&format!("s{n}"), &[])).await?) == [n.to_string()]);
        }
        let kept = prepared(&mut session).await?;
        ensure!(kept <= 3, "{kept} statements on the server");
        Ok(())
    })
}

#[test]
fn a_closed_statement_is_gone_and_its_name_is_free() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        let mut session = world.session().await?;
        session.roundtrip(Batch::new().parse("mine", "SELECT 1").sync()).await?;
        let answers = session.roundtrip(Batch::new().close("mine").sync()).await?;
        ensure!(tags(&answers) == "3Z", "{}", tags(&answers));
        session.roundtrip(Batch::new().parse("mine", "SELECT 2").sync()).await?;
        ensure!(firsts(&session.roundtrip(run("mine", &[])).await?) == ["2"]);
        let answers = session.roundtrip(Batch::new().close("nobody's").sync()).await?;
        ensure!(tags(&answers) == "3Z", "closing what is not there is no error: {}", tags(&answers));
        Ok(())
    })
}

/// Sends what is wrong: pgherd answers as PostgreSQL does, pgbouncer closes the connection.
async fn wrong_use(world: &World, mut session: Raw, batch: Batch, own: &str, pgbouncers: &str) -> Result<()> {
    world.allow("prepared statement");
    if world.peer == Peer::Pgherd {
        let answers = session.roundtrip(batch).await?;
        ensure!(error(&answers).as_deref() == Some(own), "{answers:?}");
        ensure!(session.value("SELECT 1").await? == "1");
    } else {
        session.batch(batch).await?;
        ensure!(session.last_words().await? == pgbouncers);
    }
    Ok(())
}

#[test]
fn using_a_statement_that_was_never_prepared_is_an_error() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        let own = "ERROR: prepared statement \"nobody's\" does not exist";
        for batch in [run("nobody's", &[]), Batch::new().describe("nobody's").sync()] {
            let session = world.session().await?;
            wrong_use(world, session, batch, own, "FATAL: prepared statement did not exist").await?;
        }
        Ok(())
    })
}

#[test]
fn preparing_a_name_twice_is_an_error() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        let own = "ERROR: prepared statement \"mine\" already exists";
        let mut session = world.session().await?;
        session.roundtrip(Batch::new().parse("mine", "SELECT 1").sync()).await?;
        let again = Batch::new().parse("mine", "SELECT 2").sync();
        wrong_use(world, session, again, own, "FATAL: prepared statement name is already in use").await
    })
}

/// What PostgreSQL skips was neither prepared nor closed, on whichever side of the Sync it is learnt.
#[test]
fn what_is_skipped_after_an_error_changes_nothing() -> Result<()> {
    Setup::transaction(1).pgherd_only().run(async |world| {
        let (mut session, mut neighbour) = (world.session().await?, world.session().await?);
        session.roundtrip(Batch::new().parse("kept", "SELECT 'kept'").sync()).await?;
        session.roundtrip(Batch::new().parse("failing", "SELECT 1 / $1::int").sync()).await?;
        let fail = || Batch::new().bind("", "failing", &["0"]).execute("");
        // In one go.
        let batch = fail().close("kept").parse("skipped", "SELECT 'skipped'").query("SELECT 'never'").sync();
        let answers = session.roundtrip(batch).await?;
        ensure!(tags(&answers) == "EZ", "{}", tags(&answers));
        // The client knows of the error before it sends the rest.
        session.batch(fail().flush()).await?;
        session.until(b'E').await?;
        let answers = session.roundtrip(Batch::new().close("kept").parse("late", "SELECT 'late'").sync()).await?;
        ensure!(tags(&answers) == "Z", "{}", tags(&answers));
        ensure!(firsts(&session.roundtrip(run("kept", &[])).await?) == ["kept"]);
        // The names are free, and the server doesn't pass for one that has the statements.
        for (name, text) in [("skipped", "SELECT 'skipped'"), ("late", "SELECT 'late'")] {
            for session in [&mut session, &mut neighbour] {
                let batch = Batch::new().parse(name, text).bind("", name, &[]).execute("").sync();
                let answers = session.roundtrip(batch).await?;
                ensure!(firsts(&answers) == [name], "{answers:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn preparing_a_name_twice_fails_the_transaction() -> Result<()> {
    Setup::transaction(1).pgherd_only().run(async |world| {
        let mut session = world.session().await?;
        session.firsts("BEGIN").await?;
        session.roundtrip(Batch::new().parse("mine", "SELECT 1").sync()).await?;
        let answers = session.roundtrip(Batch::new().parse("mine", "SELECT 2").sync()).await?;
        ensure!(tags(&answers) == "EZ" && answers.last().is_some_and(|z| z.body == "E"), "{answers:?}");
        session.firsts("ROLLBACK").await?;
        ensure!(firsts(&session.roundtrip(run("mine", &[])).await?) == ["1"]);
        let answers = session.roundtrip(Batch::new().parse("mine", "SELEKT").sync()).await?;
        ensure!(error(&answers).is_some_and(|e| e.contains("syntax error")), "{answers:?}");
        Ok(())
    })
}

#[test]
fn a_statement_with_a_fault_fails_where_it_is_prepared() -> Result<()> {
    two_servers().run(async |world| {
        let mut session = world.session().await?;
        let answers = session.roundtrip(Batch::new().parse("mine", "SELEKT 1").sync()).await?;
        ensure!(error(&answers).is_some_and(|e| e.contains("syntax error")), "{answers:?}");
        let answers = session.roundtrip(Batch::new().parse("other", "SELECT 1").sync()).await?;
        ensure!(tags(&answers) == "1Z");
        ensure!(firsts(&session.roundtrip(run("other", &[])).await?) == ["1"]);
        Ok(())
    })
}

#[test]
fn deallocate_all_and_discard_all_forget_every_statement() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        for command in ["DEALLOCATE ALL", "DISCARD ALL"] {
            let mut session = world.session().await?;
            let mut neighbour = world.session().await?;
            session.roundtrip(Batch::new().parse("mine", "SELECT 1").sync()).await?;
            neighbour.roundtrip(Batch::new().parse("its", "SELECT 'its'").sync()).await?;
            session.firsts(command).await?;
            let answers = session.roundtrip(Batch::new().parse("mine", "SELECT 2").sync()).await?;
            ensure!(tags(&answers) == "1Z", "the name is taken after {command}");
            ensure!(firsts(&session.roundtrip(run("mine", &[])).await?) == ["2"]);
            ensure!(firsts(&neighbour.roundtrip(run("its", &[])).await?) == ["its"]);
        }
        Ok(())
    })
}

#[test]
fn without_tracking_statements_belong_to_a_server() -> Result<()> {
    two_servers().set("max_prepared_statements", 0).run(async |world| {
        let mut session = world.session().await?;
        session.firsts("BEGIN").await?;
        session.roundtrip(Batch::new().parse("mine", "SELECT 1").sync()).await?;
        ensure!(firsts(&session.roundtrip(run("mine", &[])).await?) == ["1"]);
        ensure!(session.firsts("SELECT name FROM pg_prepared_statements").await? == ["mine"], "it was renamed");
        Ok(())
    })
}

#[test]
fn statements_prepared_by_sql_stay_on_their_server() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        one.firsts("PREPARE plan AS SELECT 42").await?;
        ensure!(two.value("EXECUTE plan").await? == "42");
        Ok(())
    })
}

#[test]
fn a_flush_is_answered_before_the_sync() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        let mut session = world.session().await?;
        session.batch(Batch::new().parse("mine", "SELECT $1::int").describe("mine").flush()).await?;
        ensure!(tags(&session.until(b'T').await?) == "1tT");
        ensure!(stays_pending(session.message()).await);
        let answers = session.roundtrip(run("mine", &["7"])).await?;
        ensure!(firsts(&answers) == ["7"]);
        Ok(())
    })
}
