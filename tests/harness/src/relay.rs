//! A way to a TCP service that can be cut, and mended.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Passes bytes on until it's cut. It ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where to connect to.
    pub address: SocketAddr,
    target: SocketAddrV4,
    task: AbortHandle,
}

impl Relay {
    /// A way to `target` from a free port of `address`.
    pub async fn start(address: Ipv4Addr, target: SocketAddrV4) -> Result<Relay> {
        let listener = TcpListener::bind((address, 0)).await.context("listen as a relay")?;
        let address = listener.local_addr().context("find a relay's port")?;
        Ok(Relay { address, target, task: pass(listener, target) })
    }

    /// Ends its connections; new ones are refused.
    pub fn cut(&self) {
        self.task.abort();
    }

    /// Passes bytes on again.
    pub async fn mend(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await.context("listen as a relay again")?;
        self.task = pass(listener, self.target);
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn pass(listener: TcpListener, target: SocketAddrV4) -> AbortHandle {
    let task = async move {
        // They end with this task.
        let mut connections = JoinSet::new();
        while let Ok((mut from, _)) = listener.accept().await {
            connections.spawn(async move {
                if let Ok(mut to) = TcpStream::connect(target).await {
                    // However it ends, both sides are closed.
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                }
            });
        }
    };
    tokio::spawn(task).abort_handle()
}
