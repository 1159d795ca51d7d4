//! Clients that do what they shouldn't: each is cut with the known text, and nobody else notices.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::pooler::raw::{Batch, Raw, V3_0, error, firsts, parameters, startup};
use harness::pooler::{Setup, World};

/// Fails unless an ordinary client is served.
async fn others_are_served(world: &World) -> Result<()> {
    ensure!(world.session().await?.value("SELECT 1").await? == "1");
    Ok(())
}

/// Sends bytes in the place of a startup packet and returns what is said before the connection is closed.
async fn greet(world: &World, bytes: &[u8]) -> Result<String> {
    let mut raw = world.raw().await?;
    // It may be closed before all was sent.
    let _ = raw.send(bytes).await;
    Ok(error(&raw.until_closed().await?).unwrap_or_default())
}

#[test]
fn what_is_no_startup_packet_is_refused() -> Result<()> {
    Setup::new().set("client_login_timeout", 1).run(async |world| {
        world.allow("pooler error: ");
        let user = parameters(&[("user", "alice"), ("database", "app")]);
        for (what, bytes, text) in [
            ("zeros", vec![0; 64], "FATAL: bad packet header: '0000000000000000'"),
            ("2 GiB", [&[0x7f, 0xff, 0xff, 0xff], &user[..]].concat(), "FATAL: bad packet header: '7fffffff"),
            ("a negative length", [&[0xff; 4], &user[..]].concat(), "FATAL: bad packet header: 'ffffffff"),
            ("a length of 4", vec![0, 0, 0, 4, 0, 3, 0, 0], "FATAL: bad packet header: '0000000400030000'"),
            ("protocol 2", startup(2 << 16, &user), "FATAL: old V2 protocol not supported"),
            ("protocol 4", startup(4 << 16, &user), "FATAL: "),
            ("no user", startup(V3_0, &parameters(&[("database", "app")])), "FATAL: no username supplied"),
            ("half a parameter", startup(V3_0, b"user\0alice"), "FATAL: no username supplied"),
            ("a megabyte", startup(V3_0, &vec![b'x'; 1 << 20]), ""),
        ] {
            let told = greet(world, &bytes).await?;
            ensure!(told.starts_with(text), "{what}: {told}");
            others_are_served(world).await?;
        }
        Ok(())
    })
}

