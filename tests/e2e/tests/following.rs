//! Poolers that follow a cluster: what applications feel of planned and unplanned changes of the leader.

mod planned;
mod targets;
mod unplanned;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::SOON;
use harness::front::Front;
use harness::load::{self, Done, Load, Plan};
use harness::{Cluster, Options, Store, sql};
use serde_json::json;

/// A cluster, a pooler on each of two nodes, and clients of both.
struct Site {
    cluster: Cluster,
    fronts: Vec<Front>,
}

impl Site {
    async fn start(options: Options) -> Result<Site> {
        let cluster = Cluster::start(options).await?;
        let leader = cluster.leader(SOON).await?;
        sql::query(leader.address, "postgres", load::TABLE).await?;
        let mut fronts = Vec::new();
        for n in [1, 3] {
            fronts.push(Front::start(&cluster, n, &["default_pool_size = 10"]).await?);
        }
        let site = Site { cluster, fronts };
        site.registered().await?;
        Ok(site)
    }

    /// A cluster that loses no acknowledged commit.
    async fn synchronous() -> Result<Site> {
        let mut options = Options::quick(Store::Etcd);
        options.dynamic["synchronous_mode"] = json!(true);
        let site = Site::start(options).await?;
        // Not before the DCS names it may a standby lead.
        let waits = || async {
            let view = site.cluster.view().await?;
            let standby = harness::cluster::members(&view).iter().any(|m| m["role"] == "sync_standby");
            Ok(standby.then_some(()))
        };
        site.cluster.wait("commits wait for a standby", SOON, waits).await?;
        Ok(site)
    }

    /// Waits until both poolers are known to the cluster: only then does it wait for them.
    async fn registered(&self) -> Result<()> {
        let etcd = self.cluster.etcd.as_ref().context("the cluster has no etcd")?;
        self.cluster
            .wait("the poolers have registered", SOON, || async {
                let keys = etcd.keys("/service/otus/poolers/").await?;
                Ok((keys.len() == self.fronts.len()).then_some(()))
            })
            .await
    }

    /// Starts writers and readers on both poolers, and waits until they are at work.
    async fn load(&self) -> Result<Load> {
        let plan = Plan {
            writers: self.fronts.iter().map(|f| f.config("postgres")).collect(),
            readers: self.fronts.iter().map(|f| f.config("ro")).collect(),
            writing: 16,
            reading: 8,
            period: Duration::from_millis(60),
            prepared: true,
        };
        let load = Load::start(&plan).context("start clients")?;
        self.writes(&load).await?;
        Ok(load)
    }

    /// Waits until a write that begins from now on is acknowledged.
    async fn writes(&self, load: &Load) -> Result<()> {
        let since = load.now();
        self.cluster.wait("a write is acknowledged", SOON, || async { Ok(load.wrote_after(since).then_some(())) }).await
    }

    /// Fails unless every acknowledged row is there.
    async fn nothing_is_lost(&self, acknowledged: &BTreeSet<i64>) -> Result<()> {
        let leader = self.cluster.leader(SOON).await?;
        let rows = self.cluster.sql(leader, "SELECT key FROM load").await?;
        let there: BTreeSet<i64> = rows.iter().filter_map(|r| r.first()?.parse().ok()).collect();
        let lost: Vec<&i64> = acknowledged.difference(&there).collect();
        ensure!(lost.is_empty(), "{} acknowledged rows are gone: {lost:?}", lost.len());
        Ok(())
    }

    async fn finish(self, agents: &[&str], poolers: &[&str]) -> Result<()> {
        for front in &self.fronts {
            front.check_log(poolers)?;
            front.stop()?;
        }
        self.cluster.finish(agents).await
    }
}

fn no_errors(done: &[Done]) -> Result<()> {
    let errors = load::errors(done);
    if errors.is_empty() { Ok(()) } else { bail!("{} errors: {:?}", errors.len(), &errors[..errors.len().min(5)]) }
}
