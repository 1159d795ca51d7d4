//! Promotion and checkpoints of the local server.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::connection::{STATEMENT_LIMIT, rows, text};
use crate::error::Error;
use crate::instance::Instance;
use crate::postmaster::Postmaster;

/// How often a promotion is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(4);

impl Instance {
    /// Promotes a standby and returns once it takes writes. Without a bound in time: that is the caller's. On a primary
    /// it does nothing. [`Error::Promoting`] means that it may become a primary all the same, as does dropping the
    /// future: [`Instance::probe`] tells what came of it.
    pub async fn promote(&self) -> Result<(), Error> {
        let permit = self.0.work.permit();
        let postmaster = self.0.alive().ok_or(Error::NotRunning)?;
        // Connected first: the connection is then there when the answer changes.
        let client = self.0.client().await?;
        if !in_recovery(&client).await? {
            postmaster.set_standby(false);
            return Ok(());
        }
        // What pg_promote() does inside the server (PostgreSQL 12+, xlogfuncs.c), without its polling. The file needn't
        // outlive a crash.
        let file = |own: &Instance| {
            let file = own.0.data_dir().join("promote");
            std::fs::write(&file, "").map_err(|e| Error::io(format!("write {}", file.display()), e))
        };
        self.step(permit, file).await?;
        let told = postmaster.signal(Signal::USR1).map_err(|e| Error::io("signal PostgreSQL to promote", e));
        let promoted = match told {
            Ok(()) => promoted(&postmaster, &client).await,
            Err(e) => Err(e),
        };
        promoted.map_err(|e| Error::Promoting(Box::new(e)))
    }

    /// Writes a checkpoint; on a replica a restart point. Without a bound in time.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        let client = self.0.connect().await?;
        rows(&client, "write a checkpoint", "CHECKPOINT", Duration::MAX).await?;
        Ok(())
    }
}

/// Waits for the end of a promotion.
async fn promoted(postmaster: &Postmaster, client: &Client) -> Result<(), Error> {
    loop {
        if !postmaster.alive() {
            return Err(Error::NotRunning);
        }
        if !in_recovery(client).await? {
            postmaster.set_standby(false);
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn in_recovery(client: &Client) -> Result<bool, Error> {
    let rows =
        rows(client, "ask whether PostgreSQL is in recovery", "SELECT pg_is_in_recovery()", STATEMENT_LIMIT).await?;
    Ok(rows.first().is_none_or(|r| text(r, 0) == "t"))
}
