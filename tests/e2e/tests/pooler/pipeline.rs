//! Several queries on their way at the same time.

use anyhow::{Result, ensure};
use harness::pooler::raw::{Batch, firsts, tags};
use harness::pooler::{Peer, Setup};

#[test]
fn pipelined_queries_are_answered_in_order() -> Result<()> {
    for mode in ["session", "transaction"] {
        Setup::transaction(2).set("pool_mode", mode).run(async |world| {
            let mut session = world.session().await?;
            let mut batch = Batch::new();
            for n in 0..1000 {
                batch = batch.parse("", "SELECT $1::int").bind("", "", &[&n.to_string()]).execute("").sync();
            }
            session.batch(batch).await?;
            for n in 0..1000 {
                ensure!(firsts(&session.until_ready().await?) == [n.to_string()]);
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn pipelined_simple_queries_are_answered_in_order() -> Result<()> {
    Setup::transaction(2).run(async |world| {
        let mut session = world.session().await?;
        session.batch((0..100).fold(Batch::new(), |b, n| b.query(&format!("SELECT {n}")))).await?;
        for n in 0..100 {
            ensure!(firsts(&session.until_ready().await?) == [n.to_string()]);
        }
        Ok(())
    })
}

#[test]
fn an_error_skips_the_rest_up_to_the_sync_only() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut session = world.session().await?;
        let bad = |b: Batch| b.unnamed("SELECT 1/(random()*0)::int").unnamed("SELECT 'skipped'").sync();
        let good = |b: Batch| b.unnamed("SELECT 'good'").sync();
        session.batch((0..50).fold(Batch::new(), |b, _| good(bad(b)))).await?;
        for _ in 0..50 {
            let answers = session.until_ready().await?;
            ensure!(tags(&answers) == "12EZ", "{}", tags(&answers));
            ensure!(firsts(&session.until_ready().await?) == ["good"]);
        }
        Ok(())
    })
}

/// What is skipped was never prepared, so its name is free. pgbouncer forgets that and closes the connection.
#[test]
fn an_error_among_statements_skips_only_what_depends_on_it() -> Result<()> {
    Setup::transaction(1).pgbouncer_at_least(1, 24).run(async |world| {
        let mut session = world.session().await?;
        let batch = Batch::new().parse("a", "SELECT 'a'").parse("bad", "SELEKT").parse("b", "SELECT 'b'").sync();
        session.batch(batch.bind("", "a", &[]).execute("").sync()).await?;
        ensure!(tags(&session.until_ready().await?) == "1EZ");
        ensure!(firsts(&session.until_ready().await?) == ["a"]);
        if world.peer == Peer::Pgherd {
            let answers = session.roundtrip(Batch::new().parse("b", "SELECT 'B'").sync()).await?;
            ensure!(tags(&answers) == "1Z", "{answers:?}");
            ensure!(firsts(&session.roundtrip(Batch::new().bind("", "b", &[]).execute("").sync()).await?) == ["B"]);
        }
        Ok(())
    })
}

#[test]
fn a_pipeline_in_a_transaction_stays_on_one_server() -> Result<()> {
    Setup::transaction(3).run(async |world| {
        let mut session = world.session().await?;
        let pid = |b: Batch| b.unnamed("SELECT pg_backend_pid()").sync();
        let batch = (0..5).fold(Batch::new().query("BEGIN"), |b, _| pid(b)).query("COMMIT");
        session.batch(batch).await?;
        let mut pids = Vec::new();
        for _ in 0..7 {
            pids.extend(firsts(&session.until_ready().await?));
        }
        pids.dedup();
        ensure!(pids.len() == 1, "{pids:?}");
        Ok(())
    })
}

#[test]
fn a_query_in_pieces_is_one_query() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut session = world.session().await?;
        let sql = format!("SELECT length('{}')", "x".repeat(10_000));
        for piece in Batch::new().query(&sql).bytes().chunks(3) {
            session.send(piece).await?;
        }
        ensure!(firsts(&session.until_ready().await?) == ["10000"]);
        Ok(())
    })
}

#[test]
fn an_empty_query_and_several_in_one_message_are_answered() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut session = world.session().await?;
        ensure!(tags(&session.query("").await?) == "IZ");
        let answers = session.query("SELECT 1; SELECT 2; SELECT 3").await?;
        ensure!(firsts(&answers) == ["1", "2", "3"]);
        ensure!(tags(&session.roundtrip(Batch::new().sync()).await?) == "Z");
        Ok(())
    })
}
