//! COPY both ways, and rows and queries of many megabytes.

use anyhow::{Result, ensure};
use harness::pooler::raw::{Batch, error, tags};
use harness::pooler::{Peer, Setup, World};

const TABLE: &str = "CREATE TABLE heap (n int, pad text); GRANT ALL ON heap TO PUBLIC";

/// A row of the tests' table as COPY's text, 100 bytes or a little more.
fn row(n: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(n % 26).unwrap_or(0));
    format!("{n}\t{}\n", letter.to_string().repeat(94))
}

/// What makes the same rows in SQL.
fn rows_in_sql(count: usize) -> String {
    format!("SELECT n, repeat(chr(97 + n % 26), 94) FROM generate_series(1, {count}) n")
}

/// More than the relay's buffers hold, so that it must stop reading now and then.
const MEMORY: u64 = 48 << 20;

/// Fails if the pooler has grown by what passed through it.
fn memory_is_bounded(world: &World) -> Result<()> {
    let memory = world.memory()?;
    ensure!(memory < MEMORY, "the pooler has {} MiB", memory >> 20);
    Ok(())
}

#[test]
fn a_hundred_megabytes_are_copied_out() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        const ROWS: usize = 1_000_000;
        let out = world.psql("", &["-c", &format!("COPY ({}) TO STDOUT", rows_in_sql(ROWS))]).await?.ok()?;
        ensure!(out.len() > 100_000_000);
        let mut rest = &*out;
        for n in 1..=ROWS {
            let expected = row(n);
            let found = rest.strip_prefix(&*expected);
            let Some(after) = found else { anyhow::bail!("row {n} is {:?}", rest.lines().next()) };
            rest = after;
        }
        ensure!(rest.is_empty(), "more rows than expected");
        memory_is_bounded(world)
    })
}

#[test]
fn fifty_megabytes_are_copied_in_by_chunks_of_any_size() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        const ROWS: usize = 500_000;
        world.postgres.sql(TABLE).await?;
        let text: String = (1..=ROWS).map(row).collect();
        let mut session = world.session().await?;
        session.batch(Batch::new().query("COPY heap FROM STDIN")).await?;
        ensure!(tags(&session.until(b'G').await?) == "G");
        let (mut rest, sizes) = (text.as_bytes(), [1, 7, 4091, 4092, 8192, 65_537, 1 << 20]);
        for size in sizes.iter().cycle() {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            session.batch(Batch::new().copy_data(chunk)).await?;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let answers = session.roundtrip(Batch::new().copy_done()).await?;
        ensure!(answers.first().is_some_and(|m| m.command() == format!("COPY {ROWS}")), "{answers:?}");
        let wrong = format!(
            "SELECT count(*) FROM ({}) AS good(n, pad) FULL JOIN heap USING (n, pad) \
            WHERE heap IS NULL OR good IS NULL",
            rows_in_sql(ROWS)
        );
        ensure!(world.postgres.value(&wrong).await? == "0");
        memory_is_bounded(world)
    })
}

#[test]
fn psql_copies_a_file_in() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        world.postgres.sql(TABLE).await?;
        let text: String = (1..=1000).map(row).collect();
        world.psql_with("", &["-c", r"\copy heap FROM STDIN"], text.as_bytes()).await?.ok()?;
        ensure!(world.postgres.value("SELECT count(*) FROM heap").await? == "1000");
        Ok(())
    })
}

#[test]
fn a_copy_that_the_client_gives_up_leaves_nothing() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        world.postgres.sql(TABLE).await?;
        let mut session = world.session().await?;
        session.batch(Batch::new().query("COPY heap FROM STDIN").copy_data(row(1).as_bytes())).await?;
        let answers = session.roundtrip(Batch::new().copy_fail("changed my mind")).await?;
        ensure!(error(&answers).is_some_and(|e| e.contains("changed my mind")), "{answers:?}");
        ensure!(session.value("SELECT count(*) FROM heap").await? == "0");
        Ok(())
    })
}

