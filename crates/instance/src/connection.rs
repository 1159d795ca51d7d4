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
    /// How to reach the local server: the Unix socket where its place is known, then TCP.
    fn config(&self) -> tokio_postgres::Config {
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
        let sockets = self.socket_dirs();
        if !self.options.use_unix_socket {
            config.host(self.listen.local_host());
        }
        for dir in sockets {
            config.host_path(dir);
        }
        if self.options.use_unix_socket {
            config.host(self.listen.local_host());
        }
        config
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
        let config = self.config();
        let connecting = async {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(async move {
                // Its end shows at the client's next statement.
                let _ = connection.await;
            });
            Ok::<Client, tokio_postgres::Error>(client)
        };
        match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
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
    use super::*;

    #[test]
    fn literals_and_identifiers_are_safe() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }
}
