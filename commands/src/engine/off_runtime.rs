//! Commands that keep a thread busy for long, outside of the runtime's threads.

use std::sync::OnceLock;
use std::thread::available_parallelism;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use web::problem::Problem;

/// Runs a large command on a thread for blocking work, so that other requests are answered meanwhile. As many such
/// commands run at a time as there are cores. It runs to its end, even if the caller disconnects.
///
/// # Errors
/// 500, if it panics.
pub(crate) async fn off_runtime<T: Send + 'static>(
    command: BoxFuture<'static, Result<T, Problem>>,
) -> Result<T, Problem> {
    static TURNS: OnceLock<Semaphore> = OnceLock::new();
    let turns =
        TURNS.get_or_init(|| Semaphore::new(available_parallelism().map_or(2, |cores| cores.get().max(2))));
    let turn = turns.acquire().await.map_err(|error| Problem::internal(&error))?;
    let runtime = Handle::current();
    let running = spawn_blocking(move || {
        let outcome = runtime.block_on(command);
        drop(turn);
        outcome
    });
    running.await.map_err(|error| Problem::internal(&error))?
}