/// The server has forgotten the COPY, and serves others, while the client still sends data. pgbouncer passes that on to
/// whatever server is free, which the client then keeps, in the end for ever.
#[test]
fn data_after_a_failed_copy_disturbs_nobody() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        world.postgres.sql(TABLE).await?;
        let (mut one, mut two) = (world.session().await?, world.session().await?);
        for _ in 0..if world.peer == Peer::Pgherd { 20 } else { 1 } {
            let answers = one.roundtrip(Batch::new().query("COPY heap FROM STDIN").copy_data(b"not a row\n")).await?;
            ensure!(error(&answers).is_some_and(|e| e.contains("invalid input syntax")), "{answers:?}");
            two.firsts("BEGIN").await?;
            one.batch(Batch::new().copy_data(row(2).as_bytes()).copy_done()).await?;
            ensure!(two.value("SELECT 'two'").await? == "two");
            two.firsts("COMMIT").await?;
            if world.peer == Peer::Pgherd {
                ensure!(two.value("SELECT 'free'").await? == "free");
            }
            ensure!(one.value("SELECT 'one'").await? == "one");
        }
        Ok(())
    })
}

#[test]
fn a_copy_through_the_extended_protocol_works() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        world.postgres.sql(TABLE).await?;
        let mut session = world.session().await?;
        session.batch(Batch::new().unnamed("COPY heap FROM STDIN").flush()).await?;
        ensure!(tags(&session.until(b'G').await?) == "12G");
        let batch = Batch::new().copy_data(row(1).as_bytes()).copy_data(row(2).as_bytes()).copy_done().sync();
        ensure!(tags(&session.roundtrip(batch).await?) == "CZ");
        let out = session.roundtrip(Batch::new().unnamed("COPY heap TO STDOUT").sync()).await?;
        ensure!(tags(&out) == "12HddcCZ", "{}", tags(&out));
        Ok(())
    })
}

#[test]
fn a_client_that_leaves_in_a_copy_leaves_nothing() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        world.postgres.sql(TABLE).await?;
        let mut session = world.session().await?;
        session.batch(Batch::new().query("COPY heap FROM STDIN").copy_data(row(1).as_bytes())).await?;
        session.until(b'G').await?;
        drop(session);
        ensure!(world.session().await?.value("SELECT count(*) FROM heap").await? == "0");
        Ok(())
    })
}

#[test]
fn a_row_of_64_mebibytes_arrives_whole() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let client = world.client().await?;
        let row = client.query_one("SELECT repeat('0123456789abcdef', 4 << 20)", &[]).await?;
        let text: &str = row.get(0);
        ensure!(text.len() == 64 << 20 && text.as_bytes().chunks(16).all(|c| c == b"0123456789abcdef"));
        memory_is_bounded(world)
    })
}

#[test]
fn a_parameter_of_64_mebibytes_arrives_whole() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let client = world.client().await?;
        let text = "0123456789abcdef".repeat(4 << 20);
        let row = client.query_one("SELECT $1 = repeat('0123456789abcdef', 4 << 20)", &[&text]).await?;
        ensure!(row.get::<_, bool>(0));
        memory_is_bounded(world)
    })
}

#[test]
fn a_query_of_16_mebibytes_arrives_whole() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let mut session = world.session().await?;
        let sql = format!("SELECT length('{}')", "x".repeat(16 << 20));
        ensure!(session.value(&sql).await? == (16 << 20).to_string());
        memory_is_bounded(world)
    })
}

/// A message of a client may be refused by its size.
#[test]
fn a_packet_beyond_the_limit_is_refused() -> Result<()> {
    Setup::transaction(1).set("max_packet_size", 100_000).run(async |world| {
        world.allow("bad packet header");
        let mut session = world.session().await?;
        ensure!(session.value(&format!("SELECT length('{}')", "x".repeat(90_000))).await? == "90000");
        session.batch(Batch::new().query(&format!("SELECT length('{}')", "x".repeat(100_000)))).await?;
        let text = session.last_words().await?;
        ensure!(text.starts_with("FATAL: bad packet header: '51"), "{text}");
        Ok(())
    })
}
