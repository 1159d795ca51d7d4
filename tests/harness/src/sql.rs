//! SQL to one node, straight to its PostgreSQL.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

pub use tokio_postgres::Config;

/// The superuser's password in the seed.
pub const PASSWORD: &str = "otus";

/// Longest wait for one query.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How to connect as the superuser.
pub fn config(address: Ipv4Addr, database: &str) -> Config {
    config_at(address, 5432, database)
}

/// The same at another port.
pub fn config_at(address: Ipv4Addr, port: u16, database: &str) -> Config {
    let mut config = Config::new();
    config.host(address.to_string()).port(port).user("postgres").password(PASSWORD).dbname(database);
    config.connect_timeout(Duration::from_secs(5)).tcp_user_timeout(Duration::from_secs(10));
    config
}

/// A connection; the task that drives it ends with the client.
pub async fn connect(address: Ipv4Addr, database: &str) -> Result<Client> {
    connect_with(&config(address, database)).await.with_context(|| format!("connect to PostgreSQL at {address}"))
}

/// A connection with these settings; the task that drives it ends with the client.
pub async fn connect_with(config: &Config) -> Result<Client> {
    let (client, connection) = tokio::time::timeout(Duration::from_secs(10), config.connect(NoTls))
        .await
        .map_err(|_| anyhow!("no answer from PostgreSQL"))??;
    tokio::spawn(connection);
    Ok(client)
}

/// Runs a query and returns its rows as text; NULL is the empty text.
pub async fn query(address: Ipv4Addr, database: &str, query: &str) -> Result<Vec<Vec<String>>> {
    query_with(&config(address, database), query).await.with_context(|| format!("query {address}"))
}

/// The same with other settings for the connection.
pub async fn query_with(config: &Config, query: &str) -> Result<Vec<Vec<String>>> {
    let client = connect_with(config).await?;
    let messages = tokio::time::timeout(TIMEOUT, client.simple_query(query))
        .await
        .map_err(|_| anyhow!("no answer within {} s", TIMEOUT.as_secs()))
        .and_then(|r| r.map_err(|e| anyhow!(message(&e))))
        .with_context(|| format!("run {query:?}"))?;
    Ok(messages
        .iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        })
        .collect())
}

/// The server's message where there is one.
pub fn message(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned())
}
