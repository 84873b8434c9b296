//! How a command is executed: to its end, even if its caller disconnects, and within its caller's share of the threads.

use std::sync::OnceLock;
use std::thread::{Builder, available_parallelism};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use web::caller::Share;
use web::problem::Problem;

/// The niceness of threads of large commands: while the processors are busy, they get about a tenth of what others get.
const NICENESS: i32 = 10;

/// How a command is executed.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    /// Whether its body is large, or may be: then the command is too much for a thread of the runtime.
    pub(crate) is_large: bool,
    pub(crate) share: Share,
}

impl Execution {
    /// Executes the command on a task of its own, a large one on a thread of its own, so that other requests are answered
    /// meanwhile. As many large commands are executed at a time as there are processors.
    ///
    /// # Errors
    /// Those of the command; 500, if it panics.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        command: BoxFuture<'static, Result<T, Problem>>,
    ) -> Result<T, Problem> {
        if !self.is_large {
            return tokio::spawn(self.share.of(command)).await.map_err(|error| Problem::internal(&error))?;
        }
        // The caller's own turn comes first, so that it cannot fill the queue of all callers.
        let of_caller = self.share.large_command().await;
        static TURNS: OnceLock<Semaphore> = OnceLock::new();
        let processors = || available_parallelism().map_or(2, |processors| processors.get().max(2));
        let turn = TURNS.get_or_init(|| Semaphore::new(processors())).acquire().await;
        let turn = turn.map_err(|error| Problem::internal(&error))?;
        let (runtime, command) = (Handle::current(), self.share.of(command));
        let (done, outcome) = oneshot::channel();
        let thread = Builder::new().name("large-command".to_owned()).spawn(move || {
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::debug!(%error, "a large command is executed with the priority of other threads");
            }
            let outcome = runtime.block_on(command);
            drop((turn, of_caller));
            // The caller may have disconnected.
            let _ = done.send(outcome);
        });
        thread.map_err(|error| Problem::internal(&error))?;
        outcome.await.map_err(|error| Problem::internal(&error))?
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn large_command_runs_below_the_priority_of_others() {
        let niceness = |is_large| {
            let own = async { Ok(rustix::process::getpriority_process(None).unwrap()) };
            Execution { is_large, share: Share::default() }.run(own.boxed())
        };
        assert_eq!(niceness(true).await.unwrap() - niceness(false).await.unwrap(), NICENESS);
    }

    #[tokio::test]
    async fn command_that_panics_is_an_internal_error() {
        for is_large in [true, false] {
            let panics = async { panic!("a command of this test") };
            let outcome: Result<(), _> =
                Execution { is_large, share: Share::default() }.run(panics.boxed()).await;
            assert_eq!(outcome.unwrap_err().status().as_u16(), 500);
        }
    }

    #[tokio::test]
    async fn command_ends_although_its_caller_disconnects() {
        for is_large in [true, false] {
            let (started, go_on) =
                (std::sync::Arc::new(Barrier::new(2)), std::sync::Arc::new(Barrier::new(2)));
            let (ended, end) = oneshot::channel();
            let command = {
                let (started, go_on) = (started.clone(), go_on.clone());
                async move {
                    started.wait().await;
                    go_on.wait().await;
                    ended.send(()).ok();
                    Ok(())
                }
            };
            let request = tokio::spawn(Execution { is_large, share: Share::default() }.run(command.boxed()));
            started.wait().await;
            request.abort();
            assert!(request.await.unwrap_err().is_cancelled());
            go_on.wait().await;
            end.await.unwrap();
        }
    }
}
