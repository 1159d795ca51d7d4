//! Follows the clusters that databases name in place of hosts: reads each one's keys in the DCS whenever they change,
//! tells the pooler where its members are, and tells the members what the pooler does. What is read out of the keys is
//! in `route`; how the pooler obeys is in the `pool` crate.

mod ask;
mod register;
mod route;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dcs::{Continuity, Dcs, layout};
use pool::pooler::Pooler;
use pool::route::Topology;
use service::config::{self, Role, Source};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use ask::Asker;

/// Limit of one operation on etcd, trying its other members included.
const DCS_TIMEOUT: Duration = Duration::from_secs(5);
/// The keys are read again after this time although nothing was heard of a change.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long to wait after a failed reading.
const RETRY: Duration = Duration::from_millis(500);
/// The DCS has to have been unreadable for this long before members are asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// What says where the DCS is.
#[derive(Clone, PartialEq)]
pub(crate) struct Place {
    config: Arc<config::Config>,
}

impl Place {
    /// Reads an agent's or an admin client's YAML; only what is about the DCS counts.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn read(path: &Path) -> Result<Place, String> {
        let loaded = config::load(&Source::new(Some(path.to_path_buf())), Role::Ctl)
            .map_err(|faults| format!("cluster_config: {} can't be used: {faults}", path.display()))?;
        Ok(Place { config: Arc::new(loaded.config) })
    }

    async fn connect(&self, cluster: &str) -> Result<Arc<dyn Dcs>, dcs::Error> {
        let prefix = layout::prefix(&self.config.namespace, cluster);
        match &self.config.dcs {
            config::Dcs::Embedded(e) => Ok(Arc::new(dcs::Embedded::open(&e.path, &prefix)?)),
            config::Dcs::Etcd(e) => {
                let options = dcs::etcd::Options {
                    endpoints: e.endpoints.clone(),
                    user: e.username.clone(),
                    password: e.password.as_ref().map(|p| p.expose().to_owned()),
                    timeout: DCS_TIMEOUT,
                    prefix,
                    ..dcs::etcd::Options::default()
                };
                let unreadable = |(path, e): (PathBuf, _)| dcs::Error::Refused(format!("{}: {e}", path.display()));
                let options = options.with_files([&e.cacert, &e.cert, &e.key]).map_err(unreadable)?;
                Ok(Arc::new(dcs::Etcd::connect(options).await?))
            }
        }
    }
}

/// The place that the settings name, where a database needs one.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn place(config: &pool::config::Config) -> Result<Option<Place>, String> {
    match &config.settings.cluster_config {
        Some(path) if !config.clusters().is_empty() => Place::read(path).map(Some),
        _ => Ok(None),
    }
}

