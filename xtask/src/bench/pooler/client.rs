//! A client that does as little as a client can: it logs in, may run one query, and holds its connection. Messages are
//! those of PostgreSQL's manual, "Message Formats".

use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail};
use harness::sql;
use md5::{Digest, Md5};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::server::DATABASE;

/// Clients that log in, or query, at the same time: fewer than a listener queues.
const AT_ONCE: usize = 32;

/// Protocol 3.0.
const VERSION: i32 = 3 << 16;

/// The largest message that is expected.
const LONGEST: usize = 64 * 1024;

/// An idle connection.
#[derive(Debug)]
pub(super) struct Client(TcpStream);

impl Client {
    /// Logs in with an MD5 password.
    async fn connect(target: SocketAddrV4) -> Result<Client> {
        let mut client = Client(TcpStream::connect(target).await.context("connect to the pooler")?);
        let body = format!("user\0postgres\0database\0{DATABASE}\0\0");
        let mut startup = VERSION.to_be_bytes().to_vec();
        startup.extend_from_slice(body.as_bytes());
        client.send(None, &startup).await?;
        loop {
            match client.receive().await? {
                (b'R', body) => client.authenticate(&body).await?,
                (b'Z', _) => return Ok(client),
                _ => {}
            }
        }
    }

    async fn authenticate(&mut self, request: &[u8]) -> Result<()> {
        match request {
            [0, 0, 0, 0] => Ok(()),
            [0, 0, 0, 5, salt @ ..] => {
                let answer = format!("{}\0", md5_answer("postgres", sql::PASSWORD, salt));
                self.send(Some(b'p'), answer.as_bytes()).await
            }
            _ => bail!("the pooler asks for a login other than by MD5"),
        }
    }

    /// Runs a query and throws the answer away.
    async fn query(&mut self) -> Result<()> {
        self.send(Some(b'Q'), b"SELECT 1\0").await?;
        while self.receive().await?.0 != b'Z' {}
        Ok(())
    }

    async fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<()> {
        let length = i32::try_from(body.len() + 4).context("send a message")?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        self.0.write_all(&message).await.context("write to the pooler")
    }

    async fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).await.context("read from the pooler")?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(i32::from_be_bytes(length)).ok().and_then(|l| l.checked_sub(4));
        let length = length.filter(|l| *l <= LONGEST).context("the pooler sent a message of a strange length")?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.context("read from the pooler")?;
        if kind == b'E' {
            bail!("the pooler says: {}", String::from_utf8_lossy(&body).replace('\0', " ").trim());
        }
        Ok((kind, body))
    }
}

/// What `AuthenticationMD5Password` wants for an answer.
fn md5_answer(user: &str, password: &str, salt: &[u8]) -> String {
    let hex = |digest: &[u8]| digest.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let secret = hex(&Md5::digest(format!("{password}{user}")));
    format!("md5{}", hex(&Md5::digest([secret.as_bytes(), salt].concat())))
}

/// So many clients, logged in.
pub(super) async fn connect(target: SocketAddrV4, count: usize) -> Result<Vec<Client>> {
    let mut tasks = JoinSet::new();
    for n in 0..AT_ONCE {
        let share = count / AT_ONCE + usize::from(n < count % AT_ONCE);
        tasks.spawn(async move {
            let mut clients = Vec::with_capacity(share);
            for _ in 0..share {
                clients.push(Client::connect(target).await?);
            }
            anyhow::Ok(clients)
        });
    }
    gather(tasks).await
}

/// Has each run a query.
pub(super) async fn query(clients: Vec<Client>) -> Result<Vec<Client>> {
    let mut tasks = JoinSet::new();
    let share = clients.len().div_ceil(AT_ONCE).max(1);
    let mut clients = clients.into_iter();
    loop {
        let mut part: Vec<Client> = clients.by_ref().take(share).collect();
        if part.is_empty() {
            return gather(tasks).await;
        }
        tasks.spawn(async move {
            for client in &mut part {
                client.query().await?;
            }
            Ok(part)
        });
    }
}

/// Has each say goodbye.
pub(super) async fn leave(clients: Vec<Client>) {
    for mut client in clients {
        // Whoever has gone already needn't be told.
        let _ = client.send(Some(b'X'), &[]).await;
    }
}

async fn gather(mut tasks: JoinSet<Result<Vec<Client>>>) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    while let Some(part) = tasks.join_next().await {
        clients.extend(part.context("a client failed")??);
    }
    Ok(clients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_md5_answer_is_the_one_libpq_gives() {
        // md5(md5("otuspostgres") + salt), by another implementation.
        assert_eq!(md5_answer("postgres", "otus", &[1, 2, 3, 4]), "md58f80918d4b0867dee7e27e6a698747a3");
    }
}
