//! The pooler as a whole: its threads, and the handle with which the program drives it.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::config::Config;
use crate::listen::{self, Listener};
use crate::shared::{Message, Shared};
use crate::worker::{self, Worker};

/// A pooler at work. Its threads end when it's dropped.
pub struct Pooler {
    pub(crate) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pooler {
    /// Starts the threads and takes clients from the listening sockets.
    ///
    /// # Errors
    /// When a thread or its runtime can't be made.
    pub fn start(config: Config, listeners: Vec<Listener>) -> io::Result<Pooler> {
        let count = match config.settings.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n as usize,
        }
        .min(Shared::MOST_THREADS);
        let shared = Arc::new(Shared::new(config, count));
        let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        shared.set_workers(senders);
        let mut listeners = Some(listeners);
        let mut threads = Vec::new();
        for (index, mailbox) in mailboxes.into_iter().enumerate() {
            let (shared, listeners) = (shared.clone(), listeners.take().unwrap_or_default());
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || {
                let set = LocalSet::new();
                set.block_on(&runtime, work(Worker::new(index, shared), mailbox, listeners));
            })?);
        }
        Ok(Pooler { shared, threads })
    }

    /// Waits until all threads have ended.
    pub fn join(self) {
        drop(self.shared);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the pooler panicked");
            }
        }
    }
}

async fn work(worker: Rc<Worker>, mailbox: mpsc::UnboundedReceiver<Message>, listeners: Vec<Listener>) {
    for listener in listeners {
        tokio::task::spawn_local(listen::accept(worker.clone(), Rc::new(listener)));
    }
    worker::run(worker, mailbox).await;
}
