//! The Control service of an agent: answers reads out of the published status and passes orders on. It decides nothing.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use ha::access::{Access, Peer};
use ha::command::{Command, Order, Reply};
use ha::{Cluster, Status, Tick};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::service::Routes;
use tonic::{Request, Response};

use crate::proto::control_server::{Control, ControlServer};
use crate::{convert, liveness, progress, proto};

/// Where orders go, each with the place for its answer.
pub type Orders = mpsc::Sender<(Order, oneshot::Sender<Reply>)>;

/// What the service needs beside the status.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may give orders. A reload publishes a new value.
    pub access: watch::Receiver<Arc<Access>>,
}

/// The Control service and the standard health service (grpc.health.v1). The latter knows the services `""` and
/// `pgherd.control.v1.Control`, which serve while the agent answers, and `primary` and `leader`, which serve while this
/// node is that.
///
/// The listener must put a [`Peer`] into the extensions of each request.
pub fn routes(
    options: Options,
    status: watch::Receiver<Arc<Status>>,
    clock: impl Fn() -> Tick + Send + Sync + 'static,
    orders: Orders,
) -> Routes {
    let clock: Clock = Arc::new(clock);
    let health = liveness::Liveness::new(status.clone(), clock.clone());
    let service = Service { access: options.access, status, clock, orders };
    let health = tonic_health::pb::health_server::HealthServer::new(health);
    Routes::new(ControlServer::new(service)).add_service(health).prepare()
}

/// A reading of CLOCK_BOOTTIME.
pub(crate) type Clock = Arc<dyn Fn() -> Tick + Send + Sync>;

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

struct Service {
    access: watch::Receiver<Arc<Access>>,
    status: watch::Receiver<Arc<Status>>,
    clock: Clock,
    orders: Orders,
}

impl Service {
    fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    fn cluster(&self) -> Result<Arc<Cluster>, tonic::Status> {
        self.status().cluster.clone().ok_or_else(|| tonic::Status::unavailable("the DCS has not been read yet"))
    }

    /// Says who gives the order that a request carries, and from where.
    fn authorize<T>(&self, request: &Request<T>) -> Result<(String, String), tonic::Status> {
        let unknown = Peer::default();
        let peer = request.extensions().get::<Peer>().unwrap_or(&unknown);
        let header = request.metadata().get("authorization").map(|v| v.to_str().unwrap_or_default());
        let cluster = self.status().cluster.clone();
        let access = self.access.borrow().clone();
        let who = access.check(peer, header, cluster.as_deref()).map_err(|denied| {
            tracing::info!("Refused an order of {} over gRPC: {}", peer.address_text(), denied.message());
            convert::denied(denied)
        })?;
        Ok((who, format!("{} over gRPC", peer.address_text())))
    }

    /// Hands an order to the agent without waiting: an agent that takes none is better noticed than queued for.
    fn submit(
        &self,
        command: Command,
        (who, from): (String, String),
    ) -> Result<oneshot::Receiver<Reply>, tonic::Status> {
        let (answer, reply) = oneshot::channel();
        self.orders
            .try_send((Order { command, who, from }, answer))
            .map_err(|_| tonic::Status::unavailable("the agent is not taking orders now"))?;
        Ok(reply)
    }

    async fn execute(&self, command: Command, by: (String, String)) -> Result<Reply, tonic::Status> {
        let reply = self.submit(command, by)?.await.unwrap_or_else(|_| progress::unanswered());
        convert::verdict(&reply)?;
        Ok(reply)
    }

    fn execute_with_progress(
        &self,
        command: Command,
        by: (String, String),
    ) -> Result<Response<Answers<proto::Progress>>, tonic::Status> {
        let status = self.status.clone();
        let reply = self.submit(command, by)?;
        Ok(Response::new(progress::stream(reply, status)))
    }

    async fn configure(&self, command: Command, by: (String, String)) -> Result<String, tonic::Status> {
        let reply = self.execute(command, by).await?;
        Ok(reply.body.map(|b| b.to_string()).unwrap_or_default())
    }

    async fn set_pause(&self, pause: bool, by: (String, String)) -> Result<(), tonic::Status> {
        let patch = if pause { json!({"pause": true}) } else { json!({"pause": null}) };
        self.execute(Command::PatchConfig { patch, revision: None }, by).await.map(drop)
    }
}

fn get_cluster(status: &Status, cluster: &Cluster) -> proto::GetClusterResponse {
    proto::GetClusterResponse {
        scope: status.scope.clone(),
        answered_by: status.name.clone(),
        cluster: Some(cluster.into()),
        read_at: convert::timestamp(status.dcs_last_seen),
    }
}

/// The views of the cluster, each different from the one before.
fn cluster_views(status: watch::Receiver<Arc<Status>>) -> Answers<proto::WatchClusterResponse> {
    let seen: Option<Arc<Cluster>> = None;
    Box::pin(futures::stream::unfold((status, seen, true), |(mut status, seen, first)| async move {
        if !first {
            status.changed().await.ok()?;
        }
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(cluster) = now.cluster.clone().filter(|c| seen.as_ref() != Some(c)) {
                let view = get_cluster(&now, &cluster);
                let view = proto::WatchClusterResponse {
                    scope: view.scope,
                    answered_by: view.answered_by,
                    cluster: view.cluster,
                    read_at: view.read_at,
                };
                return Some((Ok(view), (status, Some(cluster), false)));
            }
            status.changed().await.ok()?;
        }
    }))
}