/// pgbouncer takes `GET ` for the length of a packet and waits for the rest.
#[test]
fn a_web_browser_is_cut_in_time() -> Result<()> {
    Setup::new().set("client_login_timeout", 1).run(async |world| {
        world.allow("pooler error: ");
        let told = greet(world, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        ensure!(told.starts_with("FATAL: "), "{told}");
        others_are_served(world).await
    })
}

#[test]
fn garbage_in_a_session_is_refused() -> Result<()> {
    Setup::transaction(2).run(async |world| {
        world.allow("bad packet header");
        world.allow("unknown pkt");
        for (what, bytes, text) in [
            ("an unknown type", Batch::new().message(b'?', b"what").bytes().to_vec(), "FATAL: unknown pkt"),
            ("2 GiB", vec![b'Q', 0x7f, 0xff, 0xff, 0xff, 0, 0, 0], "FATAL: bad packet header: '517fffffff000000'"),
            ("a negative length", vec![b'Q', 0xff, 0xff, 0xff, 0xff, 0, 0, 0], "FATAL: bad packet header: '51ffffffff"),
            ("a length of 3", vec![b'Q', 0, 0, 0, 3, 0, 0, 0], "FATAL: bad packet header: '5100000003000000'"),
            ("zeros", vec![0; 64], "FATAL: bad packet header: '0000000000000000'"),
        ] {
            let mut session = world.session().await?;
            session.value("SELECT 1").await?;
            session.send(&bytes).await?;
            let told = session.last_words().await?;
            ensure!(told.starts_with(text), "{what}: {told}");
            others_are_served(world).await?;
        }
        Ok(())
    })
}

/// The announced length of a message costs nothing: only what is sent counts.
#[test]
fn messages_that_claim_two_gibibytes_cost_no_memory() -> Result<()> {
    Setup::transaction(5).set("max_client_conn", 100).run(async |world| {
        let before = world.memory()?;
        let mut sessions: Vec<Raw> = Vec::new();
        for _ in 0..20 {
            let mut session = world.session().await?;
            session.send(&[b'Q', 0x7f, 0xff, 0xff, 0xfe]).await?;
            let _ = session.send(&[b'x'; 10_000]).await;
            sessions.push(session);
        }
        let grown = world.memory()?.saturating_sub(before);
        ensure!(grown < 24 << 20, "it grew by {} MiB", grown >> 20);
        drop(sessions);
        world.allow("bad packet header");
        // PostgreSQL refuses the length.
        world.allow("server conn");
        others_are_served(world).await
    })
}

/// Its server is held up, as on a direct connection; memory isn't.
#[test]
fn clients_that_never_read_their_results_cost_no_memory() -> Result<()> {
    Setup::transaction(8).run(async |world| {
        let before = world.memory()?;
        let mut sessions = Vec::new();
        for _ in 0..5 {
            let mut session = world.session().await?;
            session.batch(Batch::new().query("SELECT repeat('x', 1000), generate_series(1, 10000000)")).await?;
            sessions.push(session);
        }
        // All of them are stuck once their servers wait for the socket.
        let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND usename = 'alice'";
        world.until("the servers wait", async || Ok((world.postgres.value(stuck).await? == "5").then_some(()))).await?;
        let grown = world.memory()?.saturating_sub(before);
        ensure!(grown < 16 << 20, "it grew by {} MiB", grown >> 20);
        others_are_served(world).await?;
        drop(sessions);
        world
            .until("the servers are freed", async || {
                let left = "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'repeat' AND state = 'active' AND usename = 'alice'";
                Ok((world.postgres.value(left).await? == "0").then_some(()))
            })
            .await
    })
}

#[test]
fn a_client_that_sends_without_end_before_it_reads_is_served() -> Result<()> {
    Setup::transaction(1).run(async |world| {
        let before = world.memory()?;
        let mut session = world.session().await?;
        let batch = (0..5000).fold(Batch::new(), |b, _| b.query("SELECT repeat('x', 10000)"));
        let (mut sent, bytes) = (0, batch.bytes());
        // Sends as long as somebody takes it.
        while sent < bytes.len() {
            let piece = &bytes[sent..(sent + 1000).min(bytes.len())];
            match tokio::time::timeout(Duration::from_millis(500), session.send(piece)).await {
                Ok(result) => result?,
                Err(_) => break,
            }
            sent += piece.len();
        }
        let grown = world.memory()?.saturating_sub(before);
        ensure!(grown < 16 << 20, "it grew by {} MiB", grown >> 20);
        session.until_ready().await?;
        Ok(())
    })
}

/// As in pgbouncer, a client counts until the pooler has come to see that it left.
#[test]
fn clients_that_connect_and_leave_at_once_disturb_nobody() -> Result<()> {
    Setup::transaction(2).set("max_client_conn", 300).run(async |world| {
        for n in 0..200 {
            let mut raw = world.raw().await?;
            if n % 2 == 0 {
                raw.send(&startup(V3_0, &parameters(&[("user", "alice"), ("database", "app")]))).await?;
            }
            drop(raw);
        }
        others_are_served(world).await?;
        world
            .until("they are gone", async || {
                let clients = world.console("SHOW CLIENTS").await?;
                Ok((clients.len() == 1).then_some(()))
            })
            .await
    })
}

/// Each client asks for what only it asks for, and leaves somewhere on the way.
#[test]
fn clients_that_leave_at_any_moment_leave_no_answers_to_others() -> Result<()> {
    Setup::transaction(3).pgbouncer_at_least(1, 24).run(async |world| {
        let rounds = async |client: usize| {
            for round in 0..30 {
                let mut session = world.session().await?;
                let mark = |n: usize| format!("{client} {round} {n}");
                let ask = |n: usize| format!("SELECT '{}', repeat('x', {})", mark(n), 1 + (round * 7919) % 20_000);
                session.batch((0..5).fold(Batch::new(), |b, n| b.query(&ask(n)))).await?;
                for n in 0..(client + round) % 6 {
                    ensure!(firsts(&session.until_ready().await?) == [mark(n)], "another client's answer");
                }
            }
            Ok(())
        };
        futures::future::try_join_all((0..12).map(rounds)).await?;
        others_are_served(world).await
    })
}

#[test]
fn a_thousand_clients_are_held() -> Result<()> {
    Setup::transaction(5).set("max_client_conn", 1100).run(async |world| {
        let mut sessions = Vec::new();
        for _ in 0..1000 {
            sessions.push(world.session().await?);
        }
        for session in &mut sessions {
            session.batch(Batch::new().query("SELECT 1")).await?;
        }
        for session in &mut sessions {
            session.until_ready().await?;
        }
        let memory = world.memory()?;
        ensure!(memory < 64 << 20, "{} MiB", memory >> 20);
        Ok(())
    })
}

/// pgbouncer 1.24 knows only 3.0.
#[test]
fn newer_protocols_are_negotiated() -> Result<()> {
    Setup::new().pgherd_only().run(async |world| {
        let options = [("user", "alice"), ("database", "app"), ("_pq_.nonsense", "on")];
        for (minor, more) in [(2, false), (9999, false), (0, true), (2, true)] {
            let pairs = if more { &options[..] } else { &options[..2] };
            let mut raw = world.raw().await?;
            raw.send(&startup(V3_0 + minor, &parameters(pairs))).await?;
            let first = raw.message().await?;
            let negotiates = minor == 9999 || more;
            ensure!((first.tag == b'v') == negotiates, "3.{minor}: {first:?}");
            if more {
                ensure!(first.body.ends_with(b"_pq_.nonsense\0"), "{first:?}");
            }
        }
        Ok(())
    })
}
