//! The pooler as a whole: its threads, and the handle with which the program drives it.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin;
use crate::cancel;
use crate::config::{Config, Faults};
use crate::console::{self, Shutdown};
use crate::listen::{self, Listener};
use crate::shared::{Message, Shared};
use crate::takeover::Canceller;
use crate::worker::{self, Worker};

/// A pooler at work. Its threads end with the process.
pub struct Pooler {
    pub(crate) shared: Arc<Shared>,
    broken: watch::Sender<bool>,
}

/// Tells when a thread ends, which none does while all is well.
struct ThreadEnd(watch::Sender<bool>);

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
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
        let shared = Arc::new(Shared::new(config, count)?);
        let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        shared.set_workers(senders);
        let broken = watch::Sender::new(false);
        let mut listeners = Some(listeners);
        for (index, mailbox) in mailboxes.into_iter().enumerate() {
            let (shared, listeners) = (shared.clone(), listeners.take().unwrap_or_default());
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            let end = ThreadEnd(broken.clone());
            // The runtime can't leave the thread that makes it.
            let (made, making) = std::sync::mpsc::sync_channel(1);
            thread.spawn(move || {
                let _end = end;
                match Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default()) {
                    Ok(runtime) => {
                        let _ = made.send(Ok(()));
                        runtime.block_on(work(Worker::new(index, shared), mailbox, listeners));
                    }
                    Err(e) => _ = made.send(Err(e)),
                }
            })?;
            making.recv().map_err(io::Error::other)??;
        }
        Ok(Pooler { shared, broken })
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config()
    }

    /// Shows each configuration that is put in force, by RELOAD and SET.
    pub fn configs(&self) -> watch::Receiver<Arc<Config>> {
        self.shared.configs()
    }

    /// Reads the files again (RELOAD), and logs what is wrong or doubtful in them.
    ///
    /// # Errors
    /// Everything that is wrong in them; the old settings stay in force then.
    pub fn reload(&self) -> Result<(), Faults> {
        admin::reload(&self.shared)
    }

    /// Holds all databases (PAUSE); returns when their servers are closed.
    ///
    /// # Errors
    /// They're held already.
    pub async fn pause(&self) -> Result<(), console::Error> {
        admin::pause(&self.shared, None).await
    }

    /// Lets all databases go on (RESUME).
    ///
    /// # Errors
    /// None is held, or a shutdown is under way.
    pub fn resume(&self) -> Result<(), console::Error> {
        admin::resume(&self.shared, None)
    }

    /// Begins a shutdown (SHUTDOWN); one that waits less takes over from one that waits more.
    pub fn shut_down(&self, how: Shutdown) {
        admin::shut_down(&self.shared, how);
    }

    /// Takes no new connections from now on; the listening sockets are closed.
    pub fn stop_listening(&self) {
        self.shared.listening.send_replace(false);
    }

    /// Waits until no new connections are taken any more, whoever stopped that.
    pub async fn listening_ended(&self) {
        // An error means that the process is ending anyway.
        let _ = self.shared.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// The shutdown that is under way, whoever began it.
    pub fn shutdown(&self) -> Option<Shutdown> {
        match self.shared.shutdown.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(Shutdown::WaitForClients),
            2 => Some(Shutdown::WaitForServers),
            _ => Some(Shutdown::Immediate),
        }
    }

    /// Cancels what the client with this key runs; returns when the server has been asked.
    pub async fn cancel(&self, pid: u32, key: &[u8]) {
        cancel::forward(&self.shared, pid, key).await;
    }

    /// Passes requests to cancel on to the process that this one took the place of, where nobody here has the key. Once.
    pub fn pass_on_cancels(&self, old: Canceller) {
        // A process takes the place of one other at most.
        let _ = self.shared.old.set(old);
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.shared.threads()
    }

    /// Waits until a thread has ended, which only a panic makes one do. The pooler is of no use any more then.
    pub async fn broken(&self) {
        // The sender is in this handle.
        let _ = self.broken.subscribe().wait_for(|broken| *broken).await;
    }

    /// Returns when every thread has answered: none is stuck.
    pub async fn answer(&self) {
        self.shared.call_all(|_| ()).await;
    }

    /// Waits for the end of a shutdown, whoever began it.
    pub async fn wait_ended(&self) {
        admin::wait_ended(&self.shared).await;
    }

    /// A period of the statistics ends (`stats_period`): call it that often. Returns the line for the log.
    pub async fn end_period(&self) -> String {
        let line = admin::books::sums(&self.shared).await.1.log_line();
        admin::books::rotate(&self.shared).await;
        line
    }

    /// Clients, consoles among them.
    pub fn client_count(&self) -> u32 {
        self.shared.client_count()
    }
}

async fn work(worker: Rc<Worker>, mailbox: mpsc::UnboundedReceiver<Message>, listeners: Vec<Listener>) {
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::task::spawn_local(listen::accept(worker.clone(), listener)))
        .collect();
    if worker.index == 0 {
        tokio::task::spawn_local(stop_accepting(worker.shared.clone(), accepting));
    }
    worker::run(worker, mailbox).await;
}

/// Ends accepting when that's ordered, and tells when no further connection can come.
async fn stop_accepting(shared: Arc<Shared>, accepting: Vec<JoinHandle<()>>) {
    // An error means that the process is ending anyway.
    let _ = shared.listening.subscribe().wait_for(|listening| !listening).await;
    accepting.iter().for_each(JoinHandle::abort);
    for task in accepting {
        // It was aborted.
        let _ = task.await;
    }
    shared.closed.send_replace(true);
}
