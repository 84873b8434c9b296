//! A caller's share of the threads that execute requests.
//!
//! While requests of several callers are in progress, those of one caller are executed by at most half of the threads at a
//! time. A request that waits, for the disk or for another server, occupies none.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The threads of one caller.
#[derive(Clone, Debug)]
pub(crate) struct Share(Arc<Semaphore>);

impl Share {
    pub(super) fn new(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new((threads / 2).max(1))))
    }
}

/// A request that is executed within its caller's share.
pub(crate) struct Shared<F> {
    request: F,
    /// None if the caller is alone.
    share: Option<Share>,
    /// While all threads of the share are in use.
    waiting: Option<BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>>,
}

impl<F> Shared<F> {
    pub(crate) fn new(request: F, share: Option<Share>) -> Self {
        Self { request, share, waiting: None }
    }
}

impl<F: Future + Unpin> Future for Shared<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(Share(threads)) = &self.share else { return self.request.poll_unpin(context) };
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

    fn waits() -> BoxFuture<'static, ()> {
        sleep(Duration::from_secs(1)).boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_occupy_no_thread() {
        let share = Share::new(2);
        let started = Instant::now();
        join_all((0..100).map(|_| Shared::new(waits(), Some(share.clone())))).await;
        assert_eq!(started.elapsed(), Duration::from_secs(1));
    }

    #[test]
    fn one_request_at_a_time_is_executed_of_a_share_of_one() {
        let share = Share::new(2);
        let occupied = Arc::clone(&share.0).try_acquire_owned().unwrap();
        let mut second = Shared::new(futures_util::future::ready(()), Some(share.clone()));
        assert_eq!(second.poll_unpin(&mut Context::from_waker(std::task::Waker::noop())), Poll::Pending);
        let mut alone = Shared::new(futures_util::future::ready(()), None);
        assert_eq!(alone.poll_unpin(&mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(()));
        drop(occupied);
        assert_eq!(second.poll_unpin(&mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(()));
        assert_eq!(share.0.available_permits(), 1);
    }
}