#[tonic::async_trait]
impl Control for Service {
    type WatchClusterStream = Answers<proto::WatchClusterResponse>;
    type SwitchoverStream = Answers<proto::Progress>;
    type FailoverStream = Answers<proto::Progress>;
    type RestartStream = Answers<proto::Progress>;
    type ReinitializeStream = Answers<proto::Progress>;

    async fn get_cluster(
        &self,
        _: Request<proto::GetClusterRequest>,
    ) -> Result<Response<proto::GetClusterResponse>, tonic::Status> {
        let cluster = self.cluster()?;
        Ok(Response::new(get_cluster(&self.status(), &cluster)))
    }

    async fn watch_cluster(
        &self,
        _: Request<proto::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, tonic::Status> {
        Ok(Response::new(cluster_views(self.status.clone())))
    }

    async fn get_status(
        &self,
        _: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::GetStatusResponse>, tonic::Status> {
        Ok(Response::new(convert::report(&self.status(), (self.clock)())))
    }

    async fn switchover(
        &self,
        request: Request<proto::SwitchoverRequest>,
    ) -> Result<Response<Self::SwitchoverStream>, tonic::Status> {
        let by = self.authorize(&request)?;
        let r = request.into_inner();
        self.execute_with_progress(Command::Switchover { leader: r.leader, candidate: r.candidate }, by)
    }

    async fn failover(
        &self,
        request: Request<proto::FailoverRequest>,
    ) -> Result<Response<Self::FailoverStream>, tonic::Status> {
        let by = self.authorize(&request)?;
        let candidate = request.into_inner().candidate;
        if candidate.is_empty() {
            return Err(tonic::Status::invalid_argument("Failover could be performed only to a specific candidate"));
        }
        self.execute_with_progress(Command::Failover { candidate }, by)
    }

    async fn restart(
        &self,
        request: Request<proto::RestartRequest>,
    ) -> Result<Response<Self::RestartStream>, tonic::Status> {
        let by = self.authorize(&request)?;
        self.execute_with_progress(convert::restart(request.into_inner())?, by)
    }

    async fn reinitialize(
        &self,
        request: Request<proto::ReinitializeRequest>,
    ) -> Result<Response<Self::ReinitializeStream>, tonic::Status> {
        let by = self.authorize(&request)?;
        let r = request.into_inner();
        self.execute_with_progress(Command::Reinitialize { force: r.force, from_leader: r.from_leader }, by)
    }

    async fn reload(
        &self,
        request: Request<proto::ReloadRequest>,
    ) -> Result<Response<proto::ReloadResponse>, tonic::Status> {
        let by = self.authorize(&request)?;
        let reply = self.execute(Command::Reload, by).await?;
        Ok(Response::new(proto::ReloadResponse { message: reply.message }))
    }

    async fn get_config(
        &self,
        _: Request<proto::GetConfigRequest>,
    ) -> Result<Response<proto::GetConfigResponse>, tonic::Status> {
        let cluster = self.cluster()?;
        let missing = || tonic::Status::failed_precondition("the cluster has no dynamic configuration yet");
        let config = cluster.config.as_ref().ok_or_else(missing)?;
        Ok(Response::new(proto::GetConfigResponse { config: Some(config.into()) }))
    }

    async fn patch_config(
        &self,
        request: Request<proto::PatchConfigRequest>,
    ) -> Result<Response<proto::PatchConfigResponse>, tonic::Status> {
        let by = self.authorize(&request)?;
        let r = request.into_inner();
        let patch = convert::request_object(&r.patch_json, "patch_json")?;
        let config_json = self.configure(Command::PatchConfig { patch, revision: r.revision }, by).await?;
        Ok(Response::new(proto::PatchConfigResponse { config_json }))
    }

    async fn put_config(
        &self,
        request: Request<proto::PutConfigRequest>,
    ) -> Result<Response<proto::PutConfigResponse>, tonic::Status> {
        let by = self.authorize(&request)?;
        let r = request.into_inner();
        let config = convert::request_object(&r.config_json, "config_json")?;
        let config_json = self.configure(Command::PutConfig { config, revision: r.revision }, by).await?;
        Ok(Response::new(proto::PutConfigResponse { config_json }))
    }

    async fn pause(
        &self,
        request: Request<proto::PauseRequest>,
    ) -> Result<Response<proto::PauseResponse>, tonic::Status> {
        let by = self.authorize(&request)?;
        self.set_pause(true, by).await?;
        Ok(Response::new(proto::PauseResponse { message: "maintenance mode is on".to_owned() }))
    }

    async fn resume(
        &self,
        request: Request<proto::ResumeRequest>,
    ) -> Result<Response<proto::ResumeResponse>, tonic::Status> {
        let by = self.authorize(&request)?;
        self.set_pause(false, by).await?;
        Ok(Response::new(proto::ResumeResponse { message: "maintenance mode is off".to_owned() }))
    }

    async fn get_history(
        &self,
        _: Request<proto::GetHistoryRequest>,
    ) -> Result<Response<proto::GetHistoryResponse>, tonic::Status> {
        let cluster = self.cluster()?;
        Ok(Response::new(proto::GetHistoryResponse { lines: cluster.history.iter().map(Into::into).collect() }))
    }
}
