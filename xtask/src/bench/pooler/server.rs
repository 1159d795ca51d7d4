//! The PostgreSQL behind all poolers: made for the run, with nothing that disturbs a measurement.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::process::Identity;
use harness::{sql, wait_until};
use rustix::process::Signal;
use tokio::process::Child;

use super::site::Site;

/// Longest wait for PostgreSQL to do something.
const PATIENCE: Duration = Duration::from_secs(60);

/// The database that pgbench works in.
pub(super) const DATABASE: &str = "bench";

/// pgbench's scale: 100,000 rows each.
const SCALE: u32 = 10;

/// A running PostgreSQL.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: Ipv4Addr,
    /// What `postgres --version` says.
    pub(super) version: String,
    child: Child,
}

/// What a user list says of the superuser.
#[derive(Debug)]
pub(super) struct Secrets {
    pub(super) md5: String,
    pub(super) scram: String,
}

impl Server {
    /// Starts one with the programs in `programs` and fills its database.
    pub(super) async fn start(site: &Site, programs: &Path) -> Result<Server> {
        let directory = site.server_directory("postgres")?;
        let data = directory.join("data");
        let mut initdb = site.server_command(&programs.join("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]);
        run(initdb).await?;
        let address = site.server_address();
        configure(&data, &directory, address)?;
        let log = fs::File::create(directory.join("log")).context("create PostgreSQL's log")?;
        let mut command = site.server_command(&programs.join("postgres"));
        command.arg("-D").arg(&data).stdout(log.try_clone().context("use PostgreSQL's log")?).stderr(log);
        let child = command.spawn().context("start PostgreSQL")?;
        let version = run({
            let mut command = site.command(&programs.join("postgres"));
            command.arg("--version");
            command
        })
        .await?;
        let server = Server { address, version: version.trim().to_owned(), child };
        let ready = || async { server.query("SELECT 1").await.map(|_| Some(())) };
        wait_until("PostgreSQL answers", PATIENCE, ready).await?;
        server.query(&format!("CREATE DATABASE {DATABASE}")).await?;
        let mut fill = site.command(&programs.join("pgbench"));
        fill.args(["-i", "-q", "-s", &SCALE.to_string(), "-h", &address.to_string(), "-U", "postgres", DATABASE]);
        run(fill).await?;
        server.query("CHECKPOINT").await?;
        Ok(server)
    }

    async fn query(&self, query: &str) -> Result<Vec<Vec<String>>> {
        sql::query_with(&sql::config_at(self.address, 5432, "postgres"), query).await
    }

    /// How many clients it has.
    pub(super) async fn clients(&self) -> Result<u32> {
        let rows = self
            .query(
                "SELECT count(*) FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
            )
            .await?;
        let count = rows.first().and_then(|r| r.first()).context("count PostgreSQL's clients")?;
        count.parse().context("count PostgreSQL's clients")
    }

    /// Waits until no client is left, so that the end of one pooler doesn't disturb the next.
    pub(super) async fn wait_deserted(&self) -> Result<()> {
        let deserted = || async { Ok((self.clients().await? == 0).then_some(())) };
        wait_until("PostgreSQL has no clients", PATIENCE, deserted).await
    }

    /// The superuser's password as each method keeps it. The server itself trusts everybody.
    pub(super) async fn secrets(&self) -> Result<Secrets> {
        let mut secrets = Vec::new();
        for method in ["md5", "scram-sha-256"] {
            let rows = self
                .query(&format!(
                    "SET password_encryption = '{method}'; ALTER ROLE postgres PASSWORD '{}'; \
                     SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'",
                    sql::PASSWORD
                ))
                .await?;
            secrets.push(rows.into_iter().flatten().next().context("read a password's secret")?);
        }
        let [md5, scram] = <[String; 2]>::try_from(secrets).ok().context("read the passwords' secrets")?;
        Ok(Secrets { md5, scram })
    }

    /// Stops it as an administrator would.
    pub(super) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|p| i32::try_from(p).ok()).context("PostgreSQL has ended by itself")?;
        Identity::of(pid).context("PostgreSQL has ended by itself")?.signal(Signal::INT);
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("PostgreSQL doesn't stop")?;
        let status = status.context("wait for PostgreSQL")?;
        if !status.success() {
            bail!("PostgreSQL: {status}");
        }
        Ok(())
    }
}

fn configure(data: &Path, sockets: &Path, address: Ipv4Addr) -> Result<()> {
    let text = format!(
        "listen_addresses = '{address}'\nport = 5432\nunix_socket_directories = '{}'\nmax_connections = 700\n\
         shared_buffers = 256MB\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\nautovacuum = off\n\
         max_wal_size = 4GB\ncheckpoint_timeout = 1d\n",
        sockets.display()
    );
    fs::write(data.join("postgresql.auto.conf"), text).context("configure PostgreSQL")?;
    let rules = "local all all trust\nhost all all 127.0.0.0/8 trust\n";
    fs::write(data.join("pg_hba.conf"), rules).context("configure PostgreSQL")
}

/// Runs a program to its end and returns what it printed; its complaints become the error.
async fn run(mut command: tokio::process::Command) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.stdout(Stdio::piped()).output().await.with_context(|| format!("run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