/// Follows all clusters that the configuration in force names, as it changes, until told to leave.
///
/// # Errors
/// A follower has died.
pub(crate) async fn run(pooler: Arc<Pooler>, first: Option<Place>, leave: CancellationToken) -> Result<(), String> {
    let mut configs = pooler.configs();
    let places = watch::Sender::new(first);
    let mut tasks = JoinSet::new();
    let mut followed: BTreeMap<String, CancellationToken> = BTreeMap::new();
    while !leave.is_cancelled() {
        let config = configs.borrow_and_update().clone();
        let named = config.clusters();
        // A reload reads this file too: the members of etcd may have changed.
        match place(&config) {
            Ok(new) => {
                _ = places.send_if_modified(|place| {
                    let changes = *place != new;
                    *place = new;
                    changes
                })
            }
            Err(e) => error!(target: "pooler", "{e}; clusters are followed as before"),
        }
        followed.retain(|name, left| {
            let kept = named.contains_key(name);
            if !kept {
                left.cancel();
            }
            kept
        });
        for name in named.into_keys().filter(|n| !followed.contains_key(n)).collect::<Vec<_>>() {
            let left = leave.child_token();
            tasks.spawn(follow(pooler.clone(), places.subscribe(), name.clone(), left.clone()));
            followed.insert(name, left);
        }
        tokio::select! {
            // An error means that the process is ending.
            _ = configs.changed() => {}
            () = leave.cancelled() => {}
            Some(Err(e)) = tasks.join_next() => return Err(e.to_string()),
        }
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Follows one cluster until told to leave it.
async fn follow(
    pooler: Arc<Pooler>,
    mut places: watch::Receiver<Option<Place>>,
    name: String,
    leave: CancellationToken,
) {
    places.mark_changed();
    let connected = leave.run_until_cancelled(Box::pin(next_place(&mut places, &name))).await;
    let Some((place, mut dcs)) = connected else { return };
    let mut follower = Follower::new(pooler.clone(), &place, name.clone());
    loop {
        let registered = register::run(pooler.clone(), dcs.clone(), name.clone(), leave.clone());
        tokio::select! {
            () = registered => return,
            () = async { loop { follower.turn(dcs.as_ref()).await } } => {}
            // What is known stays, and is followed where it was until the new place answers.
            (place, new) = Box::pin(next_place(&mut places, &name)) => {
                info!(target: "pooler", "cluster {name}: cluster_config says something else, and the DCS is read there");
                dcs = new;
                follower.moved(&place);
            }
        }
    }
}

/// The place that is named next, and a connection to it.
async fn next_place(places: &mut watch::Receiver<Option<Place>>, name: &str) -> (Place, Arc<dyn Dcs>) {
    loop {
        if places.changed().await.is_err() {
            // The process is ending.
            return std::future::pending().await;
        }
        let Some(place) = places.borrow_and_update().clone() else { continue };
        tokio::select! {
            dcs = connect(&place, name) => return (place, dcs),
            // Another was named meanwhile.
            _ = places.changed() => places.mark_changed(),
        }
    }
}

async fn connect(place: &Place, name: &str) -> Arc<dyn Dcs> {
    loop {
        match place.connect(name).await {
            Ok(dcs) => return dcs,
            Err(e) => {
                error!(target: "pooler", "cluster {name}: {e}; its clients wait");
                sleep(RETRY * 4).await;
            }
        }
    }
}

/// What is known of a cluster.
struct Follower {
    pooler: Arc<Pooler>,
    name: String,
    asker: Asker,
    continuity: Continuity,
    cluster: ha::Cluster,
    topology: Topology,
    unreadable_since: Option<Instant>,
    distrusted: bool,
}

impl Follower {
    fn new(pooler: Arc<Pooler>, place: &Place, name: String) -> Follower {
        Follower {
            asker: Asker::new(&place.config),
            pooler,
            name,
            continuity: Continuity::new(),
            cluster: ha::Cluster::default(),
            topology: Topology::default(),
            unreadable_since: None,
            distrusted: false,
        }
    }

    /// From now on the DCS is elsewhere, perhaps with another history.
    fn moved(&mut self, place: &Place) {
        self.asker = Asker::new(&place.config);
        (self.continuity, self.distrusted) = (Continuity::new(), false);
    }

    /// One reading, and the wait for the next.
    async fn turn(&mut self, dcs: &dyn Dcs) {
        let snapshot = match dcs.read().await {
            Ok(snapshot) => snapshot,
            Err(e) => return self.unreadable(&e).await,
        };
        if self.unreadable_since.take().is_some() {
            info!(target: "pooler", "cluster {}: the DCS can be read again", self.name);
        }
        let revision = snapshot.revision;
        match self.continuity.check(&snapshot) {
            Err(why) => {
                if !std::mem::replace(&mut self.distrusted, true) {
                    error!(target: "pooler", "cluster {}: {why}; clients are sent where they were sent before", self.name);
                }
                let now = layout::decode(&snapshot);
                if let Some(leader) = self.asker.leader(&now).await.filter(|name| now.is_led_by(name)) {
                    info!(target: "pooler", "cluster {}: {leader} leads by what the DCS says now: followed again", self.name);
                    (self.continuity, self.distrusted) = (Continuity::new(), false);
                    return;
                }
            }
            Ok(()) => {
                self.cluster = layout::decode(&snapshot);
                let config = self.pooler.config();
                let local = route::local(&config.settings.listen_addr);
                self.put(route::topology(&self.cluster, &self.topology, local));
            }
        }
        let patience = if self.distrusted { PATIENCE } else { HEARTBEAT };
        match timeout(patience, dcs.changed(revision)).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => sleep(RETRY / 5).await,
        }
    }

    fn put(&mut self, topology: Topology) {
        if topology != self.topology {
            self.topology = topology.clone();
            self.pooler.set_topology(&self.name, topology);
        }
    }

    /// Clients are sent where they were sent before. A leader that can't reach the DCS either steps down by itself; where
    /// only this pooler is cut off, the members know who leads now.
    async fn unreadable(&mut self, error: &dcs::Error) {
        let since = *self.unreadable_since.get_or_insert_with(|| {
            warn!(target: "pooler", "cluster {}: {error}; clients are sent where they were sent before", self.name);
            Instant::now()
        });
        if since.elapsed() >= PATIENCE
            && let Some(leader) = self.asker.leader(&self.cluster).await
            && self.topology.leader.as_deref() != Some(&leader)
        {
            warn!(target: "pooler", "cluster {}: member {leader} says that it leads", self.name);
            self.put(route::led_by(&self.topology, &leader));
        }
        sleep(RETRY).await;
    }
}
