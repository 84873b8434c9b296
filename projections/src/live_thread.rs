//! The thread of the live read models.
//!
//! A new event costs each read model that it concerns microseconds of folding and a small transaction: less than handing
//! them to another thread. So the live read models share one thread, which may wait for the disk, and run their small
//! transactions on it. Catch-up runs elsewhere, on all cores.

use std::cell::Cell;
use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

thread_local! {
    static IS_LIVE_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Reports whether the current thread is that of the live read models.
pub(crate) fn is_current() -> bool {
    IS_LIVE_THREAD.get()
}

/// The thread. It ends with the last clone of this value.
#[derive(Clone, Debug)]
pub(crate) struct LiveThread {
    runtime: Handle,
    _open: mpsc::Sender<()>,
}

impl LiveThread {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (_open, mut clones) = mpsc::channel(1);
        std::thread::Builder::new().name("read-models".to_owned()).spawn(move || {
            IS_LIVE_THREAD.set(true);
            runtime.block_on(clones.recv());
        })?;
        Ok(Self { runtime: handle, _open })
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let thread = self.clone();
        self.runtime.spawn(async move {
            task.await;
            drop(thread);
        })
    }

    /// Runs the task on the thread. If the caller is aborted, so is the task.
    pub(crate) async fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        let mut running = AbortOnDrop(self.runtime.spawn(task));
        match (&mut running.0).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only the caller aborts it, and the thread does not end before its value.
            Err(_) => std::future::pending().await,
        }
    }
}

/// A task that is aborted when its handle is dropped.
pub(crate) struct AbortOnDrop<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
