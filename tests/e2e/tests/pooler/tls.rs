//! TLS on both sides, and logins by certificate.

use anyhow::{Result, ensure};
use harness::pooler::clients::Output;
use harness::pooler::raw::{SSL, startup};
use harness::pooler::{Peer, Setup, World};

use rustix::process::Signal;

use super::refusal;

/// Code of a request for GSSAPI encryption in the place of a protocol version.
const GSS: i32 = 80_877_104;

/// A pooler that takes TLS from clients in some mode.
fn for_clients(mode: &str) -> Setup {
    let setup = Setup::new().tls().set("client_tls_sslmode", mode).set("client_tls_ca_file", "{dir}/tls/ca.crt");
    setup.set("client_tls_cert_file", "{dir}/tls/server.crt").set("client_tls_key_file", "{dir}/tls/server.key")
}

/// A pooler that uses TLS to its servers in some mode.
fn for_servers(mode: &str) -> Setup {
    Setup::new().tls().set("server_tls_sslmode", mode)
}

/// psql with more connection settings, such as `sslmode=require`.
async fn psql(world: &World, settings: &str) -> Result<Output> {
    world.psql(&format!("user=alice dbname=app {}", world.fill(settings)), &["-c", "SELECT 'in'"]).await
}

#[test]
fn clients_get_what_both_sides_allow() -> Result<()> {
    const NO_TLS: &str = "server does not support SSL, but SSL was required";
    const NEEDED: &str = "FATAL:  SSL required";
    for (mode, settings, text) in [
        ("disable", "sslmode=disable", None),
        ("disable", "sslmode=prefer", None),
        ("disable", "sslmode=require", Some(NO_TLS)),
        ("allow", "sslmode=disable", None),
        ("allow", "sslmode=require", None),
        ("prefer", "sslmode=disable", None),
        ("prefer", "sslmode=verify-ca sslrootcert={dir}/tls/ca.crt", None),
        ("require", "sslmode=disable", Some(NEEDED)),
        ("require", "sslmode=require", None),
        ("require", "sslmode=verify-full sslrootcert={dir}/tls/ca.crt", None),
        ("require", "sslmode=verify-ca sslrootcert={dir}/tls/stranger.crt", Some("certificate verify failed")),
    ] {
        for_clients(mode).run(async |world| {
            world.allow("SSL required");
            world.allow("TLS handshake");
            let output = psql(world, settings).await?;
            match text {
                None => ensure!(output.ok()?.trim() == "in", "{mode} {settings}"),
                Some(text) => {
                    let error = output.refused()?;
                    ensure!(error.contains(text), "{mode} {settings}: {error}");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn clients_must_bring_a_certificate_if_it_is_verified() -> Result<()> {
    let certificate = "sslmode=require sslcert={dir}/tls/alice.crt sslkey={dir}/tls/alice.key";
    for mode in ["verify-ca", "verify-full"] {
        for_clients(mode).run(async |world| {
            ensure!(psql(world, certificate).await?.ok()?.trim() == "in");
            world.allow("TLS");
            psql(world, "sslmode=require sslcert=none").await?.refused()?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_certificate_is_a_login() -> Result<()> {
    for_clients("verify-full").set("auth_type", "cert").run(async |world| {
        let certificate = "sslmode=require sslcert={dir}/tls/alice.crt sslkey={dir}/tls/alice.key password=wrong";
        ensure!(psql(world, certificate).await?.ok()?.trim() == "in");
        world.allow("TLS certificate");
        world.allow("authentication failed");
        let target = world.fill(&format!("user=bob dbname=app {certificate}"));
        let error = world.psql(&target, &["-c", "SELECT 1"]).await?.refused()?;
        ensure!(error.contains("FATAL:  certificate authentication failed"), "{error}");
        Ok(())
    })
}

#[test]
fn the_console_tells_who_uses_tls() -> Result<()> {
    for_clients("allow").run(async |world| {
        let target = world.fill("user=postgres dbname=pgbouncer sslmode=require");
        let out = world.psql(&target, &["-P", "tuples_only=off", "-c", "SHOW CLIENTS"]).await?.ok()?;
        ensure!(out.contains("TLSv1.3/"), "{out}");
        world.logged("tls=TLSv1.3/").await
    })
}

#[test]
fn new_certificates_are_used_after_a_reload() -> Result<()> {
    for_clients("require").run(async |world| {
        let check = "sslmode=verify-full sslcert=none host=localhost hostaddr={pooler} sslrootcert={dir}/tls/ca.crt";
        ensure!(psql(world, check).await?.ok()?.trim() == "in");
        world.renew_certificates("others")?;
        // The authority's file is the client's too, and the pooler still has the old certificate.
        world.allow("TLS handshake error");
        psql(world, check).await?.refused()?;
        world.signal(Signal::HUP)?;
        world.until("the new certificate is used", async || psql(world, check).await?.ok().map(Some)).await?;
        Ok(())
    })
}

#[test]
fn a_request_for_encryption_is_answered_in_one_byte() -> Result<()> {
    for (mode, answer) in [("disable", b'N'), ("allow", b'S')] {
        for_clients(mode).run(async |world| {
            let mut raw = world.raw().await?;
            raw.send(&startup(GSS, b"")).await?;
            ensure!(raw.byte().await? == b'N');
            raw.send(&startup(SSL, b"")).await?;
            ensure!(raw.byte().await? == answer);
            if mode == "disable" {
                // The same connection goes on without.
                raw.log_in(&[("user", "alice"), ("database", "app")], &harness::pooler::password("alice")).await?;
                ensure!(raw.value("SELECT 1").await? == "1");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn servers_are_reached_with_tls_as_told() -> Result<()> {
    let modes =
        [("disable", "f"), ("allow", "t"), ("prefer", "t"), ("require", "t"), ("verify-ca", "t"), ("verify-full", "t")];
    for (mode, uses) in modes {
        for_servers(mode).set("server_tls_ca_file", "{dir}/tls/ca.crt").run(async |world| {
            let ask = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            ensure!(world.session().await?.value(ask).await? == uses, "{mode}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_server_with_a_strangers_certificate_is_not_used() -> Result<()> {
    for mode in ["verify-ca", "verify-full"] {
        let setup = for_servers(mode).set("server_tls_ca_file", "{dir}/tls/stranger.crt");
        setup.set("query_wait_timeout", 1).run(async |world| {
            world.allow("query_wait_timeout");
            world.allow("TLS handshake error");
            refusal(world.session().await)?;
            world.logged(if world.peer == Peer::Pgherd { "UnknownIssuer" } else { "certificate verify failed" }).await
        })?;
    }
    Ok(())
}

#[test]
fn a_server_without_tls_is_refused_if_it_is_required() -> Result<()> {
    let setup = Setup::new().set("server_tls_sslmode", "require").set("query_wait_timeout", 1);
    setup.run(async |world| {
        world.allow("query_wait_timeout");
        refusal(world.session().await)?;
        world.logged("server refused SSL").await
    })
}

#[test]
fn a_server_that_wants_a_certificate_gets_it() -> Result<()> {
    let hba = "local all postgres trust\nhostssl all all 127.0.0.0/8 cert\n";
    let setup = for_servers("verify-full").set("server_tls_ca_file", "{dir}/tls/ca.crt").hba(hba);
    let setup = setup.set("server_tls_cert_file", "{dir}/tls/own.crt").set("server_tls_key_file", "{dir}/tls/own.key");
    setup.without_pooler().run(async |world| {
        // The pooler's own copies: psql's key is this process's alone.
        for kind in ["crt", "key"] {
            world.own_copy(&format!("tls/alice.{kind}"), &format!("tls/own.{kind}"))?;
        }
        world.start_pooler(&[]).await?;
        ensure!(world.session().await?.value("SELECT current_user").await? == "alice");
        Ok(())
    })
}
