//! A caller's share of the threads that execute requests.
//!
//! While requests of several callers are in progress, those of one caller are executed by at most half of the threads at a
//! time. A request that waits, for the disk or for another server, occupies none.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use poem::{FromRequest, Request, RequestBody};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The threads of one caller; all, if the caller is alone.
#[derive(Clone, Debug, Default)]
pub struct Share(Option<Threads>);

#[derive(Clone, Debug)]
struct Threads {
    /// Those that may execute the caller's requests at a time.
    requests: Arc<Semaphore>,
    /// Those that may have a large command of the caller to execute.
    large_commands: Arc<Semaphore>,
}

impl Share {
    pub(super) fn new(threads: usize) -> Self {
        let half = || Arc::new(Semaphore::new((threads / 2).max(1)));
        Self(Some(Threads { requests: half(), large_commands: half() }))
    }

    /// Whether the caller is alone.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.is_none()
    }

    /// The request, or a part of it, within this share.
    pub fn of<F: Future + Unpin>(self, request: F) -> impl Future<Output = F::Output> + Unpin {
        Shared { request, share: self.0.map(|threads| threads.requests), waiting: None }
    }

    /// Waits until a thread may execute a large command of the caller.
    pub async fn large_command(&self) -> Option<OwnedSemaphorePermit> {
        let threads = self.0.as_ref()?;
        threads.large_commands.clone().acquire_owned().await.ok()
    }
}

impl<'a> FromRequest<'a> for Share {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(request.data::<Self>().cloned().unwrap_or_default())
    }
}

/// A request that is executed within its caller's share.
struct Shared<F> {
    request: F,
    /// None if the caller is alone.
    share: Option<Arc<Semaphore>>,
    /// While all threads of the share are in use.
    waiting: Option<BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>>,
}

impl<F: Future + Unpin> Future for Shared<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(threads) = &self.share else { return self.request.poll_unpin(context) };
        let threads = Arc::clone(threads);
        // It is held until the request waits or ends.
        let _thread = match self.waiting.is_none().then(|| Arc::clone(&threads).try_acquire_owned()) {
            Some(Ok(thread)) => Ok(thread),
            _ => {
                let mut waiting = self.waiting.take().unwrap_or_else(|| threads.acquire_owned().boxed());
                match waiting.poll_unpin(context) {
                    Poll::Ready(thread) => thread,
                    Poll::Pending => {
                        self.waiting = Some(waiting);
                        return Poll::Pending;
                    }
                }
            }
        };
        self.request.poll_unpin(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::{Instant, sleep};

    use super::*;

    fn requests(share: &Share) -> Arc<Semaphore> {
        share.0.clone().unwrap().requests
    }

    fn waits() -> BoxFuture<'static, ()> {
        sleep(Duration::from_secs(1)).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_occupy_no_thread() {
        let share = Share::new(2);
        let started = Instant::now();
        join_all((0..100).map(|_| share.clone().of(waits()))).await;
        assert_eq!(started.elapsed(), Duration::from_secs(1));
    }

    #[test]
    fn one_request_at_a_time_is_executed_of_a_share_of_one() {
        let share = Share::new(2);
        let occupied = requests(&share).try_acquire_owned().unwrap();
        let mut second = share.clone().of(futures_util::future::ready(()));
        assert_eq!(second.poll_unpin(&mut Context::from_waker(std::task::Waker::noop())), Poll::Pending);
        let mut alone = Share::default().of(futures_util::future::ready(()));
        assert_eq!(alone.poll_unpin(&mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(()));
        drop(occupied);
        assert_eq!(second.poll_unpin(&mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(()));
        assert_eq!(requests(&share).available_permits(), 1);
    }
}
