//! The standard health service (grpc.health.v1), answered out of the status and the clock at the moment of the question.

use std::sync::Arc;
use std::time::Duration;

use ha::{Role, State, Status};
use tokio::sync::watch;
use tonic::{Request, Response};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::server::{Answers, Clock};

pub(crate) struct Liveness {
    status: watch::Receiver<Arc<Status>>,
    clock: Clock,
}

impl Liveness {
    pub(crate) fn new(status: watch::Receiver<Arc<Status>>, clock: Clock) -> Liveness {
        Liveness { status, clock }
    }
}

/// Whether a service serves, and for how long that holds while the status doesn't change.
fn serving(service: &str, status: &Status, clock: &Clock) -> Option<(ServingStatus, Option<Duration>)> {
    let now = clock();
    let left = status.leader_until.filter(|until| now < *until).map(|until| until - now);
    let answer = |yes: bool| if yes { ServingStatus::Serving } else { ServingStatus::NotServing };
    match service {
        "" | "pgherd.control.v1.Control" => Some((ServingStatus::Serving, None)),
        "leader" => Some((answer(left.is_some()), left)),
        "primary" => {
            let primary = status.role == Role::Primary && status.state == State::Running;
            Some((answer(primary && left.is_some()), left.filter(|_| primary)))
        }
        _ => None,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Liveness {
    type WatchStream = Answers<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, tonic::Status> {
        let status = self.status.borrow().clone();
        let (answer, _) = serving(&request.get_ref().service, &status, &self.clock)
            .ok_or_else(|| tonic::Status::not_found("service not registered"))?;
        Ok(Response::new(response(answer)))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, tonic::Status> {
        let service = request.into_inner().service;
        let state = (self.status.clone(), self.clock.clone(), service, None);
        Ok(Response::new(Box::pin(futures::stream::unfold(state, |(mut status, clock, service, last)| async move {
            loop {
                let now = status.borrow_and_update().clone();
                let (answer, left) = serving(&service, &now, &clock).unwrap_or((ServingStatus::ServiceUnknown, None));
                if last != Some(answer) {
                    return Some((Ok(response(answer)), (status, clock, service, Some(answer))));
                }
                match left {
                    None => status.changed().await.ok()?,
                    // The deadline passes without a new status when the agent is stuck. The clock is looked at often
                    // enough to follow one that also counts the time a machine was suspended.
                    Some(left) => {
                        let pause = left.clamp(Duration::from_millis(10), Duration::from_secs(1));
                        if let Ok(change) = tokio::time::timeout(pause, status.changed()).await {
                            change.ok()?;
                        }
                    }
                }
            }
        }))))
    }
}
