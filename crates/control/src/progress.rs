//! What a client sees of an order that takes long: accepted, each change of the node meanwhile, and how it ended.

use std::sync::Arc;

use ha::Status;
use ha::command::{Outcome, Reply};
use tokio::sync::{oneshot, watch};

use crate::server::Answers;
use crate::{convert, proto};

/// The answer to an order whose agent ended before it gave one.
pub(crate) fn unanswered() -> Reply {
    Reply::new(Outcome::Failed, "the agent stopped before it answered; the order may or may not have been carried out")
}

/// The messages about one order. They end with its outcome, and with an error code when that is a failure.
pub(crate) fn stream(
    reply: oneshot::Receiver<Reply>,
    status: watch::Receiver<Arc<Status>>,
) -> Answers<proto::Progress> {
    let last = line(&status.borrow());
    let course = Course { stage: Stage::Accepted, reply, status, last };
    Box::pin(futures::stream::unfold(course, |mut course| async move {
        let message = course.next().await?;
        Some((message, course))
    }))
}

enum Stage {
    Accepted,
    Running,
    /// The outcome has been told; this code follows.
    Failed(tonic::Status),
    Over,
}

struct Course {
    stage: Stage,
    reply: oneshot::Receiver<Reply>,
    status: watch::Receiver<Arc<Status>>,
    last: String,
}

impl Course {
    async fn next(&mut self) -> Option<Result<proto::Progress, tonic::Status>> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Accepted => {
                self.stage = Stage::Running;
                Some(Ok(going_on("accepted".to_owned())))
            }
            Stage::Running => Some(Ok(self.run().await)),
            Stage::Failed(code) => Some(Err(code)),
            Stage::Over => None,
        }
    }

    async fn run(&mut self) -> proto::Progress {
        let mut published = true;
        loop {
            tokio::select! {
                biased;
                reply = &mut self.reply => return self.end(&reply.unwrap_or_else(|_| unanswered())),
                change = self.status.changed(), if published => match change {
                    Err(_) => published = false,
                    Ok(()) => {
                        let line = line(&self.status.borrow_and_update());
                        if line != self.last {
                            self.last.clone_from(&line);
                            self.stage = Stage::Running;
                            return going_on(line);
                        }
                    }
                },
            }
        }
    }

    fn end(&mut self, reply: &Reply) -> proto::Progress {
        self.stage = match convert::verdict(reply) {
            Ok(()) => Stage::Over,
            Err(code) => Stage::Failed(code),
        };
        let outcome = proto::Outcome::from(reply.outcome).into();
        proto::Progress { message: reply.message.clone(), done: true, outcome }
    }
}

fn going_on(message: String) -> proto::Progress {
    proto::Progress { message, done: false, outcome: proto::Outcome::Unspecified.into() }
}

fn line(status: &Status) -> String {
    format!("{} is {}: {}", status.name, status.state.as_str(), status.reason)
}
