//! Asking another member, through `psql`, so that TLS and password files work exactly as for the server's own
//! replication. What the answers mean for the local data is in `divergence`.

use std::time::Duration;

use ha::Lsn;

use crate::conf;
use crate::divergence::{self, Divergence, Leader};
use crate::error::Error;
use crate::instance::{Inner, Instance};
use crate::options::{Credentials, Upstream};
use crate::programs::run;

/// How long another member may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// What another member says about itself over a replication connection (`IDENTIFY_SYSTEM`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// System identifier.
    pub system_identifier: String,
    /// Timeline: written by a primary, replayed by a replica.
    pub timeline: u32,
    /// Position that it has flushed (primary), or received or replayed (replica).
    pub position: Lsn,
}

impl Instance {
    /// Asks another member who and where it is.
    pub async fn identify(&self, from: &Upstream) -> Result<Identity, Error> {
        let line = self.replication_command(from, "IDENTIFY_SYSTEM").await?;
        parse_identity(&line).ok_or_else(|| Error::Program {
            program: "psql".into(),
            message: format!("{} answered IDENTIFY_SYSTEM with {line:?}", from.name),
        })
    }

    /// Whether the local data, running or not, has WAL that the history of `from` doesn't have. `from` is the leader.
    pub async fn divergence(&self, from: &Upstream) -> Result<Divergence, Error> {
        // In this order: a replica that streams meanwhile would else look ahead of its leader.
        let local = self.local_position().await?;
        let identity = self.identify(from).await?;
        if local.timeline == identity.timeline {
            let leader = Leader { timeline: identity.timeline, position: identity.position, history: Vec::new() };
            return Ok(divergence::compare(local, &leader));
        }
        let history = if identity.timeline > 1 {
            let answer = self.replication_command(from, &format!("TIMELINE_HISTORY {}", identity.timeline)).await?;
            // The answer's first column is the file's name.
            divergence::parse_history(answer.split_once('|').map_or("", |(_, content)| content))
        } else {
            Vec::new()
        };
        let leader = Leader { timeline: identity.timeline, position: identity.position, history };
        Ok(divergence::compare(local, &leader))
    }

    async fn local_position(&self) -> Result<divergence::Local, Error> {
        if self.0.alive().is_none() {
            let control = self.blocking(|own| own.0.control_data()).await?;
            return Ok(divergence::Local::stopped(&control));
        }
        match self.probe().await.sql {
            ha::local::Sql::Up(answer) => Ok(divergence::Local {
                timeline: answer.timeline,
                position: answer.waits_at.unwrap_or_else(|| answer.position()),
                starts_there: false,
                more: false,
            }),
            _ => Err(Error::NotRunning),
        }
    }

    async fn replication_command(&self, from: &Upstream, command: &str) -> Result<String, Error> {
        let extra = [("replication", "true"), ("connect_timeout", "3"), ("application_name", "pgherd")];
        self.psql(from, &self.0.options.replication, &extra, command).await
    }

    /// Runs a statement at another member and returns what psql prints, unaligned and without headers.
    pub(crate) async fn psql(
        &self,
        from: &Upstream,
        user: &Credentials,
        extra: &[(&str, &str)],
        statement: &str,
    ) -> Result<String, Error> {
        self.blocking(|own| own.0.write_pgpass()).await?;
        let mut command = self.0.programs.command("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.0.conninfo(from, user, extra), "-c", statement]);
        let done = run("psql", command, ASK_LIMIT).await?;
        if done.success {
            return Ok(done.stdout.trim_end().to_owned());
        }
        Err(Error::Program {
            program: format!("asking {} at {}:{}", from.name, from.host, from.port),
            message: done.stderr,
        })
    }
}

impl Inner {
    /// Connection string to another member for PostgreSQL's programs.
    pub(crate) fn conninfo(&self, to: &Upstream, user: &Credentials, extra: &[(&str, &str)]) -> String {
        conf::upstream_conninfo(to, user, &self.pgpass().display().to_string(), extra, self.programs.version)
    }
}

/// Reads `systemid|timeline|xlogpos|dbname`.
fn parse_identity(line: &str) -> Option<Identity> {
    let mut columns = line.split('|');
    Some(Identity {
        system_identifier: columns.next().filter(|s| !s.is_empty())?.to_owned(),
        timeline: columns.next()?.parse().ok()?,
        position: columns.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read() {
        let id = parse_identity("7575744935268143871|2|0/3000148|").unwrap();
        assert_eq!((id.timeline, id.position), (2, Lsn(0x3000148)));
        assert_eq!(parse_identity(""), None);
    }
}
