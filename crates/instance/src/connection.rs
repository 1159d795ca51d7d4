//! Connections of the managing user to the local server. What is asked over them is in the modules that ask.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::error::Error;
use crate::instance::{Inner, Instance};

/// How long a connection may take to be made.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long a management statement may take that waits for nothing but the server itself.
pub(crate) const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

impl Inner {
    /// Ways to reach the local server, one after the other: the Unix socket where its place is known, then TCP.
    fn ways(&self) -> (tokio_postgres::Config, Vec<tokio_postgres::Config>) {
        let mut config = tokio_postgres::Config::new();
        let user = &self.options.superuser;
        config
            .user(&user.username)
            .dbname("postgres")
            .application_name("pgherd")
            .port(self.listen.port)
            .ssl_mode(SslMode::Disable)
            .connect_timeout(CONNECT_LIMIT)
            // Nothing of ours may wait for a standby, and no site's time-out may end it.
            .options("-c synchronous_commit=local -c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0 -c timezone=UTC -c datestyle=ISO -c search_path=pg_catalog");
        if self.programs.version.major() < 14 {
            config.options("-c synchronous_commit=local -c statement_timeout=0 -c lock_timeout=0 -c timezone=UTC -c datestyle=ISO -c search_path=pg_catalog");
        }
        if let Some(password) = &user.password {
            config.password(password);
        }
        let mut ways: Vec<tokio_postgres::Config> =
            self.socket_dirs().into_iter().map(|dir| config.clone().host_path(dir).clone()).collect();
        let tcp = config.host(self.listen.local_host()).clone();
        if self.options.use_unix_socket && !ways.is_empty() {
            ways.push(tcp);
            (ways.remove(0), ways)
        } else {
            (tcp, ways)
        }
    }

    /// Directories that may hold the server's socket, likeliest first.
    pub(crate) fn socket_dirs(&self) -> Vec<PathBuf> {
        let mut dirs = Vec::new();
        if let Some(p) = self.alive()
            && let Some(dir) = p.socket_dir.lock().unwrap_or_else(PoisonError::into_inner).clone()
        {
            dirs.push(dir);
        }
        dirs.extend(self.options.socket_dir.clone());
        if let Some(list) = self.lock_state().conf.parameters.get("unix_socket_directories") {
            dirs.extend(list.split(',').map(|d| PathBuf::from(d.trim().trim_matches('"'))));
        }
        dirs.retain(|d| d.is_absolute());
        let mut seen = Vec::new();
        dirs.retain(|d| !seen.contains(d) && (seen.push(d.clone()), true).1);
        dirs
    }

    /// The reserved connection where that answers, else a new one.
    pub(crate) async fn client(&self) -> Result<Arc<Client>, Error> {
        match self.probes.answering() {
            Some(client) => Ok(client),
            None => self.connect().await.map(Arc::new),
        }
    }

    /// A new connection, bounded in time.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        let (first, others) = self.ways();
        match tokio::time::timeout(CONNECT_LIMIT, connect_by(&first, &others)).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(e)) => Err(Error::sql("connect to PostgreSQL", &e)),
            Err(_) => Err(Error::TimedOut { what: "a connection to PostgreSQL".into(), limit: CONNECT_LIMIT }),
        }
    }
}

impl Instance {
    /// Runs a statement on a new connection and returns its rows.
    pub(crate) async fn rows(&self, context: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        let client = self.0.connect().await?;
        rows(&client, context, sql, STATEMENT_LIMIT).await
    }
}

/// By the first way that works.
async fn connect_by(
    way: &tokio_postgres::Config,
    others: &[tokio_postgres::Config],
) -> Result<Client, tokio_postgres::Error> {
    match way.connect(NoTls).await {
        Ok((client, connection)) => {
            tokio::spawn(async move {
                // Its end shows at the client's next statement.
                let _ = connection.await;
            });
            Ok(client)
        }
        Err(e) => match others.split_first() {
            // Where a server that starts says so, another way to it tells nothing better: it may be up by then, and refuse
            // what the first way is for.
            Some((next, others)) if !is_unready(&e) => Box::pin(connect_by(next, others)).await,
            _ => Err(e),
        },
    }
}

/// Whether a server said that it starts, stops or has crashed (PostgreSQL documentation, "PostgreSQL Error Codes").
fn is_unready(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("57P0"))
}

/// Runs a statement and returns its rows, as text.
pub(crate) async fn rows(
    client: &Client,
    context: &str,
    sql: &str,
    limit: Duration,
) -> Result<Vec<SimpleQueryRow>, Error> {
    match tokio::time::timeout(limit, client.simple_query(sql)).await {
        Ok(Ok(messages)) => Ok(messages
            .into_iter()
            .filter_map(|m| match m {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect()),
        Ok(Err(e)) => Err(Error::sql(context, &e)),
        Err(_) => Err(Error::TimedOut { what: context.to_owned(), limit }),
    }
}

/// A column as text, empty for NULL.
pub(crate) fn text(row: &SimpleQueryRow, column: usize) -> String {
    row.try_get(column).ok().flatten().unwrap_or_default().to_owned()
}

/// A column as text, `None` for NULL.
pub(crate) fn optional(row: &SimpleQueryRow, column: usize) -> Option<String> {
    row.try_get(column).ok().flatten().map(str::to_owned)
}

/// A string literal.
pub(crate) fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if value.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// An identifier in quotes.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    /// An ErrorResponse (PostgreSQL documentation, "Message Formats").
    fn refusal(code: &str) -> Vec<u8> {
        let body = format!("SFATAL\0C{code}\0Msorry\0\0");
        let length = u32::try_from(body.len() + 4).unwrap();
        [b"E", &length.to_be_bytes()[..], body.as_bytes()].concat()
    }

    async fn refuse(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, code: &str) {
        let mut startup = [0; 512];
        let _ = stream.read(&mut startup).await.unwrap();
        stream.write_all(&refusal(code)).await.unwrap();
    }

    /// What comes of a server that answers by its socket and by TCP with these codes.
    async fn told(by_socket: &'static str, by_tcp: &'static str) -> Option<String> {
        let directory = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let socket = UnixListener::bind(directory.path().join(format!(".s.PGSQL.{port}"))).unwrap();
        tokio::spawn(async move { refuse(socket.accept().await.unwrap().0, by_socket).await });
        tokio::spawn(async move { refuse(tcp.accept().await.unwrap().0, by_tcp).await });
        let mut config = tokio_postgres::Config::new();
        config.user("postgres").port(port).ssl_mode(SslMode::Disable);
        let (first, second) = (config.clone().host_path(directory.path()).clone(), config.host("127.0.0.1").clone());
        let failed = connect_by(&first, &[second]).await.err()?;
        failed.code().map(|code| code.code().to_owned())
    }

    #[tokio::test]
    async fn a_server_that_starts_is_believed_and_one_that_refuses_a_way_is_asked_by_the_next() {
        assert_eq!(told("57P03", "28000").await.as_deref(), Some("57P03"));
        assert_eq!(told("28000", "28P01").await.as_deref(), Some("28P01"));
    }

    #[test]
    fn literals_and_identifiers_are_safe() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
