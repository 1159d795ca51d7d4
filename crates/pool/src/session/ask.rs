//! `auth_query`: a user's secret, asked of a server.

use std::rc::Rc;
use std::sync::Arc;

use super::login::Refusal;
use crate::config::Database;
use crate::plan::Plan;
use crate::secrets::Known;
use crate::server::{Server, exchange};
use crate::wire::build::frontend;
use crate::worker::Worker;

/// A user's secret, if an `auth_user` is configured and its query knows the user.
pub(super) async fn secret(worker: &Rc<Worker>, entry: &Database, user: &str) -> Result<Option<Arc<Known>>, Refusal> {
    let config = worker.config();
    let settings = &config.settings;
    let Some(auth_user) = entry.auth_user.clone().or(settings.auth_user.clone()) else { return Ok(None) };
    if auth_user == user {
        return Ok(None);
    }
    let query = entry.auth_query.clone().unwrap_or_else(|| settings.auth_query.clone());
    let name = entry.auth_dbname.clone().or(settings.auth_dbname.clone()).unwrap_or_else(|| entry.name.clone());
    let Some(target) = config.database(&name) else {
        return Err(Refusal::told(format!("authentication database \"{name}\" is not configured")));
    };
    let (database, owner) = (worker.shared.database(&name), worker.shared.user(&auth_user));
    let pool = worker.shared.pool(&database, &owner, || Plan::of(&config, &target, &auth_user));
    let pool = worker.pool_of(&pool);
    let mut server = super::borrow::borrow(worker, &pool).await?;
    let asked = ask(&mut server, &query, user, worker).await;
    match asked {
        Ok(rows) => {
            pool.give(worker, server);
            let Some(row) = rows.into_iter().next() else {
                return Err(Refusal::told("no such user"));
            };
            let count = row.len();
            let [Some(_), secret] = <[Option<Vec<u8>>; 2]>::try_from(row).unwrap_or_default() else {
                tracing::error!(target: "pooler", "auth_query: expected a name and a secret, got {count} columns or no name");
                return Err(Refusal::told("bouncer config error"));
            };
            Ok(Some(worker.shared.secrets.asked(user, &secret.unwrap_or_default())))
        }
        Err(e) => {
            pool.close(server, "auth_query failed");
            tracing::error!(target: "pooler", "auth_query failed: {e}");
            Err(Refusal::told("bouncer config error"))
        }
    }
}

async fn ask(
    server: &mut Server,
    query: &str,
    user: &str,
    worker: &Worker,
) -> Result<Vec<Vec<Option<Vec<u8>>>>, exchange::Error> {
    let mut out = Vec::new();
    frontend::parse(&mut out, b"", query.as_bytes(), &[]);
    frontend::bind(&mut out, b"", b"", &[user.as_bytes()]);
    frontend::describe(&mut out, b'P', b"");
    frontend::execute(&mut out, b"", 0);
    frontend::sync(&mut out);
    server.output.drain(&mut server.stream, &out).await?;
    exchange::rows(server, &worker.shared.tracked).await
}
